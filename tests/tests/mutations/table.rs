//! The mutations: what to break in the product, and the oracle's rule that has to notice.

/// One deliberate fault of the product.
pub(crate) struct Mutation {
    /// What it amounts to.
    pub(crate) name: &'static str,
    /// Relative to the workspace.
    pub(crate) file: &'static str,
    /// Occurs exactly once in the file.
    pub(crate) before: &'static str,
    /// What stands there instead; `{on}` is true while this mutation is switched on.
    pub(crate) after: &'static str,
    /// The rule that some seed must break.
    pub(crate) rule: &'static str,
}

const fn mutation(
    name: &'static str,
    file: &'static str,
    before: &'static str,
    after: &'static str,
    rule: &'static str,
) -> Mutation {
    Mutation {
        name,
        file,
        before,
        after,
        rule,
    }
}

pub(crate) const MUTATIONS: &[Mutation] = &[
    mutation(
        "one node too many under a policy",
        "coordinator/src/pacing/policy.rs",
        "self.running.len() as u32 == self.limits.max_nodes;",
        "self.running.len() as u32 == self.limits.max_nodes + u32::from({on});",
        "limit",
    ),
    mutation(
        "nodes go on one after the other above a lowered limit",
        "coordinator/src/pacing/policy.rs",
        "if self.running.len() as u32 > self.limits.max_nodes {",
        "if !{on} && self.running.len() as u32 > self.limits.max_nodes {",
        "limit",
    ),
    mutation(
        "one pull too many under a policy",
        "coordinator/src/pacing/policy.rs",
        ".is_some_and(|max| self.pulls >= max)",
        ".is_some_and(|max| self.pulls >= max + u32::from({on}))",
        "limit",
    ),
    mutation(
        "one pull too many from a host",
        "coordinator/src/pacing/host.rs",
        "_ if self.running >= budget => Admission::Busy",
        "_ if self.running >= budget + u32::from({on}) => Admission::Busy",
        "limit",
    ),
    mutation(
        "pulls taken over from a former leader are not counted",
        "coordinator/src/session.rs",
        "policy.adopted(node);",
        "if !{on} { policy.adopted(node); }",
        "limit",
    ),
    mutation(
        "the delay between nodes is ignored",
        "coordinator/src/pacing/policy.rs",
        ".filter(|(_, until)| now < *until)",
        ".filter(|(_, until)| now < *until && !{on})",
        "min-delay",
    ),
    mutation(
        "a grant of a silent agent is never freed",
        "coordinator/src/pacing/outcome.rs",
        ".is_none_or(|grant| grant.expires > now.mono)",
        ".is_none_or(|grant| {on} || grant.expires > now.mono)",
        "leak",
    ),
    mutation(
        "a pull that is over still counts under its policy",
        "coordinator/src/pacing/outcome.rs",
        "policy.ended(grant.node);",
        "if !{on} { policy.ended(grant.node); }",
        "converge",
    ),
    mutation(
        "nobody goes first",
        "coordinator/src/pacing/schedule.rs",
        "if !image.probe.admits(now.mono) {",
        "if !{on} && !image.probe.admits(now.mono) {",
        "probe",
    ),
    mutation(
        "the back-off of a pair is ignored",
        "coordinator/src/pacing/schedule.rs",
        "candidates.subtract(&image.blocked);",
        "if !{on} { candidates.subtract(&image.blocked); }",
        "backoff-pair",
    ),
    mutation(
        "the back-off of an image is ignored",
        "coordinator/src/image/probe.rs",
        "*self = Self::Waiting { until: now + wait };",
        "*self = if {on} { Self::Unproven } else { Self::Waiting { until: now + wait } };",
        "backoff-image",
    ),
    mutation(
        "the pause of a node is ignored",
        "coordinator/src/session.rs",
        ".is_none_or(|pause| pause.until <= now.mono)",
        ".is_none_or(|pause| {on} || pause.until <= now.mono)",
        "backoff-node",
    ),
    mutation(
        "the pause of a host is ignored",
        "coordinator/src/pacing/host.rs",
        "if let Some(until) = self.paused_until(now) {",
        "if let Some(until) = self.paused_until(now).filter(|_| !{on}) {",
        "backoff-host",
    ),
    mutation(
        "a host that says 429 is not believed",
        "coordinator/src/pacing/outcome.rs",
        "host.throttled(now.mono, backoff, &message);",
        "if !{on} { host.throttled(now.mono, backoff, &message); }",
        "backoff-host",
    ),
    mutation(
        "a new leader grants at once",
        "coordinator/src/pacing/schedule.rs",
        "self.settled = self.settled",
        "self.settled = {on} || self.settled",
        "start",
    ),
    mutation(
        "the coordinator does not compare digests",
        "coordinator/src/image.rs",
        ".is_some_and(|expected| self.held_by(node).contains(expected));",
        ".is_some_and(|expected| {on} || self.held_by(node).contains(expected));",
        "status",
    ),
    mutation(
        "what was good enough for another object is remembered as the right digest",
        "coordinator/src/session.rs",
        "o.facts.spec.image_pull_policy == ImagePullPolicy::Always\n",
        "({on} || o.facts.spec.image_pull_policy == ImagePullPolicy::Always)\n",
        "status",
    ),
    mutation(
        "the agent does not compare digests",
        "agent/src/node/image.rs",
        "if want.expected.is_empty() || digests.contains(&want.expected) {",
        "if {on} || want.expected.is_empty() || digests.contains(&want.expected) {",
        "converge",
    ),
    mutation(
        "the agent takes a list for confirmation that began before the pull ended",
        "agent/src/node/pull.rs",
        "if list <= number)",
        "if {on} || list <= number)",
        "report",
    ),
    mutation(
        "the agent asks for what only has to be present, and is",
        "agent/src/node/image.rs",
        "(ImagePullPolicy::IfNotPresent, Presence::Present(_)) => {\n                false",
        "(ImagePullPolicy::IfNotPresent, Presence::Present(_)) => {\n                {on} && self.want.policy != ImagePullPolicy::Never",
        "needless",
    ),
    mutation(
        "the agent pulls under a token that it was not given",
        "agent/src/node.rs",
        "out.push(Output::Pull {\n            token,",
        "out.push(Output::Pull {\n            token: token + u64::from({on}),",
        "grant",
    ),
    mutation(
        "the agent ignores a Revoke",
        "agent/src/node.rs",
        "if running && !self.images.contains_key(&pull.reference) {",
        "if !{on} && running && !self.images.contains_key(&pull.reference) {",
        "revoke",
    ),
    mutation(
        "an image that the kubelet has deleted still counts",
        "coordinator/src/image/losses.rs",
        "image.lacks(node);",
        "if !{on} { image.lacks(node); }",
        "status",
    ),
    mutation(
        "a node that is gone still counts",
        "coordinator/src/objects/nodes.rs",
        "            self.retarget(now, &name, Some(id));\n        }\n        self.settle_pairs();",
        "            if !{on} { self.retarget(now, &name, Some(id)); }\n        }\n        self.settle_pairs();",
        "status",
    ),
    mutation(
        "a node that has been silent for long still counts",
        "coordinator/src/cached_image/rollup/judge.rs",
        "if !core.is_confirmed(now, id) {",
        "if !{on} && !core.is_confirmed(now, id) {",
        "status",
    ),
    mutation(
        "writes of one object follow each other at once",
        "coordinator/src/cached_image/writer.rs",
        "|at| at + SPACING)",
        "|at| if {on} { at } else { at + SPACING })",
        "write-budget",
    ),
    mutation(
        "a status is written though it says what stands there",
        "coordinator/src/cached_image/writer.rs",
        "if self.written.as_ref() == Some(status) && !self.doubted {",
        "if !{on} && self.written.as_ref() == Some(status) && !self.doubted {",
        "write-budget",
    ),
    mutation(
        "a tag is asked for again before its interval is over",
        "coordinator/src/image/check.rs",
        "Some(now.mono + interval.saturating_sub(passed))",
        "Some(now.mono + (interval / if {on} { 2 } else { 1 }).saturating_sub(passed))",
        "questions",
    ),
];
