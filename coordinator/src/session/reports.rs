//! What an agent says of its node: which images the runtime lists, which it asks for, which it refuses, and how the runtime is.

use std::collections::HashSet;

use drop_api::ImagePullPolicy;
use drop_proto::{Ask, Inventory, Refused, RuntimeState};

use crate::core::{Close, Core, Count, Now, Output, Wake};
use crate::image::{ImageId, Refusal};
use crate::index::Runtime;
use crate::node_set::NodeId;

impl Core {
    pub(super) fn inventory(&mut self, now: Now, id: NodeId, inventory: Inventory) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let name = node.name.clone();
        let Some(session) = &mut node.session else {
            return;
        };
        let first = inventory.complete && !session.inventoried;
        if inventory.complete && !first {
            let why = "a second complete Inventory in one session".to_owned();
            let close = Output::Close(session.id, Close::Invalid(why));
            self.outputs.push(close);
            return;
        }
        let unclaimed = if inventory.complete {
            std::mem::take(&mut session.unclaimed)
        } else {
            Vec::new()
        };
        if inventory.complete {
            session.inventoried = true;
            let named: HashSet<&str> = inventory
                .images
                .iter()
                .map(|image| image.reference.as_str())
                .collect();
            let absent: Vec<ImageId> = self
                .images
                .iter()
                .filter(|(_, image)| {
                    image.targeted.contains(id) && !named.contains(image.reference.as_str())
                })
                .map(|(image_id, _)| image_id)
                .collect();
            for image_id in absent {
                self.image_absent(now, image_id, id);
            }
        }
        for item in inventory.images {
            let Some(image_id) = self.images.id(&item.reference) else {
                continue;
            };
            let always = self.wants_always(image_id, id);
            let remembered = self.remembers(image_id, &name);
            let Some(image) = self.images.get_mut(image_id) else {
                continue;
            };
            if !image.targeted.contains(id) {
                continue;
            }
            if item.present {
                image.holds(id, &item.digests);
                // An agent that needs the image all the same asks again after this.
                image.asked.remove(id);
                if remembered {
                    image.accepted.insert(id);
                }
                if !always {
                    image.adopt_held(id);
                }
                if !always || image.current.contains(id) && image.check.checker != Some(id) {
                    image.failures.remove(&id);
                    image.blocked.remove(id);
                }
                // What the node was told before it held the image may not be what it should compare with.
                self.stale.insert((id, image_id));
            } else {
                if item.lost {
                    self.outputs.push(Output::Count(Count::ImageLost));
                }
                self.image_absent(now, image_id, id);
            }
            self.mark_image(now, image_id);
        }
        if first {
            // The agent has told by now how its pulls of the former session ended. These left no trace: they never began.
            for token in unclaimed {
                self.end_grant(now, token);
            }
            self.mark_node(now, id);
        }
        self.refresh_free(now, id);
        self.unsettled = true;
    }

    /// Whether a former process counted the node as ready by its digest. For other objects of the same reference any digest
    /// was good enough, which says nothing about this one.
    fn remembers(&self, image: ImageId, node: &str) -> bool {
        self.images.get(image).is_some_and(|image| {
            image.objects.iter().any(|name| {
                self.objects.get(name).is_some_and(|o| {
                    o.facts.spec.image_pull_policy == ImagePullPolicy::Always
                        && o.remembered.contains(node)
                })
            })
        })
    }

    /// Whether a CachedImage wants the newest digest of the image on the node, not just any.
    pub(crate) fn wants_always(&self, image: ImageId, node: NodeId) -> bool {
        self.images.get(image).is_some_and(|image| {
            image
                .objects
                .iter()
                .filter_map(|name| self.objects.get(name))
                .any(|object| {
                    object.targets.contains(node)
                        && object.facts.spec.image_pull_policy == ImagePullPolicy::Always
                })
        })
    }

    pub(super) fn asked(&mut self, id: NodeId, ask: Ask) {
        for (references, asks) in [(ask.references, true), (ask.withdrawn, false)] {
            for reference in references {
                let Some(image_id) = self.images.id(&reference) else {
                    continue;
                };
                let Some(image) = self.images.get_mut(image_id) else {
                    continue;
                };
                if image.targeted.contains(id) {
                    image.asked.set(id, asks);
                    if asks && image.inquiry.knows_contents() {
                        self.stale.insert((id, image_id));
                    }
                }
            }
        }
        self.unsettled = true;
    }

    /// The node does not ask for images that it needs. That concerns nobody else; a tag that it was to check is another one's.
    pub(super) fn refused(&mut self, now: Now, id: NodeId, refused: Refused) {
        for reference in refused.lifted {
            if let Some(image_id) = self.images.id(&reference) {
                if let Some(image) = self.images.get_mut(image_id) {
                    image.refusals.remove(&id);
                }
                self.mark_image(now, image_id);
            }
        }
        for refusal in refused.images {
            let Some(image_id) = self.images.id(&refusal.reference) else {
                continue;
            };
            let Some(image) = self.images.get_mut(image_id) else {
                continue;
            };
            if !image.targeted.contains(id) {
                continue;
            }
            let class = refusal.class();
            let message = refusal.message;
            image.refusals.insert(id, Refusal { class, message });
            if image.check.checker == Some(id) {
                image.check.checker = None;
                self.stale.insert((id, image_id));
            }
            self.mark_image(now, image_id);
        }
        self.unsettled = true;
    }

    pub(super) fn runtime_changed(&mut self, now: Now, id: NodeId, state: RuntimeState) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let lost_at = if state.available {
            None
        } else {
            node.runtime.lost_at.or(Some(now.mono))
        };
        node.runtime = Runtime {
            available: state.available,
            message: state.message,
            lost_at,
            platform: state.platform,
        };
        if lost_at.is_some() {
            self.wake(now.mono + self.config.agent_grace, Wake::Grace(id));
            self.relieve_checker(id);
        }
        self.mark_node(now, id);
        self.refresh_free(now, id);
    }
}
