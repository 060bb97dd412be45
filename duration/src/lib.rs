//! Durations as Go writes them (`90s`, `1h30m`), since that is what every Kubernetes manifest uses.
//!
//! Reads all that Go's parser reads except negative values, which no field of ours can mean. Prints the shortest form that
//! reads back to the same value: `5m`, where Go would print `5m0s`.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Nanoseconds per unit, longest first: the order in which they are printed.
const UNITS: [(&str, u128); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ns", 1),
];

/// Go keeps a duration in an `int64` of nanoseconds: about 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;

/// Longest text that is read; also `maxLength` in the schema.
const MAX_TEXT: u32 = 64;

/// A duration that is zero or longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(Duration);

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not a sequence of numbers with units.
    #[error("{0:?} is not a duration: write a number with a unit, such as 90s, 1h30m or 168h")]
    Syntax(String),
    /// Below zero.
    #[error("{0:?} is negative: a duration must be zero or longer")]
    Negative(String),
    /// More than Go can hold.
    #[error("{0:?} is too long: at most 2562047h")]
    TooLong(String),
}

impl GoDuration {
    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl Deref for GoDuration {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl From<GoDuration> for Duration {
    fn from(duration: GoDuration) -> Self {
        duration.0
    }
}

/// Values beyond what Go can hold become the longest that it can.
impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(duration.min(Duration::from_nanos(i64::MAX.unsigned_abs())))
    }
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let syntax = || DurationError::Syntax(shortened(text));
        if text.len() > MAX_TEXT as usize {
            return Err(syntax());
        }
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        if unsigned == "0" {
            return Ok(Self::default());
        }
        if unsigned.is_empty() {
            return Err(syntax());
        }
        let mut nanos: u128 = 0;
        let mut rest = unsigned;
        while !rest.is_empty() {
            let (part, after) = leading_part(rest).ok_or_else(syntax)?;
            nanos = nanos.saturating_add(part);
            rest = after;
        }
        if negative && nanos > 0 {
            return Err(DurationError::Negative(shortened(text)));
        }
        if nanos > MAX_NANOS {
            return Err(DurationError::TooLong(shortened(text)));
        }
        u64::try_from(nanos)
            .map(|nanos| Self(Duration::from_nanos(nanos)))
            .map_err(|_| DurationError::TooLong(shortened(text)))
    }
}

/// Splits `1.5h30m` into the nanoseconds of `1.5h` and the rest. `None` if the text does not begin with a number and a unit.
fn leading_part(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole = if whole.is_empty() {
        0
    } else {
        // At most 64 digits come in; what does not fit is too long in any unit.
        whole.parse::<u128>().unwrap_or(u128::MAX)
    };
    Some((
        whole
            .saturating_mul(*scale)
            .saturating_add(fraction_nanos(fraction, *scale)),
        rest,
    ))
}

/// Nanoseconds of a decimal fraction of a unit, cut off below one nanosecond as Go does.
fn fraction_nanos(fraction: &str, scale: u128) -> u128 {
    // 15 digits are enough for a nanosecond of an hour, and their product with the scale fits.
    let kept = fraction.get(..15).unwrap_or(fraction);
    let mut value = 0;
    let mut divisor = 1;
    for digit in kept.bytes() {
        value = value * 10 + u128::from(digit - b'0');
        divisor *= 10;
    }
    value * scale / divisor
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// What an error quotes: a text of any length may come in.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in UNITS.iter().filter(|(unit, _)| unit.is_ascii()) {
            if nanos >= *scale {
                write!(f, "{}{unit}", nanos / scale)?;
                nanos %= scale;
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": MAX_TEXT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> u128 {
        text.parse::<GoDuration>().unwrap().as_nanos()
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("90s", 90_000_000_000),
            ("+90s", 90_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("30m1h", 5_400_000_000_000),
            ("168h", 604_800_000_000_000),
            ("168h0m0s", 604_800_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("300ms", 300_000_000),
            ("1us", 1_000),
            ("1\u{b5}s", 1_000),
            ("1\u{3bc}s", 1_000),
            ("1.9ns", 1),
            ("0.000000000001h", 3),
            ("9223372036854775807ns", i64::MAX as u128),
            ("2562047h47m16.854775807s", i64::MAX as u128),
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused_with_the_way_to_write_it() {
        let long = "1s".repeat(200);
        for text in [
            "", "-", "+", ".", "s", "10", "1d", "1w", "1 s", " 1s", "1s ", "1h-30m", "1..5s",
            "\u{661}s", "1\u{b5}", "ten", "1e3s", &long,
        ] {
            let error = text.parse::<GoDuration>().unwrap_err();
            assert!(matches!(error, DurationError::Syntax(_)), "{text}: {error}");
            assert!(error.to_string().contains("1h30m"), "{error}");
        }
    }

    #[test]
    fn negative_and_overlong_durations_are_refused() {
        assert!(matches!(
            "-5s".parse::<GoDuration>(),
            Err(DurationError::Negative(_))
        ));
        for text in [
            "2562048h",
            "9223372036854775808ns",
            "99999999999999999999999999999999999999999999h",
        ] {
            assert!(
                matches!(text.parse::<GoDuration>(), Err(DurationError::TooLong(_))),
                "{text}"
            );
        }
        assert_eq!(GoDuration::from(Duration::MAX).as_nanos(), i64::MAX as u128);
    }

    #[test]
    fn the_shortest_form_is_printed() {
        for text in [
            "0s", "10s", "5m", "1h30m", "168h", "300ms", "1s500ms", "1h1ns", "1us",
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_printed_reads_back_to_the_same_value() {
        // A linear congruential walk over all magnitudes: no run differs from another.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        for round in 0..20_000_u32 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let value = GoDuration(Duration::from_nanos((state >> 1) >> (round % 63)));
            assert_eq!(value.to_string().parse::<GoDuration>(), Ok(value));
        }
    }
}
