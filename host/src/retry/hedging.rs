//! Decides about the hedges of one RPC.

use tokio::time::Instant;
use tonic::Code;

use super::{Gate, HedgingPolicy, Pushback};

/// The hedges of one RPC.
///
/// ```text
///             started                     failed, non-fatal
///   Next::At ─────────▶ Next::At(+delay) ───────────────────▶ Next::At(now)
///       │                                 pushback n ms
///       │                                ───────────────────▶ Next::At(+n)
///       │  enough attempts, pushback "stop", throttled
///       └───────────────────────────────────────────────────▶ Next::Never
/// ```
#[derive(Debug)]
pub(crate) struct Hedging<'a> {
    policy: &'a HedgingPolicy,
    max_attempts: u32,
    started: u32,
    in_flight: u32,
    next: Next,
}

/// When the next attempt is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    At(Instant),
    /// No more attempts.
    Never,
}

/// What follows the failure of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Other attempts are in flight or will be.
    Wait,
    /// The RPC ends with this failure, and other attempts are cancelled.
    End,
}

impl<'a> Hedging<'a> {
    /// `max_attempts` is the channel's limit. The first attempt is due now.
    pub(crate) fn new(policy: &'a HedgingPolicy, max_attempts: u32, now: Instant) -> Self {
        let max_attempts = policy.max_attempts.min(max_attempts);
        Self { policy, max_attempts, started: 0, in_flight: 0, next: Next::At(now) }
    }

    /// When the next attempt is due.
    pub(crate) const fn next(&self) -> Next {
        self.next
    }

    /// The next attempt is due: returns whether to send it. The first one is always sent.
    pub(crate) fn start(&mut self, can_replay: bool, gate: &Gate, now: Instant) -> bool {
        if self.started > 0 && !(can_replay && gate.take()) {
            self.next = Next::Never;
            return false;
        }
        self.started += 1;
        self.in_flight += 1;
        self.schedule(now.checked_add(self.policy.delay));
        true
    }

    /// An attempt has failed with `code`.
    pub(crate) fn failed(&mut self, code: Code, pushback: Pushback, gate: &Gate, now: Instant) -> Verdict {
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_fatal = !self.policy.non_fatal.contains(code);
        if !is_fatal || pushback == Pushback::Stop {
            gate.failed();
        }
        if is_fatal {
            return Verdict::End;
        }
        match pushback {
            Pushback::Stop => self.next = Next::Never,
            Pushback::After(wait) => self.schedule(now.checked_add(wait)),
            Pushback::None => self.schedule(Some(now)),
        }
        self.rest()
    }

    /// An attempt was cancelled, because the request has grown too large to be sent more than once.
    pub(crate) const fn superseded(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.next = Next::Never;
    }

    /// Returns what follows when nothing more is sent now.
    pub(crate) fn rest(&self) -> Verdict {
        if self.in_flight == 0 && self.next == Next::Never { Verdict::End } else { Verdict::Wait }
    }

    fn schedule(&mut self, at: Option<Instant>) {
        let at = at.filter(|_| self.next != Next::Never && self.started < self.max_attempts);
        self.next = at.map_or(Next::Never, Next::At);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::Codes;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn policy(max_attempts: u32, delay: Duration) -> HedgingPolicy {
        HedgingPolicy { max_attempts, delay, non_fatal: Codes::none().with(Code::Unavailable) }
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_follow_each_other_after_the_delay() {
        let (policy, now, gate) = (policy(3, 50 * MS), Instant::now(), Gate::default());
        let mut hedging = Hedging::new(&policy, 5, now);
        assert_eq!(hedging.next(), Next::At(now));
        assert!(hedging.start(true, &gate, now));
        assert_eq!(hedging.next(), Next::At(now + 50 * MS));
        assert!(hedging.start(true, &gate, now + 50 * MS));
        // A failure that is not fatal sends the next one at once, and then there are enough.
        assert_eq!(hedging.failed(Code::Unavailable, Pushback::None, &gate, now + 60 * MS), Verdict::Wait);
        assert_eq!(hedging.next(), Next::At(now + 60 * MS));
        assert!(hedging.start(true, &gate, now + 60 * MS));
        assert_eq!(hedging.next(), Next::Never);
        assert_eq!(hedging.failed(Code::Unavailable, Pushback::None, &gate, now), Verdict::Wait);
        assert_eq!(hedging.failed(Code::Unavailable, Pushback::None, &gate, now), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn pushback_delays_the_next_attempt_or_stops_all_further_ones() {
        let (policy, now, gate) = (policy(4, 50 * MS), Instant::now(), Gate::default());
        let mut hedging = Hedging::new(&policy, 5, now);
        hedging.start(true, &gate, now);
        let after = Pushback::After(7 * MS);
        assert_eq!(hedging.failed(Code::Unavailable, after, &gate, now), Verdict::Wait);
        assert_eq!(hedging.next(), Next::At(now + 7 * MS));
        hedging.start(true, &gate, now + 7 * MS);
        hedging.start(true, &gate, now + 57 * MS);
        assert_eq!(hedging.failed(Code::Unavailable, Pushback::Stop, &gate, now), Verdict::Wait);
        assert_eq!(hedging.next(), Next::Never);
        assert_eq!(hedging.failed(Code::Unavailable, Pushback::None, &gate, now), Verdict::End);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fatal_code_ends_the_rpc() {
        let (policy, now, gate) = (policy(4, 50 * MS), Instant::now(), Gate::default());
        let mut hedging = Hedging::new(&policy, 5, now);
        hedging.start(true, &gate, now);
        hedging.start(true, &gate, now);
        assert_eq!(hedging.failed(Code::Internal, Pushback::None, &gate, now), Verdict::End);
    }

    proptest! {
        /// Whatever happens, the RPC ends, with at most as many attempts as allowed.
        #[test]
        fn an_rpc_ends(
            max in 2u32..6,
            limit in 1u32..6,
            events in prop::collection::vec((any::<bool>(), 0u8..3, any::<bool>()), 0..20),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let _within = runtime.as_ref().expect("a runtime").enter();
            let (policy, now, gate) = (policy(max, 50 * MS), Instant::now(), Gate::default());
            let mut hedging = Hedging::new(&policy, limit, now);
            hedging.start(true, &gate, now);
            let mut ended = false;
            for (starts, pushback, can_replay) in events {
                if starts && hedging.next() != Next::Never {
                    hedging.start(can_replay, &gate, now);
                } else if hedging.in_flight > 0 {
                    let pushback = [Pushback::None, Pushback::After(MS), Pushback::Stop][usize::from(pushback)];
                    ended = hedging.failed(Code::Unavailable, pushback, &gate, now) == Verdict::End;
                }
                prop_assert!(hedging.started <= max.min(limit).max(1));
                prop_assert_eq!(hedging.rest() == Verdict::End, hedging.in_flight == 0 && hedging.next == Next::Never);
                if ended {
                    prop_assert_eq!(hedging.rest(), Verdict::End);
                    break;
                }
            }
        }
    }
}
