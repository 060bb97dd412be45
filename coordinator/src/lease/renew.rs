//! Reads and writes the Lease as the candidate wants it, and says what this process is. Decides nothing.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::lease::Role;
use crate::lease::candidate::{Answer, Candidate, Request};
use crate::lease::term::Term;
use crate::rights::Rights;

/// Name of the Lease in the namespace of the release.
pub const NAME: &str = "drop-coordinator";
/// The last word may take so long; the Lease runs out by itself otherwise.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the task is connected to.
pub struct Ports {
    /// Leases of the release's namespace.
    pub api: Api<Lease>,
    /// A request that takes longer counts as failed.
    pub timeout: Duration,
    /// The process's clock.
    pub clock: Clock,
    /// Rights that are missing.
    pub rights: Rights,
}

/// Runs for leadership, keeps it, and gives it back. `role` is told what this process is; `done` turns true once it acts as a
/// leader no more, and never will.
pub async fn run(
    mut candidate: Candidate,
    ports: Ports,
    role: watch::Sender<Role>,
    mut done: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut is_failing = false;
    let mut is_waiting = false;
    loop {
        let request = candidate.request(ports.clock.now());
        let sent = ports.clock.mono();
        let answer = perform(&ports, request).await.unwrap_or_else(|problem| {
            // Once per outage: the rest is the same news again.
            if is_failing {
                debug!(lease = NAME, problem, "cannot read or write the lease");
            } else {
                warn!(
                    lease = NAME,
                    problem, "cannot read or write the lease, will retry"
                );
            }
            Answer::Failed
        });
        is_failing = answer == Answer::Failed;
        let next = candidate.learn(ports.clock.mono(), sent, answer, rand::random());
        let waits_until = candidate.waits_until(ports.clock.mono());
        if let Some(until) = waits_until.filter(|_| !is_waiting) {
            let wait = until.saturating_sub(ports.clock.mono());
            info!(
                lease = NAME,
                ?wait,
                "there was no lease: leads once nobody who held it can still lead"
            );
        }
        is_waiting = waits_until.is_some();
        announce(&candidate, ports.clock, &role);
        let wait = next.saturating_sub(ports.clock.mono());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // An error means that the other end is gone, and with it the leader's task.
            _ = done.wait_for(|done| *done) => break,
        }
    }
    if let Some(lease) = candidate.release(ports.clock.now()) {
        let release = perform(&ports, Request::Replace(Box::new(lease)));
        let released = tokio::time::timeout(RELEASE_TIMEOUT, release).await;
        if let Ok(Ok(Answer::Written(_))) = released {
            info!("gave the lease back");
        } else {
            info!("the lease is not given back, it runs out by itself");
        }
    }
    Ok(())
}

/// An error is a sentence for people.
async fn perform(ports: &Ports, request: Request) -> Result<Answer, String> {
    let params = PostParams::default();
    let (verb, request) = match request {
        Request::Read => {
            let read = tokio::time::timeout(ports.timeout, ports.api.get_opt(NAME)).await;
            let read = read.map(|lease| lease.map(|lease| Answer::Read(lease.map(Box::new))));
            ("get", read)
        }
        Request::Create(lease) => {
            let create = ports.api.create(&params, &lease);
            ("create", written(ports.timeout, create).await)
        }
        Request::Replace(lease) => {
            let name = lease.name_any();
            let replace = ports.api.replace(&name, &params, &lease);
            let answer = written(ports.timeout, replace).await;
            ("update", answer.map(gone))
        }
    };
    if let Ok(outcome) = &request {
        ports.rights.heard("leases", outcome.as_ref().err());
    }
    match request {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
            debug!(verb, "another one wrote the lease first");
            Ok(Answer::Conflict)
        }
        Ok(Err(error)) => Err(format!("{verb}: {error}")),
        Err(_) => Err(format!("{verb}: no answer within {:?}", ports.timeout)),
    }
}

async fn written(
    timeout: Duration,
    write: impl Future<Output = kube::Result<Lease>>,
) -> Result<kube::Result<Answer>, tokio::time::error::Elapsed> {
    let written = tokio::time::timeout(timeout, write).await?;
    Ok(written.map(|lease| Answer::Written(Box::new(lease))))
}

/// A lease that is not there to be written is a lease that is not there.
fn gone(answer: kube::Result<Answer>) -> kube::Result<Answer> {
    match answer {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Answer::Read(None)),
        answer => answer,
    }
}

/// Says what this process is, if that has changed.
fn announce(candidate: &Candidate, clock: Clock, role: &watch::Sender<Role>) {
    let until = candidate.leads_until(clock.mono());
    let leader = candidate.other_leader().map(str::to_owned);
    role.send_if_modified(|role| {
        match (&*role, until) {
            (Role::Leads(term), Some(until)) if term.extend(until) => return false,
            (_, Some(until)) => {
                info!(identity = candidate.holder(), "leads");
                *role = Role::Leads(Term::new(clock, until));
            }
            (Role::Follows { leader: known }, None) if *known == leader => return false,
            (Role::Unknown, None) if !candidate.is_informed() => return false,
            (was, None) => {
                if let Role::Leads(term) = was {
                    term.end();
                    warn!(leader, "leads no more");
                } else {
                    info!(leader, "follows");
                }
                *role = Role::Follows { leader };
            }
        }
        true
    });
}
