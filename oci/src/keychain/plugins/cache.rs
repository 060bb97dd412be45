//! What a plugin gave, for as long as it said. Pure: time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::protocol::Scope;
use crate::{Keychain, Reference};

/// More answers than this are not kept: plugins that answer per image would fill the memory of a node with many images.
const MAX_ANSWERS: usize = 1000;

/// Answers of one plugin. No `Debug`: it holds secrets.
#[derive(Default)]
pub(super) struct Cache {
    answers: HashMap<Key, Answer>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Image(String),
    Registry(String),
    Global,
}

struct Answer {
    keychain: Keychain,
    expires: Instant,
}

impl Cache {
    /// The narrowest answer that still holds.
    pub(super) fn get(&self, reference: &Reference, now: Instant) -> Option<&Keychain> {
        [Scope::Image, Scope::Registry, Scope::Global]
            .into_iter()
            .filter_map(|scope| self.answers.get(&Key::new(scope, reference)))
            .find(|answer| now < answer.expires)
            .map(|answer| &answer.keychain)
    }

    /// Keeps an answer, unless it is for one use only.
    pub(super) fn insert(
        &mut self,
        scope: Scope,
        reference: &Reference,
        keychain: Keychain,
        now: Instant,
        lifetime: Duration,
    ) {
        let Some(expires) = now.checked_add(lifetime).filter(|end| *end > now) else {
            return;
        };
        if self.answers.len() >= MAX_ANSWERS {
            self.answers.retain(|_, answer| now < answer.expires);
        }
        let soonest = self.answers.iter().min_by_key(|(_, answer)| answer.expires);
        if self.answers.len() >= MAX_ANSWERS
            && let Some(key) = soonest.map(|(key, _)| key.clone())
        {
            self.answers.remove(&key);
        }
        let answer = Answer { keychain, expires };
        self.answers.insert(Key::new(scope, reference), answer);
    }
}

impl Key {
    fn new(scope: Scope, reference: &Reference) -> Self {
        match scope {
            Scope::Image => Self::Image(reference.repository_name()),
            Scope::Registry => Self::Registry(reference.host().to_owned()),
            Scope::Global => Self::Global,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn image(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn cache(scope: Scope, lifetime: Duration, now: Instant) -> Cache {
        let mut cache = Cache::default();
        let keychain = Keychain::default();
        cache.insert(scope, &image("r.io/team/app:v1"), keychain, now, lifetime);
        cache
    }

    #[test]
    fn an_answer_is_good_for_the_images_that_its_key_type_names() {
        let now = Instant::now();
        for (scope, same_repository, same_host, other_host) in [
            (Scope::Image, true, false, false),
            (Scope::Registry, true, true, false),
            (Scope::Global, true, true, true),
        ] {
            let cache = cache(scope, HOUR, now);
            let holds = |text: &str| cache.get(&image(text), now).is_some();
            assert_eq!(holds("r.io/team/app:v2"), same_repository, "{scope:?}");
            assert_eq!(holds("r.io/other"), same_host, "{scope:?}");
            assert_eq!(holds("r.io:5000/team/app"), other_host, "{scope:?}");
        }
    }

    #[test]
    fn an_answer_is_forgotten_when_its_time_is_over() {
        let now = Instant::now();
        let app = image("r.io/team/app");
        let cache = cache(Scope::Image, HOUR, now);
        let last = now + HOUR.checked_sub(Duration::from_nanos(1)).unwrap();
        assert!(cache.get(&app, last).is_some());
        assert!(cache.get(&app, now + HOUR).is_none());
    }

    #[test]
    fn an_answer_without_lifetime_is_not_kept() {
        let now = Instant::now();
        let cache = cache(Scope::Global, Duration::ZERO, now);
        assert!(cache.get(&image("r.io/team/app"), now).is_none());
    }

    #[test]
    fn a_full_cache_gives_up_what_ends_first() {
        let now = Instant::now();
        let mut cache = Cache::default();
        for n in 0..=MAX_ANSWERS as u64 {
            let lifetime = HOUR + Duration::from_secs(n);
            let app = image(&format!("r.io/app{n}"));
            cache.insert(Scope::Image, &app, Keychain::default(), now, lifetime);
        }
        assert_eq!(cache.answers.len(), MAX_ANSWERS);
        assert!(cache.get(&image("r.io/app0"), now).is_none());
        assert!(cache.get(&image("r.io/app1"), now).is_some());
    }
}
