//! What is known of each login: whether a registry takes it, and who may try it while that is not known.
//!
//! A login is what the Secrets that an image names have for its registry host. Many images share one, so a wrong password must
//! cost one refused login in each step of the back-off, however many they are: while a login is unknown or refused, one try at
//! a time is out, a pull or a question of the coordinator's own, and after a refusal the next one waits. Whose last try is
//! longest ago goes first, so that an image that the login has no right to holds up nobody else. A login that has worked is
//! open to all; an image that it never worked for is then that image's own trouble. Another content of a Secret is another
//! login.
//!
//! Pure, and without any password: it knows the names of Secrets only. `turns` asks it before each try and tells it what came
//! of them.

mod turns;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::image::ImageId;
use crate::pacing::backoff::Backoff;
use turns::Turn;

/// A registry host and the Secrets that have something for it, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Login {
    /// With its port.
    pub host: String,
    /// Names of Secrets.
    pub secrets: Vec<String>,
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.secrets.len() == 1 { "" } else { "s" };
        write!(f, "Secret{plural} \"{}\"", self.secrets.join("\", \""))
    }
}

/// What tries a login: a question or a pull, by its number or token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    Question(u64),
    Pull(u64),
}

/// Says later which login was tried, in which version of its Secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    login: Arc<Login>,
    version: u64,
}

/// A login that the registry did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The image that it was tried for.
    pub reference: String,
    /// When the next try may start.
    pub retry: Duration,
}

/// Whether a login may be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Nothing is in the way.
    Open,
    /// One may try: the one that has not for the longest time.
    Turn,
    /// Another one's answer comes first.
    Answer,
    /// Nobody tries before this time.
    Until(Duration),
}

/// All logins that images have.
#[derive(Debug, Default)]
pub(crate) struct Logins {
    known: BTreeMap<Arc<Login>, Known>,
    versions: u64,
    /// Who could try a refused login in this step.
    turns: Vec<Turn>,
}

#[derive(Debug, Default)]
struct Known {
    version: u64,
    standing: Standing,
    /// The one try that is out while the login is not believed in.
    out: Option<Try>,
    /// Refusals in a row.
    steps: u32,
    images: BTreeMap<ImageId, Experience>,
}

#[derive(Debug, Default)]
enum Standing {
    /// Nobody has an answer.
    #[default]
    Unknown,
    /// A pull has run long enough without an error.
    Believed,
    /// It has worked.
    Proven,
    Refused(Refused),
}

/// What an image has been through with its login.
#[derive(Debug, Default)]
struct Experience {
    tried: Option<Duration>,
    has_worked: bool,
}

impl Logins {
    /// The image is to be had with this login.
    pub(crate) fn join(&mut self, login: Login, image: ImageId) -> Arc<Login> {
        let login = Arc::new(login);
        let place = self.known.entry(login);
        let login = Arc::clone(place.key());
        let known = place.or_insert_with(|| {
            self.versions += 1;
            Known {
                version: self.versions,
                ..Known::default()
            }
        });
        known.images.entry(image).or_default();
        login
    }

    /// The image has another login, or none. What no image has is forgotten.
    pub(crate) fn leave(&mut self, login: &Arc<Login>, image: ImageId) {
        if let Some(known) = self.known.get_mut(login) {
            known.images.remove(&image);
            if known.images.is_empty() {
                self.known.remove(login);
            }
        }
    }

    /// The Secret says something else: whatever was known of its logins says nothing any more.
    pub(crate) fn changed(&mut self, secret: &str) {
        for (login, known) in &mut self.known {
            if login.secrets.iter().any(|name| name == secret) {
                self.versions += 1;
                let images = known.images.keys();
                *known = Known {
                    version: self.versions,
                    images: images.map(|id| (*id, Experience::default())).collect(),
                    ..Known::default()
                };
            }
        }
    }

    /// Somebody has edited an object of the image, and wants to see what becomes of it: it tries next, and now.
    pub(crate) fn retry(&mut self, now: Duration, login: &Arc<Login>, image: ImageId) {
        let Some(known) = self.known.get_mut(login) else {
            return;
        };
        known.images.insert(image, Experience::default());
        if let Standing::Refused(refused) = &mut known.standing {
            refused.retry = refused.retry.min(now);
        }
    }

    /// Whether the login may be tried now.
    pub(crate) fn admits(&self, now: Duration, login: &Arc<Login>) -> Admission {
        match self.known.get(login) {
            Some(known) if known.out.is_some() => Admission::Answer,
            Some(Known {
                standing: Standing::Refused(refused),
                ..
            }) if now < refused.retry => Admission::Until(refused.retry),
            Some(Known {
                standing: Standing::Refused(_),
                ..
            }) => Admission::Turn,
            _ => Admission::Open,
        }
    }

    /// When the image tried the login last.
    pub(crate) fn tried(&self, login: &Arc<Login>, image: ImageId) -> Option<Duration> {
        self.known.get(login)?.images.get(&image)?.tried
    }

    /// Why nobody may try the login, or only one.
    pub(crate) fn refusal(&self, login: &Arc<Login>) -> Option<&Refused> {
        match &self.known.get(login)?.standing {
            Standing::Refused(refused) => Some(refused),
            _ => None,
        }
    }

    /// Images that have the login.
    pub(crate) fn images(&self, login: &Arc<Login>) -> Vec<ImageId> {
        let known = self.known.get(login);
        known.map_or_else(Vec::new, |known| known.images.keys().copied().collect())
    }

    /// The image tries the login.
    pub(crate) fn begin(
        &mut self,
        now: Duration,
        login: &Arc<Login>,
        image: ImageId,
        what: Try,
    ) -> Option<Ticket> {
        let known = self.known.get_mut(login)?;
        known.images.entry(image).or_default().tried = Some(now);
        if matches!(known.standing, Standing::Unknown | Standing::Refused(_)) {
            known.out = Some(what);
        }
        Some(Ticket {
            login: Arc::clone(login),
            version: known.version,
        })
    }

    /// The try is over, whatever came of it.
    pub(crate) fn over(&mut self, ticket: &Ticket, what: Try) {
        if let Some(known) = self.current(ticket)
            && known.out == Some(what)
        {
            known.out = None;
        }
    }

    /// The pull has run long enough to believe in its login.
    pub(crate) fn runs(&mut self, ticket: &Ticket, what: Try) {
        if let Some(known) = self.current(ticket)
            && known.out == Some(what)
        {
            known.out = None;
            known.standing = Standing::Believed;
        }
    }

    /// The login has worked for the image. Whether others were kept waiting by a refusal.
    pub(crate) fn worked(&mut self, ticket: &Ticket, image: ImageId) -> bool {
        let Some(known) = self.current(ticket) else {
            return false;
        };
        known.standing = Standing::Proven;
        known.out = None;
        if let Some(experience) = known.images.get_mut(&image) {
            experience.has_worked = true;
        }
        std::mem::take(&mut known.steps) > 0
    }

    /// The login was refused. Whether that keeps others from trying it.
    pub(crate) fn refused(
        &mut self,
        now: Duration,
        ticket: &Ticket,
        (image, reference): (ImageId, &str),
        backoff: Backoff,
    ) -> bool {
        let Some(known) = self.current(ticket) else {
            return false;
        };
        let experience = known.images.get_mut(&image);
        let had_worked = experience.is_some_and(|e| std::mem::take(&mut e.has_worked));
        match &known.standing {
            // It is good for others: the image is none of those that it opens.
            Standing::Proven if !had_worked => return false,
            // This try was under way when another one was refused: it tells the same again.
            Standing::Refused(refused) if now < refused.retry => return false,
            _ => {}
        }
        known.steps += 1;
        known.standing = Standing::Refused(Refused {
            reference: reference.to_owned(),
            retry: now + backoff.delay(known.steps),
        });
        true
    }

    /// Whether the Secrets still say what they said when the try began.
    pub(crate) fn is_current(&self, ticket: &Ticket) -> bool {
        let known = self.known.get(&ticket.login);
        known.is_some_and(|known| known.version == ticket.version)
    }

    fn current(&mut self, ticket: &Ticket) -> Option<&mut Known> {
        let known = self.known.get_mut(&ticket.login);
        known.filter(|known| known.version == ticket.version)
    }
}

impl Ticket {
    pub(crate) fn login(&self) -> &Arc<Login> {
        &self.login
    }
}

#[cfg(test)]
mod tests;
