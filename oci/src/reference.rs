//! What an image reference names: host, repository, tag, digest, in one canonical form.
//!
//! Follows the grammar and the normalisation of the distribution project, which containerd, CRI-O and Docker share: two texts
//! that a runtime takes for the same image are equal here. Pure; any input yields a value or a sentence, never a panic.

use std::fmt;
use std::str::FromStr;

pub(crate) mod grammar;

/// Host that a name without one belongs to.
const DEFAULT_HOST: &str = "docker.io";

/// Former name of [`DEFAULT_HOST`].
const LEGACY_HOST: &str = "index.docker.io";

/// Namespace of single names on [`DEFAULT_HOST`]: `nginx` is `docker.io/library/nginx`.
const LIBRARY: &str = "library/";

/// Tag of a reference that names neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// Longest repository, host not counted.
pub const MAX_REPOSITORY_CHARS: usize = 255;

/// Longest tag.
pub const MAX_TAG_CHARS: usize = 128;

/// A reference in canonical form. Prints as `docker.io/library/nginx:1.25`, and reads back from that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no reference. Each is a sentence for the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing there.
    #[error("the image is empty")]
    Empty,
    /// `https://...`.
    #[error("{0:?} is a URL: write the image without https://")]
    Url(String),
    /// Lower case would be fine.
    #[error("{0:?} contains upper-case letters: a repository is lower-case")]
    Uppercase(String),
    /// Some other breach of the grammar of names.
    #[error(
        "{0:?} is not a repository such as docker.io/library/nginx or registry.example.com:5000/team/app"
    )]
    Name(String),
    /// 64 hexadecimal digits are an image ID to every runtime.
    #[error("{0:?} is an image ID, not a name: write the repository")]
    Identifier(String),
    /// Over [`MAX_REPOSITORY_CHARS`].
    #[error(
        "the repository {0:?}... is too long: at most {MAX_REPOSITORY_CHARS} characters without the registry host"
    )]
    TooLong(String),
    /// Not a tag.
    #[error(
        "{0:?} is not a tag: at most {MAX_TAG_CHARS} letters, digits, dots, dashes or underscores, not beginning with a dot or a dash"
    )]
    Tag(String),
    /// Not a digest.
    #[error("{0:?} is not a digest: write sha256: and 64 lower-case hexadecimal digits")]
    Digest(String),
    /// A tag within the image, where it has a field of its own.
    #[error("the image contains a tag: write image: {image} and tag: {tag:?}")]
    TagInImage {
        /// The image without it.
        image: String,
        /// The tag.
        tag: String,
    },
    /// A digest within the image, where it has a field of its own.
    #[error("the image contains a digest: write image: {image} and digest: {digest}")]
    DigestInImage {
        /// The image without it.
        image: String,
        /// The digest.
        digest: String,
    },
}

impl Reference {
    /// Builds `image@digest`, else `image:tag`, else `image:latest`. An empty tag or digest counts as none.
    pub fn from_parts(
        image: &str,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<Self, ReferenceError> {
        let tag = tag.filter(|tag| !tag.is_empty());
        let digest = digest.filter(|digest| !digest.is_empty());
        if image.contains("://") {
            return Err(ReferenceError::Url(excerpt(image)));
        }
        if let Some((image, digest)) = image.split_once('@') {
            return Err(ReferenceError::DigestInImage {
                image: excerpt(split_tag(image).0),
                digest: excerpt(digest),
            });
        }
        let (registry, repository) = match split_tag(image) {
            (image, Some(tag)) if !image.is_empty() && !tag.is_empty() => {
                return Err(ReferenceError::TagInImage {
                    image: excerpt(image),
                    tag: excerpt(tag),
                });
            }
            _ => parse_name(image)?,
        };
        let mut reference = Self {
            registry,
            repository,
            tag: None,
            digest: None,
        };
        match (digest, tag) {
            (Some(digest), _) => reference.digest = Some(parse_digest(digest)?),
            (None, tag) => reference.tag = Some(parse_tag(tag.unwrap_or(DEFAULT_TAG))?),
        }
        Ok(reference)
    }

    /// The registry host with its port, if it has one: what back-off and budgets are counted by.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.registry
    }

    /// The repository on its host: `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, as written.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, as written.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Host and repository, without tag and digest: what stands before the `@` in a runtime's `repo_digests`.
    #[must_use]
    pub fn repository_name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The same with `tag` set to `latest` if there is neither tag nor digest: what a pull of it would fetch.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository by digest alone.
    pub fn with_digest(&self, digest: &str) -> Result<Self, ReferenceError> {
        Ok(Self {
            tag: None,
            digest: Some(parse_digest(digest)?),
            ..self.clone()
        })
    }

    /// The same without tag. A digest stays.
    #[must_use]
    pub fn without_tag(&self) -> Self {
        Self {
            tag: None,
            ..self.clone()
        }
    }
}

/// Accepts every form that a runtime lists or a manifest contains. Tag and digest are both kept; neither is made up.
impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        if rest.contains("://") {
            return Err(ReferenceError::Url(excerpt(rest)));
        }
        let (name, tag) = split_tag(rest);
        let (registry, repository) = parse_name(name)?;
        let tag = tag.map(parse_tag).transpose()?;
        Ok(Self {
            registry,
            repository,
            tag,
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// A colon after the last slash begins a tag; one before it begins a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

/// Splits a name into canonical host and repository, and checks both.
fn parse_name(name: &str) -> Result<(String, String), ReferenceError> {
    if name.is_empty() {
        return Err(ReferenceError::Empty);
    }
    if grammar::is_identifier(name) {
        return Err(ReferenceError::Identifier(excerpt(name)));
    }
    let (host, path) = match name.split_once('/') {
        Some((LEGACY_HOST, path)) => (DEFAULT_HOST, path),
        Some((first, path)) if grammar::looks_like_host(first) => (first, path),
        _ => (DEFAULT_HOST, name),
    };
    // An underscore is not allowed in a host, and yet without a port the distribution project lets it pass.
    if !grammar::is_host(host) && !grammar::is_component(host) {
        return Err(ReferenceError::Name(excerpt(name)));
    }
    if !grammar::is_repository(path) {
        let lower = path.to_ascii_lowercase();
        return Err(if grammar::is_repository(&lower) {
            ReferenceError::Uppercase(excerpt(name))
        } else {
            ReferenceError::Name(excerpt(name))
        });
    }
    let repository = if host == DEFAULT_HOST && !path.contains('/') {
        format!("{LIBRARY}{path}")
    } else {
        path.to_owned()
    };
    if repository.len() > MAX_REPOSITORY_CHARS {
        return Err(ReferenceError::TooLong(excerpt(&repository)));
    }
    Ok((host.to_owned(), repository))
}

fn parse_tag(tag: &str) -> Result<String, ReferenceError> {
    if grammar::is_tag(tag) {
        return Ok(tag.to_owned());
    }
    Err(ReferenceError::Tag(excerpt(tag)))
}

fn parse_digest(digest: &str) -> Result<String, ReferenceError> {
    if grammar::is_digest(digest) {
        return Ok(digest.to_owned());
    }
    Err(ReferenceError::Digest(excerpt(digest)))
}

/// What an error quotes. Inputs of any length may come in; a digest in full still fits.
fn excerpt(text: &str) -> String {
    text.chars().take(160).collect()
}

#[cfg(test)]
mod tests;
