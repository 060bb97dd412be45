//! What the agent counts. Names and help texts of all its metrics stand here and nowhere else.
//!
//! Series by image live as long as the image is desired on the node: they are kept here and written anew for each scrape.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use drop_daemon::series::{Histogram, Page};
use drop_proto::FailureClass;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use crate::node::Event;

const ACTIVE_PULLS: &str = "drop_active_pulls";
const IMAGES_LOST: &str = "drop_images_lost_total";
const DISK_REFUSALS: &str = "drop_disk_refusals_total";
const GRANTS_RELEASED: &str = "drop_grants_released_total";
const RECONNECTS: &str = "drop_session_reconnects_total";
const SESSION_UP: &str = "drop_session_up";
const RUNTIME_UP: &str = "drop_runtime_up";
const BUILD_INFO: &str = "drop_build_info";

/// Upper bounds of `drop_pull_duration_seconds`.
const BUCKETS: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];

/// The agent's metrics. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<BTreeMap<String, Image>>>);

#[derive(Debug)]
struct Image {
    cached: u64,
    errors: BTreeMap<&'static str, u64>,
    durations: Histogram,
}

impl Metrics {
    /// Describes what the recorder holds, and begins every series at its true value, so that none appears only after an event.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!(ACTIVE_PULLS, "Pulls that run on this node now.");
        describe_counter!(
            IMAGES_LOST,
            "Desired images that vanished from the runtime, as a rule by the kubelet's garbage collection."
        );
        describe_counter!(
            DISK_REFUSALS,
            "Needed images that were not asked for, since the disk has no room for them."
        );
        describe_counter!(GRANTS_RELEASED, "Grants that were given back unused.");
        describe_counter!(RECONNECTS, "Sessions that were opened after the first one.");
        describe_gauge!(
            SESSION_UP,
            "1 while the coordinator holds a session with this agent."
        );
        describe_gauge!(RUNTIME_UP, "1 while the container runtime answers.");
        describe_gauge!(
            BUILD_INFO,
            Unit::Count,
            "Always 1; the labels say what runs."
        );
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "component" => "agent").set(1);
        for name in [IMAGES_LOST, DISK_REFUSALS, GRANTS_RELEASED, RECONNECTS] {
            counter!(name).increment(0);
        }
        for name in [ACTIVE_PULLS, SESSION_UP, RUNTIME_UP] {
            gauge!(name).set(0);
        }
        Self::default()
    }

    /// Counts an event. `is_desired` keeps the end of a pull from bringing back the series of an image that left.
    pub fn observe(&self, event: &Event, is_desired: impl Fn(&str) -> bool) {
        let mut images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Cached {
                reference, took, ..
            } if is_desired(reference) => {
                let image = images.entry(reference.clone()).or_insert_with(Image::new);
                image.cached += 1;
                image.durations.record(took.as_secs_f64());
            }
            Event::PullFailed {
                reference, failure, ..
            } if is_desired(reference) => {
                let image = images.entry(reference.clone()).or_insert_with(Image::new);
                *image.errors.entry(failure.class.class()).or_default() += 1;
            }
            Event::Refused { failure, .. } if failure.class == FailureClass::NoSpace => {
                counter!(DISK_REFUSALS).increment(1);
            }
            Event::Lost { .. } => counter!(IMAGES_LOST).increment(1),
            Event::Released { .. } => counter!(GRANTS_RELEASED).increment(1),
            Event::Undesired { references } => {
                for reference in references {
                    images.remove(reference);
                }
            }
            _ => {}
        }
    }

    /// Sets what is true now.
    pub fn set(&self, active_pulls: usize, runtime_up: bool, session_up: bool) {
        gauge!(ACTIVE_PULLS).set(active_pulls as f64);
        gauge!(RUNTIME_UP).set(f64::from(u8::from(runtime_up)));
        gauge!(SESSION_UP).set(f64::from(u8::from(session_up)));
    }

    /// Counts a session that is not the first.
    pub fn reconnected(&self) {
        counter!(RECONNECTS).increment(1);
    }

    /// The series by image, in the Prometheus text format.
    #[must_use]
    pub fn page(&self) -> String {
        let images = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page::default();
        let mut cached = page.counter(
            "drop_images_cached_total",
            "Pulls of an image that the runtime's list confirmed.",
        );
        for (reference, image) in images.iter() {
            cached.sample(&[("image", reference)], image.cached);
        }
        let mut errors = page.counter(
            "drop_pull_errors_total",
            "Pulls of an image that failed, by what the failure means.",
        );
        for (reference, image) in images.iter() {
            for (class, count) in &image.errors {
                errors.sample(&[("image", reference), ("class", class)], count);
            }
        }
        let mut durations = page.histogram(
            "drop_pull_duration_seconds",
            "How long the runtime took for pulls that succeeded.",
        );
        for (reference, image) in images.iter().filter(|(_, image)| image.cached > 0) {
            durations.buckets(&[("image", reference)], &image.durations);
        }
        page.into_text()
    }
}

impl Image {
    fn new() -> Self {
        Self {
            cached: 0,
            errors: BTreeMap::new(),
            durations: Histogram::new(&BUCKETS),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::{Failure, Listed};

    const APP: &str = "r.example/app:1";

    fn cached() -> Event {
        Event::Cached {
            reference: APP.to_owned(),
            listed: Listed::default(),
            took: Duration::from_secs(3),
        }
    }

    fn failed() -> Event {
        Event::PullFailed {
            reference: APP.to_owned(),
            failure: Failure {
                class: FailureClass::Dns,
                message: String::new(),
            },
            took: Duration::ZERO,
        }
    }

    #[test]
    fn the_series_of_an_image_live_as_long_as_it_is_desired() {
        let metrics = Metrics::default();
        metrics.observe(&failed(), |_| true);
        metrics.observe(&cached(), |_| true);
        let page = metrics.page();
        for line in [
            "drop_images_cached_total{image=\"r.example/app:1\"} 1",
            "drop_pull_errors_total{image=\"r.example/app:1\",class=\"dns\"} 1",
            "drop_pull_duration_seconds_bucket{image=\"r.example/app:1\",le=\"4\"} 1",
            "drop_pull_duration_seconds_count{image=\"r.example/app:1\"} 1",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
        metrics.observe(
            &Event::Undesired {
                references: vec![APP.to_owned()],
            },
            |_| false,
        );
        // A pull that ends later does not bring them back.
        metrics.observe(&cached(), |_| false);
        assert!(!metrics.page().contains(APP), "{}", metrics.page());
    }
}
