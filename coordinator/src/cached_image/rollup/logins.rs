//! What is said of a node that could pull an image if its login were not refused, or not being tried for another one.

use std::borrow::Cow;
use std::time::Duration;

use drop_api::NodeState;
use drop_api::conditions::ready;

use super::judge::{Exception, with_time};
use crate::core::{Core, Now};
use crate::image::Image;
use crate::logins::{Admission, Login, Refused};
use crate::node_set::NodeId;

/// Before this time nobody tries the image's login, if it was refused.
pub(super) fn login_retry(core: &Core, image: &Image) -> Option<Duration> {
    refused_login(core, image).map(|(_, refused)| refused.retry)
}

fn refused_login<'a>(core: &'a Core, image: &'a Image) -> Option<(&'a Login, &'a Refused)> {
    let login = image.login.as_ref()?;
    Some((login, core.logins.refusal(login)?))
}

/// Another image with the same Secrets tries them first, or has found that the registry does not take them.
pub(super) fn waits_for_login<'a>(
    core: &Core,
    now: Now,
    image: &Image,
    id: NodeId,
) -> Option<Exception<'a>> {
    if !core.logs_in(image, id) {
        return None;
    }
    if let Some((login, refused)) = refused_login(core, image) {
        let message = format!(
            "{} refused {login}, tried for {}: correct the Secret",
            login.host, refused.reference
        );
        let back_off = |message| {
            let reason = ready::IMAGE_PULL_BACK_OFF;
            Exception::new(id, NodeState::BackingOff, reason, message)
        };
        return Some(if refused.retry > now.mono {
            back_off(with_time(&message, now, refused.retry)).until(refused.retry)
        } else {
            back_off(Cow::Owned(format!("{message}; it is tried again now")))
        });
    }
    let login = image.login.as_ref()?;
    let is_tried = core.login_admits(now, image) == Admission::Answer;
    is_tried.then(|| {
        let message = format!(
            "waits until another image has tried {login} at {}",
            login.host
        );
        Exception::new(id, NodeState::Waiting, ready::IN_PROGRESS, message)
    })
}
