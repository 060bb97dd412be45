//! The API server's audit log: who asked for what, how often. The proof of every claim about API traffic.

use std::path::Path;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;

/// Requests, in the order they were answered. Filters give a smaller one.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    requests: Vec<Request>,
}

/// One answered request.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// When it arrived.
    #[serde(rename = "requestReceivedTimestamp")]
    pub at: Timestamp,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Who.
    pub user: User,
    /// The program, as it calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// To what. None for paths such as `/readyz`.
    #[serde(rename = "objectRef", default)]
    pub object: Object,
    /// With which answer.
    #[serde(rename = "responseStatus", default)]
    pub answer: Answer,
    #[serde(rename = "stage")]
    stage: String,
}

/// Who asked.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct User {
    /// Such as `system:serviceaccount:drop-system:drop-coordinator`.
    pub username: String,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Object {
    /// Plural, such as `cachedimages`.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// Namespace, empty for cluster-scoped ones.
    pub namespace: String,
    /// Name, empty for collections.
    pub name: String,
}

/// The answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub struct Answer {
    /// HTTP status.
    #[serde(default)]
    pub code: u16,
}

impl Audit {
    /// Reads the log as far as it is written.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let parsed: Result<Vec<Request>, _> = complete.lines().map(serde_json::from_str).collect();
        let mut requests = parsed.context("parse the audit log")?;
        // A watch is logged twice: when it starts and when it ends.
        requests.retain(|request| request.stage != "ResponseComplete" || request.verb != "watch");
        Ok(Self { requests })
    }

    /// Those that `keep` likes.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&Request) -> bool) -> Self {
        Self {
            requests: self
                .requests
                .iter()
                .filter(|request| keep(request))
                .cloned()
                .collect(),
        }
    }

    /// Those that arrived at or after `mark`.
    #[must_use]
    pub fn since(&self, mark: Timestamp) -> Self {
        self.filter(|request| request.at >= mark)
    }

    /// Those of a user.
    #[must_use]
    pub fn by(&self, user: &str) -> Self {
        self.filter(|request| request.user.username == user)
    }

    /// Those that change something.
    #[must_use]
    pub fn writes(&self) -> Self {
        let verbs = ["create", "update", "patch", "delete", "deletecollection"];
        self.filter(|request| verbs.contains(&request.verb.as_str()))
    }

    /// Those for a kind of object (plural), subresources included.
    #[must_use]
    pub fn resource(&self, plural: &str) -> Self {
        self.filter(|request| request.object.resource == plural)
    }

    /// Those for one object.
    #[must_use]
    pub fn object(&self, plural: &str, name: &str) -> Self {
        self.filter(|request| request.object.resource == plural && request.object.name == name)
    }

    /// Writes of the status of one object.
    #[must_use]
    pub fn status_writes(&self, plural: &str, name: &str) -> Self {
        self.object(plural, name)
            .writes()
            .filter(|request| request.object.subresource == "status")
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.requests.len()
    }

    /// The requests themselves.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// One line a request, for the message of a failed assertion.
    #[must_use]
    pub fn table(&self) -> String {
        let line = |request: &Request| {
            let Object {
                resource,
                subresource,
                name,
                ..
            } = &request.object;
            let Request {
                at,
                verb,
                user,
                answer,
                ..
            } = request;
            format!(
                "{at} {} {verb} {resource}/{name} {subresource} {}\n",
                user.username, answer.code
            )
        };
        self.requests.iter().map(line).collect()
    }
}
