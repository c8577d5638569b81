//! The state machine of a subconn. It is pure, so that it can be tested without a connection or a clock.
//!
//! ```text
//!        connect            SETTINGS
//!  IDLE ---------> CONNECTING -----> READY
//!   ^ ^               | failed         | lost, or GOAWAY
//!   | |  backoff over v                |
//!   | +----- TRANSIENT_FAILURE <-------+ (before it was proven, twice in a row)
//!   +----------------------------------+
//! ```
//!
//! Every state also changes to IDLE when the channel goes idle, and to SHUTDOWN. SHUTDOWN is final.
//!
//! A connection is proven once it has carried a response, or has been open for a while ([`Backoff::proven_after`]).

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::connectivity::ConnectivityState;

/// State of a subconn, and its failures so far.
#[derive(Debug)]
pub(super) struct SubConnMachine {
    backoff: Backoff,
    state: State,
    /// Consecutive attempts that did not lead to a proven connection.
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    Idle,
    Connecting,
    Ready { since: Instant },
    TransientFailure { until: Instant },
    Shutdown,
}

impl SubConnMachine {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self { backoff, state: State::Idle, failures: 0 }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Starts to connect if IDLE.
    pub(super) fn connect(&mut self) {
        if self.state == State::Idle {
            self.state = State::Connecting;
        }
    }

    /// Records that the peer has sent its SETTINGS.
    pub(super) fn connected(&mut self, now: Instant) {
        if self.state == State::Connecting {
            self.state = State::Ready { since: now };
        }
    }

    /// Records that the attempt failed. `is_ours`: for lack of a local resource, such as file descriptors. Such a
    /// failure does not lengthen the backoff.
    pub(super) fn failed(&mut self, now: Instant, is_ours: bool, random: f64) {
        if self.state != State::Connecting {
            return;
        }
        if is_ours {
            self.state = State::TransientFailure { until: now + self.backoff.delay(1, random) };
        } else {
            self.wait(now, random);
        }
    }

    /// Records that the connection was lost, or the peer sent GOAWAY. `answered`: it carried a response to an RPC.
    pub(super) fn lost(&mut self, now: Instant, answered: bool, random: f64) {
        let State::Ready { since } = self.state else { return };
        if answered || self.has_proven(since, now) {
            self.failures = 0;
            self.state = State::Idle;
        } else if self.failures == 0 {
            // One early loss may be a restart: the next attempt needs no backoff, but the failure counts.
            self.failures = 1;
            self.state = State::Idle;
        } else {
            self.wait(now, random);
        }
    }

    /// Gives up the connection, because the channel goes idle. The next attempt needs no backoff, but failures so far
    /// still count, unless the connection was proven. `answered`: it carried a response to an RPC.
    pub(super) fn enter_idle(&mut self, now: Instant, answered: bool) {
        match self.state {
            State::Idle | State::Shutdown => return,
            State::Ready { since } if answered || self.has_proven(since, now) => self.failures = 0,
            State::Ready { .. } | State::Connecting | State::TransientFailure { .. } => {}
        }
        self.state = State::Idle;
    }

    fn has_proven(&self, since: Instant, now: Instant) -> bool {
        now.duration_since(since) >= self.backoff.proven_after
    }

    /// Leaves TRANSIENT_FAILURE once its backoff is over.
    pub(super) fn tick(&mut self, now: Instant) {
        if matches!(self.state, State::TransientFailure { until } if now >= until) {
            self.state = State::Idle;
        }
    }

    pub(super) fn shutdown(&mut self) {
        self.state = State::Shutdown;
    }

    fn wait(&mut self, now: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.state = State::TransientFailure { until: now + self.backoff.delay(self.failures, random) };
    }
}

impl From<State> for ConnectivityState {
    fn from(state: State) -> Self {
        match state {
            State::Idle => Self::Idle,
            State::Connecting => Self::Connecting,
            State::Ready { .. } => Self::Ready,
            State::TransientFailure { .. } => Self::TransientFailure,
            State::Shutdown => Self::Shutdown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_accepts_and_closes_is_dialled_ever_less() {
        let mut machine = SubConnMachine::new(Backoff::default());
        let start = Instant::now();
        let mut dials = 0;
        while start.elapsed() < Duration::from_secs(10) {
            machine.tick(Instant::now());
            machine.connect();
            if machine.state() == State::Connecting {
                dials += 1;
                machine.connected(Instant::now());
                machine.lost(Instant::now(), false, 0.5);
            }
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        // At 0, again at 0, then after 1.6, 2.56 and 4.1 seconds.
        assert_eq!(dials, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proven_connection_resets_the_backoff() {
        let mut machine = SubConnMachine::new(Backoff::default());
        for _ in 0..5 {
            machine.tick(Instant::now() + Duration::from_secs(200));
            machine.connect();
            machine.failed(Instant::now(), false, 0.5);
        }
        for answered in [true, false] {
            machine.tick(Instant::now() + Duration::from_secs(200));
            machine.connect();
            machine.connected(Instant::now());
            if !answered {
                tokio::time::advance(Duration::from_secs(5)).await;
            }
            machine.lost(Instant::now(), answered, 0.5);
            assert_eq!((machine.state(), machine.failures), (State::Idle, 0));
        }
    }

    /// Subconns are dialled soon after file descriptors are available again.
    #[tokio::test(start_paused = true)]
    async fn what_this_machine_lacks_does_not_lengthen_the_backoff() {
        let mut machine = SubConnMachine::new(Backoff::default());
        for _ in 0..20 {
            machine.connect();
            machine.failed(Instant::now(), true, 0.5);
            let State::TransientFailure { until } = machine.state() else { panic!("{:?}", machine.state()) };
            assert_eq!(until - Instant::now(), Duration::from_secs(1));
            machine.tick(until);
        }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Connect,
        Connected,
        Failed,
        Lost(bool),
        EnterIdle,
        Tick,
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Connect),
            Just(Event::Connected),
            Just(Event::Failed),
            any::<bool>().prop_map(Event::Lost),
            Just(Event::EnterIdle),
            Just(Event::Tick),
            (0..200_000u64).prop_map(Event::Pass),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order, only the drawn transitions are taken, every wait is
        /// within its bounds, and a shut down machine stays so.
        #[test]
        fn only_the_drawn_transitions_happen(events in prop::collection::vec((event(), 0.0..1.0f64), 0..200)) {
            let mut machine = SubConnMachine::new(Backoff::default());
            let mut now = Instant::now();
            for (event, random) in events {
                let before = machine.state();
                match event {
                    Event::Connect => machine.connect(),
                    Event::Connected => machine.connected(now),
                    Event::Failed => machine.failed(now, false, random),
                    Event::Lost(answered) => machine.lost(now, answered, random),
                    Event::EnterIdle => machine.enter_idle(now, false),
                    Event::Tick => machine.tick(now),
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                }
                let after = machine.state();
                let drawn = matches!(
                    (before, after),
                    (State::Idle, State::Connecting)
                        | (
                            State::Connecting,
                            State::Ready { .. } | State::TransientFailure { .. } | State::Idle
                        )
                        | (State::Ready { .. }, State::Idle | State::TransientFailure { .. })
                        | (State::TransientFailure { .. }, State::Idle)
                );
                prop_assert!(before == after || drawn, "{before:?} -> {after:?}");
                if let (State::TransientFailure { until }, true) = (after, before != after) {
                    let wait = until.duration_since(now).as_secs_f64();
                    prop_assert!((0.79..=144.01).contains(&wait), "waits {wait} s");
                }
            }
            machine.shutdown();
            machine.connect();
            machine.tick(now);
            prop_assert_eq!(machine.state(), State::Shutdown);
        }
    }
}
