//! Reads one entry of images.yaml, and says all that is wrong with it. Pure.

use std::path::{Component, Path};

use drop_oci::Reference;
use regex::Regex;

use super::{Enrollment, Images, Source, Strategy};
use crate::delay::Delay;
use crate::naming::is_name;
use crate::problem::Problem;
use crate::yaml::{Map, Node, Place};

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

/// One entry that is being read.
pub(super) struct Entry<'a> {
    pub(super) images: &'a mut Images,
    /// A mistake was found in it.
    pub(super) failed: bool,
}

impl Entry<'_> {
    pub(super) fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.failed = true;
        let problem = Problem::at(&self.images.file, place, message);
        self.images.problems.push(problem);
    }

    fn warning(&mut self, place: Place, message: impl Into<String>) {
        let problem = Problem::at(&self.images.file, place, message).warning();
        self.images.problems.push(problem);
    }

    pub(super) fn name<'n>(&mut self, item: &'n Node) -> Option<(&'n str, Place)> {
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

    pub(super) fn enrollment(&mut self, name: &str, place: Place, map: &Map) -> Option<Enrollment> {
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
pub(super) fn is_below_root(path: &str) -> bool {
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
