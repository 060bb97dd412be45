//! Random inputs from fixed seeds: whatever happens in whatever order, some things never do.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SEEDS: u64 = 200;
const STEPS: usize = 1_500;

/// A small generator, so that a failing seed fails again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// The rest of the world: a coordinator that is sometimes wrong, and a runtime that is sometimes away.
struct World {
    scene: Scene,
    dice: Dice,
    is_open: bool,
    is_listing: bool,
    /// The last list that the machine was shown.
    listed: Listing,
    held: Listing,
    /// Token and reference of the calls under way.
    calls: BTreeMap<u64, String>,
    last_token: u64,
    granted: BTreeSet<u64>,
    ended: BTreeSet<u64>,
    pulls: usize,
    confirmed: usize,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            scene: Scene::with(|config| config.max_parallel_pulls = 2),
            dice: Dice(seed + 1),
            is_open: false,
            is_listing: false,
            listed: Listing::new(),
            held: Listing::new(),
            calls: BTreeMap::new(),
            last_token: 0,
            granted: BTreeSet::new(),
            ended: BTreeSet::new(),
            pulls: 0,
            confirmed: 0,
            log: Vec::new(),
        }
    }

    fn reference(&mut self) -> String {
        format!("r.example/{}:1", self.dice.roll(5))
    }

    fn image(&mut self) -> DesiredImage {
        let policies = [
            ImagePullPolicy::Always,
            ImagePullPolicy::IfNotPresent,
            ImagePullPolicy::Never,
        ];
        let policy = policies[self.dice.roll(3) as usize];
        let expected = ["", D1, D2][self.dice.roll(3) as usize];
        let check = self.dice.roll(3);
        wanted(&self.reference(), policy, expected, check)
    }

    fn random_step(&mut self) {
        self.scene.now += Duration::from_millis(self.dice.roll(5_000));
        let outputs = match self.dice.roll(40) {
            0 => {
                self.is_open = true;
                self.scene.connect()
            }
            1 => {
                self.is_open = false;
                self.scene.step(Input::Disconnected)
            }
            2..10 if self.is_open => {
                let images = (0..self.dice.roll(4)).map(|_| self.image()).collect();
                let dropped = self.reference();
                self.scene.change(images, &[&dropped])
            }
            10..18 => {
                let reference = self.reference();
                self.last_token += 1;
                if self.is_open {
                    self.granted.insert(self.last_token);
                }
                self.scene.grant(self.last_token, &reference)
            }
            18..20 => {
                let token = self.last_token - self.dice.roll(4).min(self.last_token);
                self.scene.revoke(token)
            }
            20..23 => self.scene.runtime_up(),
            23 => self.scene.runtime_down(),
            24..31 if self.is_listing => self.end_list(),
            31..36 if !self.calls.is_empty() => self.end_call(),
            36 => {
                self.held.pop_first();
                self.scene.wait(0)
            }
            _ => self.scene.wait(0),
        };
        self.check(outputs);
    }

    fn end_list(&mut self) -> Vec<Output> {
        self.is_listing = false;
        if self.dice.roll(4) == 0 {
            return self.scene.step(Input::Listed(Err("busy".to_owned())));
        }
        self.listed = self.held.clone();
        let listing = self.held.clone();
        self.scene.list(&listing)
    }

    fn end_call(&mut self) -> Vec<Output> {
        let Some((token, reference)) = self.calls.pop_first() else {
            return Vec::new();
        };
        match self.dice.roll(3) {
            0 => self
                .scene
                .pull_failed(token, FailureClass::Throttled, "slow down"),
            // The runtime says OK, but does not keep the image.
            1 => self.scene.pulled(token),
            _ => {
                let digest = [D1, D2][self.dice.roll(2) as usize];
                self.held.append(&mut holds(&[(&reference, &[digest])]));
                self.scene.pulled(token)
            }
        }
    }

    fn check(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.log.push(format!("{:?} {output:?}", self.scene.now));
            match output {
                Output::Send(message) => {
                    assert!(self.is_open, "nothing is said without a session");
                    self.check_message(message);
                }
                Output::Pull {
                    token, reference, ..
                } => {
                    assert!(self.granted.contains(&token), "no pull without a grant");
                    assert!(
                        !self.calls.values().any(|r| *r == reference),
                        "no pull twice at once"
                    );
                    assert!(self.calls.insert(token, reference).is_none());
                    assert!(self.calls.len() <= 2, "no more pulls at once than allowed");
                    self.pulls += 1;
                }
                Output::CancelPull { token } => {
                    assert!(
                        self.calls.contains_key(&token),
                        "only running pulls are cancelled"
                    );
                }
                Output::List => {
                    assert!(!self.is_listing, "one list at a time");
                    self.is_listing = true;
                }
                Output::Reconnect { .. } => panic!("the revisions are right"),
                Output::Exit => panic!("nobody said so"),
                Output::Observe(_) => {}
            }
        }
        let (now, wake) = (self.scene.now, self.scene.node.wake_at());
        assert!(
            wake.is_none_or(|at| at > now),
            "what is due is done: {wake:?} at {now:?}"
        );
        assert!(self.scene.node.running_pulls() <= 2);
    }

    fn check_message(&mut self, message: AgentMessage) {
        let token = match message.kind {
            Some(agent_message::Kind::Done(done)) => {
                // Of pulls that ended in a former session the list is gone.
                if done.reference.is_empty() {
                    assert!(
                        self.listed.values().any(|l| l.digests == done.digests),
                        "done is only what the list shows"
                    );
                }
                self.confirmed += 1;
                done.token
            }
            Some(agent_message::Kind::Failed(failed)) => failed.token,
            Some(agent_message::Kind::Release(release)) => {
                assert!(
                    !self.calls.contains_key(&release.token),
                    "a used grant is not given back"
                );
                release.token
            }
            Some(agent_message::Kind::Ask(ask)) => {
                let withdrawn: BTreeSet<_> = ask.withdrawn.iter().collect();
                assert!(!ask.references.iter().any(|r| withdrawn.contains(r)));
                return;
            }
            _ => return,
        };
        assert!(
            self.granted.contains(&token),
            "no word of grants that were never given"
        );
        self.ended.insert(token);
    }

    /// The world becomes well; then every grant that reached the agent must have come to an end.
    fn calm_down(&mut self) {
        let outputs = self.scene.runtime_up();
        self.check(outputs);
        self.is_open = true;
        let outputs = self.scene.connect();
        self.check(outputs);
        for _ in 0..20 {
            while !self.calls.is_empty() {
                let outputs = self.end_call();
                self.check(outputs);
            }
            if self.is_listing {
                self.is_listing = false;
                self.listed = self.held.clone();
                let listing = self.held.clone();
                let outputs = self.scene.list(&listing);
                self.check(outputs);
            }
        }
        assert_eq!(self.scene.node.running_pulls(), 0);
        let open: Vec<_> = self.granted.difference(&self.ended).collect();
        assert!(open.is_empty(), "grants without an end: {open:?}");
    }
}

#[test]
fn whatever_happens_every_grant_comes_to_an_end_and_nothing_runs_away() {
    let (mut pulls, mut confirmed) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                world.random_step();
            }
            world.calm_down();
        }));
        if outcome.is_err() {
            let last = world.log.len().saturating_sub(30);
            panic!("seed {seed}:\n{}", world.log[last..].join("\n"));
        }
        pulls += world.pulls;
        confirmed += world.confirmed;
    }
    // Otherwise the world is too wild to prove anything.
    assert!(
        pulls > 1_000 && confirmed > 200,
        "{pulls} pulls, {confirmed} confirmed"
    );
}
