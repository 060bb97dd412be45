//! How often registries refuse a login: once for the Secrets that an image names, its host, and a step of the back-off, however
//! many images share them. Counted where the registries see it.
//!
//! A login that has worked since its Secrets changed last is not looked at: what is refused then is refused to single images.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use drop_proto::FailureClass;

use crate::oracle::backoff::Waits;
use crate::oracle::{Oracle, Verdict, Violation};

/// A pull that has run so long without an error has been let in.
const PROOF: Duration = Duration::from_secs(15);

/// A registry host, and the Secrets that have something for an image of it.
type Key = (usize, BTreeSet<usize>);

/// What tries a login: a pull by its token, or a question by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Try {
    Pull(u64),
    Question(u64),
}

#[derive(Debug)]
struct Begun {
    reference: usize,
    key: Option<Key>,
    /// One of its Secrets says something else by now: its answer means nothing.
    is_old: bool,
    at: Duration,
    /// Why it should not have begun, if the login is refused.
    too_early: Option<String>,
}

#[derive(Debug, Default)]
struct Login {
    /// It has worked, or a pull has run long enough.
    is_good: bool,
    /// The coordinator has heard of a refusal since it worked last.
    was_refused: bool,
    steps: u32,
    refused_at: Duration,
    until: Duration,
}

/// What one coordinator process has tried.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    begun: HashMap<Try, Begun>,
    logins: HashMap<Key, Login>,
}

impl Tries {
    /// A Secret says something else.
    pub(super) fn secret_changed(&mut self, secret: usize) {
        self.logins
            .retain(|(_, secrets), _| !secrets.contains(&secret));
        for begun in self.begun.values_mut() {
            let key = begun.key.as_ref();
            begun.is_old |= key.is_some_and(|(_, secrets)| secrets.contains(&secret));
        }
    }

    /// Somebody edits an object, and wants to see what becomes of it.
    pub(super) fn edited(&mut self, host: usize) {
        for ((other, _), login) in &mut self.logins {
            if *other == host {
                (login.steps, login.until) = (0, Duration::ZERO);
            }
        }
    }

    fn runs_long(&self, now: Duration, key: &Key) -> bool {
        self.begun.iter().any(|(what, begun)| {
            matches!(what, Try::Pull(_))
                && begun.key.as_ref() == Some(key)
                && !begun.is_old
                && begun.at + PROOF <= now
        })
    }
}

impl Oracle {
    /// The coordinator sends somebody to log in, or has nothing to log in with.
    pub(crate) fn tries_login(
        &mut self,
        now: Duration,
        what: Try,
        reference: usize,
        logs_in: bool,
    ) {
        let key = self.login_key(reference).filter(|_| logs_in);
        let too_early = key.as_ref().and_then(|key| self.is_too_early(now, key));
        let begun = Begun {
            reference,
            key,
            is_old: false,
            at: now,
            too_early,
        };
        self.tries.begun.insert(what, begun);
    }

    fn is_too_early(&self, now: Duration, key: &Key) -> Option<String> {
        let login = self.tries.logins.get(key);
        if login.is_some_and(|login| login.is_good) || self.tries.runs_long(now, key) {
            return None;
        }
        if let Some(login) = login.filter(|login| now < login.until) {
            return Some(format!("before {:.3} s", login.until.as_secs_f64()));
        }
        // Of a pull nobody can tell from here when the coordinator gives it up; a question is always answered.
        let is_asked = |(what, begun): (&Try, &Begun)| {
            matches!(what, Try::Question(_)) && begun.key.as_ref() == Some(key) && !begun.is_old
        };
        let is_out = self.tries.begun.iter().any(is_asked);
        is_out.then(|| "while the first answer is out".to_owned())
    }

    /// A registry refuses the passwords that it is shown.
    pub(crate) fn login_refused(&self, what: Try) -> Verdict {
        let Some(begun) = self.tries.begun.get(&what) else {
            return Ok(());
        };
        match &begun.too_early {
            Some(why) => {
                let name = self.catalog.text(begun.reference);
                let text = format!("{what:?} of {name} logs in {why}, and is refused");
                Err(Violation::new("failed-logins", text))
            }
            None => Ok(()),
        }
    }

    /// The coordinator hears what came of a try. Whether its Secrets say something else by now, so that a refusal means nothing.
    pub(super) fn hears_of_login(
        &mut self,
        now: Duration,
        what: Try,
        result: Result<(), FailureClass>,
    ) -> bool {
        let Some(begun) = self.tries.begun.remove(&what) else {
            return false;
        };
        let is_question = matches!(what, Try::Question(_));
        let present = self.login_key(begun.reference);
        let is_other = (is_question || begun.key.is_some()) && present != begun.key;
        let is_outdated = begun.is_old || is_other;
        let Some(key) = begun.key.filter(|_| !begun.is_old) else {
            return is_outdated;
        };
        match result {
            Ok(()) => self.login_worked(&key),
            Err(FailureClass::Unauthorized | FailureClass::Forbidden) => {
                let waits = self.shortest_waits(begun.reference);
                let login = self.tries.logins.entry(key).or_default();
                login.was_refused = true;
                // What was under way when another was refused tells the same again.
                if !login.is_good && begun.at >= login.refused_at {
                    login.steps += 1;
                    login.refused_at = now;
                    login.until = now + waits.delay(login.steps);
                }
            }
            Err(_) => {}
        }
        is_outdated
    }

    /// Whoever was refused before may try again at once.
    fn login_worked(&mut self, key: &Key) {
        let login = self.tries.logins.entry(key.clone()).or_default();
        login.is_good = true;
        login.steps = 0;
        login.until = Duration::ZERO;
        if !std::mem::take(&mut login.was_refused) {
            return;
        }
        for reference in 0..self.hosts_of.len() {
            if self.login_key(reference).as_ref() == Some(key) {
                self.backoff.secret_changed(reference);
                self.questions.secret_changed(reference);
            }
        }
    }

    /// What the reference's objects have to log in with, as far as the coordinator was told.
    fn login_key(&self, reference: usize) -> Option<Key> {
        let images = self.view.images.values();
        let named = images
            .filter(|seen| seen.row.spec.reference == reference)
            .flat_map(|seen| seen.row.spec.secrets)
            .flatten();
        let secrets: BTreeSet<usize> = named
            .filter(|secret| {
                self.logins
                    .has_login(*secret, self.catalog.text(reference), &self.catalog)
            })
            .collect();
        (!secrets.is_empty()).then(|| (self.hosts_of[reference], secrets))
    }

    fn shortest_waits(&self, reference: usize) -> Waits {
        let images = self.view.images.values();
        let objects = images.filter(|seen| seen.row.spec.reference == reference);
        let limits = objects.map(|seen| self.view.limits(self.view.key(&seen.row.spec)));
        limits.fold(
            Waits {
                initial: Duration::MAX,
                max: Duration::MAX,
            },
            |waits, limits| Waits {
                initial: waits.initial.min(limits.initial),
                max: waits.max.min(limits.max),
            },
        )
    }
}
