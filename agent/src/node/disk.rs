//! Whether the node's image filesystem has room for a pull.
//!
//! It judges by what was read last, by what running pulls may still write, and by an estimate of what the image needs. It never
//! looks by itself, and what it does not know it does not forbid: a filesystem that cannot be read refuses nothing.

use bytesize::ByteSize;
use drop_proto::FailureClass;

use super::{Failure, Listing, Node};

/// A runtime keeps the compressed layers and what they unpack to, which is about twice as much.
const FIRST_FACTOR: f64 = 3.0;
/// An image with many shared layers writes next to nothing, and one of zeros unpacks to a hundred times its size; neither says
/// anything about the next one.
const FACTORS: std::ops::RangeInclusive<f64> = 1.0..=6.0;
/// The share of one smaller sample in the factor. A larger one counts at once: too little room is worse than too much.
const EASE: f64 = 0.1;
/// Smaller pulls drown in what else is written to the disk.
const LEAST_SAMPLE_BYTES: u64 = 16 * 1024 * 1024;
/// A refusal is taken back only when use would stay this many percent below the limit, and said anew only when the numbers have
/// moved by more: a disk that hovers is no news.
const SLACK_PERCENT: u64 = 1;

/// The filesystem that the runtime keeps images on, as `statvfs` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that may still be written, without what is reserved for root: as the kubelet counts.
    pub free_bytes: u64,
    /// All bytes.
    pub total_bytes: u64,
}

/// When a pull is refused for the disk's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// A pull that would push use over this share of the filesystem is refused.
    pub high_percent: u8,
    /// Bytes that an image of unknown size is taken to need.
    pub default_need_bytes: u64,
}

impl Default for DiskLimits {
    /// Below the 85 % at which the kubelet starts to remove images.
    fn default() -> Self {
        Self {
            high_percent: 80,
            default_need_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// Why an image is not asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    /// Use of the disk that the pull would have led to; 0 where the disk is not to blame.
    percent: u64,
}

impl Refusal {
    pub(super) fn not_allowed(message: String) -> Self {
        Self {
            failure: Failure {
                class: FailureClass::NotAllowed,
                message,
            },
            percent: 0,
        }
    }
}

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct Room {
    disk: Option<Disk>,
    /// Bytes on the disk for each compressed byte, learned from our own pulls.
    factor: f64,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            disk: None,
            factor: FIRST_FACTOR,
        }
    }
}

impl Room {
    /// Bytes in use.
    pub(super) fn used_bytes(&self) -> Option<u64> {
        let disk = self.disk?;
        Some(disk.total_bytes.saturating_sub(disk.free_bytes))
    }

    /// Bytes that an image is taken to need on the disk; `compressed_bytes` is 0 if nobody knows.
    #[allow(clippy::cast_sign_loss)]
    pub(super) fn need_bytes(&self, limits: DiskLimits, compressed_bytes: u64) -> u64 {
        if compressed_bytes == 0 {
            return limits.default_need_bytes;
        }
        (compressed_bytes as f64 * self.factor) as u64
    }

    /// Whether a pull has to wait for space, and why. `reserved` is what running pulls may still write, `former` the refusal
    /// that stands.
    pub(super) fn refuse(
        &self,
        limits: DiskLimits,
        need: u64,
        reserved: u64,
        former: Option<&Refusal>,
    ) -> Option<Refusal> {
        let Disk {
            free_bytes,
            total_bytes,
        } = self.disk.filter(|disk| disk.total_bytes > 0)?;
        let used = u128::from(total_bytes.saturating_sub(free_bytes));
        let then = used + u128::from(reserved) + u128::from(need);
        let former = former.filter(|former| former.failure.class == FailureClass::NoSpace);
        let slack = former.map_or(0, |_| SLACK_PERCENT);
        let limit = u64::from(limits.high_percent).saturating_sub(slack);
        if then * 100 <= u128::from(total_bytes) * u128::from(limit) {
            return None;
        }
        let percent =
            u64::try_from((then * 100).div_ceil(u128::from(total_bytes))).unwrap_or(u64::MAX);
        if let Some(former) = former.filter(|f| f.percent.abs_diff(percent) <= SLACK_PERCENT) {
            return Some(former.clone());
        }
        let size = |bytes| ByteSize::b(bytes).display().si();
        let running = if reserved == 0 {
            String::new()
        } else {
            format!(", {} of it for running pulls", size(reserved))
        };
        let message = format!(
            "needs {}, {} of {} free{running}: {percent} % would be in use, over --disk-high-percent={}; free space on the node",
            size(need),
            size(free_bytes),
            size(total_bytes),
            limits.high_percent,
        );
        let failure = Failure {
            class: FailureClass::NoSpace,
            message,
        };
        Some(Refusal { failure, percent })
    }

    /// A pull of an image with so many compressed bytes ended, and nothing else of ours was written since `used_before`.
    fn learn(&mut self, compressed_bytes: u64, used_before: u64) {
        let Some(used) = self.used_bytes() else {
            return;
        };
        if compressed_bytes < LEAST_SAMPLE_BYTES {
            return;
        }
        let grew = used.saturating_sub(used_before) as f64;
        let sample = (grew / compressed_bytes as f64).clamp(*FACTORS.start(), *FACTORS.end());
        self.factor = if sample > self.factor {
            sample
        } else {
            self.factor + (sample - self.factor) * EASE
        };
    }
}

impl Node {
    pub(super) fn disk_read(&mut self, disk: Option<Disk>) {
        self.room.disk = disk;
    }

    /// What running pulls may still write. What they have written already counts as used, too: rather too much than too little.
    pub(super) fn reserved_bytes(&self) -> u64 {
        self.pulls
            .values()
            .fold(0, |sum, pull| sum.saturating_add(pull.need_bytes))
    }

    /// Decides which needed images are not asked for. What is being pulled was admitted before.
    pub(super) fn admit(&mut self) -> Vec<(String, Failure)> {
        let reserved = self.reserved_bytes();
        let limits = self.config.disk;
        let mut fresh = Vec::new();
        for (reference, image) in &mut self.images {
            let is_pulled = || self.pulls.values().any(|pull| pull.reference == *reference);
            let refusal = if !image.needed(self.sessions) || is_pulled() {
                None
            } else if !image.is_allowed {
                image
                    .refusal
                    .clone()
                    .or_else(|| Some(Refusal::not_allowed(self.config.not_allowed(reference))))
            } else {
                let need = self.room.need_bytes(limits, image.want.compressed_bytes);
                self.room
                    .refuse(limits, need, reserved, image.refusal.as_ref())
            };
            if let (None, Some(refusal)) = (&image.refusal, &refusal) {
                fresh.push((reference.clone(), refusal.failure.clone()));
            }
            image.refusal = refusal;
        }
        fresh
    }

    /// A pull that ran alone shows what its image took on the disk.
    pub(super) fn learn_from(&mut self, token: u64, listing: &Listing) {
        let Some(pull) = self.pulls.get(&token) else {
            return;
        };
        if let Some(before) = pull.used_before
            && listing.contains_key(&pull.reference)
        {
            self.room.learn(pull.want.compressed_bytes, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn room(free: u64, total: u64) -> Room {
        Room {
            disk: Some(Disk {
                free_bytes: free * MB,
                total_bytes: total * MB,
            }),
            ..Room::default()
        }
    }

    fn limits(high_percent: u8) -> DiskLimits {
        DiskLimits {
            high_percent,
            default_need_bytes: 10 * MB,
        }
    }

    #[test]
    fn a_pull_is_refused_when_use_would_pass_the_limit() {
        let table = [
            // free, total, need, reserved, limit, refused
            (100, 100, 80, 0, 80, false),
            (100, 100, 81, 0, 80, true),
            (30, 100, 10, 0, 80, false),
            (30, 100, 11, 0, 80, true),
            (30, 100, 5, 5, 80, false),
            (30, 100, 5, 6, 80, true),
            (10, 100, 0, 0, 80, true),
            (0, 100, 0, 0, 100, false),
            (100, 100, u64::MAX / MB, u64::MAX / MB, 80, true),
            (0, 0, 5, 0, 80, false),
        ];
        for (free, total, need, reserved, limit, refused) in table {
            let refusal = room(free, total).refuse(limits(limit), need * MB, reserved * MB, None);
            assert_eq!(
                refusal.is_some(),
                refused,
                "{free} of {total} free, {need} needed, {reserved} reserved, {limit} %"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_refuses_nothing() {
        assert_eq!(
            Room::default().refuse(limits(1), u64::MAX, u64::MAX, None),
            None
        );
    }

    #[test]
    fn the_message_has_the_numbers_and_what_to_do() {
        let refusal = room(25, 100).refuse(limits(80), 16 * MB, 0, None);
        assert_eq!(
            refusal.map(|r| r.failure.message).as_deref(),
            Some(
                "needs 16.0 MB, 25.0 MB of 100.0 MB free: 91 % would be in use, over --disk-high-percent=80; free space on the node"
            )
        );
        let huge = room(u64::MAX / MB, u64::MAX / MB).refuse(limits(1), u64::MAX, u64::MAX, None);
        assert!(huge.is_some_and(|r| r.failure.message.chars().count() <= 200));
    }

    #[test]
    fn a_disk_that_hovers_is_no_news() {
        let first = room(25, 100).refuse(limits(80), 6 * MB, 0, None);
        assert!(first.is_some());
        let again = room(26, 100).refuse(limits(80), 6 * MB, 0, first.as_ref());
        assert_eq!(again, first, "just below the limit is not yet room");
        let more = room(10, 100).refuse(limits(80), 6 * MB, 0, first.as_ref());
        assert!(more.is_some() && more != first);
        let less = room(27, 100).refuse(limits(80), 6 * MB, 0, first.as_ref());
        assert_eq!(less, None);
    }

    #[test]
    fn the_need_is_the_compressed_size_times_what_was_learned() {
        let mut room = room(1000, 1000);
        assert_eq!(room.need_bytes(limits(80), 0), 10 * MB);
        assert_eq!(room.need_bytes(limits(80), 100 * MB), 300 * MB);
        let mut pull = |compressed: u64, grows: u64| {
            let before = room.used_bytes().unwrap_or_default();
            if let Some(disk) = &mut room.disk {
                disk.free_bytes -= grows * MB;
            }
            room.learn(compressed * MB, before);
            room.need_bytes(limits(80), 100 * MB) / MB
        };
        assert_eq!(pull(1, 100), 300, "too small to tell");
        assert_eq!(pull(100, 400), 400, "more counts at once");
        assert_eq!(pull(100, 200), 380, "less counts little by little");
        assert_eq!(pull(20, 200), 600, "within bounds");
        for _ in 0..100 {
            pull(20, 0);
        }
        assert_eq!(pull(20, 0), 100);
    }
}
