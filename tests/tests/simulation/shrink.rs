//! Makes a failing fault list small: delta debugging over its indices.

use crate::faults::Fault;
use crate::run::run;
use crate::scenario::Scale;

/// Runs spent on one failure.
const MOST_RUNS: usize = 150;

/// A part of `faults` with which the rule is still broken, and from which nothing can be left out.
pub(crate) fn shrink(seed: u64, scale: Scale, faults: &[Fault], rule: &str) -> Vec<usize> {
    let mut runs = 0;
    minimal(faults.len(), |kept| {
        runs += 1;
        let part = kept.iter().map(|index| faults[*index].clone()).collect();
        runs <= MOST_RUNS
            && run(seed, scale, part, 0)
                .violation
                .is_some_and(|violation| violation.rule == rule)
    })
}

/// The smallest part of 0..count that `fails` still holds for, as far as leaving out one chunk after the other finds it.
pub(crate) fn minimal(count: usize, mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..count).collect();
    let mut chunk = count.div_ceil(2);
    while chunk > 0 {
        let mut begin = 0;
        while begin < kept.len() {
            let end = (begin + chunk).min(kept.len());
            let without: Vec<usize> = kept[..begin].iter().chain(&kept[end..]).copied().collect();
            if fails(&without) {
                kept = without;
            } else {
                begin = end;
            }
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
    kept
}
