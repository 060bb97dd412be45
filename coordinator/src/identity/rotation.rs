//! When certificate authorities come and go: decides, and does nothing.
//!
//! An authority that has lived two thirds of its life gets a successor, which agents are told of at once. It signs only after
//! a sixth of its own life, when every agent has read of it, and the old one is believed until it ends. Several replicas that
//! decide at once decide the same of the same list; which list holds is the store's business.

use std::time::Duration;

use jiff::Timestamp;

use crate::identity::authority::Authority;

/// The list is looked at this often even if nothing is due and no watch says that it changed: a watch may not be allowed.
const LONGEST_LOOK: Duration = Duration::from_secs(3600);
const SHORTEST_LOOK: Duration = Duration::from_millis(200);

/// Those that have not ended.
#[must_use]
pub fn alive(authorities: &[Authority], now: Timestamp) -> Vec<Authority> {
    let alive = authorities.iter().filter(|a| a.expires > now);
    alive.cloned().collect()
}

/// Whether a new one has to be made.
#[must_use]
pub fn needs_successor(authorities: &[Authority], now: Timestamp) -> bool {
    let newest = authorities.iter().max_by_key(|a| a.created);
    newest.is_none_or(|newest| age(newest, now) >= succession(newest) || newest.expires <= now)
}

/// The one to sign with, among those that agents have been told of.
#[must_use]
pub fn signer(published: &[Authority], now: Timestamp) -> Option<&Authority> {
    let alive = || published.iter().filter(|a| a.expires > now);
    let known = alive().filter(|a| age(a, now) >= maturity(a));
    known
        .max_by_key(|a| a.created)
        .or_else(|| alive().min_by_key(|a| a.created))
}

/// All certificates, for agents to believe, oldest first.
#[must_use]
pub fn bundle(authorities: &[Authority]) -> String {
    let mut sorted: Vec<&Authority> = authorities.iter().collect();
    sorted.sort_by_key(|a| a.created);
    sorted.iter().map(|a| a.certificate.as_str()).collect()
}

/// How long nothing of this changes by itself.
#[must_use]
pub fn next_look(authorities: &[Authority], now: Timestamp) -> Duration {
    let turns = authorities.iter().flat_map(|a| {
        let left = lifetime(a).saturating_sub(age(a, now));
        let until = |point: Duration| point.checked_sub(age(a, now));
        [until(succession(a)), until(maturity(a)), Some(left)]
    });
    let soonest = turns.flatten().filter(|wait| !wait.is_zero()).min();
    soonest
        .unwrap_or(LONGEST_LOOK)
        .clamp(SHORTEST_LOOK, LONGEST_LOOK)
}

fn age(authority: &Authority, now: Timestamp) -> Duration {
    span(authority.created, now)
}

fn lifetime(authority: &Authority) -> Duration {
    span(authority.created, authority.expires)
}

fn succession(authority: &Authority) -> Duration {
    lifetime(authority) * 2 / 3
}

fn maturity(authority: &Authority) -> Duration {
    lifetime(authority) / 6
}

/// Nothing when the clock went backwards.
fn span(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made at one second, ending at another.
    fn authority(created: i64, expires: i64) -> Authority {
        Authority {
            created: at(created),
            expires: at(expires),
            certificate: format!("{created}\n"),
            key: String::new(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn signs(authorities: &[Authority], now: i64) -> Option<i64> {
        signer(authorities, at(now)).map(|a| a.created.as_second())
    }

    #[test]
    fn the_first_is_made_at_once_and_signs_at_once() {
        assert!(needs_successor(&[], at(0)));
        let first = [authority(0, 120)];
        assert!(!needs_successor(&first, at(0)));
        assert_eq!(signs(&first, 0), Some(0));
    }

    #[test]
    fn a_successor_is_told_of_long_before_it_signs() {
        let old = authority(0, 120);
        assert!(!needs_successor(std::slice::from_ref(&old), at(79)));
        assert!(needs_successor(std::slice::from_ref(&old), at(80)));
        let both = [old, authority(80, 200)];
        assert!(!needs_successor(&both, at(81)));
        assert_eq!(bundle(&both), "0\n80\n");
        assert_eq!(signs(&both, 99), Some(0));
        assert_eq!(signs(&both, 100), Some(80));
        // What the old one signed is believed until it ends.
        assert_eq!(alive(&both, at(119)).len(), 2);
        assert_eq!(alive(&both, at(120)).len(), 1);
    }

    #[test]
    fn one_that_agents_were_not_told_of_does_not_sign() {
        let published = [authority(0, 120)];
        assert_eq!(signs(&published, 119), Some(0));
        assert_eq!(signs(&published, 120), None);
    }

    #[test]
    fn after_a_long_absence_everything_begins_anew() {
        let ended = [authority(0, 120), authority(80, 200)];
        assert!(needs_successor(&ended, at(500)));
        assert!(alive(&ended, at(500)).is_empty());
        let fresh = [authority(0, 120), authority(500, 620)];
        assert_eq!(signs(&fresh, 500), Some(500));
    }

    #[test]
    fn a_clock_that_goes_backwards_makes_no_second_authority() {
        let ahead = [authority(1_000, 1_120)];
        assert!(!needs_successor(&ahead, at(10)));
        assert_eq!(signs(&ahead, 10), Some(1_000));
    }

    #[test]
    fn the_next_look_is_at_the_next_turn_and_within_an_hour() {
        let first = [authority(0, 120)];
        assert_eq!(next_look(&first, at(0)), Duration::from_secs(20));
        assert_eq!(next_look(&first, at(70)), Duration::from_secs(10));
        assert_eq!(next_look(&first, at(110)), Duration::from_secs(10));
        assert_eq!(next_look(&[authority(0, 9_000_000)], at(0)), LONGEST_LOOK);
        assert_eq!(next_look(&[], at(0)), LONGEST_LOOK);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let one = [authority(0, 120), authority(80, 200)];
        let other = [authority(80, 200), authority(0, 120)];
        for now in [80, 100, 119, 130, 170] {
            assert_eq!(signs(&one, now), signs(&other, now));
            assert_eq!(
                needs_successor(&one, at(now)),
                needs_successor(&other, at(now))
            );
        }
        assert_eq!(bundle(&one), bundle(&other));
    }
}
