//! What the coordinator has heard from its agents, in the order in which it heard it: the only ground on which a status may
//! claim anything.

use std::time::Duration;

/// How long a node's last report stands after its agent or its runtime has gone (`--agent-grace`).
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// What a node said last about a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Report {
    #[default]
    Nothing,
    Absent,
    Present {
        digest: u64,
        /// It was pulled freshly: whatever the tag named then is good until something else is wanted.
        is_fresh: bool,
    },
}

#[derive(Clone, Debug, Default)]
struct Agent {
    session: Option<Session>,
    lost_at: Option<Duration>,
    runtime_lost_at: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    conn: usize,
    agent_life: u64,
    is_inventoried: bool,
}

/// What one coordinator process has heard.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    agents: Vec<Agent>,
    /// By reference, then by node.
    reports: Vec<Vec<Report>>,
}

impl Sessions {
    pub(crate) fn new(references: usize) -> Self {
        Self {
            agents: Vec::new(),
            reports: vec![Vec::new(); references],
        }
    }

    fn agent(&mut self, node: usize) -> &mut Agent {
        if self.agents.len() <= node {
            self.agents.resize(node + 1, Agent::default());
        }
        &mut self.agents[node]
    }

    /// A Hello came. False if another process holds the node's session: then it has to be refused.
    pub(crate) fn opens(
        &mut self,
        now: Duration,
        (conn, node, agent_life): (usize, usize, u64),
        has_runtime: bool,
    ) -> bool {
        let is_confirmed = self.is_confirmed(now, node);
        let agent = self.agent(node);
        if agent
            .session
            .is_some_and(|session| session.agent_life != agent_life)
        {
            return false;
        }
        agent.session = Some(Session {
            conn,
            agent_life,
            is_inventoried: false,
        });
        agent.lost_at = None;
        if !is_confirmed {
            for reports in &mut self.reports {
                if let Some(report) = reports.get_mut(node) {
                    *report = Report::Nothing;
                }
            }
        }
        self.runtime(now, node, has_runtime);
        true
    }

    pub(crate) fn ends(&mut self, now: Duration, conn: usize, node: usize) {
        let agent = self.agent(node);
        if agent.session.is_some_and(|session| session.conn == conn) {
            agent.session = None;
            agent.lost_at = Some(now);
        }
    }

    /// Whether what comes over this connection counts.
    pub(crate) fn is_session(&self, conn: usize, node: usize) -> bool {
        let agent = self.agents.get(node);
        agent
            .and_then(|a| a.session)
            .is_some_and(|session| session.conn == conn)
    }

    pub(crate) fn has_session(&self, node: usize) -> bool {
        self.agents
            .get(node)
            .is_some_and(|agent| agent.session.is_some())
    }

    /// Whether the node has told all it holds in its present session.
    pub(crate) fn is_inventoried(&self, node: usize) -> bool {
        let agent = self.agents.get(node);
        agent
            .and_then(|a| a.session)
            .is_some_and(|session| session.is_inventoried)
    }

    pub(crate) fn inventoried(&mut self, node: usize) {
        if let Some(session) = &mut self.agent(node).session {
            session.is_inventoried = true;
        }
    }

    pub(crate) fn runtime(&mut self, now: Duration, node: usize, is_up: bool) {
        let agent = self.agent(node);
        agent.runtime_lost_at = match agent.runtime_lost_at {
            _ if is_up => None,
            None => Some(now),
            lost => lost,
        };
    }

    /// Whether the node's word still stands: agent and runtime are there, or went a moment ago.
    pub(crate) fn is_confirmed(&self, now: Duration, node: usize) -> bool {
        let within = |lost: Option<Duration>| lost.is_none_or(|at| now.saturating_sub(at) < GRACE);
        self.agents
            .get(node)
            .is_some_and(|agent| within(agent.lost_at) && within(agent.runtime_lost_at))
    }

    pub(crate) fn report(&self, reference: usize, node: usize) -> Report {
        self.reports[reference]
            .get(node)
            .copied()
            .unwrap_or_default()
    }

    /// Nodes that hold this digest under the reference, as far as they have said.
    pub(crate) fn holders(&self, reference: usize, wanted: u64) -> impl Iterator<Item = usize> {
        let holds = move |report: &Report| matches!(report, Report::Present { digest, .. } if *digest == wanted);
        let reports = self.reports[reference].iter().enumerate();
        reports
            .filter(move |(_, report)| holds(report))
            .map(|(node, _)| node)
    }

    pub(crate) fn reports(&mut self, reference: usize, node: usize, report: Report) {
        let reports = &mut self.reports[reference];
        if reports.len() <= node {
            reports.resize(node + 1, Report::Nothing);
        }
        // The same digest once more does not make a fresh pull stale.
        reports[node] = match (reports[node], report) {
            (
                Report::Present {
                    digest: old,
                    is_fresh: true,
                },
                Report::Present { digest, .. },
            ) if old == digest => Report::Present {
                digest,
                is_fresh: true,
            },
            (_, report) => report,
        };
    }

    /// The first Inventory of a session: what it does not name is absent.
    pub(crate) fn all_absent(&mut self, node: usize) {
        for reference in 0..self.reports.len() {
            self.reports(reference, node, Report::Absent);
        }
    }
}
