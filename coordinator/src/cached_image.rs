//! CachedImage status: what it should say, when it is written, and the Events that go with it.
//!
//! `rollup` decides what is true, `writer` when to say it, `reasons` in which words; `apply` does the I/O.

pub mod apply;
pub mod events;
pub mod reasons;
pub mod rollup;

pub mod writer;

use std::time::Duration;

use crate::core::{Core, Count, Now, Output, Timers, Wake, WriteFailed};
use crate::image::ImageId;
use crate::index::Object;
use crate::node_set::NodeId;

/// So many graces after a start the agents that have come are all that count, even if more come every now and then.
const LONGEST_RETURN: u32 = 10;

/// A status is not looked at yet: whatever marks the object, or `until`, comes first.
struct HeldBack {
    until: Option<Duration>,
}

impl Core {
    /// Something that the object's status depends on may have changed.
    pub(crate) fn mark(&mut self, now: Now, name: &str) {
        if let Some(object) = self.objects.get_mut(name) {
            mark(&mut self.timers, now, object);
        }
    }

    /// Marks every object that wants the image.
    pub(crate) fn mark_image(&mut self, now: Now, id: ImageId) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        for name in &image.objects {
            if let Some(object) = self.objects.get_mut(name) {
                mark(&mut self.timers, now, object);
            }
        }
    }

    /// Marks every object that is wanted on the node.
    pub(crate) fn mark_node(&mut self, now: Now, id: NodeId) {
        let objects = self.objects.values_mut();
        for object in objects.filter(|object| object.targets.contains(id)) {
            mark(&mut self.timers, now, object);
        }
    }

    /// Changes every object that wants the image.
    pub(crate) fn each_object(&mut self, id: ImageId, change: impl Fn(&mut Object)) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        for name in &image.objects {
            if let Some(object) = self.objects.get_mut(name) {
                change(object);
            }
        }
    }

    /// Compares an object's status with what it should be, and writes it if that is due.
    pub(crate) fn evaluate(&mut self, now: Now, name: &str) {
        if self.stopping {
            return;
        }
        let Some(object) = self.objects.get(name) else {
            return;
        };
        if !object.record.is_due(now.mono) {
            return;
        }
        if let Some(held) = self.held_back(now, object) {
            if let Some(until) = held.until {
                self.wake(until, Wake::Status(name.to_owned()));
            }
            if let Some(object) = self.objects.get_mut(name) {
                object.record.hold(held.until);
            }
            return;
        }
        let rollup = rollup::rollup(self, now, object);
        self.outputs.push(Output::Count(Count::Evaluated));
        if let Some(at) = rollup.changes_at {
            self.wake(at, Wake::Status(name.to_owned()));
        }
        let Some(object) = self.objects.get_mut(name) else {
            return;
        };
        object.ready = rollup.status.nodes_ready;
        match object.record.decide(
            now.mono,
            &rollup.status,
            rollup.changes_at,
            &mut self.writes,
        ) {
            writer::Decision::Nothing => {}
            writer::Decision::At(at) => self.wake(at, Wake::Status(name.to_owned())),
            writer::Decision::Write => {
                let write = Output::Write {
                    name: name.to_owned(),
                    uid: object.facts.uid.clone(),
                    status: Box::new(rollup.status.clone()),
                };
                object.record.writing(now.mono, rollup.status);
                self.outputs.push(write);
            }
        }
    }

    /// After a start, a status that a former process wrote stands until the agents have said what is true now: until no more of
    /// them have come for the grace, since thousands may take longer than it to come back.
    fn held_back(&self, now: Now, object: &Object) -> Option<HeldBack> {
        let Some(started) = self.started else {
            // Everything is marked when the first lists are there.
            return Some(HeldBack { until: None });
        };
        let grace = self.config.agent_grace;
        let until = (self.last_arrival.max(started) + grace).min(started + grace * LONGEST_RETURN);
        let held = object.record.is_inherited()
            && now.mono < until
            && !object.targets.iter().all(|node| self.has_reported(node));
        held.then_some(HeldBack { until: Some(until) })
    }

    pub(crate) fn written(
        &mut self,
        now: Now,
        name: &str,
        uid: &str,
        result: Result<u64, WriteFailed>,
    ) {
        // The answer for an object that is gone means nothing to the one that has its name now.
        let Some(object) = self.objects.get_mut(name).filter(|o| o.facts.uid == uid) else {
            return;
        };
        let again = match result {
            Ok(version) => {
                let told = object
                    .record
                    .in_flight()
                    .map(|status| events::transitions(object, status));
                for event in told.into_iter().flatten() {
                    self.writes.spend(now.mono);
                    self.outputs.push(Output::Publish(event));
                }
                object.record.succeeded(now.mono, version)
            }
            Err(WriteFailed) => object.record.failed(now.mono),
        };
        if let Some(at) = again {
            self.wake(at, Wake::Status(name.to_owned()));
        }
    }
}

fn mark(timers: &mut Timers, now: Now, object: &mut Object) {
    if let Some(at) = object.record.mark(now.mono, object.targets.len()) {
        timers.insert((at, Wake::Status(object.facts.name.clone())));
    }
}
