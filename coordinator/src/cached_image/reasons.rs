//! Which words of the API a failure goes by.

use std::time::Duration;

use drop_api::conditions::ready;
use drop_proto::FailureClass;

/// A first failure is called by its own name for this long; then it is a back-off, as the kubelet says it.
pub const FIRST_FAILURE: Duration = Duration::from_secs(10);

/// The Ready reason of a node whose last pull failed. `attempts` counts failures in a row, `age` is the last one's.
#[must_use]
pub fn reason_of(class: FailureClass, attempts: u32, age: Duration) -> &'static str {
    match class {
        FailureClass::InvalidName => ready::INVALID_IMAGE_NAME,
        FailureClass::NoSpace => ready::INSUFFICIENT_DISK,
        FailureClass::Runtime => ready::RUNTIME_UNAVAILABLE,
        FailureClass::Throttled
        | FailureClass::ServerError
        | FailureClass::Connection
        | FailureClass::Timeout => ready::REGISTRY_UNAVAILABLE,
        _ if attempts <= 1 && age < FIRST_FAILURE => ready::ERR_IMAGE_PULL,
        _ => ready::IMAGE_PULL_BACK_OFF,
    }
}

/// What a reason in an earlier process's status says about the failure behind it, as far as it can be told.
#[must_use]
pub fn class_of(reason: &str) -> FailureClass {
    match reason {
        ready::INVALID_IMAGE_NAME => FailureClass::InvalidName,
        ready::INSUFFICIENT_DISK => FailureClass::NoSpace,
        ready::RUNTIME_UNAVAILABLE => FailureClass::Runtime,
        ready::REGISTRY_UNAVAILABLE => FailureClass::ServerError,
        _ => FailureClass::Unspecified,
    }
}
