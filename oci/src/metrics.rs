//! The names of the metrics about registries, and nothing else knows them. All labels are from bounded sets.

use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{counter, describe_counter, describe_histogram, histogram};

const REQUESTS: &str = "drop_registry_requests_total";
const DURATION: &str = "drop_registry_request_duration_seconds";
const THROTTLED: &str = "drop_registry_throttled_total";

/// Says what each metric means.
pub fn describe() {
    describe_counter!(
        REQUESTS,
        "Requests to registries and their token servers; code 0 is no answer."
    );
    describe_histogram!(
        DURATION,
        "Time from sending a request to a registry to the end of its answer, in seconds."
    );
    describe_counter!(
        THROTTLED,
        "Answers by which a registry asked to be left alone."
    );
}

/// One attempt ended; no status if nothing came back.
pub(crate) fn answered(host: &str, method: &Method, status: Option<StatusCode>, took: Duration) {
    let host = host.to_owned();
    let method = method_label(method);
    counter!(REQUESTS, "host" => host.clone(), "method" => method, "code" => code_label(status))
        .increment(1);
    histogram!(DURATION, "host" => host, "method" => method).record(took.as_secs_f64());
}

/// A host asked to be left alone.
pub(crate) fn throttled(host: &str) {
    counter!(THROTTLED, "host" => host.to_owned()).increment(1);
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "GET",
    }
}

/// A server may invent codes; those that no standard knows share one label.
fn code_label(status: Option<StatusCode>) -> String {
    match status {
        None => "0".to_owned(),
        Some(status) if status.canonical_reason().is_some() => status.as_u16().to_string(),
        Some(_) => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invented_code_gets_no_label_of_its_own() {
        assert_eq!(code_label(None), "0");
        assert_eq!(code_label(Some(StatusCode::TOO_MANY_REQUESTS)), "429");
        assert_eq!(code_label(StatusCode::from_u16(799).ok()), "other");
    }
}
