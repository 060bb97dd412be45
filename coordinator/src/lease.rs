//! Which replica leads: the one that holds the Lease `drop-coordinator` in the namespace of the release.
//!
//! `candidate` decides, `renew` reads and writes the Lease, `term` is one unbroken time of leading, asked again at the moment
//! of each act. A leader stops by itself (`renew_deadline` after it *sent* its last successful renewal) before anybody else may
//! begin (`duration` after they *saw* that renewal), so that there are never two, whatever process is paused or cut off.

pub mod candidate;
pub mod renew;
pub mod term;

use term::Term;

/// What this process is among the replicas.
#[derive(Clone, Debug)]
pub enum Role {
    /// The Lease has not been read yet.
    Unknown,
    /// Another replica leads, or none does.
    Follows {
        /// Identity of the leader: its pod's name and a random suffix.
        leader: Option<String>,
    },
    /// This one leads as long as the term is on.
    Leads(Term),
}

impl Role {
    /// Why a replica that is not leading takes no sessions, for agents and people.
    #[must_use]
    pub fn refusal(&self) -> String {
        match self {
            Self::Unknown => "this replica does not know yet who leads".to_owned(),
            Self::Follows { leader: None } => "no replica leads at the moment".to_owned(),
            Self::Follows {
                leader: Some(leader),
            } => format!("{leader} leads, this replica follows"),
            Self::Leads(_) => "this replica is about to lead, or stops".to_owned(),
        }
    }
}
