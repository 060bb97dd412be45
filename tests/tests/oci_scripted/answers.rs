//! Answers that are wrong, endless, slow or none at all.

use std::time::Duration;

use anyhow::Result;
use drop_oci::transport::Options;
use drop_tests::images::Blob;
use drop_tests::registry_client::{client, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};

use crate::shelf::IMAGE;

#[tokio::test]
async fn a_digest_that_is_not_told_is_computed_and_one_that_is_wrong_is_refused() -> Result<()> {
    let blob = Blob::new(r#"{"schemaVersion":2,"config":{"digest":"x"},"layers":[]}"#);
    let content = blob.bytes.clone();
    let registry = ScriptedRegistry::start(move |asked| {
        let reply = Reply::ok(content.clone()).header("content-type", IMAGE);
        match asked.path.rsplit('/').next() {
            Some("odd") => reply.header("docker-content-digest", "md5:abc"),
            Some("headless") if asked.method == "HEAD" => Reply::status(405, ""),
            Some("silent" | "headless") => reply,
            _ => reply.header(
                "docker-content-digest",
                &format!("sha256:{}", "0".repeat(64)),
            ),
        }
    })
    .await?;
    let client = client(&Options::default())?;
    let repository = plain(&registry.address(), "app")?;
    for tag in ["silent", "odd", "headless"] {
        let head = client.head(&repository, tag, &[]).await?;
        assert_eq!(head.digest, blob.digest, "{tag}");
    }
    let lying = client
        .manifest(&repository, "lying", &[])
        .await
        .unwrap_err();
    assert_eq!(lying.class(), "invalid");
    assert!(lying.to_string().contains(&blob.digest), "{lying}");
    // By digest, it is the digest asked for that counts.
    let other = format!("sha256:{}", "1".repeat(64));
    for result in [
        client.head(&repository, &other, &[]).await.map(drop),
        client.manifest(&repository, &other, &[]).await.map(drop),
        client.blob(&repository, &other, &[]).await.map(drop),
    ] {
        assert_eq!(result.unwrap_err().class(), "invalid");
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_are_slow_endless_or_broken_end_within_time_and_size() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.path.as_str() {
        "/v2/app/manifests/endless" => Reply::endless(vec![b' '; 60_000]),
        "/v2/app/manifests/stalled" => Reply::stalled("{"),
        "/v2/app/manifests/cut" => Reply::cut("{"),
        "/v2/app/manifests/error" => Reply::status(403, "x".repeat(1_000_000)),
        _ => Reply::status(404, ""),
    })
    .await?;
    let options = Options {
        timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let client = client(&options)?;
    let repository = plain(&registry.address(), "app")?;
    let class = async |tag: &str| {
        let error = client.manifest(&repository, tag, &[]).await.unwrap_err();
        assert!(error.to_string().len() < 700, "{error}");
        error.class()
    };
    assert_eq!(class("endless").await, "invalid");
    assert_eq!(class("stalled").await, "timeout");
    assert_eq!(class("error").await, "forbidden");
    assert_eq!(class("cut").await, "connection");
    // A broken connection is tried again; a deadline and an answer without end are not.
    let count = |tag: &str| {
        let line = format!("GET /v2/app/manifests/{tag}");
        registry
            .lines()
            .iter()
            .filter(|other| **other == line)
            .count()
    };
    assert_eq!(
        (count("cut"), count("stalled"), count("endless")),
        (3, 1, 1)
    );
    Ok(())
}

#[tokio::test]
async fn every_kind_of_answer_has_its_caps() -> Result<()> {
    for (body, class) in [
        (Reply::endless(vec![b' '; 60_000]), "invalid"),
        (Reply::dripping(" "), "timeout"),
    ] {
        let scripted = body.clone();
        let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
            path if path.starts_with("/token") => scripted.clone(),
            path if path.starts_with("/v2/locked/") => {
                let server = format!("Bearer realm=\"http://{}/token\"", asked.host);
                Reply::status(401, "").header("www-authenticate", &server)
            }
            path if path.starts_with("/v2/app/") => scripted.clone(),
            _ => Reply::status(404, ""),
        })
        .await?;
        let options = Options {
            timeout: Duration::from_secs(2),
            ..Options::default()
        };
        let client = client(&options)?;
        let app = plain(&registry.address(), "app")?;
        let locked = plain(&registry.address(), "locked")?;
        let digest = format!("sha256:{}", "1".repeat(64));
        for (what, result) in [
            ("tags", client.tags(&app, 10, &[]).await.map(drop)),
            ("manifest", client.manifest(&app, "v1", &[]).await.map(drop)),
            // Its HEAD tells no digest.
            ("head", client.head(&app, "v1", &[]).await.map(drop)),
            ("blob", client.blob(&app, &digest, &[]).await.map(drop)),
            ("token", client.head(&locked, "v1", &[]).await.map(drop)),
        ] {
            let error = result.unwrap_err();
            assert_eq!(error.class(), class, "{what}: {error}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn hosts_that_do_not_answer_are_told_apart() -> Result<()> {
    let client = client(&Options::default())?;
    let closed = plain(&format!("127.0.0.1:{}", drop_tests::ports::free()?), "app")?;
    let error = client.head(&closed, "v1", &[]).await.unwrap_err();
    assert_eq!(error.class(), "connection", "{error}");
    assert!(
        error.to_string().to_lowercase().contains("refused"),
        "{error}"
    );
    let nowhere = plain("nowhere.invalid", "app")?;
    let error = client.head(&nowhere, "v1", &[]).await.unwrap_err();
    assert_eq!(error.class(), "dns", "{error}");
    Ok(())
}
