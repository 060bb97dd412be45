//! What a status may say, and when it may be written (design section 5).

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use drop_api::{CachedImageStatus, ImagePullPolicy, NodeState, Phase};

use crate::objects::{ImageRow, digest_number, index_of};
use crate::oracle::sessions::{Report, Sessions};
use crate::oracle::view::Seen;
use crate::oracle::{Verdict, Violation};

/// Writes of one object are so far apart.
const SPACING: Duration = Duration::from_secs(1);
/// What is not worth a write of its own waits so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Writes of all objects together: so many a second, with a second's worth saved up.
const PER_SECOND: u32 = 40;

/// The writes of one coordinator process to one object.
#[derive(Debug)]
struct Written {
    at: Duration,
    status: Rc<CachedImageStatus>,
    /// What stands in the API server may be something else.
    is_doubtful: bool,
    /// The last write that landed was ours.
    is_ours: bool,
}

#[derive(Debug)]
pub(crate) struct Statuses {
    /// By image and uid.
    written: HashMap<(usize, u64), Written>,
    /// Digests that some status called the expected one, by reference.
    expected: Vec<BTreeSet<u64>>,
    /// When the budget of all objects is full again.
    full_at: Duration,
}

impl Statuses {
    pub(crate) fn new(references: usize) -> Self {
        Self {
            written: HashMap::new(),
            expected: vec![BTreeSet::new(); references],
            full_at: Duration::ZERO,
        }
    }

    /// Another process has its own budget, and remembers only what stands in the API server.
    pub(crate) fn new_life(&mut self) {
        self.written.clear();
        self.full_at = Duration::ZERO;
    }

    pub(crate) fn landed(&mut self, key: (usize, u64), is_ours: bool) {
        if let Some(written) = self.written.get_mut(&key) {
            written.is_ours = is_ours;
        }
    }

    pub(crate) fn answered(&mut self, key: (usize, u64), is_ok: bool) {
        if let Some(written) = self.written.get_mut(&key) {
            written.is_doubtful = !is_ok;
        }
    }

    pub(crate) fn expects(&mut self, reference: usize, digest: Option<&str>) {
        self.expected[reference].extend(digest.and_then(digest_number));
    }

    /// A status is about to be written.
    pub(crate) fn writes(
        &mut self,
        now: Duration,
        seen: &Seen,
        status: &CachedImageStatus,
        row: Option<&ImageRow>,
    ) -> Verdict {
        let key = (seen.row.image, seen.row.uid);
        let budget = |text: String| Violation::new("write-budget", text);
        let interval = Duration::from_secs(1) / PER_SECOND;
        self.full_at = self.full_at.max(now) + interval;
        if self.full_at > now + interval * (PER_SECOND + 1) {
            return Err(budget(format!("more than {PER_SECOND} writes a second")));
        }
        let former = self.written.get(&key);
        if let Some(former) = former {
            let gap = now - former.at;
            if gap < SPACING {
                return Err(budget(format!("i{:03} written again after {gap:?}", key.0)));
            }
            let is_minor = !former.is_doubtful && !is_news(&former.status, status);
            if former.is_ours && is_minor && gap < PATIENCE {
                let text = format!("i{:03}: small change written after {gap:?}", key.0);
                return Err(budget(text));
            }
        }
        let stands = row
            .filter(|row| row.uid == key.1)
            .and_then(|row| row.status.as_deref());
        let is_known = former.is_none_or(|former| !former.is_doubtful && former.is_ours);
        if is_known && stands == Some(status) {
            return Err(budget(format!(
                "i{:03}: what stands there already is written",
                key.0
            )));
        }
        let written = Written {
            at: now,
            status: Rc::new(status.clone()),
            is_doubtful: false,
            is_ours: former.is_some_and(|former| former.is_ours),
        };
        self.written.insert(key, written);
        Ok(())
    }
}

/// Whether something changed that is worth a write at once.
fn is_news(former: &CachedImageStatus, status: &CachedImageStatus) -> bool {
    let words = |status: &CachedImageStatus| -> Vec<(String, String)> {
        let plain = |message: &str| message.chars().filter(|c| !c.is_ascii_digit()).collect();
        let conditions = status.conditions.iter();
        conditions
            .map(|c| {
                (
                    format!("{} {} {}", c.type_, c.status, c.reason),
                    plain(&c.message),
                )
            })
            .collect()
    };
    let without_agent = |status: &CachedImageStatus| {
        let nodes = status.nodes.iter();
        let count = nodes.filter(|n| n.state == NodeState::NotConnected).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let moved = (former.nodes_ready - status.nodes_ready).abs()
        + (former.nodes_failed - status.nodes_failed).abs()
        + (without_agent(former) - without_agent(status)).abs();
    former.phase != status.phase
        || former.observed_generation != status.observed_generation
        || former.resolved_digest != status.resolved_digest
        || former.nodes_targeted != status.nodes_targeted
        || moved * 50 >= status.nodes_targeted.max(1)
        || words(former) != words(status)
}

/// Whether all that the status says is known, and nothing is claimed that no runtime has confirmed.
pub(crate) fn is_true(
    now: Duration,
    seen: &Seen,
    status: &CachedImageStatus,
    sessions: &Sessions,
    statuses: &Statuses,
) -> Verdict {
    let name = format!("i{:03}", seen.row.image);
    let lie = |text: String| Err(Violation::new("status", format!("{name}: {text}")));
    let number = |count: i32| usize::try_from(count).unwrap_or(0);
    let targeted = number(status.nodes_targeted);
    if targeted != seen.targeted {
        return lie(format!(
            "{targeted} nodes targeted, but {} are",
            seen.targeted
        ));
    }
    if status.observed_generation != seen.row.generation {
        return lie("observes another generation than the watch has shown".to_owned());
    }
    let ready = number(status.nodes_ready);
    if status.cached_nodes.len() != ready.min(1_000) || !status.cached_nodes.is_sorted() {
        return lie(format!(
            "{ready} nodes ready, {} named",
            status.cached_nodes.len()
        ));
    }
    let is_ready = status.phase == Some(Phase::Ready);
    if is_ready != (ready == targeted && targeted > 0) {
        return lie(format!("phase {:?} at {ready}/{targeted}", status.phase));
    }
    let listed = [
        status.nodes_ready,
        status.nodes_failed,
        status.nodes_waiting,
    ];
    if listed.iter().sum::<i32>() > status.nodes_targeted {
        return lie(format!("ready, failed, waiting: {listed:?} of {targeted}"));
    }
    let is_always = seen.row.spec.pull == ImagePullPolicy::Always;
    let reference = seen.row.spec.reference;
    for node_name in &status.cached_nodes {
        let node = index_of(node_name).unwrap_or(usize::MAX);
        if !seen.is_target(node) {
            return lie(format!("{node_name} is no target, but counted as ready"));
        }
        if !sessions.is_confirmed(now, node) {
            return lie(format!(
                "{node_name} has been silent for long, but counts as ready"
            ));
        }
        match sessions.report(reference, node) {
            Report::Present { digest, is_fresh } => {
                let is_good = is_fresh || statuses.expected[reference].contains(&digest);
                if is_always && !is_good {
                    return lie(format!(
                        "{node_name} holds {digest:x}, which nobody expected"
                    ));
                }
            }
            report => return lie(format!("{node_name} counts as ready, but said {report:?}")),
        }
    }
    Ok(())
}
