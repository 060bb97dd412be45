//! Waits to lead, and leads: one life of the state machine for each term.
//!
//! A follower holds no watches and no index. A leader begins with fresh lists, which cost less than the wait for the agents'
//! Hellos that it has to do anyway; what a former term knew, it would have to doubt.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drop_daemon::supervise::Tasks;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::cached_image::apply::{self, Published};
use crate::cached_image::events::Event;
use crate::clock::Clock;
use crate::core::{Config, Input};
use crate::credentials::read;
use crate::lease::Role;
use crate::lease::term::Term;
use crate::machine::{self, Ports};
use crate::metrics;
use crate::registries::Registries;
use crate::report::Report;
use crate::rights::Rights;
use crate::session::server::Desk;
use crate::watch::{image_object, node_facts, policy, watch as watch_kind};

/// Inputs that wait for the state machine. Watches and sessions wait when it is full.
const INBOX: usize = 4096;
/// Events that wait for the API server.
const EVENTS: usize = 256;
/// An Event that was refused is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a term's tasks get to end. With the machine's last writes this stays under 20 s.
pub const STOP_GRACE: Duration = Duration::from_secs(10);

/// What every term needs.
pub struct World {
    /// The API server.
    pub client: Client,
    /// What does not change while the process runs.
    pub config: Config,
    /// Of the release: its Secrets may be read.
    pub namespace: String,
    /// For what tags name; none where nobody is to ask.
    pub registries: Option<Arc<Registries>>,
    /// The process's clock.
    pub clock: Clock,
    /// What this process is among the replicas.
    pub role: watch::Receiver<Role>,
    /// Where agents are taken while this process leads.
    pub desk: watch::Sender<Option<Desk>>,
    /// To the metrics page.
    pub report: watch::Sender<Report>,
    /// Rights that are missing.
    pub rights: Rights,
    /// Turns true when the process is to stop.
    pub stop: watch::Receiver<bool>,
}

/// Leads whenever this process may, until it is to stop. Ends with an error if a task of a term does.
pub async fn run(mut world: World) -> anyhow::Result<()> {
    loop {
        let leads = |role: &Role| matches!(role, Role::Leads(term) if term.is_on());
        let role = tokio::select! {
            biased;
            _ = world.stop.wait_for(|stop| *stop) => return Ok(()),
            role = world.role.wait_for(leads) => role.map(|role| role.clone())?,
        };
        let Role::Leads(term) = role else { continue };
        metrics::leads(true);
        let result = lead(&world, &term).await;
        term.end();
        metrics::leads(false);
        world.desk.send_replace(None);
        world.report.send_replace(Report::default());
        world.rights.forget();
        result?;
    }
}

async fn lead(world: &World, term: &Term) -> anyhow::Result<()> {
    let (inputs, inbox) = mpsc::channel(INBOX);
    let (session_events, sessions) = mpsc::channel(INBOX);
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (secrets, wanted_secrets) = watch::channel(BTreeSet::new());
    let (end, ended) = watch::channel(false);
    let mut tasks = Tasks::default();
    watch_all(&mut tasks, world, &inputs);
    let (client, namespace) = (world.client.clone(), world.namespace.clone());
    let rights = world.rights.clone();
    let reading = read::read(client, namespace, wanted_secrets, inputs, rights);
    tasks.spawn_endless("secrets", async move {
        reading.await;
        Ok(())
    });
    tasks.spawn_endless(
        "events",
        publish_events(
            world.client.clone(),
            world.rights.clone(),
            term.clone(),
            event_queue,
        ),
    );
    let (term_over, mut stop) = (term.clone(), world.stop.clone());
    tasks.spawn_endless("term", async move {
        tokio::select! {
            () = term_over.over() => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        end.send_replace(true);
        std::future::pending().await
    });
    let ports = Ports {
        client: world.client.clone(),
        inputs: inbox,
        sessions,
        events,
        secrets,
        registries: world.registries.clone(),
        report: world.report.clone(),
        rights: world.rights.clone(),
        stop: ended.clone(),
    };
    let config = Config {
        // Anywhere among 2^63: no token of another term comes again, whatever the clocks of their machines said.
        first_token: rand::random::<u64>() >> 1,
        ..world.config
    };
    let (clock, machine_term) = (world.clock, term.clone());
    tasks.spawn("state machine", async move {
        machine::run(config, clock, machine_term, ports).await;
        Ok(())
    });
    let desk = Desk {
        term: term.clone(),
        events: session_events,
    };
    world.desk.send_replace(Some(desk));
    tasks.run(ended, STOP_GRACE).await?;
    info!("the term is over");
    Ok(())
}

fn watch_all(tasks: &mut Tasks, world: &World, inputs: &mpsc::Sender<Input>) {
    let (nodes, images, policies) = (inputs.clone(), inputs.clone(), inputs.clone());
    let (api, rights) = (Api::all(world.client.clone()), world.rights.clone());
    tasks.spawn_endless("node watch", async move {
        watch_kind(api, node_facts, Input::Node, nodes, rights).await;
        Ok(())
    });
    let (api, rights) = (Api::all(world.client.clone()), world.rights.clone());
    tasks.spawn_endless("cachedimage watch", async move {
        watch_kind(api, image_object, Input::Image, images, rights).await;
        Ok(())
    });
    let (api, rights) = (Api::all(world.client.clone()), world.rights.clone());
    tasks.spawn_endless("pullpolicy watch", async move {
        watch_kind(api, policy, Input::Policy, policies, rights).await;
        Ok(())
    });
}

async fn publish_events(
    client: Client,
    rights: Rights,
    term: Term,
    mut queue: mpsc::Receiver<Event>,
) -> anyhow::Result<()> {
    let reporter = Reporter {
        controller: "drop-coordinator".to_owned(),
        instance: None,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    while let Some(event) = queue.recv().await {
        // What is refused is said again until it may be said: whatever waits behind it would be refused as well.
        while term.is_on()
            && apply::publish(&client, &recorder, &rights, event.clone()).await
                == Published::Refused
        {
            tokio::time::sleep(AGAIN).await;
        }
    }
    // The state machine is gone; its own end says why.
    std::future::pending().await
}
