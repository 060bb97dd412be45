//! How much one agent may say. Decides, and ends nothing itself.
//!
//! The limits are far above what an agent of the largest node has to say, so that only a broken or hostile one meets them. What
//! is over them never reaches the state machine, and costs that agent its session and nobody else anything.

use std::collections::HashMap;
use std::time::Duration;

use drop_proto::{Hello, RuntimeState, agent_message};

/// References in one message. An agent takes 20,000 desired images.
const REFERENCES: usize = 20_000;
/// A canonical reference has at most 255 characters before its digest.
const REFERENCE_BYTES: usize = 512;
/// Digests of one image under one repository.
const DIGESTS: usize = 64;
const DIGEST_BYTES: usize = 256;
/// Grants that a node holds, `--max-parallel-pulls` being at most 64.
const TOKENS: usize = 1_024;
/// 200 characters of a message for people.
const MESSAGE_BYTES: usize = 1_024;
/// Names and versions.
const NAME_BYTES: usize = 256;

/// What a message costs beside its texts, so that 1,000 a second can go on for ever.
pub const MESSAGE_COST: f64 = 4_096.0;
/// A change of the runtime's state makes every image of the node be looked at.
const RUNTIME_COST: f64 = 262_144.0;

/// Cost of all messages of a session: bytes, and what they would be worth in bytes.
pub const SAYING: Rate = Rate {
    burst: 64.0 * 1024.0 * 1024.0,
    per_second: 4.0 * 1024.0 * 1024.0,
};
/// Sessions of one node.
pub const OPENING: Rate = Rate {
    burst: 30.0,
    per_second: 1.0,
};
/// Grants of one session that are not the node's: a few are on their way when a grant ends.
pub const UNKNOWN_GRANTS: Rate = Rate {
    burst: 1_024.0,
    per_second: 8.0,
};
/// Nodes whose sessions are counted; those that were quiet for long are forgotten first.
const COUNTED_NODES: usize = 16_384;

/// A message has too much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {is} in one message, at most {limit} are taken")]
pub struct Excess {
    /// What there is too much of.
    pub what: &'static str,
    /// So much is there.
    pub is: usize,
    /// So much may be.
    pub limit: usize,
}

/// The cost of a message that is within the limits.
pub fn cost(message: &agent_message::Kind) -> Result<f64, Excess> {
    use agent_message::Kind;
    let mut bytes = 0;
    let more = match message {
        Kind::Hello(hello) => return hello_cost(hello),
        Kind::Inventory(inventory) => {
            within("images", inventory.images.len(), REFERENCES)?;
            for image in &inventory.images {
                bytes += reference(&image.reference)? + digests(&image.digests)?;
            }
            0.0
        }
        Kind::Ask(ask) => {
            let count = ask.references.len() + ask.withdrawn.len();
            within("references", count, REFERENCES)?;
            for name in ask.references.iter().chain(&ask.withdrawn) {
                bytes += reference(name)?;
            }
            0.0
        }
        Kind::Renew(renew) => {
            within("tokens", renew.tokens.len(), TOKENS)?;
            bytes = renew.tokens.len() * 8;
            0.0
        }
        Kind::Done(done) => {
            bytes = reference(&done.reference)? + digests(&done.digests)?;
            0.0
        }
        Kind::Failed(failed) => {
            bytes = reference(&failed.reference)?;
            bytes += text(
                "bytes of a failure's message",
                &failed.message,
                MESSAGE_BYTES,
            )?;
            0.0
        }
        Kind::Runtime(runtime) => {
            bytes = runtime_state(runtime)?;
            RUNTIME_COST
        }
        Kind::Refused(refused) => {
            let count = refused.images.len() + refused.lifted.len();
            within("references", count, REFERENCES)?;
            for refusal in &refused.images {
                bytes += reference(&refusal.reference)?;
                bytes += text(
                    "bytes of a refusal's message",
                    &refusal.message,
                    MESSAGE_BYTES,
                )?;
            }
            for name in &refused.lifted {
                bytes += reference(name)?;
            }
            0.0
        }
        Kind::Started(_) | Kind::Release(_) => 0.0,
    };
    Ok(MESSAGE_COST + more + bytes as f64)
}

fn hello_cost(hello: &Hello) -> Result<f64, Excess> {
    let mut bytes = 0;
    for name in [&hello.node, &hello.instance, &hello.version] {
        bytes += text("bytes of a name", name, NAME_BYTES)?;
    }
    within("held grants", hello.held.len(), TOKENS)?;
    for held in &hello.held {
        bytes += reference(&held.reference)?;
    }
    if let Some(runtime) = &hello.runtime {
        bytes += runtime_state(runtime)?;
    }
    Ok(MESSAGE_COST + bytes as f64)
}

fn runtime_state(state: &RuntimeState) -> Result<usize, Excess> {
    Ok(text("bytes of a message", &state.message, MESSAGE_BYTES)?
        + text("bytes of a name", &state.runtime, NAME_BYTES)?
        + text("bytes of a name", &state.platform, NAME_BYTES)?)
}

fn reference(reference: &str) -> Result<usize, Excess> {
    text("bytes of a reference", reference, REFERENCE_BYTES)
}

fn digests(digests: &[String]) -> Result<usize, Excess> {
    within("digests", digests.len(), DIGESTS)?;
    let mut bytes = 0;
    for digest in digests {
        bytes += text("bytes of a digest", digest, DIGEST_BYTES)?;
    }
    Ok(bytes)
}

fn text(what: &'static str, text: &str, limit: usize) -> Result<usize, Excess> {
    within(what, text.len(), limit).map(|()| text.len())
}

fn within(what: &'static str, is: usize, limit: usize) -> Result<(), Excess> {
    if is > limit {
        return Err(Excess { what, is, limit });
    }
    Ok(())
}

/// So much at once, and so much a second for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// At once.
    pub burst: f64,
    /// For ever.
    pub per_second: f64,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Allowance {
    used: f64,
    at: Duration,
}

impl Allowance {
    /// Takes an amount. False: there is not so much left, and nothing was taken.
    pub fn take(&mut self, now: Duration, amount: f64, rate: Rate) -> bool {
        self.used = self.used_at(now, rate);
        self.at = self.at.max(now);
        let fits = self.used + amount <= rate.burst;
        if fits {
            self.used += amount;
        }
        fits
    }

    fn used_at(&self, now: Duration, rate: Rate) -> f64 {
        let refilled = now.saturating_sub(self.at).as_secs_f64() * rate.per_second;
        (self.used - refilled).max(0.0)
    }
}

/// How often each node opened a session.
#[derive(Debug, Default)]
pub struct Openings(HashMap<String, Allowance>);

impl Openings {
    /// Counts a session. False: too many.
    pub fn open(&mut self, now: Duration, node: &str) -> bool {
        if self.0.len() >= COUNTED_NODES && !self.0.contains_key(node) {
            self.0
                .retain(|_, allowance| allowance.used_at(now, OPENING) > 0.0);
        }
        if self.0.len() >= COUNTED_NODES && !self.0.contains_key(node) {
            return false;
        }
        let allowance = self.0.entry(node.to_owned()).or_default();
        allowance.take(now, 1.0, OPENING)
    }
}

#[cfg(test)]
mod tests {
    use drop_proto::agent_message::Kind;
    use drop_proto::{Ask, Failed, Inventory, InventoryImage, Renew};

    use super::*;

    fn images(count: usize, image: &InventoryImage) -> Kind {
        Kind::Inventory(Inventory {
            revision: 1,
            complete: true,
            images: vec![image.clone(); count],
        })
    }

    #[test]
    fn the_largest_sensible_agent_is_far_within_the_limits() {
        let image = InventoryImage {
            reference: "r".repeat(255 + 72),
            present: true,
            digests: vec!["d".repeat(71); 4],
            lost: false,
        };
        let inventory = cost(&images(20_000, &image)).unwrap();
        let ask = cost(&Kind::Ask(Ask {
            references: vec!["r".repeat(255); 20_000],
            withdrawn: Vec::new(),
        }))
        .unwrap();
        let mut allowance = Allowance::default();
        assert!(allowance.take(Duration::ZERO, inventory + ask, SAYING));
        // And 64 pulls a second, each with its start, its end and the change of the list, for a day.
        let message = cost(&Kind::Started(drop_proto::Started { token: 1 })).unwrap();
        for second in 1..86_400 {
            assert!(allowance.take(Duration::from_secs(second), 192.0 * message, SAYING));
        }
    }

    #[test]
    fn each_part_of_a_message_has_its_limit() {
        let long = "x".repeat(513);
        let image = |reference: &str, digests: Vec<String>| InventoryImage {
            reference: reference.to_owned(),
            present: true,
            digests,
            lost: false,
        };
        let ask = |count: usize| {
            Kind::Ask(Ask {
                references: vec![String::new(); count / 2],
                withdrawn: vec![String::new(); count - count / 2],
            })
        };
        let failed = |message: &str| {
            Kind::Failed(Failed {
                message: message.to_owned(),
                ..Failed::default()
            })
        };
        let hello = |node: &str| {
            Kind::Hello(Hello {
                node: node.to_owned(),
                ..Hello::default()
            })
        };
        let renew = |count| {
            Kind::Renew(Renew {
                tokens: vec![1; count],
            })
        };
        for (good, bad) in [
            (
                images(20_000, &image("", vec![])),
                images(20_001, &image("", vec![])),
            ),
            (
                images(1, &image(&long[1..], vec![])),
                images(1, &image(&long, vec![])),
            ),
            (
                images(1, &image("", vec![long[..256].to_owned(); 64])),
                images(1, &image("", vec![String::new(); 65])),
            ),
            (ask(20_000), ask(20_001)),
            (failed(&"m".repeat(1_024)), failed(&"m".repeat(1_025))),
            (hello(&"n".repeat(256)), hello(&"n".repeat(257))),
            (renew(1_024), renew(1_025)),
        ] {
            assert!(cost(&good).is_ok());
            assert!(cost(&bad).is_err());
        }
    }

    #[test]
    fn who_says_too_much_at_once_has_to_wait() {
        let rate = Rate {
            burst: 10.0,
            per_second: 2.0,
        };
        let mut allowance = Allowance::default();
        assert!(allowance.take(Duration::ZERO, 10.0, rate));
        assert!(!allowance.take(Duration::ZERO, 1.0, rate));
        assert!(allowance.take(Duration::from_secs(1), 2.0, rate));
        assert!(!allowance.take(Duration::from_secs(1), 1.0, rate));
        // A long silence fills it up and no more.
        assert!(!allowance.take(Duration::from_secs(1_000), 10.5, rate));
        assert!(allowance.take(Duration::from_secs(1_000), 10.0, rate));
    }

    #[test]
    fn a_node_that_reconnects_all_the_time_is_slowed_down_and_no_other() {
        let mut openings = Openings::default();
        let opened = (0..100).filter(|_| openings.open(Duration::ZERO, "n1"));
        assert_eq!(opened.count(), 30);
        assert!(openings.open(Duration::ZERO, "n2"));
        assert!(openings.open(Duration::from_secs(1), "n1"));
        assert!(!openings.open(Duration::from_secs(1), "n1"));
    }
}
