//! The custom resources on a real API server: what it accepts, refuses, fills in, explains and shows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use drop_api::{CachedImage, PullPolicy};
use drop_tests::cached_image::{condition, is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::control_plane::{ControlPlane, Controllers};
use drop_tests::dirs::Scratch;
use drop_tests::images::Recipe;
use drop_tests::kubectl::Kubectl;
use drop_tests::node::NodeSpec;
use drop_tests::{objects, parts, wait};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(30);

/// An API server that serves the committed definitions.
struct Server {
    plane: ControlPlane,
    scratch: Scratch,
}

impl Server {
    async fn start() -> Result<Self> {
        let scratch = Scratch::new()?;
        let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
        plane.apply_crds().await?;
        Ok(Self { plane, scratch })
    }

    fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.plane, self.scratch.path())
    }
}

#[tokio::test]
async fn the_committed_definitions_are_established_without_a_warning() -> Result<()> {
    let scratch = Scratch::new()?;
    let plane = ControlPlane::start(&scratch.path().join("plane"), Controllers::None).await?;
    let kubectl = Kubectl::new(&plane, scratch.path())?;
    // Both ways in which users apply: the server's, and kubectl's own with its annotation that holds the whole object.
    let folder = parts::workspace("charts/drop/crds");
    for options in [&[][..], &["--server-side", "--force-conflicts"]] {
        let warnings = kubectl.apply(&folder, options).await?;
        ensure!(warnings.is_empty(), "{options:?}: {warnings}");
    }
    objects::wait_crds(&plane.client()).await?;
    let api: Api<CustomResourceDefinition> = Api::all(plane.client());
    let definitions = api.list(&ListParams::default()).await?.items;
    let names: Vec<String> = definitions.iter().map(ResourceExt::name_any).collect();
    ensure!(
        names
            == [
                "cachedimages.drop.corewire.io",
                "pullpolicies.drop.corewire.io"
            ],
        "{names:?}"
    );
    for definition in &definitions {
        let status = definition.status.clone().unwrap_or_default();
        for condition in status.conditions.unwrap_or_default() {
            let fine = ["NamesAccepted", "Established"].contains(&condition.type_.as_str());
            ensure!(fine && condition.status == "True", "{condition:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_accepts_and_refuses_what_the_table_says() -> Result<()> {
    let server = Server::start().await?;
    let client = server.plane.client();
    let mut wrong = Vec::new();
    for (path, text) in cases("accepted")? {
        for object in serde_saphyr::from_multiple::<Value>(&text)? {
            if let Err(refusal) = create(&client, &object).await {
                wrong.push(format!("{} is refused: {refusal}", path.display()));
            }
        }
    }
    for (path, text) in cases("refused")? {
        let sentence = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# refused: "))
            .with_context(|| format!("{} does not begin with # refused:", path.display()))?;
        for object in serde_saphyr::from_multiple::<Value>(&text)? {
            match create(&client, &object).await {
                Ok(()) => wrong.push(format!("{} is accepted", path.display())),
                Err(refusal) if !refusal.contains(sentence) => {
                    wrong.push(format!("{} says: {refusal}", path.display()));
                }
                Err(_) => {}
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));

    // The samples of the user's document, applied as the document says.
    let samples = parts::workspace("api/tests/data/accepted/reference-samples.yaml");
    let warnings = server
        .kubectl()?
        .apply(&samples, &["--server-side", "--force-conflicts"])
        .await?;
    ensure!(warnings.is_empty(), "{warnings}");
    Ok(())
}

#[tokio::test]
async fn the_api_server_fills_in_defaults_and_keeps_status_apart() -> Result<()> {
    let server = Server::start().await?;
    let client = server.plane.client();
    let head = json!({"apiVersion": "drop.corewire.io/v1alpha1", "kind": "PullPolicy"});
    for (name, spec) in [("bare", None), ("empty", Some(json!({})))] {
        let mut object = head.clone();
        object["metadata"] = json!({"name": name});
        if let Some(spec) = spec {
            object["spec"] = spec;
        }
        create(&client, &object).await.map_err(anyhow::Error::msg)?;
        let stored = raw(&client, "PullPolicy", name).await?;
        let defaults = json!({
            "maxConcurrentNodes": 1,
            "minDelayBetweenPulls": "10s",
            "failureBackoff": {"initial": "30s", "max": "5m"},
            "pullTimeout": "1h",
        });
        ensure!(stored["spec"] == defaults, "{name}: {}", stored["spec"]);
        // And the coordinator's own type reads them.
        objects::get::<PullPolicy>(&client, name).await?;
    }

    server
        .plane
        .apply(&yaml("app", "nginx", "1.27", ""))
        .await?;
    let stored = raw(&client, "CachedImage", "app").await?;
    ensure!(
        stored["spec"] == json!({"image": "nginx", "tag": "1.27", "imagePullPolicy": "Always"}),
        "{}",
        stored["spec"]
    );

    let api = api(&client, "CachedImage");
    let both = json!({"spec": {"tag": "1.28"}, "status": {"phase": "Ready", "nodesReady": 7}});
    let merge = Patch::Merge(&both);
    let edited = api.patch("app", &PatchParams::default(), &merge).await?;
    ensure!(
        edited.data["spec"]["tag"] == "1.28" && edited.data["status"].is_null(),
        "{edited:?}"
    );
    ensure!(edited.metadata.generation == Some(2), "{edited:?}");
    let both = json!({"spec": {"tag": "1.29"}, "status": {"phase": "Ready", "nodesReady": 7}});
    let reported = api
        .patch_status("app", &PatchParams::default(), &Patch::Merge(&both))
        .await?;
    ensure!(reported.data["spec"]["tag"] == "1.28", "{reported:?}");
    ensure!(reported.data["status"]["nodesReady"] == 7, "{reported:?}");
    // Whoever reports must not look like somebody who edits.
    ensure!(reported.metadata.generation == Some(2), "{reported:?}");
    Ok(())
}

#[tokio::test]
async fn kubectl_explains_every_field() -> Result<()> {
    let server = Server::start().await?;
    let kubectl = server.kubectl()?;
    // The API server describes a definition some time after it has begun to serve it.
    let path = "/openapi/v3/apis/drop.corewire.io/v1alpha1";
    let described = wait::until("the description of both kinds", WITHIN, async || {
        let text = kubectl.output(&["get", "--raw", path]).await?;
        let description: Value = serde_json::from_str(&text)?;
        let schemas = &description["components"]["schemas"];
        let kinds = ["CachedImage", "PullPolicy"].map(|kind| {
            let mut all = schemas.as_object().into_iter().flatten();
            let found = all.find(|(name, _)| name.ends_with(&format!(".{kind}")));
            found.map(|(_, schema)| schema.clone()).context(kind)
        });
        let [image, policy] = kinds;
        Ok([("cachedimages", image?), ("pullpolicies", policy?)])
    });
    for (plural, schema) in described.await? {
        let mut parents = BTreeSet::new();
        walk(plural, &schema, &mut parents);
        ensure!(parents.len() > 2, "{parents:?}");
        for path in parents {
            let explained = kubectl.output(&["explain", &path]).await?;
            ensure!(explained.contains("FIELDS:"), "{path}: {explained}");
            ensure!(
                !explained.contains("<no description>"),
                "{path}: {explained}"
            );
        }
    }
    let nodes = kubectl
        .output(&["explain", "cachedimages.status.nodes"])
        .await?;
    for field in [
        "node",
        "state",
        "reason",
        "message",
        "attempts",
        "since",
        "nextRetry",
    ] {
        let line = nodes
            .lines()
            .any(|line| line.trim_start().starts_with(&format!("{field}\t")));
        ensure!(line, "{field} is not in {nodes}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_get_shows_the_columns_of_the_contract() -> Result<()> {
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .start()
        .await?;
    let digest = cluster
        .push("team/app", "v1", &Recipe::layers(&[1_000]))
        .await?;
    let image = cluster.image("team/app");
    cluster.apply(&policy("quick", "")).await?;
    cluster
        .apply(&yaml("app", &image, "v1", "policyRef: {name: quick}"))
        .await?;
    let tape = "nodeSelector: {disk: tape}";
    cluster.apply(&yaml("nowhere", &image, "v2", tape)).await?;
    let ready: CachedImage = cluster.until("app", WITHIN, is_ready).await?;
    let nowhere: CachedImage = cluster
        .until("nowhere", WITHIN, |image: &CachedImage| {
            ensure!(condition(image, "Ready").1 == "NoMatchingNodes");
            Ok(())
        })
        .await?;
    let resolved = ready.status.clone().unwrap_or_default().resolved_digest;
    // The scripted runtime makes its own digests.
    ensure!(resolved.is_some() && resolved != Some(digest));

    let kubectl = Kubectl::new(&cluster.control_plane, cluster.folder())?;
    let narrow = table(&kubectl.output(&["get", "cachedimages"]).await?);
    ensure!(
        narrow[0] == ["NAME", "IMAGE", "TAG", "STATUS", "READY", "AGE"],
        "{narrow:?}"
    );
    ensure!(
        narrow[1][..5] == ["app", &image, "v1", "Cached", "1/1"],
        "{narrow:?}"
    );
    ensure!(
        narrow[2][..5] == ["nowhere", &image, "v2", "NoMatchingNodes", "0/0"],
        "{narrow:?}"
    );
    let wide = table(
        &kubectl
            .output(&["get", "cachedimages", "-o", "wide"])
            .await?,
    );
    ensure!(
        wide[0][5..] == ["AGE", "DIGEST", "SET", "MESSAGE", "POLICY"],
        "{wide:?}"
    );
    let message = "Image cached on all 1 target nodes";
    ensure!(
        wide[1][6..]
            == [
                resolved.as_deref().unwrap_or_default(),
                "",
                message,
                "quick"
            ],
        "{wide:?}"
    );
    let message = condition(&nowhere, "Ready").2;
    ensure!(wide[2][6..] == ["", "", message.as_str(), ""], "{wide:?}");

    let policies = table(&kubectl.output(&["get", "pullpolicies"]).await?);
    ensure!(
        policies[0]
            == [
                "NAME",
                "MAXNODES",
                "MAXPULLS",
                "MINDELAY",
                "REPULLINTERVAL",
                "AGE"
            ],
        "{policies:?}"
    );
    ensure!(
        policies[1][..5] == ["quick", "100", "", "0s", ""],
        "{policies:?}"
    );
    let all = kubectl.output(&["get", "drop", "-o", "name"]).await?;
    let all: Vec<&str> = all.lines().collect();
    ensure!(
        all == [
            "cachedimage.drop.corewire.io/app",
            "cachedimage.drop.corewire.io/nowhere",
            "pullpolicy.drop.corewire.io/quick"
        ],
        "{all:?}"
    );
    Ok(())
}

/// The files of one half of the table of cases, sorted by name.
fn cases(kind: &str) -> Result<Vec<(PathBuf, String)>> {
    let folder = parts::workspace("api/tests/data").join(kind);
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        cases.push((path, text));
    }
    cases.sort();
    ensure!(!cases.is_empty(), "no cases in {}", folder.display());
    Ok(cases)
}

/// Creates an object, removes it again, and says what the API server said against it.
async fn create(client: &Client, object: &Value) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let api = api(client, kind);
    let parsed: DynamicObject =
        serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    match api.create(&PostParams::default(), &parsed).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(refusal)) => Err(refusal.message),
        Err(error) => Err(error.to_string()),
    }
}

async fn raw(client: &Client, kind: &str, name: &str) -> Result<Value> {
    Ok(api(client, kind).get(name).await?.data)
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("drop.corewire.io", "v1alpha1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

/// Paths (as `kubectl explain` takes them) of all that has fields.
fn walk(path: &str, schema: &Value, parents: &mut BTreeSet<String>) {
    let fields = schema["properties"]
        .as_object()
        .or_else(|| schema["items"]["properties"].as_object());
    let Some(fields) = fields else { return };
    parents.insert(path.to_owned());
    for (name, field) in fields {
        if name != "metadata" {
            walk(&format!("{path}.{name}"), field, parents);
        }
    }
}

/// kubectl's table: the cells of each row, by the columns that the head's words begin. Words of the head hold no spaces.
fn table(text: &str) -> Vec<Vec<String>> {
    let head = text.lines().next().unwrap_or_default();
    let starts: Vec<usize> = head
        .char_indices()
        .filter(|(at, c)| *c != ' ' && (*at == 0 || head[..*at].ends_with(' ')))
        .map(|(at, _)| at)
        .collect();
    let cell = |line: &str, column: usize| {
        let end = starts.get(column + 1).copied().unwrap_or(usize::MAX);
        let cell: String = line
            .chars()
            .skip(starts[column])
            .take(end - starts[column])
            .collect();
        cell.trim().to_owned()
    };
    text.lines()
        .map(|line| (0..starts.len()).map(|column| cell(line, column)).collect())
        .collect()
}
