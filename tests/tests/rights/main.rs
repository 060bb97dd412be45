//! What the programs may do and what they ask for, from the API server's own audit log.

mod bindings;
mod missing;
mod roles;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::USER;
use drop_tests::dirs::Scratch;
use drop_tests::kubectl::Kubectl;
use drop_tests::node::NodeSpec;
use drop_tests::{parts, wait};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{DeleteParams, ListParams};

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn row_16_no_secret_but_its_own_and_those_that_images_name_and_no_pod_is_ever_read()
-> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted())
        .node(NodeSpec::new("node-2").scripted())
        .start()
        .await?;
    let client = cluster.client();

    // A life with a bit of everything: a policy, secrets named, a failure, an edit, a node that leaves, a restart, a deletion.
    let secret =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: pull, namespace: drop-system}\ndata: {}\n";
    cluster.apply(secret).await?;
    cluster.apply(&policy("quick", "")).await?;
    let spec = "policyRef: {name: quick}, imagePullSecrets: [{name: pull}]";
    let image = cluster.image("team/app");
    cluster.apply(&yaml("app", &image, "v1", spec)).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    let nowhere = yaml("nowhere", &image, "v1", "nodeSelector: {disk: tape}");
    cluster.apply(&nowhere).await?;
    cluster.apply(&yaml("app", &image, "v2", spec)).await?;
    cluster.until("app", WITHIN, is_ready).await?;
    cluster.node("node-2")?.deregister().await?;
    cluster.coordinator.kill();
    cluster.coordinator.restart().await?;
    cluster.apply(&yaml("later", &image, "v3", spec)).await?;
    cluster.until("later", WITHIN, is_ready).await?;
    let images: Api<CachedImage> = Api::all(client.clone());
    images.delete("app", &DeleteParams::default()).await?;
    // Its Events come behind the status.
    wait::until("an Event of the coordinator", WITHIN, async || {
        let created = cluster.control_plane.audit()?.by(USER).resource("events");
        ensure!(created.count() > 2, "{}", created.table());
        Ok(())
    })
    .await?;

    let audit = cluster.control_plane.audit()?;
    let all = audit.by(USER);
    ensure!(all.count() > 10, "{}", all.table());
    let forbidden = all.filter(|request| [401, 403].contains(&request.answer.code));
    ensure!(forbidden.count() == 0, "{}", forbidden.table());
    let asked: BTreeSet<(&str, &str, &str)> = all
        .requests()
        .iter()
        .map(|request| {
            let object = &request.object;
            let (resource, part) = (object.resource.as_str(), object.subresource.as_str());
            (resource, part, request.verb.as_str())
        })
        .collect();
    let expected = BTreeSet::from([
        ("nodes", "", "list"),
        ("nodes", "", "watch"),
        ("cachedimages", "", "list"),
        ("cachedimages", "", "watch"),
        ("cachedimages", "status", "patch"),
        ("pullpolicies", "", "list"),
        ("pullpolicies", "", "watch"),
        ("events", "", "create"),
        ("events", "", "patch"),
        ("secrets", "", "get"),
        ("secrets", "", "list"),
        ("secrets", "", "watch"),
        ("secrets", "", "create"),
        ("configmaps", "", "get"),
        ("configmaps", "", "list"),
        ("configmaps", "", "watch"),
        ("configmaps", "", "create"),
        ("tokenreviews", "", "create"),
    ]);
    let named = all.filter(|request| {
        let names: &[&str] = match request.object.resource.as_str() {
            "secrets" => &["drop-coordinator-tls", "pull"],
            "configmaps" => &["drop-coordinator-ca"],
            _ => return false,
        };
        // The name of what is created is in the body; what is listed and watched is metadata alone.
        let is_named = !["create", "list", "watch"].contains(&request.verb.as_str());
        is_named && !names.contains(&request.object.name.as_str())
    });
    ensure!(named.count() == 0, "{}", named.table());
    let more: Vec<_> = asked.difference(&expected).collect();
    ensure!(more.is_empty(), "{more:?}");
    ensure!(
        asked.contains(&("cachedimages", "status", "patch")),
        "{asked:?}"
    );

    // Agents ask nothing at all: all that was asked comes from the administrator, the coordinator and the server itself.
    let strangers = audit.filter(|request| {
        let own = ["admin", USER, "system:apiserver", "system:anonymous"];
        !own.contains(&request.user.username.as_str()) || request.user_agent.contains("drop-agent")
    });
    ensure!(strangers.count() == 0, "{}", strangers.table());
    let anonymous = audit.by("system:anonymous");
    let anonymous = anonymous.filter(|request| !request.object.resource.is_empty());
    ensure!(anonymous.count() == 0, "{}", anonymous.table());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinators_rights_end_where_its_work_ends() -> Result<()> {
    let cluster = Cluster::builder().start().await?;
    let client = cluster.control_plane.client_for(USER, &[]).await?;
    let everything = ListParams::default();
    Api::<Node>::all(client.clone()).list(&everything).await?;
    let nodes = Api::<Node>::all(client.clone());
    let secrets = Api::<Secret>::all(client.clone());
    let here = Api::<Secret>::namespaced(client.clone(), "default");
    let images = Api::<CachedImage>::all(client);
    let never = DeleteParams::default();
    for (what, refused) in [
        ("list secrets", secrets.list(&everything).await.is_err()),
        ("read secrets", here.get("x").await.is_err_and(is_forbidden)),
        (
            "delete nodes",
            nodes.delete("x", &never).await.is_err_and(is_forbidden),
        ),
        (
            "delete images",
            images.delete("x", &never).await.is_err_and(is_forbidden),
        ),
    ] {
        ensure!(refused, "the coordinator may {what}");
    }
    let roles: Api<ClusterRole> = Api::all(cluster.client());
    let role = roles.get("drop-coordinator").await?;
    for rule in role.rules.unwrap_or_default() {
        let resources = rule.resources.iter().flatten();
        let groups = rule.api_groups.iter().flatten();
        let mut named = rule.verbs.iter().chain(resources).chain(groups);
        ensure!(named.all(|name| name != "*"), "{rule:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_installation_is_accepted_as_it_stands() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    let kubectl = Kubectl::new(&plane, scratch.path())?;
    let file = parts::workspace("deploy/drop.yaml");
    // Once as users do it, and once more: an upgrade to the same.
    for _ in 0..2 {
        let warnings = kubectl.apply(&file, &[]).await?;
        ensure!(warnings.is_empty(), "{warnings}");
    }
    // And by server-side apply with strict validation.
    plane.apply(&std::fs::read_to_string(&file)?).await?;

    let namespaces: Api<Namespace> = Api::all(plane.client());
    namespaces.get("drop-system").await?;
    let agents: Api<DaemonSet> = Api::namespaced(plane.client(), "drop-system");
    let agent = agents.get("drop-agent").await?;
    let pod = agent.spec.and_then(|spec| spec.template.spec);
    let pod = pod.context("no pod template")?;
    ensure!(
        pod.automount_service_account_token == Some(false),
        "{pod:?}"
    );
    let account = pod.service_account_name.as_deref();
    ensure!(account == Some("drop-agent"), "{pod:?}");
    Ok(())
}

fn is_forbidden(error: kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
