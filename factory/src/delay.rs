//! How long a change may wait for a rebuild: `90m`, `7d`, `1w2d`.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

/// Units and their seconds, longest first.
const UNITS: [(char, u64); 5] = [
    ('w', 7 * 24 * 3600),
    ('d', 24 * 3600),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

/// Longest delay: a thousand years keep all sums within what a timestamp holds.
const MAX_SECONDS: u64 = 1000 * 365 * 24 * 3600;

/// A delay in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(u64);

/// Why a text is no delay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DelayError {
    /// A number without unit, or the other way round.
    #[error("{0:?} is no delay: write a number and a unit (s, m, h, d or w), such as 7d or 12h")]
    Form(String),
    /// An unknown unit.
    #[error("{1:?} has the unknown unit {0:?}: the units are s, m, h, d and w")]
    Unit(char, String),
    /// Over a thousand years.
    #[error("{0:?} is too long: at most 1000 years")]
    TooLong(String),
}

impl Delay {
    /// The moment this long after `from`; the last moment there is if that is later.
    #[must_use]
    pub fn after(self, from: Timestamp) -> Timestamp {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        from.checked_add(SignedDuration::from_secs(seconds))
            .unwrap_or(Timestamp::MAX)
    }
}

impl FromStr for Delay {
    type Err = DelayError;

    fn from_str(text: &str) -> Result<Self, DelayError> {
        let form = || DelayError::Form(text.to_owned());
        let too_long = || DelayError::TooLong(text.to_owned());
        let mut total: u64 = 0;
        let mut rest = text;
        loop {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, tail) = rest.split_at(digits);
            let unit = tail.chars().next().ok_or_else(form)?;
            if number.is_empty() {
                return Err(form());
            }
            let seconds = UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, seconds)| *seconds)
                .ok_or_else(|| DelayError::Unit(unit, text.to_owned()))?;
            total = number
                .parse::<u64>()
                .ok()
                .and_then(|number| number.checked_mul(seconds))
                .and_then(|more| total.checked_add(more))
                .filter(|total| *total <= MAX_SECONDS)
                .ok_or_else(too_long)?;
            rest = &tail[unit.len_utf8()..];
            if rest.is_empty() {
                return Ok(Self(total));
            }
        }
    }
}

/// The two largest units, as people say it: `6d 3h`.
impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0;
        let mut words = Vec::new();
        for (unit, seconds) in UNITS.into_iter().filter(|(unit, _)| *unit != 'w') {
            if left >= seconds {
                words.push(format!("{}{unit}", left / seconds));
                left %= seconds;
            }
        }
        words.truncate(2);
        if words.is_empty() {
            words.push("0s".to_owned());
        }
        f.write_str(&words.join(" "))
    }
}

/// The time from `now` to `then`, if that is still to come.
#[must_use]
pub fn until(now: Timestamp, then: Timestamp) -> Option<Delay> {
    u64::try_from(then.duration_since(now).as_secs())
        .ok()
        .filter(|seconds| *seconds > 0)
        .map(Delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_add_up() {
        for (text, seconds) in [
            ("0s", 0),
            ("90m", 5400),
            ("7d", 604_800),
            ("1w2d", 777_600),
            ("1h30m", 5400),
        ] {
            assert_eq!(text.parse(), Ok(Delay(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_delay_says_why() {
        for (text, words) in [
            ("", "write a number"),
            ("7", "write a number"),
            ("d", "write a number"),
            ("7 d", "unknown unit ' '"),
            ("7y", "unknown unit 'y'"),
            ("-7d", "write a number"),
            ("99999999999999999999d", "too long"),
            ("600000d", "too long"),
        ] {
            let refusal = text.parse::<Delay>().unwrap_err().to_string();
            assert!(refusal.contains(words), "{text}: {refusal}");
        }
    }

    #[test]
    fn the_time_left_is_said_in_two_units() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let then: Timestamp = "2026-01-07T03:20:10Z".parse().unwrap();
        assert_eq!(until(now, then).unwrap().to_string(), "6d 3h");
        assert_eq!(until(then, now), None);
        assert_eq!(until(now, now), None);
    }
}
