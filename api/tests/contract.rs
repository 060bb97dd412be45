//! The committed definitions, and what they accept and refuse, without an API server.
//!
//! `data/accepted` and `data/refused` are the table of cases; the scenario on a real API server reads the same files. A refused
//! file begins with `# refused: <part of the sentence that the user must see>`; `# by: the schema` follows where no rule of ours
//! speaks but a plain bound or type. `# by: the API server alone` marks what only the API server's CEL gets right.

// The helpers below run only in tests, where a panic is the report.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use drop_api::{
    BackoffConfig, CachedImage, CachedImageSpec, CachedImageStatus, GoDuration, ImagePullPolicy,
    NodeException, NodeState, Phase, PullPolicy, PullPolicySpec, crds, render,
};
use kube::core::cel::Validator;
use serde_json::{Value, json};

const BY_SCHEMA: &str = "# by: the schema";

/// The CEL library of these tests knows no µ and does not see an overflow.
const BY_SERVER: &str = "# by: the API server alone";

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cases(kind: &str) -> Vec<(PathBuf, String)> {
    let dir = crate_dir().join("tests/data").join(kind);
    let mut files: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", dir.display());
    files
}

fn objects(yaml: &str) -> Vec<Value> {
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    objects.iter_mut().for_each(prune_nulls);
    objects
}

/// The API server does this before it validates: no field of ours is nullable.
fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

fn schema_of(kind: &str) -> Value {
    let crd = crds()
        .into_iter()
        .find(|crd| crd.spec.names.kind == kind)
        .unwrap_or_else(|| panic!("no definition of {kind}"));
    let schema = crd.spec.versions[0].schema.clone().unwrap();
    serde_json::to_value(schema.open_api_v3_schema.unwrap()).unwrap()
}

/// Every sentence that the admission rules say about the object.
fn complaints(object: &Value) -> Vec<String> {
    let schema = schema_of(object["kind"].as_str().unwrap());
    match Validator::new().validate(&schema, object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().iter().map(ToString::to_string).collect(),
    }
}

fn parsed(object: &Value) -> Result<Value> {
    let mut object = object.clone();
    match object["kind"].as_str() {
        Some("CachedImage") => {
            let image: CachedImage = serde_json::from_value(object)?;
            Ok(serde_json::to_value(image)?)
        }
        Some("PullPolicy") => {
            // The API server's default.
            if object.get("spec").is_none() {
                object["spec"] = json!({});
            }
            let policy: PullPolicy = serde_json::from_value(object)?;
            Ok(serde_json::to_value(policy)?)
        }
        kind => bail!("no such kind: {kind:?}"),
    }
}

#[test]
fn the_committed_definitions_are_current() {
    let dir = crate_dir().join("../charts/drop/crds");
    for file in render().unwrap() {
        let committed = fs::read_to_string(dir.join(&file.name)).unwrap_or_default();
        assert!(
            committed == file.yaml,
            "{} is not current: cargo run -p drop-api --bin crdgen -- --dir charts/drop/crds",
            file.name
        );
    }
}

#[test]
fn the_definitions_read_like_hand_written_ones() {
    for file in render().unwrap() {
        for noise in ["null", "nullable", "title:", "1.0\n", "[]", "anyOf"] {
            let found = file
                .yaml
                .lines()
                .find(|line| format!("{line}\n").contains(noise));
            assert_eq!(found, None, "{}", file.name);
        }
    }
}

#[test]
fn every_field_is_described() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if name != "metadata" && field["description"].as_str().is_none_or(str::is_empty) {
                missing.push(path.clone());
            }
            walk(&path, field, missing);
            walk(&path, &field["items"], missing);
        }
    }
    let mut missing = Vec::new();
    for kind in ["CachedImage", "PullPolicy"] {
        walk(kind, &schema_of(kind), &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn accepted_objects_break_no_rule_and_survive_a_round_trip() {
    for (path, yaml) in cases("accepted") {
        for object in objects(&yaml) {
            if yaml.lines().next() != Some(BY_SERVER) {
                assert_eq!(
                    complaints(&object),
                    Vec::<String>::new(),
                    "{}",
                    path.display()
                );
            }
            let once = parsed(&object)
                .with_context(|| path.display().to_string())
                .unwrap();
            assert_eq!(parsed(&once).unwrap(), once, "{}", path.display());
        }
    }
}

#[test]
fn refused_objects_get_one_sentence_that_says_what_to_write() {
    for (path, yaml) in cases("refused") {
        let path = path.display();
        let wanted = yaml
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("# refused: "));
        let wanted = wanted.unwrap_or_else(|| panic!("{path} does not begin with # refused:"));
        if yaml
            .lines()
            .take(2)
            .any(|line| line == BY_SCHEMA || line == BY_SERVER)
        {
            continue;
        }
        let complaints: Vec<_> = objects(&yaml).iter().flat_map(complaints).collect();
        assert_eq!(complaints.len(), 1, "{path}: {complaints:?}");
        assert!(complaints[0].contains(wanted), "{path}: {complaints:?}");
    }
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_code() {
    let policy: PullPolicySpec = serde_json::from_value(json!({})).unwrap();
    assert_eq!(policy, PullPolicySpec::default());
    let schema = schema_of("PullPolicy");
    let in_code = serde_json::to_value(&policy).unwrap();
    for (field, value) in in_code.as_object().unwrap() {
        assert_eq!(
            schema["properties"]["spec"]["properties"][field]["default"], *value,
            "{field}"
        );
    }
    assert_eq!(
        in_code,
        json!({
            "maxConcurrentNodes": 1,
            "minDelayBetweenPulls": "10s",
            "failureBackoff": { "initial": "30s", "max": "5m" },
            "pullTimeout": "1h",
        })
    );

    let image: CachedImageSpec = serde_json::from_value(json!({ "image": "nginx" })).unwrap();
    assert_eq!(image.image_pull_policy, ImagePullPolicy::Always);
    let schema = schema_of("CachedImage");
    assert_eq!(
        schema["properties"]["spec"]["properties"]["imagePullPolicy"]["default"],
        "Always"
    );
}

#[test]
fn a_back_off_given_in_part_keeps_the_default_of_the_rest() {
    let backoff: BackoffConfig = serde_json::from_value(json!({ "initial": "1m" })).unwrap();
    assert_eq!(backoff.initial, GoDuration::from_secs(60));
    assert_eq!(backoff.max, GoDuration::from_secs(300));
}

#[test]
fn a_status_always_carries_its_counters() {
    let status = serde_json::to_value(CachedImageStatus::default()).unwrap();
    let expected = json!({
        "observedGeneration": 0,
        "nodesTargeted": 0,
        "nodesReady": 0,
        "nodesPulling": 0,
        "nodesFailed": 0,
        "nodesWaiting": 0,
        "consecutiveFailures": 0,
    });
    assert_eq!(status, expected);
}

#[test]
fn a_status_of_the_go_operator_or_of_a_newer_version_is_read() {
    let status: CachedImageStatus = serde_json::from_value(json!({
        "phase": "Degraded",
        "ready": "1/2",
        "nodesTargeted": 2,
        "cachedNodes": ["a"],
        "lastPulledAt": "2026-01-01T00:00:00Z",
        "somethingNew": { "x": 1 },
        "nodes": [{ "node": "b", "state": "Levitating" }],
    }))
    .unwrap();
    assert_eq!(status.phase, Some(Phase::Degraded));
    let exception = NodeException {
        node: "b".to_owned(),
        state: NodeState::Unknown,
        ..NodeException::default()
    };
    assert_eq!(status.nodes, [exception]);
}
