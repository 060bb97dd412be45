//! The API server: objects, watches that lag and break, status writes that fail in each way they can.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use drop_api::CachedImageStatus;
use drop_coordinator::core::{Input, WriteFailed};

use crate::agenda::{Answer, Event};
use crate::objects::{Change, ImageRow, ImageSpec, News, NodeSpec, PolicySpec, image_name, input};
use crate::oracle::Verdict;
use crate::world::World;

/// A client gives a request up after this long.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) const KINDS: usize = 3;

#[derive(Debug, Default)]
struct Watch {
    /// News of former watches of this kind are lost.
    epoch: u64,
    is_on: bool,
    last: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct ApiServer {
    pub(crate) nodes: BTreeMap<usize, NodeSpec>,
    pub(crate) images: BTreeMap<usize, ImageRow>,
    pub(crate) policies: BTreeMap<usize, PolicySpec>,
    watches: [Watch; KINDS],
    /// Most that news are late, until.
    pub(crate) lag: (Duration, Duration),
    /// Half of all writes end like this, until.
    pub(crate) bad_writes: Option<(Answer, Duration)>,
    pub(crate) away_until: Duration,
    version: u64,
    uids: u64,
}

impl World {
    pub(crate) fn put_node(&mut self, node: usize, spec: NodeSpec) {
        self.api.nodes.insert(node, spec);
        self.tell(0, News::Node(Change::Applied((node, spec))));
    }

    pub(crate) fn delete_node(&mut self, node: usize) {
        if self.api.nodes.remove(&node).is_some() {
            self.tell(0, News::Node(Change::Deleted(node)));
        }
    }

    /// Makes the image, or edits it.
    pub(crate) fn put_image(&mut self, image: usize, spec: ImageSpec) {
        self.api.version += 1;
        let version = self.api.version;
        if let Some(row) = self.api.images.get_mut(&image) {
            if row.spec == spec {
                return;
            }
            row.spec = spec;
            row.generation += 1;
            row.version = version;
        } else {
            self.api.uids += 1;
            let row = ImageRow {
                image,
                uid: self.api.uids,
                generation: 1,
                version,
                spec,
                status: None,
            };
            self.api.images.insert(image, row);
        }
        self.tell_image(image);
    }

    pub(crate) fn delete_image(&mut self, image: usize) {
        if self.api.images.remove(&image).is_some() {
            self.tell(1, News::Image(Change::Deleted(image)));
        }
    }

    fn tell_image(&mut self, image: usize) {
        if let Some(row) = self.api.images.get(&image).cloned() {
            self.tell(1, News::Image(Change::Applied(row)));
        }
    }

    pub(crate) fn put_policy(&mut self, policy: usize, spec: PolicySpec) {
        self.api.policies.insert(policy, spec);
        self.tell(2, News::Policy(Change::Applied((policy, spec))));
    }

    pub(crate) fn delete_policy(&mut self, policy: usize) {
        if self.api.policies.remove(&policy).is_some() {
            self.tell(2, News::Policy(Change::Deleted(policy)));
        }
    }

    fn tell(&mut self, kind: usize, news: News) {
        if !self.api.watches[kind].is_on {
            return;
        }
        let now = self.agenda.now;
        let (most, until) = self.api.lag;
        let extra = if now < until {
            most.as_micros() as u64
        } else {
            0
        };
        let at = now + self.dice.micros(300, 10_000 + extra);
        let watch = &mut self.api.watches[kind];
        watch.last = watch.last.max(at);
        let epoch = watch.epoch;
        let news = Rc::new(news);
        self.agenda
            .at(watch.last, Event::WatchTells { epoch, kind, news });
    }

    /// The watch breaks, and begins anew with a list after `wait`.
    pub(crate) fn watch_anew(&mut self, kind: usize, wait: Duration) {
        let watch = &mut self.api.watches[kind];
        watch.epoch += 1;
        watch.is_on = false;
        let epoch = watch.epoch;
        self.agenda.after(wait, Event::WatchLists { kind, epoch });
    }

    pub(crate) fn watch_lists(&mut self, kind: usize, epoch: u64) {
        if self.api.watches[kind].epoch != epoch {
            return;
        }
        if self.agenda.now < self.api.away_until {
            let wait = self.api.away_until - self.agenda.now + self.dice.millis(10, 5_000);
            self.agenda.after(wait, Event::WatchLists { kind, epoch });
            return;
        }
        let api = &mut self.api;
        api.watches[kind].is_on = true;
        api.watches[kind].last = self.agenda.now;
        let news = match kind {
            0 => News::Node(Change::Replaced(
                api.nodes.iter().map(|(n, s)| (*n, *s)).collect(),
            )),
            1 => News::Image(Change::Replaced(api.images.values().cloned().collect())),
            _ => News::Policy(Change::Replaced(
                api.policies.iter().map(|(p, s)| (*p, *s)).collect(),
            )),
        };
        self.tell(kind, news);
    }

    pub(crate) fn watch_tells(&mut self, kind: usize, epoch: u64, news: &News) -> Verdict {
        if self.api.watches[kind].epoch != epoch || self.coordinator.is_none() {
            return Ok(());
        }
        self.oracle.learns(self.agenda.now, news);
        let input = input(news, &self.catalog);
        self.coordinator_step(input)
    }

    pub(crate) fn write(&mut self, life: u64, image: usize, uid: u64, status: CachedImageStatus) {
        let now = self.agenda.now;
        let status = Rc::new(status);
        let answer = match self.api.bad_writes {
            _ if now < self.api.away_until => Answer::Refused,
            Some((answer, until)) if now < until && self.dice.chance(50) => answer,
            _ => Answer::Fine,
        };
        // A write whose answer is lost may land late, even after later ones.
        let way = if answer == Answer::Unheard {
            self.dice.millis(1, 14_000)
        } else {
            self.dice.millis(1, 10)
        };
        if answer == Answer::Unheard {
            let version = None;
            self.agenda.after(
                PATIENCE,
                Event::WriteAnswered {
                    life,
                    image,
                    uid,
                    version,
                },
            );
        }
        self.agenda.after(
            way,
            Event::WriteArrives {
                life,
                image,
                uid,
                status,
                answer,
            },
        );
    }

    pub(crate) fn write_arrives(
        &mut self,
        life: u64,
        (image, uid): (usize, u64),
        status: &Rc<CachedImageStatus>,
        answer: Answer,
    ) {
        let row = self.api.images.get_mut(&image).filter(|row| row.uid == uid);
        let version = match row {
            Some(row) if answer != Answer::Refused => {
                // A write that changes nothing makes no version and wakes nobody.
                if row.status.as_ref() != Some(status) {
                    self.api.version += 1;
                    row.version = self.api.version;
                    row.status = Some(status.clone());
                    self.oracle.landed(life, image, uid);
                    self.tell_image(image);
                }
                self.api.images.get(&image).map(|row| row.version)
            }
            _ => None,
        };
        if answer != Answer::Unheard {
            let way = self.dice.millis(1, 5);
            self.agenda.after(
                way,
                Event::WriteAnswered {
                    life,
                    image,
                    uid,
                    version,
                },
            );
        }
    }

    pub(crate) fn write_answered(
        &mut self,
        life: u64,
        (image, uid): (usize, u64),
        version: Option<u64>,
    ) -> Verdict {
        if self.coordinator.as_ref().is_none_or(|c| c.life != life) {
            return Ok(());
        }
        self.oracle.write_answered(image, uid, version.is_some());
        let result = version.ok_or(WriteFailed);
        self.coordinator_step(Input::Written(image_name(image), uid.to_string(), result))
    }
}
