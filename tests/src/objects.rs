//! Kubernetes objects as text and as types: apply YAML, read, wait for a state.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, Scope};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wait;

/// The field manager of everything that a test applies.
const MANAGER: &str = "drop-tests";

/// Applies each document by server-side apply; unknown and misspelt fields are refused, as kubectl refuses them.
pub async fn apply(client: &Client, yaml: &str) -> Result<()> {
    apply_kinds(client, yaml, |_| true).await
}

/// As `apply`, for the documents whose kind is wanted.
pub async fn apply_kinds(client: &Client, yaml: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).context("parse YAML")?;
    for document in documents {
        let kind = document["kind"].as_str().unwrap_or_default();
        if !document.is_null() && wanted(kind) {
            apply_one(client, &document).await?;
        }
    }
    Ok(())
}

/// The object called `name`. Cluster-scoped kinds only.
pub async fn get<K>(client: &Client, name: &str) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    api.get(name)
        .await
        .with_context(|| format!("get {} {name}", K::kind(&())))
}

/// Waits until `condition` holds for the object; its `Err` says what is still missing. A failure shows the object's last state.
pub async fn until<K>(
    client: &Client,
    name: &str,
    within: Duration,
    mut condition: impl FnMut(&K) -> Result<()>,
) -> Result<K>
where
    K: Resource<DynamicType = (), Scope = kube::core::ClusterResourceScope>
        + Clone
        + DeserializeOwned
        + serde::Serialize
        + Debug,
{
    let mut last = None;
    let outcome = wait::until(format!("{} {name}", K::kind(&())), within, async || {
        let object: K = get(client, name).await?;
        let verdict = condition(&object);
        last = Some(object.clone());
        verdict.map(|()| object)
    });
    outcome.await.map_err(|cause| {
        let state = last
            .and_then(|object| serde_json::to_value(object).ok())
            .unwrap_or_default();
        let status = serde_json::to_string_pretty(&state["status"]).unwrap_or_default();
        cause.context(format!("last status of {} {name}: {status}", K::kind(&())))
    })
}

/// Waits until each CRD is established, so that the next request is not a 404.
pub async fn wait_crds(client: &Client) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let established = wait::until(
        "the CRDs to be established",
        Duration::from_secs(20),
        async || {
            for crd in api.list(&ListParams::default()).await? {
                let conditions = crd
                    .status
                    .as_ref()
                    .and_then(|status| status.conditions.as_ref());
                let done = conditions.is_some_and(|all| {
                    all.iter()
                        .any(|c| c.type_ == "Established" && c.status == "True")
                });
                ensure!(done, "{} is not", crd.name_any());
            }
            Ok(())
        },
    );
    established.await
}

async fn apply_one(client: &Client, document: &Value) -> Result<()> {
    let field = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (field("apiVersion"), field("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let gvk = GroupVersionKind::gvk(group, version, &kind);
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk)
        .await
        .with_context(|| format!("find {api_version} {kind}"))?;
    let name = document["metadata"]["name"]
        .as_str()
        .with_context(|| format!("a {kind} has no name"))?
        .to_owned();
    let namespace = document["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default")
        .to_owned();
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
    };
    let how = PatchParams::apply(MANAGER).force().validation_strict();
    api.patch(&name, &how, &Patch::Apply(document))
        .await
        .with_context(|| format!("apply {kind} {name}"))?;
    Ok(())
}
