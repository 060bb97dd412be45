//! Which of the named Secrets are used, in which order, and what is said of those that are not there.

use anyhow::{Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::guarded::{Guarded, RIGHT, WRONG, secret, typed_secret, with};
use drop_tests::images::Recipe;
use drop_tests::token_server::LOGIN;
use serde_json::json;

use crate::{SOON, is_refused, nothing_shows, ready};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_pulls_begin_when_it_is_made() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    cluster.apply(&policy("fast", "")).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["later"])))
        .await?;
    cluster
        .until("app", SOON, |app: &CachedImage| {
            is_refused(app)?;
            let (_, _, message) = ready(app);
            let why = "Secret \"later\" not found in namespace drop-system";
            ensure!(message.contains(why), "{message}");
            Ok(())
        })
        .await?;
    // The older type, which names hosts at the top.
    let content = json!({guarded.proxy.host(): {"username": "me", "password": RIGHT}});
    let kind = ("kubernetes.io/dockercfg", ".dockercfg");
    cluster
        .apply(&typed_secret("later", kind, &content))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(guarded.refused_logins(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_path_is_tried_first_and_each_match_in_turn() -> Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    for repository in ["team/app", "other/app"] {
        cluster
            .push(repository, "v1", &Recipe::layers(&[10_000]))
            .await?;
    }
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    let team = format!("{host}/team");
    cluster.apply(&policy("fast", "")).await?;
    // For the team's image the narrow login is right; for the other only the wide one is a match, and it is wrong.
    cluster.apply(&secret("wide", &[(&host, WRONG)])).await?;
    cluster.apply(&secret("narrow", &[(&team, RIGHT)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["wide", "narrow"])))
        .await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(
        guarded.refused_logins(),
        0,
        "{}",
        guarded.proxy.log().table()
    );
    let other = guarded.image("other/app");
    cluster
        .apply(&yaml("other", &other, "v1", &with(&["wide", "narrow"])))
        .await?;
    cluster.until("other", SOON, is_refused).await?;

    // Two Secrets for one place: the second helps where the first is refused.
    cluster.apply(&secret("second", &[(&host, RIGHT)])).await?;
    cluster
        .apply(&yaml("other", &other, "v1", &with(&["wide", "second"])))
        .await?;
    cluster.until("other", SOON, is_ready).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_logs_in_by_token_and_shows_none_whatever_it_logs() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&["--log-filter", "trace"])
        .agent_args(&["--log-filter", "trace"])
        .start()
        .await?;
    let digest = cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let (guarded, server) = Guarded::tokens(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    let app = cluster.until("app", SOON, is_ready).await?;
    assert_eq!(status(&app).resolved_digest, Some(digest));
    let asked = guarded.proxy.log().of_coordinator();
    let heads = asked.manifests().method("HEAD");
    ensure!(
        heads.exchanges().iter().any(|head| head.status == 200),
        "{}",
        asked.table()
    );
    ensure!(server.grants().iter().any(|grant| grant.status == 200));
    // As it is typed, as it is sent, and what it is given for.
    let sent = STANDARD.encode(LOGIN);
    nothing_shows(&mut cluster, &[RIGHT, &sent, "eyJhbGciOi"]).await
}
