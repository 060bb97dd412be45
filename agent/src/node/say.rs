//! What the open session has been told, and the messages that say what has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use drop_proto::{
    Ask, Inventory, InventoryImage, Refusal, Refused, Renew, RuntimeState, agent_message,
};

use super::image::Presence;
use super::{Failure, Listed, Node, Output, send};

/// Longer messages are cut in pieces, well below [`drop_proto::MAX_AGENT_MESSAGE_BYTES`].
const PIECE_BYTES: usize = drop_proto::MAX_AGENT_MESSAGE_BYTES / 2;

/// What one session has been told.
#[derive(Debug)]
pub(super) struct Said {
    /// Of the Desired that was taken in last; 0 before the first.
    pub(super) revision: u64,
    /// The complete Inventory is due when the list with this number is there.
    pub(super) complete_after: Option<u64>,
    pub(super) renew_at: Option<Duration>,
    runtime: RuntimeState,
    images: BTreeMap<String, Presence>,
    asks: BTreeSet<String>,
    /// Messages by reference.
    refusals: BTreeMap<String, String>,
}

impl Said {
    /// Only the Hello so far.
    pub(super) fn hello(runtime: RuntimeState, renew_at: Option<Duration>) -> Self {
        Self {
            revision: 0,
            complete_after: None,
            renew_at,
            runtime,
            images: BTreeMap::new(),
            asks: BTreeSet::new(),
            refusals: BTreeMap::new(),
        }
    }

    /// A Done stands for an Inventory, and ends the ask.
    pub(super) fn done(&mut self, reference: &str, listed: &Listed) {
        self.asks.remove(reference);
        self.images.insert(
            reference.to_owned(),
            Presence::Present(listed.digests.clone()),
        );
    }

    /// The reference is not desired any more: nothing said about it counts.
    pub(super) fn forget(&mut self, reference: &str) {
        self.asks.remove(reference);
        self.images.remove(reference);
        self.refusals.remove(reference);
    }
}

impl Node {
    pub(super) fn say_runtime(&mut self, out: &mut Vec<Output>) {
        let state = self.runtime_state();
        if let Some(said) = &mut self.said
            && said.runtime != state
        {
            said.runtime = state.clone();
            out.push(send(agent_message::Kind::Runtime(state)));
        }
    }

    /// Inventory first, so that the asks that follow are seen in its light.
    pub(super) fn say_images(&mut self, out: &mut Vec<Output>) {
        let Some(said) = &mut self.said else { return };
        if said.revision == 0 {
            return;
        }
        let complete = said.complete_after.is_some();
        if said
            .complete_after
            .is_some_and(|list| list > self.lists.known)
        {
            return;
        }
        said.complete_after = None;

        let mut inventory = Vec::new();
        for (reference, image) in &mut self.images {
            let Some(presence) = &image.known else {
                continue;
            };
            let is_new = said.images.get(reference) != Some(presence);
            let unsaid = if complete {
                *presence != Presence::Absent
            } else {
                is_new
            };
            if unsaid || image.lost {
                let digests = match presence {
                    Presence::Absent => Vec::new(),
                    Presence::Present(digests) => digests.clone(),
                };
                inventory.push(InventoryImage {
                    reference: reference.clone(),
                    present: *presence != Presence::Absent,
                    digests,
                    lost: image.lost,
                });
                // "There" voids the ask; if the image is needed all the same, it is asked for again below.
                if *presence != Presence::Absent {
                    said.asks.remove(reference);
                }
            }
            image.lost = false;
            if is_new {
                said.images.insert(reference.clone(), presence.clone());
            }
        }
        say_inventory(said.revision, complete, inventory, out);

        let stopping = self.stop_at.is_some();
        let mut asked = Vec::new();
        let mut withdrawn = Vec::new();
        let mut refused = Vec::new();
        let mut lifted = Vec::new();
        for (reference, image) in &self.images {
            let needed = !stopping && image.needed(self.sessions) && image.refusal.is_none();
            if needed && !said.asks.contains(reference) {
                said.asks.insert(reference.clone());
                asked.push(reference.clone());
            } else if !needed {
                withdrawn.extend(said.asks.take(reference));
            }
            match &image.refusal {
                Some(refusal) => {
                    let Failure { class, message } = &refusal.failure;
                    if said.refusals.get(reference) != Some(message) {
                        said.refusals.insert(reference.clone(), message.clone());
                        refused.push(Refusal {
                            reference: reference.clone(),
                            class: (*class).into(),
                            message: message.clone(),
                        });
                    }
                }
                None => lifted.extend(said.refusals.remove_entry(reference).map(|(r, _)| r)),
            }
        }
        // A refusal is lifted before its image is asked for, and an ask withdrawn before it is refused.
        say_lifted(lifted, out);
        say_asks(asked, withdrawn, out);
        say_refused(refused, out);
    }

    pub(super) fn say_renewals(&mut self, now: Duration, out: &mut Vec<Output>) {
        let next = self.renew_after(now);
        let Some(said) = &mut self.said else { return };
        if self.pulls.is_empty() {
            said.renew_at = None;
        } else if said.renew_at.is_some_and(|at| now >= at) {
            said.renew_at = next;
            out.push(send(agent_message::Kind::Renew(Renew {
                tokens: self.pulls.keys().copied().collect(),
            })));
        }
    }

    /// A third of the shortest TTL from now; `None` while nothing is pulled.
    pub(super) fn renew_after(&self, now: Duration) -> Option<Duration> {
        let ttl = self.pulls.values().map(|pull| pull.ttl).min()?;
        Some(now + ttl / 3)
    }
}

fn say_inventory(
    revision: u64,
    complete: bool,
    images: Vec<InventoryImage>,
    out: &mut Vec<Output>,
) {
    let size = |image: &InventoryImage| {
        image.reference.len() + image.digests.iter().map(|d| d.len() + 2).sum::<usize>() + 16
    };
    let mut pieces = pieces(images, size);
    if pieces.is_empty() && complete {
        pieces.push(Vec::new());
    }
    for (index, images) in pieces.into_iter().enumerate() {
        out.push(send(agent_message::Kind::Inventory(Inventory {
            revision,
            complete: complete && index == 0,
            images,
        })));
    }
}

fn say_asks(references: Vec<String>, withdrawn: Vec<String>, out: &mut Vec<Output>) {
    let size = |reference: &String| reference.len() + 4;
    let asks = pieces(references, size).into_iter().map(|references| Ask {
        references,
        withdrawn: Vec::new(),
    });
    let withdrawals = pieces(withdrawn, size).into_iter().map(|withdrawn| Ask {
        references: Vec::new(),
        withdrawn,
    });
    out.extend(
        withdrawals
            .chain(asks)
            .map(|ask| send(agent_message::Kind::Ask(ask))),
    );
}

fn say_refused(images: Vec<Refusal>, out: &mut Vec<Output>) {
    let size = |refusal: &Refusal| refusal.reference.len() + refusal.message.len() + 16;
    out.extend(pieces(images, size).into_iter().map(|images| {
        send(agent_message::Kind::Refused(Refused {
            images,
            lifted: Vec::new(),
        }))
    }));
}

fn say_lifted(lifted: Vec<String>, out: &mut Vec<Output>) {
    let size = |reference: &String| reference.len() + 4;
    out.extend(pieces(lifted, size).into_iter().map(|lifted| {
        send(agent_message::Kind::Refused(Refused {
            images: Vec::new(),
            lifted,
        }))
    }));
}

/// Cuts a list so that no piece is longer than [`PIECE_BYTES`].
fn pieces<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut pieces: Vec<Vec<T>> = Vec::new();
    let mut room = 0;
    for item in items {
        let bytes = size(&item);
        match pieces.last_mut() {
            Some(piece) if bytes <= room => piece.push(item),
            _ => {
                pieces.push(vec![item]);
                room = PIECE_BYTES;
            }
        }
        room = room.saturating_sub(bytes);
    }
    pieces
}
