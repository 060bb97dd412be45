//! The names of the coordinator's metrics, and nothing else knows them.

use drop_daemon::series::Page;
use metrics::{counter, describe_counter, gauge};

use crate::core::Count;
use crate::report::Report;
use crate::session::refusal::Refusal;

const RECONCILE: &str = "drop_reconcile_total";
const STATUS_WRITES: &str = "drop_status_writes_total";
const IMAGES_LOST: &str = "drop_images_lost_total";
const RECONNECTS: &str = "drop_session_reconnects_total";
const GRANTS_EXPIRED: &str = "drop_grants_expired_total";
const LEADER: &str = "drop_leader";
const SESSIONS_REFUSED: &str = "drop_sessions_refused_total";
const BUILD_INFO: &str = "drop_build_info";

const NODES_TARGETED: &str = "drop_nodes_targeted";
const NODES_CACHED: &str = "drop_nodes_cached";
const CONSECUTIVE_FAILURES: &str = "drop_consecutive_failures";
const GRANTS: &str = "drop_grants";
const SESSIONS: &str = "drop_sessions";

/// Says what each metric means, and makes them start at zero.
pub fn describe() {
    describe_counter!(
        RECONCILE,
        "Total number of reconciliation attempts: statuses compared with what they should be."
    );
    describe_counter!(STATUS_WRITES, "Status writes to the API server.");
    describe_counter!(
        IMAGES_LOST,
        "Images that vanished from a node behind drop's back (kubelet garbage collection)."
    );
    describe_counter!(
        RECONNECTS,
        "Sessions that replaced an older one of the same agent process."
    );
    describe_counter!(
        GRANTS_EXPIRED,
        "Grants that ended because their agent fell silent."
    );
    metrics::describe_gauge!(
        LEADER,
        "1 on the replica that leads, 0 on those that follow."
    );
    describe_counter!(
        SESSIONS_REFUSED,
        "Sessions that the coordinator did not take, or ended, by reason."
    );
    for reason in Refusal::CLASSES {
        counter!(SESSIONS_REFUSED, "reason" => reason).increment(0);
    }
    metrics::describe_gauge!(BUILD_INFO, "Always 1; the version is in the label.");
    for result in ["success", "error"] {
        counter!(RECONCILE, "controller" => "cachedimage", "result" => result).increment(0);
        counter!(STATUS_WRITES, "result" => result).increment(0);
    }
    for name in [IMAGES_LOST, RECONNECTS, GRANTS_EXPIRED] {
        counter!(name).increment(0);
    }
    leads(false);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// A status write ended.
pub fn status_written(success: bool) {
    let result = if success { "success" } else { "error" };
    counter!(STATUS_WRITES, "result" => result).increment(1);
    if !success {
        counter!(RECONCILE, "controller" => "cachedimage", "result" => result).increment(1);
    }
}

/// Whether this process leads.
pub fn leads(yes: bool) {
    gauge!(LEADER).set(f64::from(u8::from(yes)));
}

/// A session was not taken, or was ended, for a reason of `Refusal::class`.
pub fn session_refused(reason: &'static str) {
    counter!(SESSIONS_REFUSED, "reason" => reason).increment(1);
}

/// Counts what the state machine does not remember.
pub fn count(count: Count) {
    match count {
        Count::ImageLost => counter!(IMAGES_LOST).increment(1),
        Count::Reconnected => counter!(RECONNECTS).increment(1),
        Count::GrantExpired => counter!(GRANTS_EXPIRED).increment(1),
        Count::Evaluated => {
            counter!(RECONCILE, "controller" => "cachedimage", "result" => "success").increment(1);
        }
    }
}

/// The series of single objects and of the state as a whole.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut page = Page::default();
    let mut targeted = page.gauge(
        NODES_TARGETED,
        "Number of nodes targeted by each CachedImage resource.",
    );
    for image in &report.images {
        targeted.sample(&[("cachedimage", &image.name)], image.targeted);
    }
    let mut cached = page.gauge(
        NODES_CACHED,
        "Number of nodes where the image is successfully cached.",
    );
    for image in &report.images {
        cached.sample(&[("cachedimage", &image.name)], image.cached);
    }
    let mut failures = page.gauge(
        CONSECUTIVE_FAILURES,
        "Current number of consecutive pull failures for a CachedImage.",
    );
    for image in &report.images {
        failures.sample(
            &[("cachedimage", &image.name), ("image", &image.image)],
            image.consecutive_failures,
        );
    }
    page.gauge(
        GRANTS,
        "Permissions to pull that are out, and asks that wait for one.",
    )
    .sample(&[("state", "out")], report.grants_out)
    .sample(&[("state", "waiting")], report.grants_waiting);
    page.gauge(SESSIONS, "Agents that are connected.")
        .sample(&[], report.sessions);
    page.into_text()
}
