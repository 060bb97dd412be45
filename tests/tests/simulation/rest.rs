//! The end of the story: once nothing goes wrong any more, everything is as the specs say, within a bound, and then silent.
//!
//! What should be is worked out from the world as it is, not from what anybody has told.

use std::time::Duration;

use drop_api::{CachedImageStatus, ImagePullPolicy, Phase};

use crate::objects::{ImageRow, ImageSpec, PolicySpec, digest, node_name};
use crate::oracle::{Verdict, Violation, wants};
use crate::registry::Supply;
use crate::world::World;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// Small changes reach the status a minute late; after that nothing is left to say.
const LAST_WORDS: Duration = Duration::from_secs(75);
const SILENCE: Duration = Duration::from_secs(120);

impl World {
    /// Lets the world come to rest from now on, and stay there.
    pub(crate) fn come_to_rest(&mut self) -> Verdict {
        let bound = self.bound();
        let begin = self.agenda.now;
        while let Some(unrest) = self.unrest() {
            if self.agenda.now > begin + bound {
                let text = format!("not at rest {bound:?} after the last fault: {unrest}");
                return Err(Violation::new("converge", text));
            }
            self.pass(self.agenda.now + LOOK)?;
        }
        self.rested_after = self.agenda.now - begin;
        self.pass(self.agenda.now + LAST_WORDS)?;
        self.oracle.expects_quiet(self.restless());
        self.pass(self.agenda.now + SILENCE)?;
        if let Some(unrest) = self.unrest() {
            let text = format!("at rest for a moment only: {unrest}");
            return Err(Violation::new("converge", text));
        }
        self.leaves_nothing_behind()
    }

    /// What the coordinator counts as out can be out.
    pub(crate) fn counts_no_dead_grants(&self) -> Verdict {
        match self
            .leader()
            .filter(|leader| !self.is_paused(leader.replica))
        {
            Some(coordinator) => {
                let out = coordinator.core.report().grants_out;
                self.oracle.counts(self.agenda.now, out)
            }
            None => Ok(()),
        }
    }

    /// A grant that is out, or a session too many, would show by now.
    fn leaves_nothing_behind(&self) -> Verdict {
        let Some(coordinator) = self.leader() else {
            return Ok(());
        };
        let report = coordinator.core.report();
        let is_restless = self.restless().contains(&true);
        if !is_restless && (report.grants_out != 0 || self.oracle.weighing() != 0) {
            let (out, weighing) = (report.grants_out, self.oracle.weighing());
            let text = format!("{out} grants are out, {weighing} are in use, and all is done");
            return Err(Violation::new("leak", text));
        }
        let agents = self
            .machines
            .iter()
            .filter(|machine| machine.agent.is_some())
            .count();
        if report.sessions != agents {
            let text = format!("{} sessions of {agents} agents", report.sessions);
            return Err(Violation::new("leak", text));
        }
        Ok(())
    }

    /// Three times the longest back-off (of a node, a host and an image in turn), a TTL, the words that come a minute late, and
    /// every pull of the cluster one after the other at its policy's pace.
    fn bound(&self) -> Duration {
        let mut bound = Duration::from_secs(240);
        let mut longest = Duration::ZERO;
        for row in self.api.images.values() {
            let policy = self.policy_of(&row.spec);
            longest = longest.max(policy.max);
            let takes = self.registry.tags[row.spec.reference].takes * 2;
            let targets = self.targets(&row.spec).count() as u32;
            bound += (takes + policy.min_delay + Duration::from_millis(100)) * targets;
        }
        bound + longest * 3
    }

    fn policy_of(&self, spec: &ImageSpec) -> PolicySpec {
        let policy = spec
            .policy
            .and_then(|policy| self.api.policies.get(&policy));
        policy.copied().unwrap_or(PolicySpec::BUILT_IN)
    }

    fn targets(&self, spec: &ImageSpec) -> impl Iterator<Item = usize> {
        let (image, policy) = (spec.place, self.policy_of(spec).place);
        let nodes = self.api.nodes.iter();
        nodes
            .filter(move |(_, node)| wants(**node, image, policy))
            .map(|(node, _)| *node)
    }

    fn is_served(&self, reference: usize, node: usize) -> bool {
        if !self.is_open_to(reference, node) {
            return false;
        }
        match self.registry.tags[reference].supply {
            Supply::Served => true,
            Supply::OnlyAmd64 => self.machines[node].is_amd64,
            Supply::Missing | Supply::Forbidden => false,
        }
    }

    /// Whether some Secret of the objects that want it there opens its repository.
    fn is_open_to(&self, reference: usize, node: usize) -> bool {
        let Some(lock) = self.registry.locks[reference] else {
            return true;
        };
        let opens = |secret: &usize| {
            let content = self.api.secrets[*secret].as_ref();
            content.is_some_and(|content| content.opens(reference, &self.catalog, lock))
        };
        let Some(spec) = self.api.nodes.get(&node) else {
            return false;
        };
        self.api.images.values().any(|row| {
            row.spec.reference == reference
                && wants(*spec, row.spec.place, self.policy_of(&row.spec).place)
                && row.spec.secrets.iter().flatten().any(opens)
        })
    }

    /// References that never come to rest: pulls that fail are tried again for ever, and tags are checked for ever.
    fn restless(&self) -> Vec<bool> {
        let mut restless = vec![false; self.registry.tags.len()];
        for row in self.api.images.values() {
            let spec = &row.spec;
            let is_always = spec.pull == ImagePullPolicy::Always;
            let checks = is_always && self.policy_of(spec).repull.is_some();
            let pulls = spec.pull != ImagePullPolicy::Never;
            let fails = || {
                self.targets(spec)
                    .any(|node| !self.is_served(spec.reference, node))
            };
            restless[spec.reference] |= checks || pulls && fails();
        }
        restless
    }

    /// What is not yet as it should be.
    pub(crate) fn unrest(&self) -> Option<String> {
        if self.leader().is_none() {
            return Some("no coordinator".to_owned());
        }
        self.api.images.values().find_map(|row| {
            let what = match &row.status {
                None => Some("no status".to_owned()),
                Some(status) => self.wrong(row, status),
            };
            what.map(|what| {
                let name = self.catalog.text(row.spec.reference);
                format!("i{:03} ({name}, {:?}): {what}", row.image, row.spec.pull)
            })
        })
    }

    fn wrong(&self, row: &ImageRow, status: &CachedImageStatus) -> Option<String> {
        let spec = &row.spec;
        if status.observed_generation != row.generation {
            return Some("its status is of a former generation".to_owned());
        }
        let tag = &self.registry.tags[spec.reference];
        let is_always = spec.pull == ImagePullPolicy::Always;
        let mut targets = 0;
        let mut all_ready = true;
        for node in self.targets(spec) {
            targets += 1;
            let name = node_name(node);
            let is_ready = status.cached_nodes.binary_search(&name).is_ok()
                || status.cached_nodes.len() == 1_000;
            let held = self.machines[node].runtime.held.get(&spec.reference);
            let is_served = self.is_served(spec.reference, node);
            all_ready &= is_ready;
            match (spec.pull, held) {
                (_, None) if is_ready => return Some(format!("{name} counts, and holds nothing")),
                (ImagePullPolicy::Never, Some(_)) if !is_ready => {
                    return Some(format!("{name} holds it, and does not count"));
                }
                (ImagePullPolicy::Never, _) => {}
                (_, None) if is_served => return Some(format!("{name} has not pulled it")),
                (_, Some(_)) if is_served && !is_ready => {
                    return Some(format!("{name} holds it, and does not count"));
                }
                (_, Some(held)) if is_always && is_served && !tag.went_back => {
                    if status.resolved_digest.as_deref() != Some(&digest(*held)) {
                        let expected = &status.resolved_digest;
                        return Some(format!("{name} holds {held:x}, expected is {expected:?}"));
                    }
                }
                _ => {}
            }
        }
        if status.nodes_targeted != targets {
            return Some(format!(
                "{} nodes targeted of {targets}",
                status.nodes_targeted
            ));
        }
        let is_ready = status.phase == Some(Phase::Ready);
        let words: Vec<&str> = status
            .conditions
            .iter()
            .map(|c| c.reason.as_str())
            .collect();
        let should_be_ready = all_ready && targets > 0;
        if is_ready != should_be_ready || words.contains(&"Cached") != should_be_ready {
            return Some(format!("phase {:?}, {words:?}", status.phase));
        }
        // Where several objects share a reference, the node that tries it for all may be another one's.
        let wanting = self
            .api
            .images
            .values()
            .filter(|other| other.spec.reference == spec.reference);
        let has_failed = !all_ready && targets > 0;
        if wanting.count() == 1 && has_failed != (status.phase == Some(Phase::Degraded)) {
            return Some(format!(
                "phase {:?} though some fail: {words:?}",
                status.phase
            ));
        }
        if targets == 0 && !words.contains(&"NoMatchingNodes") {
            return Some(format!("no node matches, but {words:?}"));
        }
        None
    }
}
