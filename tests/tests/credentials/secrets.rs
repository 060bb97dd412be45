//! Which of the named Secrets are used, in which order, and what is said of those that are not there.

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::guarded::{Guarded, RIGHT, WRONG, secret, typed_secret, with};
use drop_tests::images::Recipe;
use serde_json::json;

use crate::{SOON, is_refused, ready};

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
