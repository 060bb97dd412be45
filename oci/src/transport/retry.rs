//! Which failures may pass by themselves, and how long to wait before the next attempt.

use std::time::Duration;

use futures::future::BoxFuture;
use http::StatusCode;
use tokio::time::sleep;
use tower::retry::Policy;

use super::{Answer, Request};
use crate::error::Failure;

/// Attempts at one request, the first one included.
const ATTEMPTS: u32 = 3;

/// Wait before the second attempt; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// Counts the attempts at one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    made: u32,
    patience: Duration,
}

impl Retries {
    /// Pauses of a host up to `patience` are waited out.
    pub(super) fn new(patience: Duration) -> Self {
        Self { made: 1, patience }
    }

    /// The wait before another attempt, or none if there is none. `random` is from 0 to 1.
    ///
    /// Names without an address, broken trust, a deadline and a full answer do not change within a second. A throttled request
    /// has no wait here: the layer below waits for the end of the host's pause.
    fn next(self, result: &Result<Answer, Failure>, random: f64) -> Option<Duration> {
        if self.made >= ATTEMPTS {
            return None;
        }
        match result {
            Err(Failure::Throttled {
                wait,
                answer: Some(_),
            }) => (*wait <= self.patience).then_some(Duration::ZERO),
            Err(Failure::Connection(_)) => Some(self.wait(random)),
            Ok(answer) if is_passing(answer.status) => Some(self.wait(random)),
            _ => None,
        }
    }

    /// Between half and the whole of what the number of attempts calls for, so that callers do not come back together.
    fn wait(self, random: f64) -> Duration {
        let whole = FIRST_WAIT * (1 << (self.made - 1));
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 500 | 502..=504)
}

impl Policy<Request, Answer, Failure> for Retries {
    type Future = BoxFuture<'static, ()>;

    fn retry(
        &mut self,
        request: &mut Request,
        result: &mut Result<Answer, Failure>,
    ) -> Option<Self::Future> {
        let wait = self.next(result, rand::random())?;
        self.made += 1;
        tracing::debug!(
            what = request.what,
            attempt = self.made,
            "asking a registry again"
        );
        Some(Box::pin(sleep(wait)))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Answered;

    fn status(code: u16) -> Answer {
        Answer {
            status: StatusCode::from_u16(code).unwrap(),
            headers: http::HeaderMap::new(),
            body: bytes::Bytes::new(),
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let first = Retries::new(Duration::from_secs(5));
        for code in [408, 500, 502, 503, 504] {
            assert!(first.next(&Ok(status(code)), 0.0).is_some(), "{code}");
        }
        for code in [200, 301, 400, 401, 403, 404, 405, 501] {
            assert_eq!(first.next(&Ok(status(code)), 0.0), None, "{code}");
        }
        let table = [
            (Failure::Connection("reset".into()), true),
            (Failure::Dns("unknown".into()), false),
            (Failure::Tls("expired".into()), false),
            (Failure::Timeout(Duration::from_secs(1)), false),
            (Failure::Refused("no".into()), false),
        ];
        for (failure, expected) in table {
            let next = first.next(&Err(failure.clone()), 0.0);
            assert_eq!(next.is_some(), expected, "{failure}");
        }
    }

    #[test]
    fn a_throttled_request_waits_below_and_a_paused_host_is_not_asked_again() {
        let first = Retries::new(Duration::from_secs(5));
        let wait = Duration::from_secs(1);
        let answer = Some(Answered::new(StatusCode::TOO_MANY_REQUESTS, b""));
        let throttled = Err(Failure::Throttled { wait, answer });
        assert_eq!(first.next(&throttled, 0.5), Some(Duration::ZERO));
        assert_eq!(Retries::new(wait / 2).next(&throttled, 0.5), None);
        let paused = Err(Failure::Throttled { wait, answer: None });
        assert_eq!(first.next(&paused, 0.5), None);
    }

    #[test]
    fn waits_double_with_jitter_and_end() {
        let first = Retries::new(Duration::ZERO);
        let waits = |random: f64| {
            (1..=3)
                .map(|made| Retries { made, ..first }.next(&Ok(status(503)), random))
                .map(|wait| wait.map(|wait| wait.as_millis()))
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(1.0), [Some(200), Some(400), None]);
        assert_eq!(waits(0.0), [Some(100), Some(200), None]);
    }
}
