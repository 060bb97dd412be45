//! How often a login that the registry does not take is tried: once for its Secret in each step of the back-off.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use drop_api::CachedImage;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::guarded::{Guarded, RIGHT, WRONG, secret, with};
use drop_tests::images::Recipe;
use drop_tests::token_server::TokenServer;
use drop_tests::wait;

use crate::{NODES_ASK, SOON, is_refused, nothing_shows, ready};

/// containerd 1.6 repeats a refused login within a moment, so often in one pull at most; what drop can hold down is the
/// number of pulls.
const REPEATED: usize = 6;
/// The same at a token server.
const REPEATED_FOR_TOKENS: usize = 2;
/// The longest wait of [`stepping`]: a refused image is tried again after it and not before.
const STEP: Duration = Duration::from_secs(4);

/// A policy whose back-off comes to its longest wait within the test.
fn stepping() -> String {
    let backoff = format!("failureBackoff: {{initial: 1s, max: {}s}}", STEP.as_secs());
    policy("fast", &format!("maxConcurrentNodes: 100, {backoff}"))
}

fn tokens_refused(server: &TokenServer) -> usize {
    let grants = server.grants();
    grants.iter().filter(|grant| grant.status == 401).count()
}

/// Every node has done something else since: what waits with it in the same queues would have been done as well.
async fn others_were_served(cluster: &Cluster) -> Result<()> {
    let other = yaml("other", &cluster.image("team/app"), "v1", &with(&[]));
    cluster.apply(&other).await?;
    cluster
        .until::<CachedImage>("other", SOON, is_ready)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_one_login_and_the_corrected_secret_is_tried_at_once() -> Result<()>
{
    let mut cluster = Cluster::builder()
        .nodes(2)
        .coordinator_args(&["--log-filter", "debug"])
        .agent_args(&["--log-filter", "debug"])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&policy("fast", "")).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    cluster.until("app", SOON, is_refused).await?;
    others_were_served(&cluster).await?;
    // The coordinator has asked once, and no node has tried.
    let refused = guarded.refused_requests();
    ensure!(refused.count() == 1, "{}", refused.table());
    ensure!(refused.of_nodes().count() == 0, "{}", refused.table());

    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    assert_eq!(guarded.refused_requests().count(), 1);
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_costs_one_pull_in_each_step_of_the_back_off() -> Result<()> {
    let cluster = Cluster::builder()
        .nodes(2)
        .coordinator_args(&[NODES_ASK])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&stepping()).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    wait::until("three steps", SOON, async || {
        let logins = guarded.refused_logins();
        ensure!(logins >= 3, "{logins} so far");
        Ok(())
    })
    .await?;
    let refused = guarded.refused_requests();
    for pair in refused.pulls().windows(2) {
        ensure!(pair[1].start >= pair[0].start + STEP, "{}", refused.table());
    }
    ensure!(
        refused.count() <= REPEATED * refused.pulls().len(),
        "{}",
        refused.table()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tokens_is_pulled_from_and_refuses_one_login_a_step() -> Result<()> {
    let mut cluster = Cluster::builder()
        .nodes(1)
        .coordinator_args(&[NODES_ASK])
        .start()
        .await?;
    cluster
        .push("team/app", "v1", &Recipe::layers(&[10_000]))
        .await?;
    let (guarded, server) = Guarded::tokens(&cluster).await?;
    let host = guarded.proxy.host();
    cluster.apply(&stepping()).await?;
    cluster.apply(&secret("creds", &[(&host, WRONG)])).await?;
    let image = guarded.image("team/app");
    let begin = Instant::now();
    cluster
        .apply(&yaml("app", &image, "v1", &with(&["creds"])))
        .await?;
    cluster.until("app", SOON, is_refused).await?;
    wait::until("a third step", SOON, async || {
        let refused = tokens_refused(&server);
        ensure!(
            refused > 2 * REPEATED_FOR_TOKENS,
            "{refused} logins refused"
        );
        Ok(())
    })
    .await?;
    let refused = tokens_refused(&server);
    let steps = begin.elapsed().as_secs() / STEP.as_secs() + 1;
    ensure!(
        refused as u64 <= steps * REPEATED_FOR_TOKENS as u64,
        "{refused} logins refused in {steps} steps"
    );
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    cluster.until("app", SOON, is_ready).await?;
    nothing_shows(&mut cluster, &[RIGHT, WRONG]).await
}

const SHARING: [&str; 5] = ["one", "two", "three", "four", "five"];

/// Five images on two nodes name one Secret, which is wrong.
async fn five_images_with_a_wrong_secret(coordinator_args: &[&str]) -> Result<(Cluster, Guarded)> {
    let cluster = Cluster::builder()
        .nodes(2)
        .coordinator_args(coordinator_args)
        .start()
        .await?;
    let guarded = Guarded::passwords(&cluster).await?;
    let host = guarded.proxy.host();
    let steps = format!(
        "maxConcurrentNodes: 100, minDelayBetweenPulls: 0s, failureBackoff: {{initial: {0}s, max: {0}s}}",
        STEP.as_secs()
    );
    let mut objects = vec![policy("fast", &steps), secret("creds", &[(&host, WRONG)])];
    for name in SHARING {
        let repository = format!("team/{name}");
        cluster
            .push(&repository, "v1", &Recipe::layers(&[10_000]))
            .await?;
        let image = guarded.image(&repository);
        objects.push(yaml(name, &image, "v1", &with(&["creds"])));
    }
    cluster.apply(&objects.concat()).await?;
    Ok((cluster, guarded))
}

/// Each image says which Secret was refused where, tried for which image, and when the next try is.
async fn each_says_what_it_waits_for(cluster: &Cluster, host: &str) -> Result<()> {
    for name in SHARING {
        cluster
            .until(name, SOON, |image: &CachedImage| {
                let (_, reason, message) = ready(image);
                ensure!(reason == "ImagePullBackOff", "{reason}: {message}");
                let waits = format!("{host} refused Secret \"creds\", tried for {host}/team/");
                let is_told = message.contains(&waits) || message.contains("unauthorized");
                ensure!(is_told, "{message}");
                let nodes = &status(image).nodes;
                let retries = nodes.iter().filter(|node| node.next_retry.is_some());
                ensure!(retries.count() == 2, "{nodes:?}");
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_wrong_secret_cost_one_pull_a_step_together() -> Result<()> {
    let (cluster, guarded) = five_images_with_a_wrong_secret(&[NODES_ASK]).await?;
    let host = guarded.proxy.host();
    each_says_what_it_waits_for(&cluster, &host).await?;
    wait::until("six steps", SOON, async || {
        let logins = guarded.refused_logins();
        ensure!(logins >= 6, "{logins} so far");
        Ok(())
    })
    .await?;
    let refused = guarded.refused_requests();
    let pulls = refused.pulls();
    for pair in pulls.windows(2) {
        ensure!(pair[1].start >= pair[0].start + STEP, "{}", refused.table());
    }
    ensure!(
        refused.count() <= REPEATED * pulls.len(),
        "{}",
        refused.table()
    );
    // Each of them has had its turn.
    let tried: BTreeSet<&str> = pulls.iter().map(|pull| pull.repository.as_str()).collect();
    ensure!(tried.len() == SHARING.len(), "{}", refused.table());

    let before = guarded.refused_logins();
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    for name in SHARING {
        cluster.until::<CachedImage>(name, SOON, is_ready).await?;
    }
    // One may have been under way.
    ensure!(guarded.refused_logins() <= before + 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_wrong_secret_cost_the_coordinator_one_login_a_step_together()
-> Result<()> {
    let (cluster, guarded) = five_images_with_a_wrong_secret(&[]).await?;
    let host = guarded.proxy.host();
    each_says_what_it_waits_for(&cluster, &host).await?;
    wait::until("four steps", SOON, async || {
        let logins = guarded.refused_requests().count();
        ensure!(logins >= 4, "{logins} so far");
        Ok(())
    })
    .await?;
    let refused = guarded.refused_requests();
    ensure!(refused.of_nodes().count() == 0, "{}", refused.table());
    for pair in refused.exchanges().windows(2) {
        ensure!(pair[1].at >= pair[0].at + STEP, "{}", refused.table());
    }
    cluster.apply(&secret("creds", &[(&host, RIGHT)])).await?;
    let corrected = Instant::now();
    for name in SHARING {
        cluster.until::<CachedImage>(name, SOON, is_ready).await?;
    }
    // One after the other, a step apart, they would have needed longer.
    let took = corrected.elapsed();
    ensure!(took < STEP * (SHARING.len() as u32 - 1), "{took:?}");
    Ok(())
}
