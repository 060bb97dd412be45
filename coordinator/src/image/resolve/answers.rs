//! What a registry's answer means: for the image, its host, and the nodes.

use std::time::Duration;

use drop_proto::FailureClass;

use super::{About, ResolveFailed, Resolved, Standing};
use crate::core::{Core, Now, Wake};
use crate::credentials::may_be_for_want_of_a_secret;
use crate::image::{Failure, ImageId};
use crate::logins::Try;
use crate::pacing::backoff::Backoff;

/// How long nobody is asked at a host that could not be reached: its tags are the nodes' at once.
const OUT_OF_REACH: Duration = Duration::from_secs(60);
/// The same for one that was reached and failed: soon it may be well again.
const FAILING: Duration = Duration::from_secs(5);

impl Core {
    pub(crate) fn registry_answered(
        &mut self,
        now: Now,
        number: u64,
        result: Result<Resolved, ResolveFailed>,
    ) {
        let Some(asked) = self.questions.remove(&number) else {
            return;
        };
        self.unsettled = true;
        if let Some(host) = self.hosts.get_mut(&asked.host) {
            host.questions = host.questions.saturating_sub(1);
        }
        if let Some(ticket) = &asked.login {
            self.logins.over(ticket, Try::Question(number));
        }
        let Some(image) = self.images.get_mut(asked.image) else {
            return;
        };
        let is_out = |(out, _): &mut (u64, About)| *out == number;
        let Some((_, about)) = image.inquiry.out.take_if(is_out) else {
            return;
        };
        if let (Some(ticket), Err(failed)) = (&asked.login, &result) {
            self.login_failed(now, ticket, asked.image, failed.class);
        }
        if let Err(failed) = &result
            && may_be_for_want_of_a_secret(failed.class)
            && !self.is_answer_current(asked.image, asked.login.as_ref())
        {
            // With what the Secrets say by now the answer may be another one.
            self.mark_image(now, asked.image);
            return;
        }
        match (about, result) {
            (About::Tag, Ok(resolved)) => {
                // What is asked about a digest may be remembered from better days: it proves no login.
                if let Some(ticket) = &asked.login {
                    self.login_worked(now, ticket, asked.image);
                }
                self.tag_resolved(now, asked.image, &resolved.digest);
            }
            (About::Contents { digest, .. }, Ok(resolved)) => {
                let Some(image) = self.images.get_mut(asked.image) else {
                    return;
                };
                image.inquiry.standing = Standing::Well;
                image
                    .inquiry
                    .learn_contents(now.mono, digest, resolved.sizes);
                // Nodes judge their disks by it, also those that will ask when others have pulled.
                let wanting = image.wanting();
                let wanting = wanting.iter().map(|node| (node, asked.image));
                self.stale.extend(wanting);
            }
            (about, Err(failed)) => self.not_told(now, asked.image, about, failed),
        }
        self.mark_image(now, asked.image);
    }

    fn tag_resolved(&mut self, now: Now, id: ImageId, digest: &str) {
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let was_refused = image.inquiry.refusal().is_some();
        image.inquiry.standing = Standing::Well;
        image.resolved(now, digest);
        // Only nodes that hold the image compare it with the expectation; the others pull whatever the tag names.
        let present = image.present.iter();
        self.stale.extend(present.map(|holder| (holder, id)));
        if was_refused {
            self.each_object(id, |object| object.consecutive_failures = 0);
        }
        self.plan_check(now, id);
    }

    fn not_told(&mut self, now: Now, id: ImageId, about: About, failed: ResolveFailed) {
        let Some(image) = self.images.get(id) else {
            return;
        };
        let is_pinned = image.pinned;
        let is_decisive = self.is_decisive(id, failed.class);
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let asked_for_tag = about == About::Tag;
        if let About::Contents { digest, platforms } = about {
            // A pull tells what the registry did not, unless there is nothing to pull.
            let unknown = platforms.into_iter().map(|platform| (platform, Some(0)));
            image.inquiry.learn_contents(now.mono, digest, unknown);
        }
        match failed.class {
            FailureClass::Throttled => {
                let wait = failed.wait.unwrap_or(Backoff::default().initial);
                if asked_for_tag {
                    image.inquiry.standing = Standing::Throttled(failed.message.clone());
                }
                let host = self.hosts.entry(image.host.clone()).or_default();
                host.told_to_wait(now.mono, wait, &failed.message);
                self.wake(now.mono + wait, Wake::Schedule);
            }
            _ if is_decisive => {
                if asked_for_tag || is_pinned {
                    self.refuse(now, id, failed);
                }
            }
            FailureClass::Unauthorized | FailureClass::Forbidden => {
                if asked_for_tag {
                    self.leave_to_nodes_because(now, id, |host| {
                        format!(
                            "{host} tells the coordinator nothing, a node checks the tag: {}",
                            failed.message
                        )
                    });
                }
            }
            class => {
                let wait = match class {
                    FailureClass::ServerError => FAILING,
                    _ => OUT_OF_REACH,
                };
                let host = self.hosts.entry(image.host.clone()).or_default();
                host.out_of_reach(now.mono + wait, &failed.message);
                if asked_for_tag {
                    self.leave_to_nodes(now, id, &failed.message);
                }
            }
        }
    }

    /// Whether no node would fare better. Where no Secret is named, nodes may have logins of their own.
    fn is_decisive(&self, id: ImageId, class: FailureClass) -> bool {
        match class {
            FailureClass::NotFound | FailureClass::InvalidName | FailureClass::Unspecified => true,
            FailureClass::Unauthorized | FailureClass::Forbidden => self
                .images
                .get(id)
                .is_some_and(|image| self.names_secrets(image)),
            _ => false,
        }
    }

    /// Says on every node that lacks the image what the registry said, and asks again after the longest back-off.
    fn refuse(&mut self, now: Now, id: ImageId, failed: ResolveFailed) {
        let wait = self.shortest_backoff(id).max;
        let Some(image) = self.images.get_mut(id) else {
            return;
        };
        let former = image.inquiry.refusal().map(|failure| failure.attempts);
        let on_nodes = image
            .failures
            .values()
            .map(|failure| failure.attempts)
            .max();
        let retry = now.mono + wait;
        image.inquiry.standing = Standing::Refused(Failure {
            class: failed.class,
            message: failed.message,
            attempts: former.or(on_nodes).unwrap_or(0) + 1,
            at: now.mono,
            retry,
        });
        image.inquiry.not_before = retry;
        if image.pinned {
            image.inquiry.contents = None;
        }
        self.wake(retry, Wake::Schedule);
        self.each_object(id, |object| {
            object.consecutive_failures = object.consecutive_failures.saturating_add(1);
        });
    }

    /// The coordinator cannot reach the host.
    pub(super) fn leave_to_nodes(&mut self, now: Now, id: ImageId, cause: &str) {
        self.leave_to_nodes_because(now, id, |host| {
            format!("the coordinator cannot reach {host}, a node checks the tag: {cause}")
        });
    }

    fn leave_to_nodes_because(&mut self, now: Now, id: ImageId, why: impl Fn(&str) -> String) {
        if let Some(image) = self.images.get_mut(id) {
            image.inquiry.standing = Standing::LeftToNodes {
                due: image.check.due,
                message: why(&image.host),
            };
            self.mark_image(now, id);
        }
    }
}
