//! drop's registry client against answers that real registries cannot be made to give.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use drop_oci::client::{Manifest, Stop};
use drop_oci::facts::{Choice, Kind, Memory};
use drop_oci::transport::{Limits, Options};
use drop_oci::{Credential, Facts};
use drop_tests::images::Blob;
use drop_tests::registry_client::{basic, client, client_within, plain};
use drop_tests::scripted_registry::{Asked, Reply, ScriptedRegistry};
use serde_json::json;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Manifests and configurations by the name that they are asked for by.
#[derive(Default)]
struct Shelf(Vec<(String, &'static str, Blob)>);

impl Shelf {
    /// Stores a document under its digest, and under a tag too.
    fn put(&mut self, tag: &str, media_type: &'static str, document: &serde_json::Value) -> Blob {
        let blob = Blob::new(document.to_string());
        self.0.push((tag.to_owned(), media_type, blob.clone()));
        self.0.push((blob.digest.clone(), media_type, blob.clone()));
        blob
    }

    /// An image of one platform, with a layer of 1,000 bytes.
    fn image(&mut self, tag: &str, platform: (&str, &str)) -> Blob {
        let config = json!({"os": platform.0, "architecture": platform.1, "created": "2024-05-06T07:08:09Z",
            "config": {"Labels": {"of": platform.1}}});
        let config = self.put("", CONFIG, &config);
        let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "annotations": {"by": platform.1},
            "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.bytes.len()},
            "layers": [{"digest": format!("sha256:{:064}", 1), "size": 1_000}]});
        self.put(tag, IMAGE, &manifest)
    }

    fn answer(&self, asked: &Asked) -> Reply {
        let name = asked.path.rsplit('/').next().unwrap_or_default();
        let found = self.0.iter().find(|(key, _, _)| key == name);
        found.map_or_else(
            || Reply::status(404, "{}"),
            |(_, media_type, blob)| {
                Reply::ok(blob.bytes.clone())
                    .header("content-type", media_type)
                    .header("docker-content-digest", &blob.digest)
            },
        )
    }
}

fn amd64() -> Choice {
    Choice::only("linux/amd64".parse().expect("a platform"))
}

#[tokio::test]
async fn tags_are_found_on_every_form_of_next_page_and_null_is_no_tag() -> Result<()> {
    let forms = [
        "</v2/app/tags/list?last=b>; rel=\"next\"",
        "<list?last=b>; rel=next",
        "<http://HOST/v2/app/tags/list?last=b>; rel=\"next\"",
        "<https://HOST/v2/app/tags/list?last=b>; rel=\"next\"",
    ];
    for form in forms {
        let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
            "/v2/app/tags/list?n=1000" => Reply::ok(r#"{"name":"app","tags":["a","b"]}"#)
                .header("link", &form.replace("HOST", &asked.host)),
            "/v2/app/tags/list?last=b" => Reply::ok(r#"{"tags":null}"#)
                .header("link", "</v2/app/tags/list?last=c>; rel=\"next\""),
            "/v2/app/tags/list?last=c" => Reply::ok(r#"{"tags":["b","c","not a tag","../x"]}"#),
            _ => Reply::status(404, ""),
        })
        .await?;
        let client = client(&Options::default())?;
        let list = client
            .tags(&plain(&registry.address(), "app")?, 100, &[])
            .await?;
        assert_eq!(list.tags, ["a", "b", "c"], "{form}");
        assert_eq!(list.stopped, None);
    }
    Ok(())
}

#[tokio::test]
async fn lists_that_lead_in_circles_away_or_nowhere_are_stopped_and_said() -> Result<()> {
    let table = [
        ("</v2/app/tags/list?n=1000>; rel=\"next\"", Stop::Circle),
        (
            "<http://evil.example/v2/app/tags/list>; rel=\"next\"",
            Stop::OtherHost("evil.example".to_owned()),
        ),
        ("<http://[>; rel=\"next\"", Stop::Unreadable),
    ];
    for (link, expected) in table {
        let registry =
            ScriptedRegistry::start(move |_| Reply::ok(r#"{"tags":["a"]}"#).header("link", link))
                .await?;
        let client = client(&Options::default())?;
        let list = client
            .tags(&plain(&registry.address(), "app")?, 100, &[])
            .await?;
        assert_eq!((list.tags.len(), list.stopped), (1, Some(expected)));
    }
    let endless = ScriptedRegistry::start(|asked| {
        let n = asked.path.rsplit('=').next().unwrap_or_default().to_owned();
        let next: u64 = n.parse::<u64>().unwrap_or_default() + 1;
        Reply::ok(format!(r#"{{"tags":["t{n}"]}}"#))
            .header("link", &format!("<?last={next}>; rel=\"next\""))
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&endless.address(), "app")?, 10_000, &[])
        .await?;
    assert_eq!(list.stopped, Some(Stop::TooManyPages));
    assert!(endless.asked().len() < 1_100);
    Ok(())
}

#[tokio::test]
async fn a_registry_that_refuses_a_page_size_is_asked_without() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        if asked.path.contains("n=") {
            return Reply::status(400, r#"{"errors":[{"code":"PAGINATION_NUMBER_INVALID"}]}"#);
        }
        Reply::ok(r#"{"tags":["a"]}"#)
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&registry.address(), "app")?, 100, &[])
        .await?;
    assert_eq!(list.tags, ["a"]);
    Ok(())
}

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
async fn what_passes_by_itself_is_waited_for() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.before {
        0 => Reply::status(502, "bad gateway"),
        1 => Reply::status(503, "starting"),
        _ => Reply::ok(r#"{"tags":["a"]}"#),
    })
    .await?;
    let client = client(&Options::default())?;
    let list = client
        .tags(&plain(&registry.address(), "app")?, 10, &[])
        .await?;
    assert_eq!(list.tags, ["a"]);

    let broken =
        ScriptedRegistry::start(|_| Reply::status(500, "<h1>database on fire</h1>")).await?;
    let error = client
        .tags(&plain(&broken.address(), "app")?, 10, &[])
        .await
        .unwrap_err();
    assert_eq!(error.class(), "server_error");
    assert!(
        error.to_string().contains("500 Internal Server Error"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_short_pause_is_waited_out() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        if asked.before == 0 {
            return Reply::status(429, "slow down").header("retry-after", "1");
        }
        Reply::ok(r#"{"tags":["a"]}"#)
    })
    .await?;
    let client = client(&Options::default())?;
    let began = Instant::now();
    client
        .tags(&plain(&registry.address(), "app")?, 10, &[])
        .await?;
    assert!(began.elapsed() >= Duration::from_secs(1));
    Ok(())
}

#[tokio::test]
async fn a_long_pause_fails_at_once_and_nobody_asks_the_host_meanwhile() -> Result<()> {
    let date = "Fri, 31 Dec 2100 23:59:59 GMT";
    for (asked_for, expected) in [("60", 60), (date, 900), ("1000000", 900)] {
        let registry = ScriptedRegistry::start(move |_| {
            Reply::status(
                429,
                "toomanyrequests: you have reached your pull rate limit",
            )
            .header("retry-after", asked_for)
        })
        .await?;
        let client = client(&Options::default())?;
        let error = client
            .head(&plain(&registry.address(), "app")?, "v1", &[])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "throttled");
        assert!(
            error
                .to_string()
                .contains("429 Too Many Requests, toomanyrequests"),
            "{error}"
        );
        let wait = error.retry_after().context("no time")?;
        assert!(
            wait.as_secs().abs_diff(expected) <= 2,
            "{asked_for}: {wait:?}"
        );
        let asked = registry.asked().len();
        let other = plain(&registry.address(), "other")?;
        let error = client
            .head(&other, "v1", &[basic("a", "b")])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "throttled");
        assert!(error.retry_after().is_some());
        assert_eq!(
            registry.asked().len(),
            asked,
            "{asked_for}: the host was asked in its pause"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_429_without_a_time_is_tried_again_after_a_pause_that_grows() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| {
        if asked.method == "HEAD" && asked.before < 2 {
            return Reply::status(429, "");
        }
        Reply::ok("{}").header(
            "docker-content-digest",
            &format!("sha256:{}", "0".repeat(64)),
        )
    })
    .await?;
    let client = client(&Options::default())?;
    let began = Instant::now();
    client
        .head(&plain(&registry.address(), "app")?, "v1", &[])
        .await?;
    // 1 s and 2 s.
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert_eq!(registry.asked().len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_host_is_asked_no_faster_than_its_limits() -> Result<()> {
    let registry = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":[]}"#)).await?;
    let limits = Limits {
        interval: Some(Duration::from_millis(50)),
        burst: 2,
        ..Limits::default()
    };
    let client = client_within(&Options::default(), limits)?;
    let repository = plain(&registry.address(), "app")?;
    let began = Instant::now();
    let asks = (0..20).map(|_| client.tags(&repository, 10, &[]));
    futures::future::try_join_all(asks).await?;
    // 21 requests with the ping, two of which go at once.
    assert!(began.elapsed() >= Duration::from_millis(19 * 50));
    Ok(())
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credentials_along() -> Result<()> {
    let config = Blob::new("{}");
    let content = config.bytes.clone();
    let storage = ScriptedRegistry::start(move |_| Reply::ok(content.clone())).await?;
    let target = format!("http://{}/blob?signature=hunter2", storage.address());
    let registry = ScriptedRegistry::start(move |asked| {
        if asked.proof.is_empty() {
            return Reply::status(401, "").header("www-authenticate", "Basic realm=\"r\"");
        }
        Reply::status(307, "").header("location", &target)
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "hunter2")];
    let blob = client
        .blob(
            &plain(&registry.address(), "app")?,
            &config.digest,
            &credentials,
        )
        .await?;
    assert_eq!(blob, config.bytes);
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].proof, "");
    Ok(())
}

#[tokio::test]
async fn no_secret_reaches_an_error() -> Result<()> {
    let secrets = [
        "hunter2",
        "t0ken-value",
        "refresh-value",
        "aHVudGVyMg",
        "cookie-value",
    ];
    // The server repeats what it was sent, and adds secrets of its own.
    let registry = ScriptedRegistry::start(|asked| {
        let echo = format!(
            r#"{{"errors":[{{"code":"DENIED","message":"{} token=t0ken-value at https://u:hunter2@cdn/x?sig=hunter2"}}]}}"#,
            asked.proof.replace('"', "")
        );
        match asked.path.split('?').next() {
            Some("/v2/") => Reply::status(401, "").header("www-authenticate", &format!(
                r#"Bearer realm="http://{}/token",service="s""#, asked.host
            )),
            Some("/token") if asked.method == "POST" => Reply::status(401, echo + &asked.form),
            Some("/token") => Reply::ok(r#"{"token":"t0ken-value"}"#),
            Some(path) if path.ends_with("away") => Reply::status(307, "")
                .header("location", "http://127.0.0.1:1/x?sig=hunter2&token=t0ken-value"),
            Some(path) if path.ends_with("401") => Reply::status(401, echo),
            Some(path) if path.ends_with("403") => Reply::status(403, echo),
            Some(path) if path.ends_with("404") => Reply::status(404, echo),
            _ => Reply::status(418, echo),
        }
    })
    .await?;
    let client = client(&Options::default())?;
    let repository = plain(&registry.address(), "app")?;
    let credentials = [
        basic("me", "hunter2"),
        Credential::IdentityToken("refresh-value".to_owned()),
        Credential::RegistryToken("t0ken-value".to_owned()),
    ];
    for credential in credentials {
        for tag in ["away", "401", "403", "404", "418"] {
            let credential = std::slice::from_ref(&credential);
            let error = client.head(&repository, tag, credential).await.unwrap_err();
            let manifest = client
                .manifest(&repository, tag, credential)
                .await
                .unwrap_err();
            for text in [
                error.to_string(),
                format!("{error:?}"),
                manifest.to_string(),
                format!("{manifest:?}"),
            ] {
                for secret in secrets {
                    assert!(!text.contains(secret), "{tag}: {text}");
                }
                assert!(text.contains(&registry.address()), "{text}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_token_is_good_for_what_the_registry_asks_for_and_not_for_another_repository()
-> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.path.split('?').next() {
        Some("/token") if asked.path.contains("scope=repository%3Amirror%2Fapp%3Apull") => {
            Reply::ok(r#"{"access_token":"good"}"#)
        }
        Some("/token") => Reply::ok(r#"{"access_token":"of-no-use"}"#),
        Some("/v2/app/tags/list") if asked.proof == "Bearer good" => Reply::ok(r#"{"tags":["a"]}"#),
        _ => Reply::status(401, "").header(
            "www-authenticate",
            &format!(
                r#"Bearer realm="http://{}/token?account=x",service="s",scope="repository:mirror/app:pull""#,
                asked.host
            ),
        ),
    })
    .await?;
    let client = client(&Options::default())?;
    let credentials = [basic("me", "pw")];
    let list = client
        .tags(&plain(&registry.address(), "app")?, 10, &credentials)
        .await?;
    assert_eq!(list.tags, ["a"]);
    let before = registry.asked().len();
    let other = client
        .tags(&plain(&registry.address(), "other")?, 10, &credentials)
        .await;
    assert_eq!(other.unwrap_err().class(), "unauthorized");
    let first = &registry.asked()[before];
    assert!(
        first.path.contains("account=x") && first.path.contains("scope=repository%3Aother%3Apull"),
        "{first:?}"
    );
    assert!(first.proof.starts_with("Basic "));
    Ok(())
}

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
        if asked.method == "GET" && asked.before == 0 {
            return Reply::stalled(manifest);
        }
        Reply::ok(manifest)
    })
    .await?;
    let client = client(&Options::default())?;
    let facts = Arc::new(Facts::new(Memory::default()));
    let repository = plain(&registry.address(), "app")?;
    let impatient = facts.resolve(&client, &repository, "v1", &[]);
    let given_up = tokio::time::timeout(Duration::from_millis(500), impatient).await;
    assert!(given_up.is_err());
    facts.resolve(&client, &repository, "v1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn a_digest_that_one_credential_opens_is_not_told_to_another() -> Result<()> {
    let mut shelf = Shelf::default();
    let image = shelf.image("v1", ("linux", "amd64"));
    let registry = ScriptedRegistry::start(move |asked| {
        if asked.proof.is_empty() {
            return Reply::status(401, "").header("www-authenticate", "Basic");
        }
        shelf.answer(asked)
    })
    .await?;
    let client = client(&Options::default())?;
    let facts = Facts::new(Memory::default());
    let repository = plain(&registry.address(), "app")?;
    for target in ["v1", image.digest.as_str()] {
        facts
            .of(&client, &repository, target, &amd64(), &[basic("a", "b")])
            .await?;
        let error = facts
            .of(&client, &repository, target, &amd64(), &[])
            .await
            .unwrap_err();
        assert_eq!(error.class(), "unauthorized", "{target}");
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

/// Set in the child process that the next test starts: the registry to ask.
const CHILD: &str = "DROP_TEST_PROXY_CHILD";

#[tokio::test]
async fn the_proxy_of_the_environment_is_used_and_its_exceptions_are_kept() -> Result<()> {
    if let Some(address) = drop_tests::parts::environment(CHILD) {
        let client = client(&Options::default())?;
        let address = address.to_string_lossy().into_owned();
        client.tags(&plain(&address, "app")?, 10, &[]).await?;
        return Ok(());
    }
    let proxy = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":["a"]}"#)).await?;
    let registry = ScriptedRegistry::start(|_| Reply::ok(r#"{"tags":["a"]}"#)).await?;
    let run = async |address: &str, exceptions: &str| -> Result<()> {
        let me = std::env::current_exe()?;
        let name = "the_proxy_of_the_environment_is_used_and_its_exceptions_are_kept";
        let output = tokio::process::Command::new(me)
            .args(["--exact", name])
            .env(CHILD, address)
            .env("HTTP_PROXY", format!("http://{}", proxy.address()))
            .env("http_proxy", format!("http://{}", proxy.address()))
            .env("NO_PROXY", exceptions)
            .env("no_proxy", exceptions)
            .kill_on_drop(true)
            .output()
            .await?;
        anyhow::ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    };
    run("registry.invalid", "").await?;
    let through = proxy.lines();
    assert!(
        through
            .iter()
            .any(|line| line.contains("/v2/app/tags/list")),
        "{through:?}"
    );
    run(&registry.address(), "127.0.0.1").await?;
    assert_eq!(proxy.lines().len(), through.len());
    assert_eq!(registry.lines().len(), 1);
    Ok(())
}
