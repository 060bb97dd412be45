//! What the programs may do and what they ask for, from the API server's own audit log.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, NAMESPACE, Sessions, USER, grant_rights};
use drop_tests::dirs::Scratch;
use drop_tests::kubectl::Kubectl;
use drop_tests::node::NodeSpec;
use drop_tests::{parts, tokens, wait};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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

/// A right, and where its absence must be told: by the coordinator's log and readiness.
const RIGHTS: [(&str, &str, &str); 7] = [
    ("tokenreviews", "create", "cannot create tokenreviews"),
    ("secrets", "get", "cannot get secrets drop-coordinator-tls"),
    (
        "secrets",
        "create",
        "cannot create secrets drop-coordinator-tls",
    ),
    (
        "secrets",
        "update",
        "cannot update secrets drop-coordinator-tls",
    ),
    (
        "configmaps",
        "get",
        "cannot get configmaps drop-coordinator-ca",
    ),
    (
        "configmaps",
        "create",
        "cannot create configmaps drop-coordinator-ca",
    ),
    (
        "configmaps",
        "update",
        "cannot update configmaps drop-coordinator-ca",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_of_sessions_is_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let client = plane.client();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let (roles, cluster_roles) = (
        Api::<Role>::namespaced(client.clone(), NAMESPACE),
        Api::<ClusterRole>::all(client.clone()),
    );
    let name = "drop-coordinator";
    let (role, cluster_role) = (roles.get(name).await?, cluster_roles.get(name).await?);
    let args = ["--tls-lifetime", "6s"].map(str::to_owned);
    for (resource, verb, words) in RIGHTS {
        let (mut less, mut cluster_less) = (role.clone(), cluster_role.clone());
        less.rules = less.rules.map(|rules| without(&rules, resource, verb));
        cluster_less.rules = cluster_less
            .rules
            .map(|rules| without(&rules, resource, verb));
        replace(&roles, less).await?;
        replace(&cluster_roles, cluster_less).await?;
        let folder = scratch.path().join(format!("{resource}-{verb}"));
        let coordinator = Coordinator::launch(&folder, &plane, Sessions::Tls, &args)?;
        wait::until(words, WITHIN, async || {
            let ready = coordinator.readiness().await?;
            ensure!(ready.contains(words), "{ready}");
            let log = coordinator.log();
            let told = log.lines().any(|l| l.contains("WARN") && l.contains(words));
            ensure!(told && log.contains("forbidden"), "{log}");
            Ok(())
        })
        .await?;
        // Granted again: it goes on without a restart.
        replace(&roles, role.clone()).await?;
        replace(&cluster_roles, cluster_role.clone()).await?;
        wait::until("the coordinator to be ready", WITHIN, async || {
            let ready = coordinator.readiness().await?;
            ensure!(ready == "ok\n", "{ready}");
            Ok(())
        })
        .await?;
        drop(coordinator);
        let now = DeleteParams::default();
        secrets.delete("drop-coordinator-tls", &now).await?;
        maps.delete("drop-coordinator-ca", &now).await?;
    }
    Ok(())
}

/// Rights without which a change of the authorities by somebody else is seen an hour late: no reason to serve nobody.
const RIGHTS_TO_FOLLOW: [(&str, &str); 2] = [("configmaps", "list"), ("configmaps", "watch")];

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_to_follow_the_authorities_is_logged_and_keeps_nobody_out() -> Result<()>
{
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let roles: Api<Role> = Api::namespaced(plane.client(), NAMESPACE);
    let role = roles.get("drop-coordinator").await?;
    for (resource, verb) in RIGHTS_TO_FOLLOW {
        let mut less = role.clone();
        less.rules = less.rules.map(|rules| without(&rules, resource, verb));
        replace(&roles, less).await?;
        let folder = scratch.path().join(verb);
        let mut coordinator = Coordinator::launch(&folder, &plane, Sessions::Tls, &[])?;
        coordinator.wait_ready().await?;
        wait::until("the missing right in the log", WITHIN, async || {
            let log = coordinator.log();
            let words = "cannot list or watch configmaps drop-coordinator-ca";
            let told = log.lines().any(|l| l.contains("WARN") && l.contains(words));
            ensure!(told && log.contains("forbidden"), "{log}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The rights that whoever leads, or wants to, needs beside those of sessions: resource, verb, API group. The one to create a
/// Lease comes last: only without a Lease it is asked for.
const RIGHTS_TO_LEAD: [(&str, &str, &str); 12] = [
    ("nodes", "list", ""),
    ("nodes", "watch", ""),
    ("cachedimages", "list", DROP),
    ("cachedimages", "watch", DROP),
    ("pullpolicies", "list", DROP),
    ("pullpolicies", "watch", DROP),
    ("cachedimages/status", "patch", DROP),
    ("events", "create", "events.k8s.io"),
    ("events", "patch", "events.k8s.io"),
    ("leases", "get", "coordination.k8s.io"),
    ("leases", "update", "coordination.k8s.io"),
    ("leases", "create", "coordination.k8s.io"),
];
const DROP: &str = "drop.corewire.io";

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_of_a_leader_is_named() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .replicas(1)
        // Soon over: each of the many starts below waits for the Lease of the one before.
        .coordinator_args(&["--lease-duration=3s", "--lease-renew-deadline=2s"])
        .coordinator_args(&["--lease-retry-period=250ms"])
        .start()
        .await?;
    let roles: Api<Role> = Api::namespaced(cluster.client(), NAMESPACE);
    let cluster_roles: Api<ClusterRole> = Api::all(cluster.client());
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    let name = "drop-coordinator";
    let (role, cluster_role) = (roles.get(name).await?, cluster_roles.get(name).await?);
    cluster.apply(&policy("quick", "")).await?;
    for (resource, verb, group) in RIGHTS_TO_LEAD {
        cluster.coordinator.kill();
        if (resource, verb) == ("leases", "create") {
            leases.delete(name, &DeleteParams::default()).await?;
        }
        let (mut less, mut cluster_less) = (role.clone(), cluster_role.clone());
        less.rules = less.rules.map(|rules| without(&rules, resource, verb));
        cluster_less.rules = cluster_less
            .rules
            .map(|rules| without(&rules, resource, verb));
        replace(&roles, less).await?;
        replace(&cluster_roles, cluster_less).await?;
        cluster.coordinator.process().restart()?;
        let words = match group {
            "" => format!("{verb} {resource}"),
            group => format!("{verb} {resource} in {group}"),
        };
        let mut is_wanted = false;
        wait::until(format!("{words} to be missed"), WITHIN, async || {
            // Something to do: a status to write, and Events, which are patched when they come again.
            is_wanted = !is_wanted;
            let spec = if is_wanted {
                "policyRef: {name: quick}"
            } else {
                "policyRef: {name: quick}, nodeSelector: {disk: tape}"
            };
            let app = yaml("app", &cluster.image("team/app"), "v1", spec);
            cluster.apply(&app).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let ready = cluster.coordinator.readiness().await?;
            ensure!(ready.contains(&words), "{ready}");
            Ok(())
        })
        .await?;
        let log = cluster.coordinator.log();
        let told = format!("right=\"{words}\"");
        ensure!(log.contains(&told), "{told} is not in the log:\n{log}");
        // Granted again: it goes on without a restart.
        replace(&roles, role.clone()).await?;
        replace(&cluster_roles, cluster_role.clone()).await?;
        cluster.coordinator.wait_ready().await?;
    }
    Ok(())
}

#[tokio::test]
async fn no_right_is_granted_that_no_test_misses() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    grant_rights(&plane).await?;
    let client = plane.client();
    let name = "drop-coordinator";
    let role = Api::<Role>::namespaced(client.clone(), NAMESPACE)
        .get(name)
        .await?;
    let cluster_role = Api::<ClusterRole>::all(client).get(name).await?;
    let mut granted = BTreeSet::new();
    for rule in role.rules.iter().chain(&cluster_role.rules).flatten() {
        for resource in rule.resources.iter().flatten() {
            for verb in &rule.verbs {
                granted.insert((resource.as_str(), verb.as_str()));
            }
        }
    }
    // Pull Secrets and pods: private images, and agents whose tokens name no node, are refused without these.
    let mut missed = BTreeSet::from([("pods", "get"), ("secrets", "list"), ("secrets", "watch")]);
    missed.extend(RIGHTS.map(|(resource, verb, _)| (resource, verb)));
    missed.extend(RIGHTS_TO_FOLLOW);
    missed.extend(RIGHTS_TO_LEAD.map(|(resource, verb, _)| (resource, verb)));
    ensure!(granted == missed, "granted {granted:?}, missed {missed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_read_pods_is_told_to_the_agent_that_needs_it() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .start()
        .await?;
    let roles: Api<Role> = Api::namespaced(cluster.client(), NAMESPACE);
    let role = roles.get("drop-coordinator").await?;
    let mut less = role.clone();
    less.rules = less.rules.map(|rules| without(&rules, "pods", "get"));
    replace(&roles, less).await?;
    let pod = cluster.agent_pod("node-1")?;
    // As an API server before 1.32 issues it.
    let token = tokens::reissue(&cluster.control_plane, &pod.token()?, |claims| {
        if let Some(Value::Object(bindings)) = claims.get_mut("kubernetes.io") {
            bindings.remove("node");
        }
    })?;
    pod.set_token(&token)?;
    cluster.node("node-1")?.start_agent().await?;
    let agent = cluster.node("node-1")?.agent()?;
    wait::until("the agent's complaint", WITHIN, async || {
        let ready = agent.readiness().await?;
        ensure!(ready.contains("cannot get pods"), "{ready}");
        Ok(())
    })
    .await?;
    ensure!(cluster.coordinator.log().contains("cannot get pods"));
    replace(&roles, role).await?;
    cluster.node("node-1")?.agent()?.wait_ready(WITHIN).await
}

/// The rules without one verb on one resource.
fn without(rules: &[PolicyRule], resource: &str, verb: &str) -> Vec<PolicyRule> {
    let mut less = Vec::new();
    for rule in rules {
        let resources = rule.resources.clone().unwrap_or_default();
        let (concerned, others): (Vec<String>, Vec<String>) =
            resources.into_iter().partition(|name| name == resource);
        let mut verbs = rule.verbs.clone();
        verbs.retain(|name| name != verb);
        let rest = PolicyRule {
            resources: Some(others),
            ..rule.clone()
        };
        let cut = PolicyRule {
            resources: Some(concerned),
            verbs,
            ..rule.clone()
        };
        let has_some = |rule: &PolicyRule| {
            !rule.verbs.is_empty() && rule.resources.as_ref().is_some_and(|r| !r.is_empty())
        };
        less.extend([rest, cut].into_iter().filter(has_some));
    }
    less
}

async fn replace<K>(api: &Api<K>, mut object: K) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
{
    object.meta_mut().resource_version = None;
    object.meta_mut().managed_fields = None;
    let name = object.name_any();
    api.replace(&name, &PostParams::default(), &object).await?;
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
