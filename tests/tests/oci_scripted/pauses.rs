//! When the client waits, for how long, and when it does not ask at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use drop_oci::transport::{Limits, Options};
use drop_oci::{Client, Hosts, Transport};
use drop_tests::registry_client::{basic, client, client_within, plain};
use drop_tests::scripted_registry::{Reply, ScriptedRegistry};

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
async fn a_pause_holds_for_all_who_ask_the_host_also_with_other_tls_options() -> Result<()> {
    // 503 with a time is the same request to be left alone.
    for status in [429, 503] {
        let registry = ScriptedRegistry::start(move |asked| match asked.path.as_str() {
            "/v2/" => Reply::ok("{}"),
            _ => Reply::status(status, "busy").header("retry-after", "600"),
        })
        .await?;
        let hosts = Hosts::new(Limits::default());
        let repository = plain(&registry.address(), "app")?;
        let mut asked = Vec::new();
        for skip_verify in [false, true] {
            let options = Options {
                skip_verify,
                ..Options::default()
            };
            let transport = Transport::new(&options, Arc::clone(&hosts))?;
            let error = Client::new(transport).head(&repository, "v1", &[]).await;
            assert_eq!(error.unwrap_err().class(), "throttled", "{status}");
            asked.push(registry.asked().len());
        }
        assert_eq!(asked, [1, 1], "{status}");
    }
    Ok(())
}

#[tokio::test]
async fn so_many_requests_are_out_to_a_host_at_a_time() -> Result<()> {
    let registry = ScriptedRegistry::start(|asked| match asked.path.as_str() {
        "/v2/" => Reply::ok("{}"),
        _ => Reply::stalled("{"),
    })
    .await?;
    let limits = Limits {
        concurrency: 3,
        ..Limits::default()
    };
    let client = client_within(&Options::default(), limits)?;
    let repository = plain(&registry.address(), "app")?;
    let asks = (0..20).map(|_| client.tags(&repository, 10, &[]));
    let asking = tokio::time::timeout(Duration::from_secs(3), futures::future::join_all(asks));
    assert!(asking.await.is_err(), "the registry never answers");
    assert_eq!(registry.asked().len(), 3);
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
