//! Decides with which login a pull is tried next, and what its failure comes to. Pure: it pulls nothing and logs nothing.
//!
//! The order is the kubelet's: every login that matches, then nobody. Only a refusal moves on to the next one; whatever else
//! goes wrong would go wrong with any login, and each wrong one costs the account some failed logins.

use drop_oci::Credential;
use drop_proto::{FailureClass, Scope};

use crate::node::Failure;

/// The tries of one pull.
pub struct Attempts {
    logins: std::vec::IntoIter<Credential>,
    /// The first refusal: it tells more than what a stranger hears afterwards.
    refusal: Option<Failure>,
}

/// What follows from how a try ended. It has no `Debug`: a login is in it.
pub enum Next {
    /// The same image once more, with this login.
    Try(Credential),
    /// The pull is over.
    Over(Result<(), Failure>),
}

impl Attempts {
    /// Begins with the first of `logins`, or with nobody if there is none. Returns the login of the first try.
    #[must_use]
    pub fn begin(mut logins: Vec<Credential>) -> (Self, Credential) {
        logins.retain(|login| !matches!(login, Credential::Anonymous));
        logins.push(Credential::Anonymous);
        let mut logins = logins.into_iter();
        let first = logins.next().unwrap_or(Credential::Anonymous);
        let attempts = Self {
            logins,
            refusal: None,
        };
        (attempts, first)
    }

    /// The try ended like this.
    #[must_use]
    pub fn ended(&mut self, result: Result<(), Failure>) -> Next {
        let failure = match result {
            Err(failure) if self.is_refusal(&failure) => failure,
            result => return Next::Over(result),
        };
        let refusal = self.refusal.get_or_insert(failure);
        match self.logins.next() {
            Some(login) => Next::Try(login),
            None => Next::Over(Err(refusal.clone())),
        }
    }

    /// Whether another login may be taken where this one failed. A registry may answer with 404 who must not know of an image,
    /// so that what counts after the first refusal is the refusal.
    fn is_refusal(&self, failure: &Failure) -> bool {
        match failure.class {
            FailureClass::Unauthorized | FailureClass::Forbidden => true,
            class => self.refusal.is_some() && class.scope() == Scope::Image,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(name: &str) -> Credential {
        Credential::Basic {
            username: name.to_owned(),
            password: "secret".to_owned(),
        }
    }

    fn name(login: Credential) -> String {
        match login {
            Credential::Basic { username, .. } => username,
            _ => "nobody".to_owned(),
        }
    }

    fn failure(class: FailureClass) -> Failure {
        Failure {
            class,
            message: format!("{class:?}"),
        }
    }

    /// Who is tried while the tries end with these classes (`None`: well), and what comes out.
    fn tried(
        logins: &[&str],
        classes: &[Option<FailureClass>],
    ) -> (Vec<String>, Result<(), Failure>) {
        let logins = logins.iter().map(|name| login(name)).collect();
        let (mut attempts, first) = Attempts::begin(logins);
        let mut tried = vec![name(first)];
        for class in classes {
            let result = class.map_or(Ok(()), |class| Err(failure(class)));
            match attempts.ended(result) {
                Next::Try(login) => tried.push(name(login)),
                Next::Over(result) => {
                    assert_eq!(tried.len(), classes.len(), "over too soon");
                    return (tried, result);
                }
            }
        }
        panic!("still not over after {classes:?}");
    }

    #[test]
    fn each_login_is_tried_in_turn_while_it_is_refused_and_nobody_last() {
        use FailureClass::{Forbidden, Unauthorized};
        let (order, result) = tried(&["a", "b"], &[Some(Unauthorized), Some(Forbidden), None]);
        assert_eq!(order, ["a", "b", "nobody"]);
        assert_eq!(result, Ok(()));
        let (order, _) = tried(&["a", "b"], &[Some(Forbidden), None]);
        assert_eq!(order, ["a", "b"], "the second is good");
    }

    #[test]
    fn without_a_login_nobody_is_tried_once() {
        let (order, result) = tried(&[], &[Some(FailureClass::Unauthorized)]);
        assert_eq!(order, ["nobody"]);
        assert_eq!(result, Err(failure(FailureClass::Unauthorized)));
        let (_, first) = Attempts::begin(vec![Credential::Anonymous, login("a")]);
        assert_eq!(
            name(first),
            "a",
            "nobody comes last, also where it is named"
        );
    }

    #[test]
    fn what_has_nothing_to_do_with_the_login_costs_no_other_login() {
        for class in [
            FailureClass::NotFound,
            FailureClass::Throttled,
            FailureClass::Runtime,
            FailureClass::NoSpace,
            FailureClass::Canceled,
        ] {
            let (order, result) = tried(&["a", "b"], &[Some(class)]);
            assert_eq!((order, result), (vec!["a".to_owned()], Err(failure(class))));
        }
    }

    #[test]
    fn the_first_refusal_is_told_and_not_what_a_stranger_hears_afterwards() {
        use FailureClass::{Forbidden, NotFound, Unauthorized};
        let classes = [Some(Forbidden), Some(NotFound), Some(Unauthorized)];
        let (order, result) = tried(&["a", "b"], &classes);
        assert_eq!(order.len(), 3, "a hidden image may be shown to the next");
        assert_eq!(result, Err(failure(Forbidden)));
    }

    #[test]
    fn a_registry_that_fails_after_a_refusal_is_what_is_told() {
        use FailureClass::{Throttled, Unauthorized};
        let (order, result) = tried(&["a", "b"], &[Some(Unauthorized), Some(Throttled)]);
        assert_eq!(order, ["a", "b"]);
        assert_eq!(result, Err(failure(Throttled)));
    }
}
