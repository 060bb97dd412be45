//! How long whom a failure makes wait, by its class (design section 4), as the coordinator has heard of it. These are lower
//! bounds: whoever waits longer breaks no promise of this kind.

mod excuse;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use drop_proto::FailureClass;

use crate::oracle::TRUCE;

/// A pull that has run so long without an error proves that its image can be had.
const PROOF: Duration = Duration::from_secs(15);
/// A success this recent outweighs one node's trouble with a host.
const FRESH: Duration = Duration::from_secs(60);
/// So many nodes in a row that are refused a proven image mean that it has gone.
const STRIKES: u32 = 2;

/// Waits of the policy that a pull counted under.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
}

impl Waits {
    fn delay(self, attempts: u32) -> Duration {
        let factor = 1u32 << attempts.saturating_sub(1).min(20);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Jitter shortens by a fifth at most.
    fn jittered(self, attempts: u32) -> Duration {
        self.delay(attempts) * 4 / 5
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Wait {
    attempts: u32,
    until: Duration,
    /// Somebody removes there what we bring: it is left alone.
    is_truce: bool,
}

#[derive(Clone, Debug, Default)]
struct Host {
    /// Nobody starts before.
    until: Duration,
    is_throttled: bool,
    strikes: u32,
    last_success: Option<Duration>,
    complainer: Option<usize>,
    /// Since then one pull at a time finds out whether it is well.
    trial_since: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
struct Image {
    host: usize,
    /// It may be known that it can be had: then nobody goes first.
    is_proven: bool,
    /// A pull may have succeeded: then one refusal may be an exception.
    may_be_had: bool,
    /// One did, and is remembered for certain: then the second refusal is none.
    is_had: bool,
    /// While nothing is proven, of the pulls that were granted since then one may be out.
    unproven_since: Duration,
    until: Duration,
    strikes: u32,
    /// Pulls that run, as far as the coordinator knows, and since when.
    running: BTreeMap<u64, Duration>,
    /// By platform.
    foreign: [Duration; 2],
    /// By node.
    pairs: HashMap<usize, Wait>,
    /// Nodes that a pull of ours put it on, and when each lost it last.
    brought: BTreeSet<usize>,
    lost_at: HashMap<usize, Duration>,
}

/// What one coordinator process has learned.
#[derive(Debug)]
pub(crate) struct Backoff {
    images: Vec<Image>,
    hosts: Vec<Host>,
    nodes: HashMap<usize, Wait>,
}

/// A node and what it has to do with a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) reference: usize,
    pub(crate) host: usize,
    pub(crate) node: usize,
    pub(crate) is_amd64: bool,
}

impl Backoff {
    /// `references` has the host of each.
    pub(crate) fn new(hosts: usize, references: &[usize]) -> Self {
        let image = |host: &usize| Image {
            host: *host,
            ..Image::default()
        };
        Self {
            images: references.iter().map(image).collect(),
            hosts: vec![Host::default(); hosts],
            nodes: HashMap::new(),
        }
    }

    pub(crate) fn started(&mut self, token: u64, reference: usize, since: Duration) {
        self.images[reference].running.insert(token, since);
    }

    /// Nothing more will be heard of the pull.
    fn ended(&mut self, now: Duration, token: Option<u64>, reference: usize) {
        self.images[reference].is_proven = self.is_proven(now, reference);
        let since = token.and_then(|token| self.images[reference].running.remove(&token));
        if since.is_some_and(|since| since + PROOF <= now) {
            // Others may have started beside it, and go on.
            let host = self.images[reference].host;
            self.hosts[host].trial_since = None;
        }
    }

    /// The reference's digest is known from former times, or somebody pulled it for whom it is not wanted any more.
    pub(crate) fn proven(&mut self, reference: usize) {
        let image = &mut self.images[reference];
        image.is_proven = true;
        image.may_be_had = true;
    }

    fn is_proven(&self, now: Duration, reference: usize) -> bool {
        let image = &self.images[reference];
        image.is_proven || image.running.values().any(|since| *since + PROOF <= now)
    }

    pub(crate) fn succeeded(&mut self, now: Duration, token: u64, pair: Pair) {
        self.ended(now, Some(token), pair.reference);
        let image = &mut self.images[pair.reference];
        (image.is_proven, image.may_be_had, image.is_had) = (true, true, true);
        image.strikes = 0;
        image.until = Duration::ZERO;
        image.pairs.remove(&pair.node);
        image.brought.insert(pair.node);
        self.nodes.remove(&pair.node);
        self.answered(now, pair.host);
    }

    /// The same for a node that the image is not wanted on any more: nothing else follows from it for certain.
    pub(crate) fn succeeded_for_nobody(&mut self, now: Duration, token: u64, pair: Pair) {
        self.ended(now, Some(token), pair.reference);
        self.proven(pair.reference);
        self.images[pair.reference].strikes = 0;
        self.answered(now, pair.host);
    }

    /// The pull that just ended well told what the tag names: nothing keeps these nodes waiting that hold it.
    pub(crate) fn current(&mut self, reference: usize, nodes: impl Iterator<Item = usize>) {
        let pairs = &mut self.images[reference].pairs;
        if pairs.is_empty() {
            return;
        }
        for node in nodes {
            pairs.remove(&node);
        }
    }

    /// The node holds the image after all.
    pub(crate) fn held(&mut self, reference: usize, node: usize) {
        self.images[reference].pairs.remove(&node);
    }

    /// The node does not hold it. The second loss within the truce of what we brought is a fight.
    pub(crate) fn absent(&mut self, now: Duration, reference: usize, node: usize) {
        let image = &mut self.images[reference];
        if !image.brought.remove(&node) {
            return;
        }
        let former = image.lost_at.remove(&node);
        if former.is_some_and(|at| now - at < TRUCE) {
            let wait = Wait {
                attempts: 2,
                until: now + TRUCE,
                is_truce: true,
            };
            image.pairs.insert(node, wait);
        } else {
            image.lost_at.insert(node, now);
        }
    }

    fn answered(&mut self, now: Duration, host: usize) {
        let host = &mut self.hosts[host];
        host.last_success = Some(now);
        if host.is_throttled && now < host.until {
            return;
        }
        *host = Host {
            last_success: Some(now),
            ..Host::default()
        };
    }

    pub(crate) fn failed(
        &mut self,
        now: Duration,
        token: u64,
        pair: Pair,
        class: FailureClass,
        waits: Waits,
    ) {
        self.ended(now, Some(token), pair.reference);
        let image = &mut self.images[pair.reference];
        let wait = image.pairs.entry(pair.node).or_default();
        wait.attempts += 1;
        wait.until = now + waits.jittered(wait.attempts);
        wait.is_truce = false;
        match class {
            FailureClass::NoPlatform => {
                wait.until = now + waits.max;
                image.foreign[usize::from(pair.is_amd64)] = now + waits.max;
                self.answered(now, pair.host);
            }
            FailureClass::NotFound
            | FailureClass::InvalidName
            | FailureClass::Unauthorized
            | FailureClass::Forbidden => {
                wait.until = now + waits.max;
                image.strikes += u32::from(image.is_had);
                if !image.may_be_had || image.strikes >= STRIKES {
                    (image.is_proven, image.may_be_had, image.is_had) = (false, false, false);
                    image.running.clear();
                    image.until = now + waits.max;
                    image.unproven_since = image.until;
                }
                self.answered(now, pair.host);
            }
            FailureClass::Throttled => self.host_pauses(now, pair.host, waits, true),
            FailureClass::ServerError
            | FailureClass::Connection
            | FailureClass::Dns
            | FailureClass::Tls
            | FailureClass::Timeout => self.host_suspected(now, pair, waits),
            FailureClass::NoSpace | FailureClass::Runtime => {
                let wait = self.nodes.entry(pair.node).or_default();
                wait.attempts += 1;
                wait.until = now + waits.jittered(wait.attempts);
            }
            FailureClass::Unspecified
            | FailureClass::Canceled
            | FailureClass::NotListed
            | FailureClass::NotAllowed => {}
        }
    }

    fn host_pauses(&mut self, now: Duration, host: usize, waits: Waits, is_throttled: bool) {
        let host = &mut self.hosts[host];
        // What ran already when the pause began tells the same again.
        if now >= host.until {
            host.strikes += 1;
            host.until = now + waits.delay(host.strikes);
            host.is_throttled = is_throttled;
            host.trial_since = Some(host.until);
        }
        host.complainer = None;
    }

    fn host_suspected(&mut self, now: Duration, pair: Pair, waits: Waits) {
        let host = &mut self.hosts[pair.host];
        if host.last_success.is_some_and(|at| now - at < FRESH) {
            return;
        }
        if host.until > Duration::ZERO {
            return self.host_pauses(now, pair.host, waits, false);
        }
        match host.complainer {
            None => {
                host.complainer = Some(pair.node);
                host.trial_since = Some(now);
            }
            Some(node) if node == pair.node => {}
            Some(_) => self.host_pauses(now, pair.host, waits, false),
        }
    }

    /// Who would have to wait, were the pair granted now; and since when a single trial goes first for the image or its host.
    pub(crate) fn waits(&self, now: Duration, pair: Pair) -> Result<Trials, &'static str> {
        let image = &self.images[pair.reference];
        let host = &self.hosts[pair.host];
        let node = self.nodes.get(&pair.node);
        if let Some(wait) = image.pairs.get(&pair.node).filter(|wait| now < wait.until) {
            return Err(if wait.is_truce {
                "truce"
            } else {
                "backoff-pair"
            });
        }
        if node.is_some_and(|wait| now < wait.until) {
            return Err("backoff-node");
        }
        if now < host.until {
            return Err("backoff-host");
        }
        if now < image.until || now < image.foreign[usize::from(pair.is_amd64)] {
            return Err("backoff-image");
        }
        Ok(Trials {
            image: (!self.is_proven(now, pair.reference)).then_some(image.unproven_since),
            host: host.trial_since.filter(|_| !self.runs_long(now, pair.host)),
        })
    }

    /// Some pull has run long enough to show that the host answers.
    fn runs_long(&self, now: Duration, host: usize) -> bool {
        self.images
            .iter()
            .filter(|image| image.host == host)
            .any(|image| image.running.values().any(|since| *since + PROOF <= now))
    }
}

/// Since when no more than one pull at a time may be out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trials {
    pub(crate) image: Option<Duration>,
    pub(crate) host: Option<Duration>,
}
