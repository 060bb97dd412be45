//! Several coordinators, of which one leads: it is killed, paused, cut off and told to stop in the middle of a wave. The
//! registry's own log proves that two never grant at once and that nothing is pulled twice.

mod wave;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drop_api::CachedImage;
use drop_proto::{Ask, Inventory, agent_message, coordinator_message};
use drop_tests::agent_pod::AgentPod;
use drop_tests::cached_image::{is_ready, policy, status, yaml};
use drop_tests::cluster::Cluster;
use drop_tests::coordinator::{NAMESPACE, USER};
use drop_tests::node::{self, NodeSpec};
use drop_tests::raw_session::{encoded, hello};
use drop_tests::wait;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::DeleteParams;
use tonic::Code;

use wave::{HAND_OVER, SOON, ended_well, handed_over, in_the_middle_of_a_wave, pulls_begun};

fn other(name: &str) -> &'static str {
    if name == "replica-1" {
        "replica-2"
    } else {
        "replica-1"
    }
}

async fn leads(cluster: &mut Cluster, name: &str) -> Result<bool> {
    let metrics = cluster.replica(name)?.metrics().await?;
    Ok(metrics.value("drop_leader", &[]) == Some(1.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_followed_within_a_lease() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    let first = cluster.leader().await?;
    cluster.replica(&first)?.kill();
    let second = handed_over(&cluster, &first, HAND_OVER).await?;
    ensure!(second == other(&first));
    // It comes back as a follower.
    cluster.replica(&first)?.restart().await?;
    let still = ended_well(&cluster).await?;
    // Had the new leader not known what its agents pull, it would have waited for a TTL of 60 s.
    ensure!(still < HAND_OVER, "{still:?} without a pull");
    ensure!(leads(&mut cluster, &second).await? && !leads(&mut cluster, &first).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_for_half_a_minute_grants_nothing_when_it_goes_on() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    let first = cluster.leader().await?;
    cluster.replica(&first)?.process().pause()?;
    let began = std::time::Instant::now();
    let second = handed_over(&cluster, &first, HAND_OVER).await?;
    let before = cluster.proxy.log().pulls().len();
    pulls_begun(&cluster, before + 1).await?;
    wait::until("the pause to be long enough", SOON, async || {
        ensure!(began.elapsed() >= Duration::from_secs(30));
        Ok(())
    })
    .await?;
    cluster.replica(&first)?.process().resume()?;
    wait::until("the old leader to follow", SOON, async || {
        ensure!(!leads(&mut cluster, &first).await?, "it leads");
        Ok(())
    })
    .await?;
    ended_well(&cluster).await?;
    ensure!(leads(&mut cluster, &second).await?);
    let log = cluster.replica(&first)?.log();
    ensure!(log.contains("leads no more"), "{log}");
    // Whoever asks it now is told where to go.
    let address = cluster.replica(&first)?.session_address().to_owned();
    let pod = cluster.agent_pod("node-1")?;
    let refusal = pod.open_session(&address).await?.err();
    let refusal = refusal.context("a follower takes sessions")?;
    ensure!(refusal.code() == Code::Unavailable, "{refusal}");
    let says = format!("{second}_");
    let text = refusal.message();
    ensure!(
        text.starts_with(&says) && text.ends_with(" leads, this replica follows"),
        "{text}"
    );
    Ok(())
}

/// An agent that keeps its connection to a leader that hangs, and asks it at the worst moment.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_paused_leader_is_asked_meanwhile_it_refuses_afterwards() -> Result<()> {
    let mut cluster = Cluster::builder().secure().replicas(2).start().await?;
    cluster.apply(&policy("quick", "")).await?;
    let app = yaml(
        "app",
        "r.example/team/app",
        "v1",
        "policyRef: {name: quick}",
    );
    cluster.apply(&app).await?;
    node::register(&cluster.client(), "node-1", &BTreeMap::new(), &[]).await?;
    let first = cluster.leader().await?;
    let address = cluster.replica(&first)?.session_address().to_owned();
    let folder = cluster.folder().join("pod");
    let pod = AgentPod::create(&folder, &cluster.client(), "node-1").await?;
    wait::until("the authorities", SOON, async || pod.authorities()).await?;
    let opened = pod.open_session(&address).await?;
    let mut session = opened.context("the leader refuses")?;
    let opening = agent_message::Kind::Hello(hello("node-1", "one"));
    session.send(encoded(opening)).await;
    // The Node comes to the leader in several steps.
    let mut is_wanted = false;
    while !is_wanted {
        let message = session.next().await??.and_then(|message| message.kind);
        let Some(coordinator_message::Kind::Desired(desired)) = message else {
            bail!("{message:?}");
        };
        is_wanted = !desired.images.is_empty();
    }

    cluster.replica(&first)?.process().pause()?;
    let inventory = Inventory {
        revision: 1,
        complete: true,
        ..Inventory::default()
    };
    session
        .send(encoded(agent_message::Kind::Inventory(inventory)))
        .await;
    let ask = Ask {
        references: vec!["r.example/team/app:v1".to_owned()],
        withdrawn: Vec::new(),
    };
    session.send(encoded(agent_message::Kind::Ask(ask))).await;
    handed_over(&cluster, &first, HAND_OVER).await?;
    cluster.replica(&first)?.process().resume()?;
    // What it said before is on its way, and after that comes no Grant.
    let refusal = loop {
        match session.next().await? {
            Ok(Some(message)) => {
                let kind = message.kind;
                let is_old = matches!(kind, Some(coordinator_message::Kind::Desired(_)));
                ensure!(is_old, "{kind:?}");
            }
            Ok(None) => bail!("it ended without a word"),
            Err(refusal) => break refusal,
        }
    };
    ensure!(refusal.code() == Code::Unavailable, "{refusal}");
    ensure!(refusal.message().contains("does not lead"), "{refusal}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_way_to_the_api_server_steps_down_and_its_pull_goes_on() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    let first = cluster.leader().await?;
    cluster.replica(&first)?.network()?.cut();
    // It knows by itself, before anybody else may lead.
    let second = wait::until("the leader to step down", HAND_OVER, async || {
        ensure!(!leads(&mut cluster, &first).await?, "it leads");
        Ok(other(&first))
    })
    .await?;
    handed_over(&cluster, &first, HAND_OVER).await?;
    let before = cluster.proxy.log().pulls().len();
    pulls_begun(&cluster, before + 1).await?;
    cluster.replica(&first)?.network()?.mend();
    ended_well(&cluster).await?;
    ensure!(leads(&mut cluster, second).await? && !leads(&mut cluster, &first).await?);
    Ok(())
}

/// A replica that comes then has nothing to tell it that somebody leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_lease_makes_no_second_leader() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    let first = cluster.leader().await?;
    let second = other(&first);
    cluster.replica(second)?.kill();
    let leases: Api<Lease> = Api::namespaced(cluster.client(), NAMESPACE);
    leases
        .delete("drop-coordinator", &DeleteParams::default())
        .await?;
    cluster.replica(second)?.restart().await?;
    let names = [first.as_str(), second];
    wait::until("the old leader to stop", SOON, async || {
        let log = cluster.replica(&first)?.log();
        ensure!(log.contains("leads no more"), "{log}");
        Ok(())
    })
    .await?;
    // Whichever has made it, it waits and says so; the other one has not.
    let told = "there was no lease: leads once nobody who held it can still lead";
    wait::until("one replica to have made it", SOON, async || {
        let mut logs = String::new();
        for name in names {
            logs.push_str(&cluster.replica(name)?.log());
        }
        ensure!(logs.matches(told).count() == 1, "{logs}");
        Ok(())
    })
    .await?;
    ended_well(&cluster).await?;
    let mut leaders = 0;
    for name in names {
        leaders += usize::from(leads(&mut cluster, name).await?);
    }
    ensure!(leaders == 1, "{leaders} lead");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_told_to_stop_hands_over_at_once() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    let first = cluster.leader().await?;
    let process = cluster.replica(&first)?.process();
    let ended = process.terminate(Duration::from_secs(20)).await?;
    ensure!(ended.success(), "{ended}\n{}", process.log());
    ensure!(
        process.log().contains("gave the lease back"),
        "{}",
        process.log()
    );
    // Without waiting for the lease to run out: that would take 15 s.
    handed_over(&cluster, &first, Duration::from_secs(10)).await?;
    let still = ended_well(&cluster).await?;
    ensure!(still < Duration::from_secs(14), "{still:?} without a pull");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_nobody_leads_and_nothing_is_lost() -> Result<()> {
    let mut cluster = in_the_middle_of_a_wave().await?;
    cluster.control_plane.stop_api();
    for name in ["replica-1", "replica-2"] {
        wait::until("nobody to lead", HAND_OVER, async || {
            ensure!(!leads(&mut cluster, name).await?, "{name} leads");
            Ok(())
        })
        .await?;
    }
    // The pull that ran has ended by itself, and no other begins.
    let began = cluster.proxy.log().pulls().len();
    wait::holds("no pull begins", Duration::from_secs(10), async || {
        let now = cluster.proxy.log().pulls().len();
        ensure!(now == began, "{now} instead of {began}");
        Ok(())
    })
    .await?;
    cluster.control_plane.start_api().await?;
    ended_well(&cluster).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_there_first_find_the_leader_once_there_is_one() -> Result<()> {
    let mut cluster = Cluster::builder()
        .secure()
        .node(NodeSpec::new("node-1").scripted().without_agent())
        .node(NodeSpec::new("node-2").scripted().without_agent())
        .replicas(3)
        .start()
        .await?;
    let names = ["replica-1", "replica-2", "replica-3"];
    for name in names {
        cluster.replica(name)?.kill();
    }
    for node in ["node-1", "node-2"] {
        cluster.node(node)?.start_agent().await?;
    }
    cluster.apply(&policy("quick", "")).await?;
    let spec = "policyRef: {name: quick}";
    let app = yaml("app", &cluster.image("team/app"), "v1", spec);
    cluster.apply(&app).await?;
    for name in names {
        cluster.replica(name)?.restart().await?;
    }
    let ready: CachedImage = cluster.until("app", SOON, is_ready).await?;
    ensure!(status(&ready).ready.as_deref() == Some("2/2"));
    let leader = cluster.leader().await?;
    // The page is made anew once a second.
    let leader = cluster.replica(&leader)?;
    wait::until("both sessions on the leader's page", SOON, async || {
        let page = leader.metrics().await?;
        ensure!(
            page.value("drop_sessions", &[]) == Some(2.0),
            "{}",
            page.text
        );
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_the_lease_is_all_that_is_asked_for() -> Result<()> {
    const REST: Duration = Duration::from_secs(20);
    let cluster = Cluster::builder()
        .node(NodeSpec::new("node-1").scripted())
        .replicas(2)
        .start()
        .await?;
    cluster.apply(&policy("quick", "")).await?;
    let app = yaml(
        "app",
        &cluster.image("team/app"),
        "v1",
        "policyRef: {name: quick}",
    );
    cluster.apply(&app).await?;
    cluster.until::<CachedImage>("app", SOON, is_ready).await?;
    // Events come behind the status.
    let quiet = async || {
        let mark = Timestamp::now();
        tokio::time::sleep(REST).await;
        let asked = cluster.control_plane.audit()?.by(USER).since(mark);
        let others = asked.filter(|request| request.object.resource != "leases");
        let others = others.filter(|request| request.verb != "watch");
        ensure!(others.count() == 0, "{}", others.table());
        Ok(asked)
    };
    let asked = wait::until("rest", SOON, quiet).await?;
    // The leader writes once each 2 s and reads nothing; the follower reads a little less often.
    let (gets, puts) = (
        asked.filter(|request| request.verb == "get").count(),
        asked.writes().count(),
    );
    ensure!(
        (5..=11).contains(&puts) && (5..=11).contains(&gets),
        "{puts} writes and {gets} reads in {REST:?}"
    );
    Ok(())
}
