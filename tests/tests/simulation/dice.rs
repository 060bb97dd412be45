//! Random numbers from a seed. A generator of our own keeps a seed's meaning: no upgrade of a crate changes what it replays.

use std::time::Duration;

/// `SplitMix64`. Each part of the world rolls its own, so that leaving a fault out disturbs the others little.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        // Neighbouring seeds must have nothing in common.
        let (mut seed, mut stream) = (Self(seed), Self(stream));
        Self(seed.roll() ^ stream.roll().rotate_left(32))
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..sides
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides.max(1)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True so many times out of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    pub(crate) fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to - from + 1))
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        self.micros(from * 1_000, to * 1_000)
    }

    pub(crate) fn secs(&mut self, from: u64, to: u64) -> Duration {
        self.millis(from * 1_000, to * 1_000)
    }
}
