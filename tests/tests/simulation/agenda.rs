//! The virtual clock: what happens next, and when. Things at the same time happen in the order in which they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::Duration;

use drop_agent::node::Failure;
use drop_api::CachedImageStatus;
use drop_coordinator::image::resolve::{Question, ResolveFailed, Resolved};
use drop_proto::{AgentMessage, CoordinatorMessage};

use crate::objects::News;

/// What can happen. `life` names the process that waits for it: it means nothing to the next one.
#[derive(Debug)]
pub(crate) enum Event {
    Fault(usize),
    /// What a fault did is undone.
    Undo(usize),
    /// All faults are over.
    Calm,
    CoordinatorStarts,
    CoordinatorWakes {
        life: u64,
        at: Duration,
    },
    WatchLists {
        kind: usize,
        epoch: u64,
    },
    WatchTells {
        epoch: u64,
        kind: usize,
        news: Rc<News>,
    },
    WriteArrives {
        life: u64,
        image: usize,
        uid: u64,
        status: Rc<CachedImageStatus>,
        answer: Answer,
    },
    WriteAnswered {
        life: u64,
        image: usize,
        uid: u64,
        version: Option<u64>,
    },
    QuestionArrives {
        life: u64,
        question: Rc<Question>,
    },
    QuestionAnswered {
        life: u64,
        number: u64,
        answer: Result<Resolved, ResolveFailed>,
    },
    AgentStarts {
        node: usize,
    },
    AgentWakes {
        node: usize,
        life: u64,
        at: Duration,
    },
    Connects {
        node: usize,
        life: u64,
    },
    Up {
        conn: usize,
        message: AgentMessage,
    },
    Down {
        conn: usize,
        message: CoordinatorMessage,
    },
    ClosedForAgent {
        conn: usize,
    },
    ClosedForCoordinator {
        conn: usize,
    },
    Probes {
        node: usize,
        life: u64,
    },
    RuntimeReturns {
        node: usize,
    },
    PullResolves {
        node: usize,
        id: u64,
    },
    PullFinishes {
        node: usize,
        id: u64,
    },
    PullAnswered {
        node: usize,
        life: u64,
        token: u64,
        result: Result<(), Failure>,
    },
    ListTaken {
        node: usize,
        life: u64,
        began: Duration,
    },
    ListAnswered {
        node: usize,
        life: u64,
        began: Duration,
        listed: Option<Vec<(usize, u64)>>,
    },
}

/// What comes of a status write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It is applied, and the writer hears so.
    Fine,
    /// It is refused.
    Refused,
    /// It is applied, but the writer gives up before it hears so.
    Unheard,
}

#[derive(Debug)]
struct Entry {
    at: Duration,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, since a heap yields its greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The clock and everything that is planned.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    pub(crate) now: Duration,
    planned: BinaryHeap<Entry>,
    numbers: u64,
}

impl Agenda {
    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.numbers += 1;
        self.planned.push(Entry {
            at: at.max(self.now),
            number: self.numbers,
            event,
        });
    }

    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Moves the clock to the next event, unless that is later than `end`.
    pub(crate) fn next(&mut self, end: Duration) -> Option<Event> {
        if self.planned.peek().is_none_or(|entry| entry.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let entry = self.planned.pop()?;
        self.now = entry.at;
        Some(entry.event)
    }
}
