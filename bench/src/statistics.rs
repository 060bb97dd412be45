//! Percentiles. Pure.

use std::time::Duration;

/// The value below which `percent` of all lie (nearest rank); 0 where there are none.
pub(crate) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_sign_loss,
        reason = "a percentage of a length is neither negative nor huge"
    )]
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// The middle one of all; the mean of the two where there are two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(low), Some(high)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (_, Some(value)) => *value,
        _ => 0.0,
    }
}

/// For figures in milliseconds.
pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The most moments that lie within any one second. `seconds` are sorted.
pub(crate) fn most_in_a_second(seconds: &[f64]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (index, at) in seconds.iter().enumerate() {
        while seconds.get(first).is_some_and(|from| at - from >= 1.0) {
            first += 1;
        }
        most = most.max(index + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(value: f64, expected: f64) -> bool {
        (value - expected).abs() < 1e-9
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!(is(percentile(&values, 50.0), 100.0));
        assert!(is(percentile(&values, 99.0), 198.0));
        assert!(is(percentile(&values, 100.0), 200.0));
        assert!(is(percentile(&[7.0], 1.0), 7.0));
        assert!(is(percentile(&[], 99.0), 0.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        assert!(is(median(&[9.0, 1.0, 5.0]), 5.0));
        assert!(is(median(&[4.0, 1.0, 2.0, 9.0]), 3.0));
        assert!(is(median(&[]), 0.0));
    }

    #[test]
    fn a_second_is_counted_wherever_it_begins() {
        assert_eq!(most_in_a_second(&[0.0, 0.9, 1.1, 1.2, 1.8, 2.5]), 4);
        assert_eq!(most_in_a_second(&[0.0, 1.0, 2.0]), 1);
        assert_eq!(most_in_a_second(&[]), 0);
    }
}
