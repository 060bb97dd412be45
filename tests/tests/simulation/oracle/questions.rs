//! How often registries are asked: once for a tag, the cluster and an interval, unless something failed or changed.

use std::collections::HashMap;
use std::time::Duration;

use drop_api::ImagePullPolicy;
use drop_coordinator::image::resolve::{ResolveFailed, Resolved};
use drop_proto::FailureClass;

use crate::oracle::{Oracle, Try, Verdict, Violation};

/// Questions that are out to one host.
const AT_ONCE: usize = 16;
/// After these nobody has checked the tag: the check stays due, whatever the interval says.
const STAYS_DUE: [FailureClass; 4] = [
    FailureClass::NotFound,
    FailureClass::Unauthorized,
    FailureClass::Forbidden,
    FailureClass::Throttled,
];

/// What one coordinator process has asked.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    /// By number, in the order in which they were asked.
    out: HashMap<u64, Out>,
    asked: u64,
    /// When a tag was told last, in milliseconds of the coordinator's own wall clock, which its intervals are counted by.
    told: HashMap<usize, i64>,
    /// Until when nobody asks for an image that does not exist.
    refused: HashMap<usize, Duration>,
}

/// A question without an answer.
#[derive(Debug)]
struct Out {
    reference: usize,
    is_about_tag: bool,
    /// Nothing named the reference since it was asked: the answer is for nobody.
    is_orphan: bool,
}

impl Questions {
    /// Somebody has edited an object of the reference.
    pub(crate) fn forget(&mut self, reference: usize) {
        self.told.remove(&reference);
        self.refused.remove(&reference);
    }

    /// What was known of the reference is forgotten.
    pub(crate) fn orphaned(&mut self, reference: usize) {
        for out in self.out.values_mut() {
            out.is_orphan |= out.reference == reference;
        }
    }

    /// What a registry hides from strangers it calls missing.
    pub(crate) fn secret_changed(&mut self, reference: usize) {
        self.refused.remove(&reference);
    }
}

impl Oracle {
    /// The coordinator asks a registry.
    pub(crate) fn asks(
        &mut self,
        now: Duration,
        wall: i64,
        reference: usize,
        is_about_tag: bool,
    ) -> Verdict {
        let name = self.catalog.text(reference);
        let broken = |what: String| Err(Violation::new("questions", format!("{name} {what}")));
        if self.is_quiet(reference) {
            return broken("is asked for at rest".to_owned());
        }
        self.questions.asked += 1;
        let number = self.questions.asked;
        let out = self.questions.out.values();
        let is_same = |other: &Out| other.reference == reference && !other.is_orphan;
        if out.clone().any(is_same) {
            return broken("is asked for twice at once".to_owned());
        }
        let host = self.hosts_of[reference];
        let to_host = out.filter(|other| self.hosts_of[other.reference] == host);
        if to_host.count() >= AT_ONCE {
            return broken(format!("is asked for besides {AT_ONCE} others at its host"));
        }
        let question = Out {
            reference,
            is_about_tag,
            is_orphan: false,
        };
        self.questions.out.insert(number, question);
        if !is_about_tag {
            return Ok(());
        }
        if self.catalog.references[reference].pinned.is_some() {
            return broken("names a digest, and is asked for as a tag".to_owned());
        }
        let wanting = || {
            let images = self.view.images.values();
            images.filter(|seen| {
                let spec = &seen.row.spec;
                spec.reference == reference && spec.pull == ImagePullPolicy::Always
            })
        };
        if wanting().all(|seen| seen.targeted == 0) {
            return broken("is asked for, and no node wants its newest digest".to_owned());
        }
        let refused = self.questions.refused.get(&reference);
        if refused.is_some_and(|until| now < *until) {
            return broken(format!("is asked for before {refused:?}"));
        }
        let Some(told) = self.questions.told.get(&reference) else {
            return Ok(());
        };
        let interval = wanting()
            .filter_map(|seen| self.view.limits(self.view.key(&seen.row.spec)).repull)
            .min();
        let passed = Duration::from_millis((wall - told).unsigned_abs());
        match interval {
            Some(interval) if passed + Duration::from_millis(1) >= interval => Ok(()),
            _ => broken(format!(
                "is asked for again after {passed:?}, its interval is {interval:?}"
            )),
        }
    }

    /// A registry's answer reaches the coordinator. Its questions are numbered in order.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        wall: i64,
        number: u64,
        answer: &Result<Resolved, ResolveFailed>,
    ) {
        let result = answer.as_ref().map(drop).map_err(|failed| failed.class);
        let is_refused = matches!(
            result,
            Err(FailureClass::Unauthorized | FailureClass::Forbidden | FailureClass::NotFound)
        );
        let is_outdated = self.hears_of_login(now, Try::Question(number), result) && is_refused;
        let asked = self.questions.out.remove(&number);
        let Some(asked) = asked.filter(|asked| !asked.is_orphan) else {
            return;
        };
        let (reference, is_about_tag) = (asked.reference, asked.is_about_tag);
        if is_outdated {
            return;
        }
        if let Err(failed) = answer
            && is_about_tag
            && STAYS_DUE.contains(&failed.class)
        {
            self.questions.told.remove(&reference);
        }
        match answer {
            Ok(_) if is_about_tag => {
                self.questions.told.insert(reference, wall);
                self.questions.refused.remove(&reference);
            }
            Err(failed) if failed.class == FailureClass::NotFound => {
                let images = self.view.images.values();
                let longest = images
                    .filter(|seen| seen.row.spec.reference == reference)
                    .filter(|seen| seen.row.spec.pull != ImagePullPolicy::Never)
                    .map(|seen| self.view.limits(self.view.key(&seen.row.spec)).max)
                    .min();
                let until = now + longest.unwrap_or_default();
                self.questions.refused.insert(reference, until);
            }
            _ => {}
        }
    }

    /// A registry tells what a tag names.
    pub(crate) fn registry_names(&mut self, reference: usize, digest: &str) {
        self.statuses.expects(reference, Some(digest));
    }
}
