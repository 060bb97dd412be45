//! What happened: as a number that two equal runs share, and in words for whoever looks for the cause of a failure.

use std::collections::VecDeque;
use std::mem::Discriminant;
use std::time::Duration;

use crate::agenda::Event;

/// Characters of a line. A complete Desired would fill pages.
const LONGEST: usize = 400;

#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    /// The last so many lines; `None` while nobody will read them, since words cost more than the steps.
    lines: Option<VecDeque<String>>,
    kept: usize,
}

impl Trace {
    pub(crate) fn silent() -> Self {
        Self {
            hash: 0,
            lines: None,
            kept: 0,
        }
    }

    /// Keeps the last lines.
    pub(crate) fn keeping(lines: usize) -> Self {
        Self {
            hash: 0,
            lines: Some(VecDeque::new()),
            kept: lines,
        }
    }

    /// An event begins.
    pub(crate) fn mix(&mut self, now: Duration, event: &Event) {
        let kind: Discriminant<Event> = std::mem::discriminant(event);
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(&kind, &mut hasher);
        std::hash::Hash::hash(&now, &mut hasher);
        self.add(std::hash::Hasher::finish(&hasher));
    }

    fn add(&mut self, number: u64) {
        self.hash = (self.hash ^ number)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(17);
    }

    /// Something is worth a line.
    pub(crate) fn note(&mut self, now: Duration, words: impl FnOnce() -> String) {
        self.add(now.as_nanos() as u64);
        if let Some(lines) = &mut self.lines {
            if lines.len() == self.kept {
                lines.pop_front();
            }
            let mut line = format!("{:>12.6} {}", now.as_secs_f64(), words());
            if let Some((end, _)) = line.char_indices().nth(LONGEST) {
                line.truncate(end);
                line.push_str(" ...");
            }
            lines.push_back(line);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter().flatten()
    }
}
