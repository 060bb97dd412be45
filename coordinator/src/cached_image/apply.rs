//! Writes statuses and publishes Events. Decides nothing.

use std::time::Duration;

use drop_api::{CachedImage, CachedImageStatus, GROUP, VERSION};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::events::{EventType, Recorder};
use kube::{Api, Client, ResourceExt};
use tracing::warn;

use crate::cached_image::events::Event;
use crate::core::WriteFailed;
use crate::rights::Rights;

/// Owner of the fields that the coordinator writes by server-side apply.
pub const FIELD_MANAGER: &str = "drop-coordinator";
/// What the coordinator was about when an Event happened.
const ACTION: &str = "Cache";
/// Where Events about cluster-scoped objects live.
const EVENTS_NAMESPACE: &str = "default";
/// The recorder names an Event after its object, with a dot and 16 hex digits of time behind it; 253 characters is the end.
const LONGEST_RECORDED: usize = 253 - 17;
/// Characters of an object's name in a name that the API server chooses; it keeps 58 at most.
const GENERATED: usize = 57;
/// An API server that takes longer is away; the write comes again.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Writes one status. Returns the resource version that the write made.
pub async fn write_status(
    client: Client,
    name: &str,
    uid: &str,
    status: &CachedImageStatus,
    rights: &Rights,
) -> Result<u64, WriteFailed> {
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
    if let Ok(written) = &written {
        rights.heard("cachedimages/status", written.as_ref().err());
    }
    match written {
        Ok(Ok(object)) => Ok(resource_version(&object)),
        // The object is gone, or another one has its name: nobody need look at it.
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
            Err(WriteFailed)
        }
        Ok(Err(error)) => {
            warn!(cachedimage = name, error = %error, "cannot write status (patch cachedimages/status), will retry");
            Err(WriteFailed)
        }
        Err(_) => {
            warn!(
                cachedimage = name,
                seconds = TIMEOUT.as_secs(),
                "status write timed out, will retry"
            );
            Err(WriteFailed)
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

/// What became of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It was published, or is lost: the status says the same.
    Done,
    /// The right to publish it is missing.
    Refused,
}

/// Publishes one Event.
pub async fn publish(
    client: &Client,
    recorder: &Recorder,
    rights: &Rights,
    event: Event,
) -> Published {
    let name = event.name.clone();
    let publishing = async {
        if name.len() > LONGEST_RECORDED {
            return create_event(client, event).await;
        }
        let reference = reference(&event);
        recorder.publish(&recorded(event), &reference).await
    };
    let published = tokio::time::timeout(TIMEOUT, publishing).await;
    if let Ok(published) = &published {
        rights.heard("events", published.as_ref().err());
    }
    match published {
        Ok(Ok(())) => Published::Done,
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Published::Refused,
        Ok(Err(error)) => {
            warn!(cachedimage = name, error = %error, "cannot publish event (create events.events.k8s.io)");
            Published::Done
        }
        Err(_) => {
            warn!(cachedimage = name, "event timed out");
            Published::Done
        }
    }
}

/// For objects whose names leave no room for what the recorder appends: the API server chooses the Event's name.
async fn create_event(client: &Client, event: Event) -> Result<(), kube::Error> {
    let api: Api<events::v1::Event> = Api::namespaced(client.clone(), EVENTS_NAMESPACE);
    // Cut where a name may be cut: the API server adds five characters behind the dash.
    let beginning: String = event.name.chars().take(GENERATED).collect();
    let beginning = beginning.trim_end_matches(['.', '-']);
    let object = events::v1::Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{beginning}-")),
            ..ObjectMeta::default()
        },
        regarding: Some(reference(&event)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(event.reason),
        note: Some(event.note),
        action: Some(ACTION.to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(FIELD_MANAGER.to_owned()),
        ..events::v1::Event::default()
    };
    api.create(&PostParams::default(), &object).await.map(drop)
}

fn recorded(event: Event) -> kube::runtime::events::Event {
    kube::runtime::events::Event {
        type_: if event.warning {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: event.reason,
        note: Some(event.note),
        action: ACTION.to_owned(),
        secondary: None,
    }
}

fn reference(event: &Event) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{GROUP}/{VERSION}")),
        kind: Some("CachedImage".to_owned()),
        name: Some(event.name.clone()),
        uid: Some(event.uid.clone()),
        ..ObjectReference::default()
    }
}
