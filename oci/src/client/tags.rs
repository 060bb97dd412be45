//! The tags of a repository, page by page.
//!
//! Links are opaque and followed on the same host only. Circles, and lists without an end, are stopped and said.

use std::collections::BTreeSet;
use std::fmt;

use http::{StatusCode, header};
use serde::Deserialize;
use url::Url;

use super::link::{self, Next};
use super::{Client, Repository, expect_success};
use crate::credential::Credential;
use crate::error::{Failure, quote};
use crate::reference::grammar;
use crate::transport::Request;

/// Largest page: 10,000 tags of the longest kind fit.
const PAGE_BYTES: usize = 4 * 1_024 * 1_024;

/// Most pages. Some registries give 50 tags a page at most.
const PAGES: usize = 1_000;

/// Tags that we would like on a page; the registry decides.
const WANTED: &str = "1000";

/// Tags, and whether these are all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagList {
    /// Each tag once, in the registry's order. Names that are no tags are left out.
    pub tags: Vec<String>,
    /// Why the list is not complete, if it is not.
    pub stopped: Option<Stop>,
}

/// Why a list was not read to its end. Each prints as half a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// As many as were asked for.
    Enough(usize),
    /// A page that was read already.
    Circle,
    /// Page after page.
    TooManyPages,
    /// The next page is on another host.
    OtherHost(String),
    /// The link to the next page is no address.
    Unreadable,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enough(most) => {
                write!(f, "there are more than {most} tags, and no more are read")
            }
            Self::Circle => f.write_str("the registry's pages of tags lead in a circle"),
            Self::TooManyPages => write!(f, "the registry gives more than {PAGES} pages of tags"),
            Self::OtherHost(host) => write!(
                f,
                "the next page of tags is on another host ({host}), which is not asked"
            ),
            Self::Unreadable => {
                f.write_str("the registry's link to the next page of tags cannot be read")
            }
        }
    }
}

/// Lists the tags as one credential.
pub(super) async fn list(
    client: &Client,
    repository: &Repository,
    most: usize,
    credential: &Credential,
) -> Result<TagList, Failure> {
    let bare = repository.url("tags", "list");
    let mut wanted = bare.clone();
    wanted.query_pairs_mut().append_pair("n", WANTED);
    let (mut body, mut next) = match page(client, repository, &wanted, credential).await {
        // Some registries refuse a number that they find too large.
        Err(Failure::Unexpected(answer)) if matches!(answer.status, 400 | 405) => {
            page(client, repository, &bare, credential).await?
        }
        other => other?,
    };
    let mut read = BTreeSet::from([wanted, bare]);
    let mut known = BTreeSet::new();
    let mut tags = Vec::new();
    loop {
        for tag in body.tags.unwrap_or_default() {
            if !grammar::is_tag(&tag) || known.contains(&tag) {
                continue;
            }
            if tags.len() >= most {
                return Ok(stopped(tags, Stop::Enough(most)));
            }
            known.insert(tag.clone());
            tags.push(tag);
        }
        let url = match next {
            Next::End => {
                return Ok(TagList {
                    tags,
                    stopped: None,
                });
            }
            Next::Foreign(host) => return Ok(stopped(tags, Stop::OtherHost(quote(&host)))),
            Next::Unreadable => return Ok(stopped(tags, Stop::Unreadable)),
            Next::Page(url) => url,
        };
        if read.len() > PAGES {
            return Ok(stopped(tags, Stop::TooManyPages));
        }
        if !read.insert(url.clone()) {
            return Ok(stopped(tags, Stop::Circle));
        }
        (body, next) = page(client, repository, &url, credential).await?;
    }
}

#[derive(Deserialize)]
struct Body {
    tags: Option<Vec<String>>,
}

async fn page(
    client: &Client,
    repository: &Repository,
    url: &Url,
    credential: &Credential,
) -> Result<(Body, Next), Failure> {
    let what = "the list of tags";
    let request = Request::get(url.clone(), what, PAGE_BYTES);
    let answer = client.send(repository, credential, request).await?;
    if answer.status == StatusCode::NO_CONTENT {
        return Ok((Body { tags: None }, Next::End));
    }
    expect_success(what, &answer)?;
    let body = serde_json::from_slice(&answer.body).map_err(|error| {
        Failure::Invalid(format!(
            "{what} is not the JSON of one ({error}): check that this host is a container registry"
        ))
    })?;
    // Links may come in one header or in several.
    let links = answer.headers.get_all(header::LINK).iter();
    let links: Vec<&str> = links.filter_map(|link| link.to_str().ok()).collect();
    let next = link::next(url, &links.join(", "));
    Ok((body, next))
}

fn stopped(tags: Vec<String>, stop: Stop) -> TagList {
    TagList {
        tags,
        stopped: Some(stop),
    }
}
