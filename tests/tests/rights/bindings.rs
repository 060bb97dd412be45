//! The bindings of the installation: what is said when one is gone, or binds somebody else or something else.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, NAMESPACE, Sessions, grant_rights};
use drop_tests::dirs::Scratch;
use drop_tests::wait;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::WITHIN;
use crate::missing::is_missed;

const NAME: &str = "drop-coordinator";

#[derive(Clone, Copy, Debug)]
enum Harm {
    Removed,
    BindsAnother,
    BindsToAnotherRole,
}

const HARMS: [Harm; 3] = [Harm::Removed, Harm::BindsAnother, Harm::BindsToAnotherRole];

impl Harm {
    /// What is left of the binding.
    fn done_to(self, installed: &DynamicObject) -> Option<DynamicObject> {
        let mut binding = installed.clone();
        match self {
            Self::Removed => return None,
            // The same account of another namespace.
            Self::BindsAnother => binding.data["subjects"][0]["namespace"] = json!("default"),
            Self::BindsToAnotherRole => binding.data["roleRef"]["name"] = json!("drop-agent"),
        }
        Some(binding)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_binding_is_needed_as_it_is() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let here = ApiResource::erase::<RoleBinding>(&());
    let everywhere = ApiResource::erase::<ClusterRoleBinding>(&());
    let here: Api<DynamicObject> = Api::namespaced_with(plane.client(), NAMESPACE, &here);
    let everywhere: Api<DynamicObject> = Api::all_with(plane.client(), &everywhere);
    let args = [
        "--leader-elect",
        "--lease-duration=3s",
        "--lease-renew-deadline=2s",
        "--lease-retry-period=250ms",
    ]
    .map(str::to_owned);
    for (bindings, words) in [
        (here, "get leases in coordination.k8s.io"),
        (everywhere, "list nodes"),
    ] {
        let installed = bindings.get(NAME).await?;
        for harm in HARMS {
            put(&bindings, harm.done_to(&installed)).await?;
            let folder = scratch.path().join(format!("{}-{harm:?}", &words[..3]));
            let mut coordinator = Coordinator::launch(&folder, &plane, Sessions::Plaintext, &args)?;
            let missed = format!("{words} to be missed ({harm:?})");
            wait::until(missed, WITHIN, async || {
                is_missed(&coordinator, words).await
            })
            .await?;
            put(&bindings, Some(installed.clone())).await?;
            coordinator.wait_ready().await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_installation_binds_nothing_else() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    grant_rights(&plane).await?;
    let all = ListParams::default();
    let here: Api<RoleBinding> = Api::all(plane.client());
    let everywhere: Api<ClusterRoleBinding> = Api::all(plane.client());
    let here = here.list(&all).await?.items;
    let everywhere = everywhere.list(&all).await?.items;
    let names = here.iter().map(ResourceExt::name_any);
    let names: BTreeSet<String> = names
        .chain(everywhere.iter().map(ResourceExt::name_any))
        .filter(|name| name.starts_with("drop"))
        .collect();
    ensure!(names == BTreeSet::from([NAME.to_owned()]), "{names:?}");
    Ok(())
}

/// A binding's role cannot be edited: it is made anew.
async fn put(bindings: &Api<DynamicObject>, binding: Option<DynamicObject>) -> Result<()> {
    if bindings.get_opt(NAME).await?.is_some() {
        bindings.delete(NAME, &DeleteParams::default()).await?;
    }
    if let Some(mut binding) = binding {
        binding.metadata.resource_version = None;
        binding.metadata.uid = None;
        binding.metadata.managed_fields = None;
        bindings.create(&PostParams::default(), &binding).await?;
    }
    Ok(())
}
