//! Writes statuses and publishes Events. Decides nothing.

use std::time::Duration;

use drop_api::{CachedImage, CachedImageStatus, GROUP, VERSION};
use kube::api::{Patch, PatchParams};
use kube::runtime::events::{EventType, Recorder};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use crate::cached_image::events::Event;
use crate::core::WriteFailure;

/// Owner of the fields that the coordinator writes by server-side apply.
pub const FIELD_MANAGER: &str = "drop-coordinator";
/// An API server that takes longer is away; the write comes again.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Writes one status. Returns the resource version that the write made.
pub async fn write_status(
    client: Client,
    name: &str,
    uid: &str,
    status: &CachedImageStatus,
) -> Result<u64, WriteFailure> {
    let api: Api<CachedImage> = Api::all(client);
    let patch = serde_json::json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "CachedImage",
        // With the uid an object made anew under the same name is left alone.
        "metadata": { "name": name, "uid": uid },
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = tokio::time::timeout(
        TIMEOUT,
        api.patch_status(name, &params, &Patch::Apply(patch)),
    )
    .await;
    match written {
        Ok(Ok(object)) => Ok(resource_version(&object)),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
            Err(WriteFailure::Gone)
        }
        Ok(Err(error)) => {
            warn!(cachedimage = name, error = %error, "cannot write status (patch cachedimages/status), will retry");
            Err(WriteFailure::Retry)
        }
        Err(_) => {
            warn!(
                cachedimage = name,
                seconds = TIMEOUT.as_secs(),
                "status write timed out, will retry"
            );
            Err(WriteFailure::Retry)
        }
    }
}

/// The object's resource version as a number; 0 where it is none.
pub(crate) fn resource_version(object: &impl ResourceExt) -> u64 {
    object
        .resource_version()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// Publishes one Event. A lost Event is not tried again: the status says the same.
pub async fn publish(recorder: &Recorder, event: Event) {
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some("CachedImage".to_owned()),
        name: Some(event.name.clone()),
        uid: Some(event.uid),
        ..Default::default()
    };
    let published = kube::runtime::events::Event {
        type_: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason,
        note: Some(event.note),
        action: "Cache".to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(TIMEOUT, recorder.publish(&published, &reference)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(cachedimage = event.name, error = %error, "cannot publish event (create events.events.k8s.io)")
        }
        Err(_) => warn!(cachedimage = event.name, "event timed out"),
    }
}
