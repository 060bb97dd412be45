//! What the programs may do and what they ask for, from the API server's own audit log.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::coordinator::{NAMESPACE, USER};
use drop_tests::dirs::Scratch;
use drop_tests::kubectl::Kubectl;
use drop_tests::node::NodeSpec;
use drop_tests::{parts, wait};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn row_16_no_secret_and_no_pod_is_ever_read() -> Result<()> {
    let mut cluster = Cluster::builder()
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
    ]);
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

/// A right of the coordinator: role, verb, resource, API group.
type Right = (&'static str, &'static str, &'static str, &'static str);

const DROP: &str = "drop.corewire.io";
const LEASES: (&str, &str) = ("leases", "coordination.k8s.io");

/// All rights that the manifest grants, in an order in which each can be missed without the others.
const RIGHTS: [Right; 12] = [
    ("ClusterRole", "list", "nodes", ""),
    ("ClusterRole", "watch", "nodes", ""),
    ("ClusterRole", "list", "cachedimages", DROP),
    ("ClusterRole", "watch", "cachedimages", DROP),
    ("ClusterRole", "list", "pullpolicies", DROP),
    ("ClusterRole", "watch", "pullpolicies", DROP),
    ("ClusterRole", "patch", "cachedimages/status", DROP),
    ("ClusterRole", "create", "events", "events.k8s.io"),
    ("ClusterRole", "patch", "events", "events.k8s.io"),
    ("Role", "get", LEASES.0, LEASES.1),
    ("Role", "update", LEASES.0, LEASES.1),
    ("Role", "create", LEASES.0, LEASES.1),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_right_is_needed_and_named_where_it_is_missing() -> Result<()> {
    let mut cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .replicas(1)
        // A lease that is soon over: each of the many starts below waits for the one before.
        .coordinator_args(&["--lease-duration=3s", "--lease-renew-deadline=2s"])
        .coordinator_args(&["--lease-retry-period=250ms"])
        .start()
        .await?;
    let roles = Roles {
        cluster: Api::all(cluster.client()),
        namespaced: Api::namespaced(cluster.client(), NAMESPACE),
    };
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    let granted = roles.granted().await?;
    let tested: BTreeSet<_> = RIGHTS.into_iter().map(owned).collect();
    ensure!(
        granted == tested,
        "{granted:?} is granted, {tested:?} tested"
    );

    cluster.apply(&policy("quick", "")).await?;
    for right in RIGHTS {
        let (_, verb, resource, group) = right;
        cluster.coordinator.kill();
        if right == ("Role", "create", LEASES.0, LEASES.1) {
            leases
                .delete("drop-coordinator", &DeleteParams::default())
                .await?;
        }
        let rules = roles.take(right).await?;
        cluster.coordinator.process().restart()?;
        let named = match group {
            "" => format!("{verb} {resource}"),
            group => format!("{verb} {resource} in {group}"),
        };
        let mut is_wanted = false;
        wait::until(format!("{named} to be missed"), WITHIN, async || {
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
            let says = cluster.coordinator.not_ready().await?;
            ensure!(says.contains(&named), "readiness says {says}");
            Ok(())
        })
        .await?;
        let log = cluster.coordinator.log();
        let in_log = format!("right=\"{named}\"");
        ensure!(log.contains(&in_log), "{in_log} is not in the log:\n{log}");
        // Given back, all is well without a restart.
        roles.put(right.0, rules).await?;
        cluster.coordinator.wait_ready().await?;
    }
    Ok(())
}

/// The coordinator's two roles.
struct Roles {
    cluster: Api<ClusterRole>,
    namespaced: Api<Role>,
}

impl Roles {
    async fn rules(&self, role: &str) -> Result<Vec<PolicyRule>> {
        let rules = match role {
            "Role" => self.namespaced.get("drop-coordinator").await?.rules,
            _ => self.cluster.get("drop-coordinator").await?.rules,
        };
        rules.with_context(|| format!("{role} without rules"))
    }

    async fn put(&self, role: &str, rules: Vec<PolicyRule>) -> Result<()> {
        let (params, change) = (PatchParams::default(), json!({"rules": rules}));
        match role {
            "Role" => {
                let patch = Patch::Merge(change);
                self.namespaced
                    .patch("drop-coordinator", &params, &patch)
                    .await?;
            }
            _ => {
                let patch = Patch::Merge(change);
                self.cluster
                    .patch("drop-coordinator", &params, &patch)
                    .await?;
            }
        }
        Ok(())
    }

    /// Takes one right away. Returns the rules as they were.
    async fn take(&self, (role, verb, resource, group): Right) -> Result<Vec<PolicyRule>> {
        let before = self.rules(role).await?;
        let mut rules = Vec::new();
        for rule in before.clone() {
            let here = |all: &Option<Vec<String>>, one: &str| {
                all.iter().flatten().any(|named| named == one)
            };
            let is_meant = here(&rule.resources, resource) && here(&rule.api_groups, group);
            // One rule for each resource, so that nothing else is taken away with it.
            for named in rule.resources.iter().flatten() {
                let mut rule = rule.clone();
                rule.resources = Some(vec![named.clone()]);
                rule.verbs
                    .retain(|v| !is_meant || named != resource || v != verb);
                if !rule.verbs.is_empty() {
                    rules.push(rule);
                }
            }
        }
        self.put(role, rules).await?;
        Ok(before)
    }

    async fn granted(&self) -> Result<BTreeSet<[String; 4]>> {
        let mut rights = BTreeSet::new();
        for role in ["Role", "ClusterRole"] {
            for rule in self.rules(role).await? {
                for verb in &rule.verbs {
                    for resource in rule.resources.iter().flatten() {
                        for group in rule.api_groups.iter().flatten() {
                            rights.insert(owned((role, verb, resource, group)));
                        }
                    }
                }
            }
        }
        Ok(rights)
    }
}

fn owned((role, verb, resource, group): (&str, &str, &str, &str)) -> [String; 4] {
    [role, verb, resource, group].map(str::to_owned)
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
    ensure!(pod.service_account_name.is_none(), "{pod:?}");
    Ok(())
}

fn is_forbidden(error: kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}
