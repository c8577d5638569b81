//! Hedging of calls to etcd: a call is sent to one member after the other, so that no single member can delay it.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};

/// Time limits of a call.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallTimeouts {
    /// Longest time of the call, with all attempts.
    pub(super) whole: Duration,
    /// Time from the start of one attempt until another one is started beside it.
    pub(super) each: Duration,
    /// Whether the call waits for a connection. If not, it fails at once when there is none.
    pub(super) waits: bool,
}

impl CallTimeouts {
    /// Limits of a call that someone waits for.
    pub(super) const COMMON: Self =
        Self { whole: Duration::from_secs(10), each: Duration::from_secs(1), waits: true };
    /// Limits of reading a list, which may be long, and of opening its watch. The resolver retries both.
    pub(super) const LIST: Self =
        Self { whole: Duration::from_secs(10), each: Duration::from_secs(2), waits: false };
}

/// Most attempts at the same time: an attempt is given up after this many times [`CallTimeouts::each`]. It may hang at a
/// member that waits in vain for a leader.
const MAX_OVERLAP: u32 = 4;
/// Pause after the first failure. Doubles after each further one.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes attempts until one succeeds, one fails with a status that is not `is_transient`, or the time is over.
///
/// `attempt` gets the number of the attempt, from 0. Attempts overlap, so each must be idempotent.
pub(super) async fn hedged<T, F>(
    timeouts: CallTimeouts,
    is_transient: impl Fn(&Status) -> bool,
    attempt: impl Fn(usize) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let end = Instant::now() + timeouts.whole;
    let mut begun = 0;
    let mut begin = || {
        begun += 1;
        let attempt = attempt(begun - 1);
        let limit = timeouts.each.saturating_mul(MAX_OVERLAP);
        async move { timeout(limit, attempt).await.unwrap_or_else(|_| Err(silent())) }
    };
    let mut in_flight = FuturesUnordered::from_iter([begin()]);
    let mut next = Instant::now() + timeouts.each;
    let mut pause = PAUSE;
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            Some(result) = in_flight.next() => match result {
                Err(status) if is_transient(&status) => {
                    last = Some(status);
                    next = next.min(Instant::now() + pause);
                    pause = (pause * 2).min(timeouts.each);
                }
                result => return result,
            },
            () = sleep_until(end) => {
                return Err(last.unwrap_or_else(silent));
            }
            () = sleep_until(next) => {
                in_flight.push(begin());
                next = Instant::now() + timeouts.each;
            }
        }
    }
}

fn silent() -> Status {
    Status::deadline_exceeded("no member of etcd answered in time")
}

/// Returns whether another member, or the same one a moment later, may answer differently.
pub(super) fn is_transient(status: &Status) -> bool {
    use Code::{Aborted, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    matches!(status.code(), Aborted | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const TIMEOUTS: CallTimeouts =
        CallTimeouts { whole: Duration::from_secs(10), each: Duration::from_secs(1), waits: true };

    /// Runs a call. Each item of the script is one attempt: it succeeds, or fails with a code, after some milliseconds.
    async fn run(script: &[(u64, Result<u8, Code>)]) -> (Result<u8, Code>, Duration, usize) {
        let (begin, begun) = (Instant::now(), Cell::new(0));
        let attempt = |_| {
            let (after, result) = script[begun.replace(begun.get() + 1).min(script.len() - 1)];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                result.map_err(|code| Status::new(code, "as scripted"))
            }
        };
        let result = hedged(TIMEOUTS, is_transient, attempt).await;
        (result.map_err(|status| status.code()), begin.elapsed(), begun.get())
    }

    const NEVER: (u64, Result<u8, Code>) = (u64::MAX / 4, Ok(0));

    #[tokio::test(start_paused = true)]
    async fn a_member_that_is_silent_is_not_waited_for() {
        let (result, took, begun) = run(&[NEVER, (5, Ok(2))]).await;
        assert_eq!((result, begun), (Ok(2), 2));
        assert!(took < Duration::from_millis(1010), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_slow_may_still_answer_first() {
        assert_eq!(run(&[(1500, Ok(1)), NEVER]).await.0, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_brings_the_next_attempt_at_once_and_a_verdict_ends_them() {
        let (result, took, begun) = run(&[(1, Err(Code::Unavailable)), (1, Ok(2))]).await;
        assert_eq!((result, begun), (Ok(2), 2));
        assert!(took < Duration::from_millis(50), "{took:?}");
        let (result, _, begun) = run(&[(1, Err(Code::PermissionDenied))]).await;
        assert_eq!((result, begun), (Err(Code::PermissionDenied), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_few_at_a_time_and_an_end() {
        let (result, took, begun) = run(&[NEVER]).await;
        assert_eq!((result, took), (Err(Code::DeadlineExceeded), TIMEOUTS.whole));
        assert!(begun < 20, "{begun}");
        let (result, took, begun) = run(&[(1, Err(Code::Unavailable))]).await;
        assert_eq!((result, took), (Err(Code::Unavailable), TIMEOUTS.whole));
        assert!(begun < 20, "{begun}");
    }
}
