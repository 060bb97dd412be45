//! What is remembered of logins: how each registry wants them, the tokens that hold, and who was refused. Pure: the caller
//! brings the time.
//!
//! Everything about a credential is kept under that credential, so that nobody gets in by another's proof.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::challenge::Challenge;
use super::token::Token;
use crate::credential::Credential;
use crate::error::Failure;

/// After that a registry is asked again how it wants logins.
const CHALLENGE_HOLDS: Duration = Duration::from_secs(15 * 60);

/// A refused credential is not tried again for so long: wrong passwords, repeated for each tag, lock accounts.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

/// Entries of one kind before those that are over are forgotten.
const MANY: usize = 4_096;

/// One login: who, where, for what.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Login {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) credential: Credential,
}

#[derive(Default)]
pub(super) struct Known {
    challenges: HashMap<String, (Challenge, Instant)>,
    tokens: HashMap<Login, Token>,
    refusals: HashMap<Login, (Failure, Instant)>,
}

impl Known {
    /// How a registry wants logins, if that is known.
    pub(super) fn challenge(&self, registry: &str, now: Instant) -> Option<Challenge> {
        let (challenge, until) = self.challenges.get(registry)?;
        (*until > now).then(|| challenge.clone())
    }

    pub(super) fn learn_challenge(&mut self, registry: &str, challenge: Challenge, now: Instant) {
        make_room(&mut self.challenges, |(_, until)| *until > now);
        // What a token must allow is said for one repository, and the rest for all of the registry.
        let challenge = challenge.without_scope();
        let entry = (challenge, now + CHALLENGE_HOLDS);
        self.challenges.insert(registry.to_owned(), entry);
    }

    /// A token that still holds.
    pub(super) fn token(&self, login: &Login, now: Instant) -> Option<&Token> {
        self.tokens.get(login).filter(|token| token.renew_at > now)
    }

    pub(super) fn learn_token(&mut self, login: &Login, token: Token, now: Instant) {
        make_room(&mut self.tokens, |token| token.renew_at > now);
        self.tokens.insert(login.clone(), token);
    }

    pub(super) fn forget_token(&mut self, login: &Login) {
        self.tokens.remove(login);
    }

    /// Why this login was refused a moment ago.
    pub(super) fn refusal(&self, login: &Login, now: Instant) -> Option<&Failure> {
        let (failure, until) = self.refusals.get(login)?;
        (*until > now).then_some(failure)
    }

    pub(super) fn learn_refusal(&mut self, login: &Login, failure: Failure, now: Instant) {
        make_room(&mut self.refusals, |(_, until)| *until > now);
        let entry = (failure, now + REFUSAL_HOLDS);
        self.refusals.insert(login.clone(), entry);
    }
}

/// Drops what is over once there is much of it, and everything if that is not enough: it is only a memory.
fn make_room<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, holds: impl Fn(&V) -> bool) {
    if map.len() < MANY {
        return;
    }
    map.retain(|_, value| holds(value));
    if map.len() >= MANY {
        map.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::token;

    fn login(username: &str) -> Login {
        Login {
            registry: "https://r".to_owned(),
            repository: "app".to_owned(),
            credential: Credential::Basic {
                username: username.to_owned(),
                password: "secret".to_owned(),
            },
        }
    }

    #[test]
    fn a_token_serves_its_own_credential_until_it_ends() {
        let now = Instant::now();
        let mut known = Known::default();
        let Ok(token) = token::parse(br#"{"token":"t","expires_in":100}"#, now) else {
            panic!("this is a token");
        };
        known.learn_token(&login("a"), token, now);
        assert!(known.token(&login("a"), now).is_some());
        assert!(known.token(&login("b"), now).is_none());
        assert!(
            known
                .token(&login("a"), now + Duration::from_secs(90))
                .is_none()
        );
        known.forget_token(&login("a"));
        assert!(known.token(&login("a"), now).is_none());
    }

    #[test]
    fn a_refusal_holds_for_half_a_minute_and_for_one_credential() {
        let now = Instant::now();
        let mut known = Known::default();
        known.learn_refusal(&login("a"), Failure::Invalid("refused".into()), now);
        assert!(known.refusal(&login("a"), now).is_some());
        assert!(known.refusal(&login("b"), now).is_none());
        assert!(known.refusal(&login("a"), now + REFUSAL_HOLDS).is_none());
    }

    #[test]
    fn the_memory_is_bounded() {
        let now = Instant::now();
        let mut known = Known::default();
        for n in 0..3 * MANY {
            known.learn_challenge(&format!("https://r{n}"), Challenge::Open, now);
            known.learn_refusal(&login(&n.to_string()), Failure::Invalid(String::new()), now);
        }
        assert!(known.challenges.len() <= MANY && known.refusals.len() <= MANY);
    }
}
