//! Makes several attempts of one RPC: one after another by a retry policy, or at once by a hedging policy (gRFC A6).

use futures_util::future::Either;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;

use super::sender::{AttemptResult, Failed, Sender};
use crate::call::AttemptKind;
use crate::picker::PickState;
use crate::retry::{Hedging, HedgingPolicy, Next, Pushback, Retries, RetryPolicy, Verdict};
use crate::transport::SendingId;
use crate::waiting::Waits;

impl Sender<'_> {
    /// Makes attempts, one after another.
    pub(super) async fn retry(
        &self,
        policy: &RetryPolicy,
        picking: &mut PickState,
        waits: &mut Waits<'_>,
    ) -> AttemptResult {
        let mut retries = Retries::new(policy, self.channel.retries.max_attempts);
        let (mut kind, mut previous, mut now) = (AttemptKind::Original, 0, self.settings.now);
        loop {
            let mut result = self.attempt(kind, previous, now, picking, waits).await;
            let Some((code, pushback)) = failure(&result) else { return result };
            if self.channel.activity.is_closed() {
                return result;
            }
            let can_replay = self.replay.is_kept();
            let jitter = fastrand::f64();
            let Some(wait) = retries.after(code, pushback, can_replay, &self.settings.gate, jitter) else {
                return result;
            };
            self.conclude(&mut result, code);
            drop(result);
            tokio::select! {
                () = self.channel.timer(|| sleep(wait)) => {}
                () = self.channel.activity.closing() => return Err(Failed::closing(self.channel)),
            }
            (kind, previous, now) = (AttemptKind::Retry, previous + 1, Instant::now());
        }
    }

    /// Makes attempts at once. The first one that is answered wins, and the others are cancelled.
    pub(super) async fn hedge(&self, policy: &HedgingPolicy) -> AttemptResult {
        let gate = &self.settings.gate;
        let mut hedging = Hedging::new(policy, self.channel.retries.max_attempts, self.settings.now);
        let mut attempts = FuturesUnordered::new();
        let mut last = None;
        let mut previous = 0;
        loop {
            let now = Instant::now();
            while let Next::At(at) = hedging.next()
                && at <= now
            {
                if hedging.start(self.replay.is_kept(), gate, now) {
                    attempts.push(self.hedged(previous, now));
                    previous += 1;
                }
            }
            if hedging.rest() == Verdict::End {
                return last.unwrap_or_else(|| Err(Failed::nothing_sent()));
            }
            let due = match hedging.next() {
                Next::At(at) => Either::Left(self.channel.timer(|| sleep_until(at))),
                Next::Never => Either::Right(std::future::pending()),
            };
            let mut result = tokio::select! {
                Some(result) = attempts.next(), if !attempts.is_empty() => result,
                () = due => continue,
                // Attempts in flight fail by themselves.
                () = self.channel.activity.closing(), if attempts.is_empty() => {
                    return Err(Failed::closing(self.channel));
                }
            };
            if sending(&result).is_some_and(|sending| self.replay.is_superseded(sending)) {
                hedging.superseded();
                continue;
            }
            let Some((code, pushback)) = failure(&result) else { return result };
            self.conclude(&mut result, code);
            if self.channel.activity.is_closed() {
                return result;
            }
            if hedging.failed(code, pushback, gate, Instant::now()) == Verdict::End {
                return result;
            }
            last = Some(result);
        }
    }

    async fn hedged(&self, previous: u32, now: Instant) -> AttemptResult {
        let kind = if previous == 0 { AttemptKind::Original } else { AttemptKind::Hedge };
        let mut picking = PickState::new(self.record.is_observed());
        let mut waits = self.channel.waits();
        self.attempt(kind, previous, now, &mut picking, &mut waits).await
    }

    /// Ends an attempt that has failed with `code`. If no other follows, the caller still gets its response.
    fn conclude(&self, result: &mut AttemptResult, code: Code) {
        match result {
            Ok(answered) => {
                self.has_tried(answered.subconn());
                answered.end(code);
                self.replay.end(answered.sending);
            }
            Err(failed) => failed.sending.into_iter().for_each(|sending| self.replay.end(sending)),
        }
    }
}

/// Returns the code with which an attempt failed, and the server's pushback. `None`: the RPC is committed to this result.
fn failure(result: &AttemptResult) -> Option<(Code, Pushback)> {
    match result {
        Ok(answered) => answered.failure(),
        Err(failed) if failed.is_final => None,
        Err(failed) => Some((failed.status.code(), Pushback::None)),
    }
}

fn sending(result: &AttemptResult) -> Option<SendingId> {
    match result {
        Ok(answered) => Some(answered.sending),
        Err(failed) => failed.sending,
    }
}
