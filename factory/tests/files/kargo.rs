//! The manifests against what Kargo's own CRD says about the fields that they use.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use crate::workshop::{Workshop, run};

const NOW: &str = "2026-03-01T10:00:00Z";

const IMAGES: &str = "\
- {name: postgres, repository: library/postgres, allowTags: ^16-alpine$}
- {name: redis, repository: library/redis, imageSelectionStrategy: SemVer}
- {name: busybox, repository: library/busybox, imageSelectionStrategy: NewestBuild, allowTags: '^1\\.'}
- {name: latest, registry: 'localhost:5000', repository: a/b_c, imageSelectionStrategy: Digest, allowTags: ^latest$}
- {name: app, repository: o/app, source: {repo: o/app, dockerfile: Dockerfile}}
";

const DOCKERFILE: &str = "FROM node:22.1-slim AS build\nFROM gcr.io/distroless/static-debian12\nCOPY --from=localhost:5000/tools/x:1.10 / /\n";

fn manifests(kargo: &str) -> Vec<Value> {
    let workshop = Workshop::new();
    let factory = workshop.path().join("image-factory");
    workshop.write("image-factory/images.yaml", IMAGES);
    workshop.write("Dockerfile", DOCKERFILE);
    run(&factory, NOW, &["sync"]);
    assert_eq!(
        run(&factory, NOW, &["synth", "--kargo", kargo]),
        "7 warehouses: dist/image-factory.k8s.yaml written\n"
    );
    let text = std::fs::read_to_string(factory.join("dist/image-factory.k8s.yaml")).unwrap();
    let documents = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(documents.len(), 7);
    documents
}

/// What the CRD of one version of Kargo says, as far as the manifests use it.
fn schema(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kargo")
        .join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Breaches of a structural schema, each with its path.
fn breaches(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut breach = |what: String| found.push(format!("{path}: {what}"));
    let is_type = match schema["type"].as_str().expect("each schema has a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        other => panic!("{other}"),
    };
    if !is_type {
        breach(format!("{value} is no {}", schema["type"]));
        return found;
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !Regex::new(pattern).unwrap().is_match(text)
    {
        breach(format!("{text} does not match {pattern}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        breach(format!("{value} is none of {words:?}"));
    }
    let number = value.as_i64().unwrap_or_default();
    if schema["minimum"]
        .as_i64()
        .is_some_and(|least| number < least)
        || schema["maximum"].as_i64().is_some_and(|most| number > most)
    {
        breach(format!("{number} is out of range"));
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        let key = required.as_str().unwrap();
        if value.get(key).is_none() {
            breach(format!("{key} is missing"));
        }
    }
    let nothing = Map::new();
    for (key, inner) in value.as_object().unwrap_or(&nothing) {
        match schema["properties"].get(key) {
            Some(schema) => found.extend(breaches(schema, inner, &format!("{path}.{key}"))),
            // An API server would drop it in silence.
            None => found.push(format!("{path}: {key} is unknown")),
        }
    }
    for item in value.as_array().into_iter().flatten() {
        found.extend(breaches(&schema["items"], item, &format!("{path}[]")));
    }
    found
}

fn image<'a>(documents: &'a [Value], name: &str) -> &'a Value {
    let document = documents
        .iter()
        .find(|document| document["metadata"]["name"] == name);
    &document.unwrap()["spec"]["subscriptions"][0]["image"]
}

#[test]
fn warehouses_are_what_kargo_before_1_11_takes() {
    let documents = manifests("v1alpha1");
    let schema = schema("before-1.11.yaml");
    for document in &documents {
        assert_eq!(breaches(&schema, document, "warehouse"), [] as [String; 0]);
    }
    assert_eq!(
        image(&documents, "node-22.1-slim")["allowTags"],
        "^22\\.1-slim$"
    );
    // Digest reads its tag from there.
    assert_eq!(image(&documents, "latest")["semverConstraint"], "latest");
}

#[test]
fn warehouses_are_what_kargo_1_11_takes() {
    let documents = manifests("1.11");
    let schema = schema("1.11.yaml");
    for document in &documents {
        assert_eq!(breaches(&schema, document, "warehouse"), [] as [String; 0]);
        // Kargo 1.11 refuses to discover anything for a subscription with one of these.
        let image = &document["spec"]["subscriptions"][0]["image"];
        assert!(image.get("allowTags").is_none() && image.get("semverConstraint").is_none());
        // And its webhook refuses this.
        assert!(image["imageSelectionStrategy"] != "Digest" || image["constraint"].is_string());
    }
    let base = image(&documents, "tools-x-1.10");
    assert_eq!(base["imageSelectionStrategy"], "Digest");
    assert_eq!(base["constraint"], "1.10");
    assert_eq!(
        image(&documents, "postgres")["allowTagsRegexes"][0],
        "^16-alpine$"
    );
}

#[test]
fn the_schema_facts_refuse_what_kargo_refuses() {
    let schema = schema("before-1.11.yaml");
    let documents = manifests("1.11");
    let all: Vec<String> = documents
        .iter()
        .flat_map(|d| breaches(&schema, d, "warehouse"))
        .collect();
    assert!(
        all.iter()
            .any(|breach| breach.ends_with("allowTagsRegexes is unknown")),
        "{all:?}"
    );
    let mut document = manifests("v1alpha1").remove(0);
    document["spec"]["subscriptions"][0]["image"]["repoURL"] = "a:b@c".into();
    document["spec"]["subscriptions"][0]["image"]["discoveryLimit"] = 101.into();
    document["spec"]["interval"] = "5d".into();
    assert_eq!(breaches(&schema, &document, "warehouse").len(), 3);
}
