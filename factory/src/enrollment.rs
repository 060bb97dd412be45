//! images.yaml, the source of truth: which images are enrolled, and how. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use drop_oci::Reference;
use regex::Regex;

use crate::delay::Delay;
use crate::naming::is_name;
use crate::problem::Problem;
use crate::yaml::{self, Map, Node, Place};

/// Registry of entries that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// Delay of entries that name none.
const DEFAULT_DELAY: &str = "7d";

/// All that an entry may say.
const KEYS: [&str; 8] = [
    "name",
    "registry",
    "repository",
    "source",
    "rebuildDelay",
    "autoRebuild",
    "allowTags",
    "imageSelectionStrategy",
];

/// All that a source may say.
const SOURCE_KEYS: [&str; 5] = ["provider", "repo", "branch", "dockerfile", "workflow"];

/// How the newest of several tags is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The tag that sorts last.
    #[default]
    Lexical,
    /// The highest semantic version.
    SemVer,
    /// The image built last.
    NewestBuild,
    /// What one tag names now.
    Digest,
}

impl Strategy {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lexical => "Lexical",
            Self::SemVer => "SemVer",
            Self::NewestBuild => "NewestBuild",
            Self::Digest => "Digest",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Lexical, Self::SemVer, Self::NewestBuild, Self::Digest]
            .into_iter()
            .find(|strategy| strategy.as_str() == word)
    }
}

/// An entry of images.yaml without mistakes.
#[derive(Clone, Debug)]
pub struct Enrollment {
    /// Its name, unique.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// The registry host.
    pub registry: String,
    /// The repository on it, as written.
    pub repository: String,
    /// Host and repository in canonical form.
    pub image: Reference,
    /// Where it is built from. Set for managed images only.
    pub source: Option<Source>,
    /// The delay as written.
    pub rebuild_delay: String,
    /// How long a changed base may wait.
    pub delay: Delay,
    /// Whether the entry says so itself.
    pub has_own_delay: bool,
    /// Whether a changed base leads to a rebuild at all.
    pub auto_rebuild: bool,
    /// Which tags count, if the entry says so.
    pub allow_tags: Option<String>,
    /// Which of them is the newest, if the entry says so.
    pub strategy: Option<Strategy>,
}

impl Enrollment {
    /// Whether it stands for an image that others are built on: the same repository, and a tag that counts.
    #[must_use]
    pub fn tracks(&self, base: &Reference) -> bool {
        let matches = |pattern: &str| {
            let tag = base.tag().unwrap_or_default();
            Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(tag))
        };
        self.source.is_none()
            && base.repository_name() == self.image.repository_name()
            && self.allow_tags.as_deref().is_none_or(matches)
    }
}

/// Where a managed image is built from.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the entry says, in its order: provider, repo, branch, dockerfile, workflow.
    pub fields: Vec<(&'static str, String)>,
    /// The Dockerfile below the root, and where the entry says so.
    pub dockerfile: Option<(String, Place)>,
}

/// What images.yaml says.
#[derive(Debug, Default)]
pub struct Images {
    /// The file, for messages.
    pub file: String,
    /// Entries without mistakes, in order.
    pub entries: Vec<Enrollment>,
    /// Names of entries with mistakes: what is known of these images stays as it is.
    pub broken: BTreeSet<String>,
    /// Whether an entry has no name that can be read. Then any image may be meant, and none is taken for removed.
    pub has_nameless: bool,
    /// Whether nothing could be read at all.
    pub is_unreadable: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Reads images.yaml. `None` is a file without entries.
#[must_use]
pub fn parse(file: &str, text: &str) -> Option<Images> {
    let mut images = Images {
        file: file.to_owned(),
        ..Images::default()
    };
    let document = match yaml::parse(text) {
        Ok(document) => document?,
        Err(mistake) => {
            images.is_unreadable = true;
            images.problems.push(Problem::mistake(file, &mistake));
            return Some(images);
        }
    };
    let Some(items) = document.as_list() else {
        images.is_unreadable = true;
        let message = format!(
            "expected a list of images (- name: ...), found {}",
            document.kind()
        );
        images
            .problems
            .push(Problem::at(file, document.place, message));
        return Some(images);
    };
    if items.is_empty() {
        return None;
    }
    let mut firsts: BTreeMap<&str, Place> = BTreeMap::new();
    for item in items {
        let mut entry = Entry {
            images: &mut images,
            failed: false,
        };
        let Some((name, place)) = entry.name(item) else {
            continue;
        };
        if let Some(first) = firsts.get(name) {
            let message = format!(
                "{name} is enrolled already at line {}: give one of them another name or remove it",
                first.line
            );
            entry.problem(place, message);
            images.broken.insert(name.to_owned());
            continue;
        }
        firsts.insert(name, place);
        let Some(map) = item.as_map() else { continue };
        let enrollment = entry.enrollment(name, item.place, map);
        let failed = entry.failed;
        match enrollment {
            Some(enrollment) if !failed => images.entries.push(enrollment),
            _ => {
                images.broken.insert(name.to_owned());
            }
        }
    }
    let broken = &images.broken;
    images.entries.retain(|entry| !broken.contains(&entry.name));
    Some(images)
}

/// One entry that is being read.
struct Entry<'a> {
    images: &'a mut Images,
    failed: bool,
}

impl Entry<'_> {
    fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.failed = true;
        let problem = Problem::at(&self.images.file, place, message);
        self.images.problems.push(problem);
    }

    fn warning(&mut self, place: Place, message: impl Into<String>) {
        let problem = Problem::at(&self.images.file, place, message).warning();
        self.images.problems.push(problem);
    }

    fn name<'n>(&mut self, item: &'n Node) -> Option<(&'n str, Place)> {
        let name = item.as_map().and_then(|map| map.get("name"));
        let found = match name {
            _ if item.as_map().is_none() => Err(format!(
                "expected an image (name: ...), found {}",
                item.kind()
            )),
            None => Err("this image has no name: add name: ...".to_owned()),
            Some(node) => match node.as_text() {
                Some(name) if is_name(name) => Ok((name, node.place)),
                Some(name) => Err(format!(
                    "{name:?} cannot be a name: use lower-case letters, digits, dashes and dots, not ending in .example"
                )),
                None => Err(format!("name must be a word, not {}", node.kind())),
            },
        };
        found
            .map_err(|message| {
                self.images.has_nameless = true;
                self.problem(name.map_or(item.place, |node| node.place), message);
            })
            .ok()
    }

    /// The text of a key; a problem if it is a list or a mapping.
    fn text(&mut self, map: &Map, key: &str) -> Option<(String, Place)> {
        let node = map.get(key)?;
        if node.as_text().is_none() && !node.is_null() {
            self.problem(
                node.place,
                format!("{key} must be a word, not {}", node.kind()),
            );
        }
        Some((node.as_text()?.to_owned(), node.place))
    }

    fn enrollment(&mut self, name: &str, place: Place, map: &Map) -> Option<Enrollment> {
        self.unknown_keys(name, map, &KEYS);
        let registry = self.text(map, "registry");
        let repository = self.text(map, "repository");
        let image = self.image(name, place, registry.as_ref(), repository.as_ref());
        let source = self.source(name, map);
        let (rebuild_delay, delay_place) = self
            .text(map, "rebuildDelay")
            .unwrap_or_else(|| (DEFAULT_DELAY.to_owned(), place));
        let delay = rebuild_delay
            .parse::<Delay>()
            .map_err(|error| self.problem(delay_place, format!("rebuildDelay: {error}")))
            .ok();
        let auto_rebuild = match map.get("autoRebuild").filter(|node| !node.is_null()) {
            None => Some(true),
            Some(node) => {
                let value = node.as_boolean();
                if value.is_none() {
                    self.problem(node.place, "autoRebuild must be true or false");
                }
                value
            }
        };
        let allow_tags = self.text(map, "allowTags").map(|(pattern, place)| {
            if let Err(error) = Regex::new(&pattern) {
                self.problem(
                    place,
                    format!("allowTags is no regular expression: {}", reason(&error)),
                );
            }
            pattern
        });
        let strategy = self
            .text(map, "imageSelectionStrategy")
            .and_then(|(word, place)| {
                let strategy = Strategy::parse(&word);
                if strategy.is_none() {
                    self.problem(
                        place,
                        format!("imageSelectionStrategy {word:?} is unknown: use Lexical, SemVer, NewestBuild or Digest"),
                    );
                }
                strategy
            });
        Some(Enrollment {
            name: name.to_owned(),
            place,
            registry: registry.map_or_else(|| DEFAULT_REGISTRY.to_owned(), |(text, _)| text),
            repository: repository?.0,
            image: image?,
            source,
            rebuild_delay,
            delay: delay?,
            has_own_delay: map.text("rebuildDelay").is_some(),
            auto_rebuild: auto_rebuild?,
            allow_tags,
            strategy,
        })
    }

    fn image(
        &mut self,
        name: &str,
        place: Place,
        registry: Option<&(String, Place)>,
        repository: Option<&(String, Place)>,
    ) -> Option<Reference> {
        let Some((repository, repository_place)) = repository else {
            self.problem(
                place,
                format!("{name} has no repository: add repository: owner/{name}"),
            );
            return None;
        };
        let (host, host_place) = registry.map_or((DEFAULT_REGISTRY, place), |(host, place)| {
            (host.as_str(), *place)
        });
        let image = match Reference::from_parts(&format!("{host}/{repository}"), None, None) {
            Ok(image) => image.without_tag(),
            Err(error) => {
                self.problem(*repository_place, error.to_string());
                return None;
            }
        };
        // A first part that is no host is taken for a part of a name on Docker Hub.
        if image.host() != host && host != "index.docker.io" {
            self.problem(
                host_place,
                format!(
                    "registry {host:?} is no host: write one such as ghcr.io or localhost:5000"
                ),
            );
            return None;
        }
        Some(image)
    }

    fn source(&mut self, name: &str, map: &Map) -> Option<Source> {
        let node = map.get("source").filter(|node| !node.is_null())?;
        let Some(source) = node.as_map() else {
            self.problem(
                node.place,
                format!("source must be a mapping (repo: ...), not {}", node.kind()),
            );
            return None;
        };
        self.unknown_keys(name, source, &SOURCE_KEYS);
        let mut fields = Vec::new();
        let mut dockerfile = None;
        for key in SOURCE_KEYS {
            let Some((text, place)) = self.text(source, key) else {
                continue;
            };
            match key {
                "provider" if text != "github" && text != "gitlab" => {
                    self.problem(
                        place,
                        format!("provider {text:?} is unknown: use github or gitlab"),
                    );
                }
                "dockerfile" if !is_below_root(&text) => {
                    self.problem(
                        place,
                        format!("dockerfile {text:?} leaves the root: write a path below it"),
                    );
                }
                "dockerfile" => dockerfile = Some((text.clone(), place)),
                _ => {}
            }
            fields.push((key, text));
        }
        if source.text("repo").is_none() {
            self.warning(
                node.place,
                format!("{name} has a source without repo, and so counts as external: add repo: owner/name"),
            );
            return None;
        }
        if dockerfile.is_none() && !self.failed {
            self.warning(
                node.place,
                format!("{name} has no dockerfile: its base images stay unknown"),
            );
        }
        Some(Source { fields, dockerfile })
    }

    fn unknown_keys(&mut self, name: &str, map: &Map, known: &[&str]) {
        for (key, node) in map.entries() {
            if !known.contains(&key) {
                self.warning(
                    node.place,
                    format!(
                        "{name} has the unknown key {key}; known are {}",
                        known.join(", ")
                    ),
                );
            }
        }
    }
}

/// The last line of the parser's error says why; the others draw the pattern.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

/// Whether a path, read from the root, stays below it.
fn is_below_root(path: &str) -> bool {
    let mut depth = 0_usize;
    for component in Path::new(path).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    depth > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let images = parse("images.yaml", text).unwrap();
        images.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_entry_gets_its_defaults() {
        let images = parse("images.yaml", "- name: a\n  repository: o/a\n").unwrap();
        let entry = &images.entries[0];
        assert_eq!(entry.registry, "docker.io");
        assert_eq!(entry.rebuild_delay, "7d");
        assert!(entry.auto_rebuild);
        assert!(entry.source.is_none());
        assert_eq!((entry.allow_tags.as_ref(), entry.strategy), (None, None));
    }

    #[test]
    fn a_file_without_entries_is_none() {
        for text in ["", "# none yet\n", "[]\n", "~\n"] {
            assert!(parse("images.yaml", text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn each_mistake_says_where_and_what_to_do() {
        for (text, message) in [
            (
                "- repository: a\n",
                "images.yaml:1:3: this image has no name: add name: ...",
            ),
            (
                "- hello\n",
                "images.yaml:1:3: expected an image (name: ...), found a single value",
            ),
            (
                "a: b\n",
                "images.yaml:1:1: expected a list of images (- name: ...), found a mapping",
            ),
            (
                "- name: ../a\n  repository: a\n",
                "images.yaml:1:9: \"../a\" cannot be a name: use lower-case letters, digits, dashes and dots, not ending in .example",
            ),
            (
                "- name: [a]\n",
                "images.yaml:1:9: name must be a word, not a list",
            ),
            (
                "- name: a\n",
                "images.yaml:1:3: a has no repository: add repository: owner/a",
            ),
            (
                "- name: a\n  repository: A/b\n",
                "images.yaml:2:15: \"docker.io/A/b\" contains upper-case letters: a repository is lower-case",
            ),
            (
                "- name: a\n  repository: b:1\n",
                "images.yaml:2:15: the image contains a tag: write image: docker.io/b and tag: \"1\"",
            ),
            (
                "- name: a\n  registry: mine\n  repository: b\n",
                "images.yaml:2:13: registry \"mine\" is no host: write one such as ghcr.io or localhost:5000",
            ),
            (
                "- name: a\n  repository: b\n  rebuildDelay: 7\n",
                "images.yaml:3:17: rebuildDelay: \"7\" is no delay: write a number and a unit (s, m, h, d or w), such as 7d or 12h",
            ),
            (
                "- name: a\n  repository: b\n  rebuildDelay: 7y\n",
                "images.yaml:3:17: rebuildDelay: \"7y\" has the unknown unit 'y': the units are s, m, h, d and w",
            ),
            (
                "- name: a\n  repository: b\n  autoRebuild: maybe\n",
                "images.yaml:3:16: autoRebuild must be true or false",
            ),
            (
                "- name: a\n  repository: b\n  imageSelectionStrategy: Newest\n",
                "images.yaml:3:27: imageSelectionStrategy \"Newest\" is unknown: use Lexical, SemVer, NewestBuild or Digest",
            ),
            (
                "- name: a\n  repository: b\n  allowTags: ^(1$\n",
                "images.yaml:3:14: allowTags is no regular expression: unclosed group",
            ),
            (
                "- name: a\n  repository: b\n  source: {repo: o/a, provider: svn, dockerfile: D}\n",
                "images.yaml:3:33: provider \"svn\" is unknown: use github or gitlab",
            ),
            (
                "- name: a\n  repository: b\n  source: {repo: o/a, dockerfile: ../D}\n",
                "images.yaml:3:35: dockerfile \"../D\" leaves the root: write a path below it",
            ),
            (
                "- name: a\n  repository: b\n  source: {repo: o/a, dockerfile: /D}\n",
                "images.yaml:3:35: dockerfile \"/D\" leaves the root: write a path below it",
            ),
            (
                "- name: a\n  repository: b\n  source: here\n",
                "images.yaml:3:11: source must be a mapping (repo: ...), not a single value",
            ),
            (
                "- name: a\n  repository: b\n  colour: red\n",
                "images.yaml:3:11: warning: a has the unknown key colour; known are name, registry, repository, source, rebuildDelay, autoRebuild, allowTags, imageSelectionStrategy",
            ),
        ] {
            assert_eq!(problems(text), [message], "{text}");
        }
    }

    #[test]
    fn neither_of_two_entries_with_one_name_is_taken() {
        let text =
            "- {name: a, repository: b}\n- {name: c, repository: d}\n- {name: a, repository: e}\n";
        let images = parse("images.yaml", text).unwrap();
        let names: Vec<&str> = images.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["c"]);
        assert!(images.broken.contains("a"));
        assert_eq!(
            images.problems[0].to_string(),
            "images.yaml:3:10: a is enrolled already at line 1: give one of them another name or remove it"
        );
    }

    #[test]
    fn a_path_may_turn_round_below_the_root() {
        assert!(is_below_root("apps/../other/./Dockerfile"));
        for path in ["apps/../../x", "..", ".", "", "/etc/passwd"] {
            assert!(!is_below_root(path), "{path}");
        }
    }
}
