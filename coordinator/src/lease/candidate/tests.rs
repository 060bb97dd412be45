//! Two candidates and an API server in the hands of the test: what each of them does, and who leads when.

use super::*;

const TIMING: Timing = Timing {
    duration: Duration::from_secs(15),
    renew_deadline: Duration::from_secs(10),
    retry_period: Duration::from_secs(2),
};

/// The API server's part: one Lease with a resource version, or none.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    version: u64,
    writes: usize,
}

impl Server {
    fn take(&mut self, request: Request) -> Answer {
        let (wanted, exists) = match request {
            Request::Read => return Answer::Read(self.lease.clone().map(Box::new)),
            Request::Create(lease) => (lease, false),
            Request::Replace(lease) => (lease, true),
        };
        if exists && self.lease.is_none() {
            return Answer::Read(None);
        }
        let version = self.lease.as_ref().map(|l| &l.metadata.resource_version);
        if exists != self.lease.is_some()
            || version.is_some_and(|version| *version != wanted.metadata.resource_version)
        {
            return Answer::Conflict;
        }
        self.writes += 1;
        self.version += 1;
        let mut lease = *wanted;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        Answer::Written(Box::new(lease))
    }

    fn spec(&self) -> LeaseSpec {
        self.lease.clone().and_then(|l| l.spec).unwrap_or_default()
    }
}

/// A candidate with its own clock, which says something else than any other's.
struct Replica {
    candidate: Candidate,
    next: Duration,
    ahead: Duration,
}

impl Replica {
    fn new(name: &str, ahead: u64) -> Self {
        Self {
            candidate: Candidate::new("drop-coordinator", name.to_owned(), TIMING),
            next: Duration::ZERO,
            ahead: Duration::from_secs(ahead),
        }
    }

    /// All that is due by `to`, in the test's time. Requests are answered at once.
    fn run(&mut self, server: &mut Server, to: Duration) {
        while self.next <= to {
            let mono = self.next + self.ahead;
            let request = self.candidate.request(Now::at(mono));
            let answer = server.take(request);
            let next = self.candidate.learn(mono, mono, answer, 0.5);
            self.next = next.saturating_sub(self.ahead);
        }
    }

    /// As `run`, but no request arrives.
    fn run_cut_off(&mut self, to: Duration) {
        while self.next <= to {
            let mono = self.next + self.ahead;
            let next = self.candidate.learn(mono, mono, Answer::Failed, 0.5);
            self.next = next.saturating_sub(self.ahead);
        }
    }

    fn leads(&self, at: Duration) -> bool {
        self.candidate.leads_until(at + self.ahead).is_some()
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A Lease that nobody holds.
fn free() -> Lease {
    Lease::default()
}

/// `a` leads since 0 and `b` follows, up to 60.
fn settled() -> (Server, Replica, Replica) {
    let (mut server, mut a, mut b) = (
        Server {
            lease: Some(free()),
            ..Server::default()
        },
        Replica::new("a", 1_000),
        Replica::new("b", 7),
    );
    for second in 0..=60 {
        a.run(&mut server, secs(second));
        b.run(&mut server, secs(second));
        assert!(a.leads(secs(second)) && !b.leads(secs(second)), "{second}");
    }
    (server, a, b)
}

/// The first second from `from` on at which `b` leads; nobody leads beside it.
fn taken_over(server: &mut Server, a: &mut Replica, b: &mut Replica, from: u64) -> u64 {
    for second in from..from + 120 {
        a.run_cut_off(secs(second));
        b.run(server, secs(second));
        if b.leads(secs(second)) {
            assert!(!a.leads(secs(second)), "two lead at {second}");
            return second;
        }
    }
    panic!("nobody took over");
}

#[test]
fn the_first_candidate_takes_a_free_lease_and_keeps_it_with_one_write_a_retry_period() {
    let (server, a, b) = settled();
    assert_eq!(server.writes, 31);
    let spec = server.spec();
    assert_eq!(spec.holder_identity.as_deref(), Some("a"));
    assert_eq!(
        (spec.lease_duration_seconds, spec.lease_transitions),
        (Some(15), Some(0))
    );
    assert!(spec.acquire_time < spec.renew_time);
    assert_eq!(
        (a.candidate.holder(), b.candidate.holder()),
        (Some("a"), Some("a"))
    );
}

#[test]
fn a_leader_that_is_cut_off_stops_before_another_begins() {
    let (mut server, mut a, mut b) = settled();
    let last_renewal = 60;
    a.run_cut_off(secs(69));
    assert!(a.leads(secs(69)));
    a.run_cut_off(secs(70));
    assert!(!a.leads(secs(last_renewal + 10)));
    let at = taken_over(&mut server, &mut a, &mut b, 61);
    // A lease after the renewal was seen, which took up to a retry period.
    assert!((75..=78).contains(&at), "{at}");
    assert_eq!(server.spec().lease_transitions, Some(1));
    // The old one finds out and follows.
    a.run(&mut server, secs(at + 5));
    assert!(!a.leads(secs(at + 5)));
    assert_eq!(a.candidate.holder(), Some("b"));
}

#[test]
fn a_leader_leads_from_when_it_sent_its_renewal_not_from_when_it_was_answered() {
    let mut candidate = Candidate::new("l", "a".to_owned(), TIMING);
    let stands = Answer::Read(Some(Box::new(free())));
    candidate.learn(secs(0), secs(0), stands, 0.0);
    let Request::Replace(lease) = candidate.request(Now::at(secs(0))) else {
        panic!("it is free");
    };
    let next = candidate.learn(secs(4), secs(0), Answer::Written(lease), 0.0);
    assert_eq!(candidate.leads_until(secs(4)), Some(secs(10)));
    assert_eq!(candidate.leads_until(secs(10)), None);
    assert_eq!(next, secs(4), "a renewal is overdue");
}

#[test]
fn clocks_of_other_machines_and_times_in_the_lease_mean_nothing() {
    let (mut server, mut a, mut b) = settled();
    // As if written by a machine whose clock is a year ahead, or behind.
    for wrong in [31_536_000, -31_536_000] {
        if let Some(spec) = server.lease.as_mut().and_then(|l| l.spec.as_mut()) {
            let time = jiff::Timestamp::from_second(wrong + 31_536_000).unwrap();
            spec.renew_time = Some(MicroTime(time));
        }
        b.run(&mut server, b.next);
        assert!(!b.leads(b.next));
    }
    let from = 66;
    let at = taken_over(&mut server, &mut a, &mut b, from);
    assert!(at >= from + 10, "{at}: the changes were seen after {from}");
}

#[test]
fn a_lease_that_is_given_back_is_taken_at_the_next_look() {
    let (mut server, a, mut b) = settled();
    let released = a.candidate.release(Now::at(secs(1_061))).unwrap();
    assert!(matches!(
        server.take(Request::Replace(Box::new(released))),
        Answer::Written(_)
    ));
    b.run(&mut server, secs(63));
    assert!(b.leads(secs(63)));
    assert_eq!(server.spec().lease_transitions, Some(1));
    assert!(b.candidate.release(Now::at(secs(70))).is_some());
    let follower = Replica::new("c", 0);
    assert!(follower.candidate.release(Now::at(secs(0))).is_none());
}

#[test]
fn a_deleted_lease_is_not_taken_from_a_leader_that_cannot_know_it() {
    let (mut server, mut a, mut b) = settled();
    server.lease = None;
    let at = taken_over(&mut server, &mut a, &mut b, 61);
    assert!(at >= 74, "{at}");
}

#[test]
fn a_leader_that_finds_its_lease_gone_stops_at_once() {
    let (mut server, mut a, mut b) = settled();
    server.lease = None;
    let mut began = None;
    for second in 61..100 {
        a.run(&mut server, secs(second));
        b.run(&mut server, secs(second));
        let leads = [a.leads(secs(second)), b.leads(secs(second))];
        assert!(
            !(62..76).contains(&second) || leads == [false; 2],
            "{second}"
        );
        assert_ne!(leads, [true; 2], "{second}");
        let waits = [&a, &b].map(|r| r.candidate.waits_until(secs(second)).is_some());
        assert_ne!(waits, [true; 2], "one of them has made it: {second}");
        if leads != [false; 2] && second > 62 {
            began.get_or_insert(second);
        }
    }
    assert!(began.is_some_and(|began| began <= 79), "{began:?}");
}

#[test]
fn one_that_finds_no_lease_leads_when_nobody_else_can() {
    let (mut server, mut a, _) = settled();
    server.lease = None;
    // It has never seen a Lease, and the leader cannot see that it is gone.
    let mut fresh = Replica::new("fresh", 300);
    fresh.next = secs(60);
    let at = taken_over(&mut server, &mut a, &mut fresh, 60);
    assert!((75..=76).contains(&at), "{at}");
    assert!(fresh.candidate.waits_until(secs(300 + at)).is_none());
}

#[test]
fn one_that_waits_gives_nothing_back_and_whoever_follows_it_waits_as_long() {
    let mut server = Server::default();
    let mut first = Replica::new("first", 0);
    first.run(&mut server, secs(5));
    assert_eq!(first.candidate.holder(), Some("first"));
    assert_eq!(first.candidate.other_leader(), None);
    assert_eq!(first.candidate.waits_until(secs(5)), Some(secs(15)));
    assert_eq!(first.candidate.release(Now::at(secs(5))), None);
    let mut next = Replica::new("next", 100);
    next.next = secs(5);
    for second in 5..20 {
        next.run(&mut server, secs(second));
        assert!(!next.leads(secs(second)), "{second}");
    }
    next.run(&mut server, secs(23));
    assert!(next.leads(secs(23)));
}

#[test]
fn a_lease_that_was_made_unheard_is_no_reason_to_hurry() {
    let mut server = Server::default();
    let mut replica = Replica::new("a", 0);
    replica
        .candidate
        .learn(secs(0), secs(0), Answer::Read(None), 0.0);
    let request = replica.candidate.request(Now::at(secs(0)));
    assert!(matches!(request, Request::Create(_)));
    server.take(request);
    replica
        .candidate
        .learn(secs(5), secs(0), Answer::Failed, 0.0);
    replica.next = secs(7);
    replica.run(&mut server, secs(14));
    assert_eq!(replica.candidate.holder(), Some("a"));
    assert!(!replica.leads(secs(14)));
    replica.run(&mut server, secs(15));
    assert!(replica.leads(secs(15)));
}

#[test]
fn of_two_that_come_at_once_one_leads() {
    let (mut server, mut a, mut b) = (
        Server::default(),
        Replica::new("a", 0),
        Replica::new("b", 0),
    );
    // Both have seen that there is none, and both make it.
    for replica in [&mut a, &mut b] {
        replica
            .candidate
            .learn(secs(0), secs(0), Answer::Read(None), 0.0);
    }
    for second in 1..=20 {
        a.run(&mut server, secs(second));
        b.run(&mut server, secs(second));
    }
    assert!(a.leads(secs(20)) && !b.leads(secs(20)));
    assert_eq!(b.candidate.holder(), Some("a"));
}

#[test]
fn a_write_of_which_nobody_heard_counts_for_nothing_until_it_is_written_again() {
    let (mut server, mut a) = (Server::default(), Replica::new("a", 0));
    server.lease = Some(free());
    let stands = Answer::Read(Some(Box::new(free())));
    a.candidate.learn(secs(0), secs(0), stands, 0.0);
    let request = a.candidate.request(Now::at(secs(0)));
    // It arrives, its answer does not.
    server.take(request);
    a.next = a.candidate.learn(secs(5), secs(0), Answer::Failed, 0.0);
    assert!(!a.leads(secs(5)));
    assert_eq!(a.next, secs(7));
    a.run(&mut server, secs(7));
    assert!(a.leads(secs(7)));
    assert_eq!(server.spec().lease_transitions, Some(0));
}

#[test]
fn what_others_wrote_into_the_object_stays() {
    let (mut server, mut a, _) = settled();
    if let Some(lease) = &mut server.lease {
        lease.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
        lease.metadata.resource_version = Some("900".to_owned());
        server.version = 900;
    }
    a.run(&mut server, secs(70));
    assert!(a.leads(secs(70)));
    let labels = server.lease.and_then(|l| l.metadata.labels);
    assert_eq!(labels.map(|l| l.len()), Some(1));
}

#[test]
fn errors_are_not_answered_with_a_storm() {
    let mut candidate = Candidate::new("l", "a".to_owned(), TIMING);
    assert_eq!(
        candidate.learn(secs(9), secs(4), Answer::Failed, 1.0),
        secs(11)
    );
    assert!(!candidate.is_informed());
    assert_eq!(candidate.request(Now::at(secs(11))), Request::Read);
}

#[test]
fn times_that_would_allow_two_leaders_are_refused() {
    assert_eq!(TIMING.validate(), Ok(()));
    let with = |duration, renew_deadline, retry_period| Timing {
        duration: Duration::from_millis(duration),
        renew_deadline: Duration::from_millis(renew_deadline),
        retry_period: Duration::from_millis(retry_period),
    };
    for (timing, flag) in [
        (with(10_000, 10_000, 2_000), "--lease-duration"),
        (with(900, 500, 100), "--lease-duration"),
        (with(2_500, 1_000, 100), "--lease-duration"),
        (with(15_000, 3_000, 2_000), "--lease-renew-deadline"),
        (with(15_000, 10_000, 0), "--lease-retry-period"),
    ] {
        let refused = timing.validate().unwrap_err();
        assert!(refused.starts_with(flag), "{timing:?}: {refused}");
    }
}
