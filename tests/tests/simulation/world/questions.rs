//! The coordinator's own questions to the registries, and what they answer: what `registries.rs` does, with the same bounds.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use drop_coordinator::image::resolve::{About, Question, ResolveFailed, Resolved};
use drop_oci::Credential;
use drop_proto::FailureClass;

use crate::agenda::Event;
use crate::dice::Dice;
use crate::faults::CALM;
use crate::objects::digest;
use crate::oracle::{Try, Verdict};
use crate::registry::{Supply, Trouble};
use crate::secrets;
use crate::world::World;
use crate::world::inbox::Waiting;

/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// What an image weighs, whichever it is.
const BYTES: u64 = 5_000_000;

/// How the coordinator and the registries get on.
#[derive(Debug)]
pub(crate) struct Questions {
    /// The coordinator asks; otherwise nodes check tags.
    pub(crate) are_asked: bool,
    dice: Dice,
    /// Of a hundred questions so many get lost, which no node notices.
    lost_percent: u64,
}

impl Questions {
    /// Half of the worlds have a coordinator that asks.
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 6);
        Self {
            are_asked: seed % 2 == 1,
            lost_percent: dice.pick(&[0, 0, 3, 30]),
            dice,
        }
    }
}

impl World {
    pub(crate) fn coordinator_asks(&mut self, life: u64, question: Question) -> Verdict {
        let now = self.agenda.now;
        let wall = self.wall_millis(life);
        self.trace.note(now, || format!("asks {question:?}"));
        if let Some(reference) = self.catalog.index(&question.reference)
            && life == self.lives
        {
            let is_about_tag = question.about == About::Tag;
            self.oracle.asks(now, wall, reference, is_about_tag)?;
            let logs_in = !question.logins.0.is_empty();
            let asked = Try::Question(question.number);
            self.oracle.tries_login(now, asked, reference, logs_in);
        }
        let way = self.questions.dice.millis(1, 50);
        let question = Rc::new(question);
        self.agenda
            .after(way, Event::QuestionArrives { life, question });
        Ok(())
    }

    pub(crate) fn question_arrives(&mut self, life: u64, question: &Question) -> Verdict {
        let now = self.agenda.now;
        let (answer, after) = match self.catalog.index(&question.reference) {
            Some(reference) => self.registry_tells(now, reference, question),
            None => (Err(failed(FailureClass::NotFound)), Duration::ZERO),
        };
        let is_refused =
            matches!(&answer, Err(failed) if failed.class == FailureClass::Unauthorized);
        if is_refused && !question.logins.0.is_empty() && life == self.lives {
            self.oracle.login_refused(Try::Question(question.number))?;
        }
        if let (Ok(told), Some(reference)) = (&answer, self.catalog.index(&question.reference)) {
            // The registry itself has named it, whether or not a status comes to say so.
            self.oracle.registry_names(reference, &told.digest);
        }
        let number = question.number;
        let way = self.questions.dice.millis(1, 200);
        self.agenda.after(
            after + way,
            Event::QuestionAnswered {
                life,
                number,
                answer,
            },
        );
        Ok(())
    }

    /// The answer, and how long the registry takes for it.
    fn registry_tells(
        &mut self,
        now: Duration,
        reference: usize,
        question: &Question,
    ) -> (Result<Resolved, ResolveFailed>, Duration) {
        let host = &self.registry.hosts[self.catalog.references[reference].host];
        if let Some((trouble, _)) = host.trouble.filter(|(_, until)| now < *until) {
            let mut failure = failed(match trouble {
                Trouble::Throttles => FailureClass::Throttled,
                Trouble::Fails => FailureClass::ServerError,
                Trouble::Refuses => FailureClass::Connection,
                Trouble::Unresolved => FailureClass::Dns,
                Trouble::Hangs => FailureClass::Timeout,
            });
            if trouble == Trouble::Throttles && self.questions.dice.chance(70) {
                failure.wait = Some(self.questions.dice.secs(1, 60));
            }
            let hangs = trouble == Trouble::Hangs;
            let silence = if hangs { PATIENCE } else { Duration::ZERO };
            return (Err(failure), silence);
        }
        if now < CALM && self.questions.dice.chance(self.questions.lost_percent) {
            return (Err(failed(FailureClass::Timeout)), PATIENCE);
        }
        if let Some(lock) = self.registry.locks[reference]
            && !question.logins.0.iter().any(|login| opens(login, lock))
        {
            return (Err(failed(FailureClass::Unauthorized)), Duration::ZERO);
        }
        let tag = &self.registry.tags[reference];
        let answer = match (tag.supply, &question.about) {
            (Supply::Missing, _) => Err(failed(FailureClass::NotFound)),
            (Supply::Forbidden, _) => Err(failed(FailureClass::Forbidden)),
            (_, About::Tag) => Ok(Resolved {
                digest: digest(tag.digest),
                ..Resolved::default()
            }),
            (supply, About::Contents { digest, platforms }) => Ok(Resolved {
                digest: digest.clone(),
                sizes: sizes(supply, platforms),
            }),
        };
        (answer, Duration::ZERO)
    }

    pub(crate) fn question_answered(
        &mut self,
        life: u64,
        number: u64,
        answer: Result<Resolved, ResolveFailed>,
    ) -> Verdict {
        self.trace
            .note(self.agenda.now, || format!("answer {number}: {answer:?}"));
        self.deliver(life, Waiting::Resolved(number, answer))
    }
}

fn sizes(
    supply: Supply,
    platforms: &BTreeSet<String>,
) -> std::collections::BTreeMap<String, Option<u64>> {
    let size = |platform: &String| {
        let is_there = supply != Supply::OnlyAmd64 || platform == "linux/amd64";
        (platform.clone(), is_there.then_some(BYTES))
    };
    platforms.iter().map(size).collect()
}

fn opens(login: &Credential, lock: u64) -> bool {
    matches!(login, Credential::Basic { password, .. } if *password == secrets::password(lock))
}

fn failed(class: FailureClass) -> ResolveFailed {
    ResolveFailed {
        class,
        message: class.class().to_owned(),
        wait: None,
    }
}
