//! Each right of the installation's roles, one at a time: what is said and what stops when it is missing, and that the work goes
//! on without a restart once it is granted again. A right that stands in no table here fails the last test.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{condition, is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{Coordinator, NAMESPACE, Sessions, grant_rights};
use drop_tests::dirs::Scratch;
use drop_tests::guarded::{Guarded, RIGHT, secret, with};
use drop_tests::images::Recipe;
use drop_tests::node::NodeSpec;
use drop_tests::{tokens, wait};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::Value;

use crate::WITHIN;
use crate::roles::{Right, Roles, right};

const TLS: &str = "drop-coordinator-tls";
const CA: &str = "drop-coordinator-ca";
const LEASE: &str = "drop-coordinator";
const DROP: &str = "drop.corewire.io";

/// A right that serving sessions takes, and the words by which the log and readiness miss it.
const OF_SESSIONS: [(Right, &str); 7] = [
    (
        right("tokenreviews", "", "create"),
        "cannot create tokenreviews",
    ),
    (
        right("secrets", TLS, "get"),
        "cannot get secrets drop-coordinator-tls",
    ),
    (
        right("secrets", "", "create"),
        "cannot create secrets drop-coordinator-tls",
    ),
    (
        right("secrets", TLS, "update"),
        "cannot update secrets drop-coordinator-tls",
    ),
    (
        right("configmaps", CA, "get"),
        "cannot get configmaps drop-coordinator-ca",
    ),
    (
        right("configmaps", "", "create"),
        "cannot create configmaps drop-coordinator-ca",
    ),
    (
        right("configmaps", CA, "update"),
        "cannot update configmaps drop-coordinator-ca",
    ),
];

/// What tells at once that somebody else changed the authorities, and the words by which the log misses it. Without it that is seen
/// within the hour: no reason to serve nobody.
const OF_FOLLOWING: [(Right, &str); 4] = [
    (right("secrets", TLS, "list"), SECRET_UNSEEN),
    (right("secrets", TLS, "watch"), SECRET_UNSEEN),
    (right("configmaps", CA, "list"), CONFIG_MAP_UNSEEN),
    (right("configmaps", CA, "watch"), CONFIG_MAP_UNSEEN),
];
const SECRET_UNSEEN: &str = "cannot list or watch secrets drop-coordinator-tls";
const CONFIG_MAP_UNSEEN: &str = "cannot list or watch configmaps drop-coordinator-ca";

/// What whoever leads, or wants to, needs beside that, and the API group. The right to create a Lease comes last: only without
/// a Lease it is asked for.
const OF_A_LEADER: [(Right, &str); 12] = [
    (right("nodes", "", "list"), ""),
    (right("nodes", "", "watch"), ""),
    (right("cachedimages", "", "list"), DROP),
    (right("cachedimages", "", "watch"), DROP),
    (right("pullpolicies", "", "list"), DROP),
    (right("pullpolicies", "", "watch"), DROP),
    (right("cachedimages/status", "", "patch"), DROP),
    (right("events", "", "create"), "events.k8s.io"),
    (right("events", "", "patch"), "events.k8s.io"),
    (right("leases", LEASE, "get"), "coordination.k8s.io"),
    (right("leases", LEASE, "update"), "coordination.k8s.io"),
    (right("leases", "", "create"), "coordination.k8s.io"),
];

/// What pull Secrets take, and what an image says that needs one meanwhile.
const OF_PULL_SECRETS: [(Right, &str); 3] = [
    (
        PULL_SECRETS_GET,
        "the coordinator may not get Secrets in namespace drop-system, so \"pull-get\" is not used",
    ),
    (
        right("secrets", "", "list"),
        "the coordinator may not list and watch Secrets in namespace drop-system, so \"pull-list\" is not used",
    ),
    // It was made after the list.
    (
        right("secrets", "", "watch"),
        "Secret \"pull-watch\" not found in namespace drop-system",
    ),
];
const PULL_SECRETS_GET: Right = right("secrets", "", "get");

/// Where an agent's token names no node.
const OF_OLDER_TOKENS: Right = right("pods", "", "get");

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_of_sessions_is_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let roles = Roles::installed(&plane.client()).await?;
    let secrets: Api<Secret> = Api::namespaced(plane.client(), NAMESPACE);
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), NAMESPACE);
    let args = ["--tls-lifetime", "6s"].map(str::to_owned);
    for (missing, words) in OF_SESSIONS {
        // The rule for pull Secrets would let it be read as well.
        let also = (missing.name == TLS).then_some(PULL_SECRETS_GET);
        let cut: Vec<Right> = [missing].into_iter().chain(also).collect();
        roles.cut(&cut).await?;
        let folder = scratch
            .path()
            .join(format!("{}-{}", missing.resource, missing.verb));
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
        roles.restore().await?;
        wait::until("the coordinator to be ready", WITHIN, async || {
            let ready = coordinator.readiness().await?;
            ensure!(ready == "ok\n", "{ready}");
            Ok(())
        })
        .await?;
        drop(coordinator);
        let now = DeleteParams::default();
        secrets.delete(TLS, &now).await?;
        maps.delete(CA, &now).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_to_follow_the_authorities_is_logged_and_keeps_nobody_out() -> Result<()>
{
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    plane.apply_crds().await?;
    grant_rights(&plane).await?;
    let roles = Roles::installed(&plane.client()).await?;
    for (missing, words) in OF_FOLLOWING {
        let Right { resource, verb, .. } = missing;
        // The rule for pull Secrets would let it be watched as well.
        let also = (missing.name == TLS).then_some(right(resource, "", verb));
        let cut: Vec<Right> = [missing].into_iter().chain(also).collect();
        roles.cut(&cut).await?;
        let folder = scratch.path().join(format!("{resource}-{verb}"));
        let mut coordinator = Coordinator::launch(&folder, &plane, Sessions::Tls, &[])?;
        coordinator.wait_ready().await?;
        wait::until(words, WITHIN, async || {
            let log = coordinator.log();
            let told = log.lines().any(|l| l.contains("WARN") && l.contains(words));
            ensure!(told && log.contains("forbidden"), "{log}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

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
    let roles = Roles::installed(&cluster.client()).await?;
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    cluster.apply(&policy("quick", "")).await?;
    for (missing, group) in OF_A_LEADER {
        let Right { resource, verb, .. } = missing;
        cluster.coordinator.kill();
        if (resource, verb) == ("leases", "create") {
            leases.delete(LEASE, &DeleteParams::default()).await?;
        }
        roles.cut(&[missing]).await?;
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
            is_missed(&cluster.coordinator, &words).await
        })
        .await?;
        roles.restore().await?;
        cluster.coordinator.wait_ready().await?;
    }
    Ok(())
}

/// The coordinator names the right in its readiness and its log.
pub(crate) async fn is_missed(coordinator: &Coordinator, words: &str) -> Result<()> {
    let ready = coordinator.readiness().await?;
    ensure!(ready.contains(words), "{ready}");
    let log = coordinator.log();
    let told = format!("right=\"{words}\"");
    ensure!(log.contains(&told), "{told} is not in the log:\n{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_rights_to_read_pull_secrets_public_images_are_pulled_and_private_ones_say_why()
-> Result<()> {
    // Over TLS: the coordinator's own Secret is read by a rule of its own, whatever becomes of this one.
    let mut cluster = Cluster::builder().secure().nodes(1).start().await?;
    let guarded = Guarded::passwords(&cluster).await?;
    cluster.apply(&policy("fast", "")).await?;
    let roles = Roles::installed(&cluster.client()).await?;
    for (missing, words) in OF_PULL_SECRETS {
        let verb = missing.verb;
        cluster.coordinator.kill();
        roles.cut(&[missing]).await?;
        // Not ready where an image of a former round names a Secret.
        cluster.coordinator.process().restart()?;
        let pull = format!("pull-{verb}");
        let spec = with(&[&pull]);
        let (private, public) = (format!("private-{verb}"), format!("public-{verb}"));
        for repository in [&private, &public] {
            let recipe = Recipe::layers(&[10_000]);
            cluster.push(repository, "v1", &recipe).await?;
        }
        let images = [
            yaml(&private, &guarded.image(&private), "v1", &spec),
            yaml(&public, &cluster.image(&public), "v1", &spec),
        ];
        cluster.apply(&images.concat()).await?;
        cluster
            .until::<CachedImage>(&public, WITHIN, is_ready)
            .await?;
        let login = secret(&pull, &[(&guarded.proxy.host(), RIGHT)]);
        cluster.apply(&login).await?;
        cluster
            .until(&private, WITHIN, |image: &CachedImage| {
                let (_, reason, message) = condition(image, "Ready");
                ensure!(reason == "ImagePullBackOff", "{reason}: {message}");
                ensure!(message.contains(words), "{message}");
                Ok(())
            })
            .await?;
        let right = format!("{verb} secrets");
        wait::until(format!("{right} to be missed"), WITHIN, async || {
            is_missed(&cluster.coordinator, &right).await
        })
        .await?;
        roles.restore().await?;
        cluster
            .until::<CachedImage>(&private, WITHIN, is_ready)
            .await?;
        cluster.coordinator.wait_ready().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_to_read_pods_is_told_to_the_agent_that_needs_it() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .start()
        .await?;
    let roles = Roles::installed(&cluster.client()).await?;
    roles.cut(&[OF_OLDER_TOKENS]).await?;
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
    roles.restore().await?;
    cluster.node("node-1")?.agent()?.wait_ready(WITHIN).await
}

#[tokio::test]
async fn no_right_is_granted_that_no_test_misses() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    grant_rights(&plane).await?;
    let roles = Roles::installed(&plane.client()).await?;
    let tables = OF_SESSIONS
        .iter()
        .chain(&OF_FOLLOWING)
        .chain(&OF_A_LEADER)
        .chain(&OF_PULL_SECRETS);
    let missed = tables.map(|(right, _)| *right).chain([OF_OLDER_TOKENS]);
    let missed: BTreeSet<Right> = missed.collect();
    let granted = roles.rights();
    ensure!(granted == missed, "granted {granted:?}, missed {missed:?}");
    Ok(())
}
