//! The API server: objects, watches that lag and break, status writes that fail in each way they can.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use drop_api::CachedImageStatus;
use k8s_openapi::api::coordination::v1::Lease;

use crate::agenda::{Answer, Event};
use crate::objects::{Change, ImageRow, ImageSpec, News, NodeSpec, PolicySpec};
use crate::oracle::Verdict;
use crate::secrets::Content;
use crate::world::World;
use crate::world::inbox::Waiting;

/// A client gives a request up after this long.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) const KINDS: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// News of former watches of this kind are lost.
    epoch: u64,
    is_on: bool,
    last: Duration,
}

/// One leader's, by kind.
pub(crate) type Watches = [Watch; KINDS];

#[derive(Debug, Default)]
pub(crate) struct ApiServer {
    pub(crate) nodes: BTreeMap<usize, NodeSpec>,
    pub(crate) images: BTreeMap<usize, ImageRow>,
    pub(crate) policies: BTreeMap<usize, PolicySpec>,
    pub(crate) lease: Option<Lease>,
    /// When it was made.
    pub(crate) lease_made: Duration,
    pub(crate) secrets: Vec<Option<Content>>,
    /// The coordinator may not read Secrets until.
    pub(crate) secrets_hidden_until: Duration,
    /// Most that news are late, until.
    pub(crate) lag: (Duration, Duration),
    /// Half of all writes end like this, until.
    pub(crate) bad_writes: Option<(Answer, Duration)>,
    pub(crate) away_until: Duration,
    pub(crate) version: u64,
    uids: u64,
}

impl ApiServer {
    /// Nothing stands there but these Secrets.
    pub(crate) fn new(secrets: &[Content]) -> Self {
        Self {
            secrets: secrets.iter().cloned().map(Some).collect(),
            ..Self::default()
        }
    }
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
        let news = Rc::new(news);
        for place in 0..self.coordinators.len() {
            self.tell_one(place, kind, news.clone());
        }
    }

    fn tell_one(&mut self, place: usize, kind: usize, news: Rc<News>) {
        let coordinator = &mut self.coordinators[place];
        let (life, watch) = (coordinator.life, &mut coordinator.watches[kind]);
        if !watch.is_on {
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
        watch.last = watch.last.max(at);
        let epoch = watch.epoch;
        self.agenda.at(
            watch.last,
            Event::WatchTells {
                life,
                epoch,
                kind,
                news,
            },
        );
    }

    /// All watches of the leader break, and begin anew with lists after `wait`.
    pub(crate) fn watches_anew(&mut self, life: u64, wait: Duration) {
        for kind in 0..KINDS {
            let wait = wait + self.dice.millis(0, 20);
            self.watch_anew(life, kind, wait);
        }
    }

    /// The watch breaks, and begins anew with a list after `wait`.
    pub(crate) fn watch_anew(&mut self, life: u64, kind: usize, wait: Duration) {
        let Some(coordinator) = self.coordinator_mut(life) else {
            return;
        };
        let watch = &mut coordinator.watches[kind];
        watch.epoch += 1;
        watch.is_on = false;
        let epoch = watch.epoch;
        self.agenda
            .after(wait, Event::WatchLists { life, kind, epoch });
    }

    pub(crate) fn watch_lists(&mut self, life: u64, kind: usize, epoch: u64) {
        let place = self.coordinators.iter().position(|c| c.life == life);
        let Some(place) = place else { return };
        let replica = self.coordinators[place].replica;
        if self.coordinators[place].watches[kind].epoch != epoch {
            return;
        }
        let now = self.agenda.now;
        if !self.reaches_api(replica) {
            let back = self
                .api
                .away_until
                .max(self.replicas[replica].cut_off_until);
            let wait = back - now + self.dice.millis(10, 5_000);
            self.agenda
                .after(wait, Event::WatchLists { life, kind, epoch });
            return;
        }
        let watch = &mut self.coordinators[place].watches[kind];
        watch.is_on = true;
        watch.last = now;
        let api = &self.api;
        let news = match kind {
            0 => News::Node(Change::Replaced(
                api.nodes.iter().map(|(n, s)| (*n, *s)).collect(),
            )),
            1 => News::Image(Change::Replaced(api.images.values().cloned().collect())),
            _ => News::Policy(Change::Replaced(
                api.policies.iter().map(|(p, s)| (*p, *s)).collect(),
            )),
        };
        self.tell_one(place, kind, Rc::new(news));
    }

    pub(crate) fn watch_tells(
        &mut self,
        life: u64,
        kind: usize,
        epoch: u64,
        news: Rc<News>,
    ) -> Verdict {
        let is_on = |watch: &Watch| watch.epoch == epoch;
        if !self
            .coordinator(life)
            .is_some_and(|c| is_on(&c.watches[kind]))
        {
            return Ok(());
        }
        self.deliver(life, Waiting::News(news))
    }

    pub(crate) fn write(&mut self, life: u64, image: usize, uid: u64, status: CachedImageStatus) {
        let now = self.agenda.now;
        let status = Rc::new(status);
        let is_there = self
            .coordinator(life)
            .is_some_and(|c| self.reaches_api(c.replica));
        let answer = match self.api.bad_writes {
            _ if !is_there => Answer::Refused,
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
        self.deliver(life, Waiting::Written(image, uid, version))
    }
}
