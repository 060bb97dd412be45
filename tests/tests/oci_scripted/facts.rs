//! What an image is, whatever form its manifest has, and how rarely it is asked for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use drop_oci::Facts;
use drop_oci::client::Manifest;
use drop_oci::facts::{Choice, Kind, Memory};
use drop_oci::transport::Options;
use drop_tests::images::Blob;
use drop_tests::registry_client::{basic, client, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};
use serde_json::json;

use crate::shelf::{CONFIG, IMAGE, INDEX, Shelf, amd64};

#[tokio::test]
async fn attestations_and_entries_without_platform_hide_no_image() -> Result<()> {
    let mut shelf = Shelf::default();
    let amd = shelf.image("", ("linux", "amd64"));
    let arm = shelf.image("", ("linux", "arm64"));
    let entry = |blob: &Blob, platform: serde_json::Value| json!({"mediaType": IMAGE, "digest": blob.digest, "size": blob.bytes.len(), "platform": platform});
    let attestation = json!({"mediaType": IMAGE, "digest": format!("sha256:{}", "9".repeat(64)), "size": 9,
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"}});
    let os = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let entries = [
        attestation.clone(),
        entry(&arm, os("arm64")),
        entry(&amd, os("amd64")),
    ];
    let first = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": {"by": "index", "of": "index"}});
    shelf.put("attested", INDEX, &first);
    let unnamed = [
        attestation,
        entry(&arm, serde_json::Value::Null),
        entry(&amd, serde_json::Value::Null),
    ];
    shelf.put(
        "unnamed",
        INDEX,
        &json!({"schemaVersion": 2, "manifests": unnamed}),
    );
    shelf.put(
        "empty",
        INDEX,
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": null}),
    );
    let registry = ScriptedRegistry::start(move |asked| shelf.answer(asked)).await?;

    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    for tag in ["attested", "unnamed"] {
        let image = facts.of(&client, &repository, tag, &amd64(), &[]).await?;
        assert_eq!(image.platform, Some("linux/amd64".parse()?), "{tag}");
        assert_eq!(
            image.labels.get("of").map(String::as_str),
            Some("amd64"),
            "{tag}"
        );
        assert_eq!(
            image.annotations.get("by").map(String::as_str),
            Some("amd64"),
            "{tag}"
        );
        assert_eq!(image.platforms.len(), 2, "{tag}");
        assert_eq!(
            image.created.map(jiff::Timestamp::as_second),
            Some(1_714_979_289)
        );
    }
    let s390x = Choice {
        platform: "linux/s390x".parse()?,
        or_first: true,
    };
    let fallback = facts
        .of(&client, &repository, "attested", &s390x, &[])
        .await?;
    assert_eq!(fallback.platform, Some("linux/arm64".parse()?));
    assert_eq!(
        fallback.annotations.get("of").map(String::as_str),
        Some("index")
    );
    let empty = facts
        .of(&client, &repository, "empty", &amd64(), &[])
        .await?;
    assert_eq!((empty.platforms.len(), empty.size_bytes), (0, None));
    let untouched = format!("GET /v2/app/manifests/sha256:{}", "9".repeat(64));
    assert!(
        !registry.lines().contains(&untouched),
        "the attestation was fetched"
    );
    Ok(())
}

#[tokio::test]
async fn charts_signatures_and_the_first_form_of_docker_have_what_can_be_known() -> Result<()> {
    let mut shelf = Shelf::default();
    let layer = json!([{"mediaType": "x", "digest": format!("sha256:{:064}", 1), "size": 700}]);
    shelf.put("chart", IMAGE, &json!({"schemaVersion": 2, "layers": layer,
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": "sha256:none", "size": 50}}));
    let config = shelf.put(
        "",
        CONFIG,
        &json!({"architecture": "", "created": "0001-01-01T00:00:00Z", "config": {}, "os": ""}),
    );
    shelf.put(
        "signature",
        IMAGE,
        &json!({"schemaVersion": 2, "layers": layer,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": 50}}),
    );
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let first = shelf.put(
        "old",
        old,
        &json!({"schemaVersion": 1, "fsLayers": [], "signatures": []}),
    );
    let registry = ScriptedRegistry::start(move |asked| shelf.answer(asked)).await?;
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    let of = async |tag: &str| facts.of(&client, &repository, tag, &amd64(), &[]).await;

    let chart = of("chart").await?;
    assert_eq!((chart.kind, chart.size_bytes), (Kind::Artifact, Some(700)));
    let signature = of("signature").await?;
    assert_eq!((signature.size_bytes, signature.created), (Some(750), None));
    let old = of("old").await?;
    assert_eq!((old.kind, old.size_bytes), (Kind::Schema1, None));
    assert_eq!(old.digest, first.digest);
    let fetched = client.manifest(&repository, "old", &[]).await?;
    assert_eq!(fetched.manifest, Manifest::Schema1);
    Ok(())
}

#[tokio::test]
async fn facts_are_fetched_once_however_many_ask() -> Result<()> {
    let mut shelf = Shelf::default();
    shelf.image("v1", ("linux", "amd64"));
    let registry = ScriptedRegistry::start(move |asked| shelf.answer(asked)).await?;
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    let choice = amd64();
    let asks = (0..50).map(|_| facts.of(&client, &repository, "v1", &choice, &[]));
    let answers = futures::future::try_join_all(asks).await?;
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let lines = registry.lines();
    assert_eq!(lines.len(), 3, "{lines:?}");

    // Another credential asks for itself what the tag names, and finds the rest.
    facts
        .of(&client, &repository, "v1", &choice, &[basic("a", "b")])
        .await?;
    let lines = registry.lines();
    assert_eq!(lines[3..], ["HEAD /v2/app/manifests/v1"]);
    Ok(())
}

#[tokio::test]
async fn a_tag_is_asked_for_again_when_its_time_is_over_and_a_digest_is_not() -> Result<()> {
    let mut shelf = Shelf::default();
    shelf.image("v1", ("linux", "amd64"));
    let registry = ScriptedRegistry::start(move |asked| shelf.answer(asked)).await?;
    let client = client(&Options::default())?;
    let repository = plain(&registry.address(), "app")?;
    for (tag_lifetime, heads) in [(Duration::ZERO, 3), (Duration::from_secs(3_600), 1)] {
        let before = registry.lines().len();
        let facts = Facts::new(Memory {
            tag_lifetime,
            ..Memory::default()
        });
        for _ in 0..3 {
            facts.of(&client, &repository, "v1", &amd64(), &[]).await?;
        }
        let lines = &registry.lines()[before..];
        let asked = |method: &str| lines.iter().filter(|line| line.starts_with(method)).count();
        assert_eq!((asked("HEAD"), asked("GET")), (heads, 2), "{lines:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_failure_of_one_is_not_that_of_who_waited_for_it() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        if asked.before == 0 {
            return Reply::status(404, "{}");
        }
        Reply::ok("").header(
            "docker-content-digest",
            &format!("sha256:{}", "0".repeat(64)),
        )
    })
    .await?;
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    let (first, second) = tokio::join!(
        facts.resolve(&client, &repository, "v1", &[]),
        facts.resolve(&client, &repository, "v1", &[])
    );
    assert_eq!(first.unwrap_err().class(), "not_found");
    assert!(second.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_caller_that_gives_up_holds_up_nobody() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
        if asked.line() == "GET /v2/app/manifests/v1" && asked.before == 0 {
            return Reply::stalled(manifest);
        }
        Reply::ok(manifest)
    })
    .await?;
    let client = client(&Options::default())?;
    let facts = Arc::new(Facts::new(Memory::default()));
    let repository = plain(&registry.address(), "app")?;
    let asked = drop_tests::wait::until("a GET", Duration::from_secs(20), async || {
        let line = "GET /v2/app/manifests/v1".to_owned();
        anyhow::ensure!(registry.lines().contains(&line), "none so far");
        Ok(())
    });
    // The first caller is dropped as soon as its request is on the way.
    tokio::select! {
        answer = facts.resolve(&client, &repository, "v1", &[]) => anyhow::bail!("answered: {answer:?}"),
        asked = asked => asked?,
    }
    facts.resolve(&client, &repository, "v1", &[]).await?;
    Ok(())
}
