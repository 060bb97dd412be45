//! One login, three images, and a back-off of 30 s that doubles up to 5 min.

use super::*;

const A: (ImageId, &str) = (ImageId(1), "r.io/a:1");
const B: (ImageId, &str) = (ImageId(2), "r.io/b:1");

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn login(secrets: &[&str]) -> Login {
    Login {
        host: "r.io".to_owned(),
        secrets: secrets.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn two_images() -> (Logins, Arc<Login>) {
    let mut logins = Logins::default();
    let shared = logins.join(login(&["creds"]), A.0);
    assert!(Arc::ptr_eq(&shared, &logins.join(login(&["creds"]), B.0)));
    (logins, shared)
}

impl Logins {
    /// The image's pull with this number tries the login and is refused in the same second.
    fn is_refused(&mut self, at: u64, login: &Arc<Login>, image: (ImageId, &str)) -> bool {
        let pull = Try::Pull(at);
        let ticket = self.begin(secs(at), login, image.0, pull).unwrap();
        self.over(&ticket, pull);
        self.refused(secs(at), &ticket, image, Backoff::default())
    }

    fn works(&mut self, at: u64, login: &Arc<Login>, image: (ImageId, &str)) -> bool {
        let pull = Try::Pull(at);
        let ticket = self.begin(secs(at), login, image.0, pull).unwrap();
        self.over(&ticket, pull);
        self.worked(&ticket, image.0)
    }
}

#[test]
fn the_first_answer_opens_an_unknown_login_to_all() {
    let (mut logins, login) = two_images();
    assert_eq!(logins.admits(secs(0), &login), Admission::Open);
    let ticket = logins.begin(secs(0), &login, A.0, Try::Question(7));
    let ticket = ticket.unwrap();
    assert_eq!(logins.admits(secs(0), &login), Admission::Answer);
    logins.over(&ticket, Try::Pull(7));
    assert_eq!(
        logins.admits(secs(0), &login),
        Admission::Answer,
        "the end of another try is no answer"
    );
    logins.over(&ticket, Try::Question(7));
    assert_eq!(logins.admits(secs(0), &login), Admission::Open);
    assert!(!logins.worked(&ticket, A.0), "nobody had been refused");
    logins.begin(secs(1), &login, A.0, Try::Question(8));
    assert_eq!(logins.admits(secs(1), &login), Admission::Open);
}

#[test]
fn a_refusal_makes_all_wait_and_each_further_one_for_longer() {
    let (mut logins, login) = two_images();
    assert!(logins.is_refused(0, &login, A));
    assert_eq!(
        logins.admits(secs(29), &login),
        Admission::Until(secs(30)),
        "also the image that never tried"
    );
    assert_eq!(logins.refusal(&login).unwrap().reference, A.1);
    assert_eq!(logins.admits(secs(30), &login), Admission::Turn);
    assert!(logins.is_refused(30, &login, B));
    assert_eq!(logins.admits(secs(89), &login), Admission::Until(secs(90)));
    assert_eq!(logins.tried(&login, A.0), Some(secs(0)));
    assert_eq!(logins.tried(&login, B.0), Some(secs(30)));
}

#[test]
fn while_one_tries_a_refused_login_nobody_else_does() {
    let (mut logins, login) = two_images();
    logins.is_refused(0, &login, A);
    logins.begin(secs(30), &login, B.0, Try::Pull(1));
    assert_eq!(logins.admits(secs(31), &login), Admission::Answer);
}

#[test]
fn what_was_under_way_when_another_was_refused_is_no_further_step() {
    let (mut logins, login) = two_images();
    logins.works(0, &login, A);
    logins.works(0, &login, B);
    let late = logins.begin(secs(1), &login, B.0, Try::Pull(9)).unwrap();
    assert!(logins.is_refused(2, &login, A), "it has worked for it");
    assert!(!logins.refused(secs(3), &late, B, Backoff::default()));
    assert_eq!(logins.admits(secs(3), &login), Admission::Until(secs(32)));
}

#[test]
fn a_success_opens_the_login_again_and_begins_the_steps_anew() {
    let (mut logins, login) = two_images();
    logins.is_refused(0, &login, A);
    logins.is_refused(30, &login, A);
    assert!(logins.works(90, &login, B), "others were kept waiting");
    assert_eq!(logins.admits(secs(90), &login), Admission::Open);
    assert!(
        !logins.is_refused(91, &login, A),
        "the image that it never worked for is refused for itself"
    );
    assert!(logins.is_refused(92, &login, B), "it has worked for it");
    assert_eq!(logins.admits(secs(93), &login), Admission::Until(secs(122)));
}

#[test]
fn a_pull_that_runs_long_lets_others_start_until_somebody_is_refused() {
    let (mut logins, login) = two_images();
    let ticket = logins.begin(secs(0), &login, A.0, Try::Pull(1)).unwrap();
    logins.runs(&ticket, Try::Pull(1));
    assert_eq!(logins.admits(secs(15), &login), Admission::Open);
    assert!(logins.is_refused(16, &login, B));
    assert_eq!(logins.admits(secs(17), &login), Admission::Until(secs(46)));
}

#[test]
fn a_changed_secret_is_another_login_and_old_answers_mean_nothing_to_it() {
    let (mut logins, login) = two_images();
    let old = logins.begin(secs(0), &login, A.0, Try::Pull(1)).unwrap();
    logins.changed("others");
    assert!(logins.is_current(&old));
    logins.changed("creds");
    assert!(!logins.is_current(&old));
    assert_eq!(logins.admits(secs(0), &login), Admission::Open);
    assert!(!logins.refused(secs(1), &old, A, Backoff::default()));
    assert!(!logins.worked(&old, A.0));
    assert_eq!(logins.admits(secs(1), &login), Admission::Open);
    assert_eq!(logins.tried(&login, A.0), None);
}

#[test]
fn who_was_edited_tries_next_and_now() {
    let (mut logins, login) = two_images();
    logins.is_refused(0, &login, A);
    logins.retry(secs(5), &login, A.0);
    assert_eq!(logins.admits(secs(5), &login), Admission::Turn);
    assert_eq!(logins.tried(&login, A.0), None);
}

#[test]
fn what_no_image_has_is_forgotten() {
    let (mut logins, login) = two_images();
    logins.is_refused(0, &login, A);
    logins.leave(&login, A.0);
    assert!(logins.refusal(&login).is_some(), "another image has it");
    logins.leave(&login, B.0);
    assert!(logins.known.is_empty());
    assert_eq!(logins.admits(secs(1), &login), Admission::Open);
}

#[test]
fn a_login_is_told_by_its_secrets() {
    assert_eq!(login(&["one"]).to_string(), "Secret \"one\"");
    assert_eq!(
        login(&["one", "two"]).to_string(),
        "Secrets \"one\", \"two\""
    );
}
