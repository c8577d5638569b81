//! The state machine of a slot: pure, so that it can be tested without instances or a clock.
//!
//! ```text
//!                          wear_out
//!              RUNNING -----------------> WORN
//!    installed  ^ ^ |                      | |
//!   +-----------+ | | fault                | | installed: to RUNNING
//!   |    start    | v                      | | start failed: to RUNNING
//! FAILED <----------+----------------------+
//!   |   condemned        fault
//!   +------------> RETIRED
//! ```
//!
//! In RUNNING and WORN the instance picks. In FAILED the fallback picks until another instance has been
//! started, and in RETIRED as long as the slot exists.

use std::time::Duration;

use tokio::time::Instant;

/// An instance that worked this long without a fault is replaced at once when it fails.
const SETTLED: Duration = Duration::from_secs(10);
/// The wait before the second replacement in a row; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest wait before a replacement.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The shortest time between two replacements of worn instances.
const RENEWAL: Duration = Duration::from_millis(100);

/// A slot for instances of type `I`.
#[derive(Debug)]
pub(super) struct SlotMachine<I> {
    state: State<I>,
    /// Number of the instance among all that this slot has had, from 1.
    serial: u64,
    /// Faults in a row, each less than [`SETTLED`] after the start of its instance.
    streak: u32,
}

#[derive(Debug)]
enum State<I> {
    /// The instance picks.
    Running {
        instance: I,
        since: Instant,
        /// The instance is not replaced for its memory before this.
        renew_after: Instant,
    },
    /// The instance picks, and another one is started because it has used most of its memory.
    Worn { instance: I, since: Instant },
    /// The fallback picks. Another instance is started at this time.
    Failed { retry_at: Instant },
    /// The fallback picks. No other instance is started.
    Retired,
}

/// Reason why an instance is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// There is none.
    OfFailed,
    /// The present one has used most of its memory.
    OfWorn,
}

/// What to do with a slot whose replacement could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartFailed {
    /// Nothing: a worn instance continues, or the policy is not used any more.
    Nothing,
    /// There is no instance; the next start is after this time.
    Retry(Duration),
}

impl<I> SlotMachine<I> {
    /// Creates a slot with its first instance.
    pub(super) fn new(instance: I, now: Instant) -> Self {
        Self { state: State::Running { instance, since: now, renew_after: now }, serial: 1, streak: 0 }
    }

    /// Returns the instance that picks, if there is one.
    pub(super) fn instance(&mut self) -> Option<&mut I> {
        match &mut self.state {
            State::Running { instance, .. } | State::Worn { instance, .. } => Some(instance),
            State::Failed { .. } | State::Retired => None,
        }
    }

    pub(super) fn has_instance(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Worn { .. })
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    /// Records that the instance has used most of its memory. Returns whether it is to be replaced now.
    pub(super) fn wear_out(&mut self, now: Instant) -> bool {
        if !matches!(self.state, State::Running { renew_after, .. } if now >= renew_after) {
            return false;
        }
        if let State::Running { instance, since, .. } = self.take() {
            self.state = State::Worn { instance, since };
        }
        true
    }

    /// Ends the instance after a fault. Returns the instance, and the wait before its replacement.
    pub(super) fn fault(&mut self, now: Instant) -> Option<(I, Duration)> {
        if !self.has_instance() {
            return None;
        }
        let (State::Running { instance, since, .. } | State::Worn { instance, since }) = self.take() else {
            return None;
        };
        let is_early = now.saturating_duration_since(since) < SETTLED;
        self.streak = if is_early { self.streak.saturating_add(1) } else { 1 };
        let wait = wait(self.streak);
        self.state = State::Failed { retry_at: now + wait };
        Some((instance, wait))
    }

    /// Retires a slot whose policy has failed too often: no other instance is started.
    pub(super) fn condemn(&mut self) {
        if !self.has_instance() {
            self.state = State::Retired;
        }
    }

    /// Returns which replacement is due.
    pub(super) fn due(&self, now: Instant) -> Option<Replacement> {
        match self.state {
            State::Failed { retry_at } if retry_at <= now => Some(Replacement::OfFailed),
            State::Worn { .. } => Some(Replacement::OfWorn),
            _ => None,
        }
    }

    /// Returns when a replacement becomes due.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.state {
            State::Failed { retry_at } => Some(retry_at),
            _ => None,
        }
    }

    /// Returns whether this replacement is still wanted.
    pub(super) fn wants(&self, replacement: Replacement) -> bool {
        match replacement {
            Replacement::OfFailed => matches!(self.state, State::Failed { .. }),
            Replacement::OfWorn => matches!(self.state, State::Worn { .. }),
        }
    }

    /// Installs a replacement. Returns the previous instance, if there is one.
    pub(super) fn install(&mut self, instance: I, now: Instant) -> Option<I> {
        let previous = match self.take() {
            State::Running { instance, .. } | State::Worn { instance, .. } => Some(instance),
            State::Failed { .. } | State::Retired => None,
        };
        self.serial += 1;
        self.state = State::Running { instance, since: now, renew_after: now + RENEWAL };
        previous
    }

    /// Records that a replacement could not be started.
    pub(super) fn start_failed(&mut self, now: Instant) -> StartFailed {
        self.streak = self.streak.saturating_add(1);
        self.postpone(now, wait(self.streak).max(FIRST_WAIT))
    }

    /// Records that a panic of the host interrupted the start of a replacement.
    pub(super) fn start_interrupted(&mut self, now: Instant) {
        self.postpone(now, LONGEST_WAIT);
    }

    fn postpone(&mut self, now: Instant, wait: Duration) -> StartFailed {
        match self.take() {
            State::Running { instance, since, .. } | State::Worn { instance, since } => {
                self.state = State::Running { instance, since, renew_after: now + LONGEST_WAIT };
                StartFailed::Nothing
            }
            State::Failed { .. } => {
                self.state = State::Failed { retry_at: now + wait };
                StartFailed::Retry(wait)
            }
            State::Retired => StartFailed::Nothing,
        }
    }

    fn take(&mut self) -> State<I> {
        std::mem::replace(&mut self.state, State::Retired)
    }
}

/// Returns the wait before the replacement after this many faults in a row.
fn wait(streak: u32) -> Duration {
    match streak.checked_sub(2) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_replacement_is_at_once_and_the_others_wait_longer_and_longer() {
        let waits: Vec<_> = [1, 2, 3, 4, 11, 12, 1000].map(wait).iter().map(Duration::as_millis).collect();
        assert_eq!(waits, [0, 10, 20, 40, 5000, 5000, 5000]);
    }

    #[derive(Clone, Debug)]
    enum Event {
        WearOut,
        Fault,
        Condemn,
        Replace,
        StartFailed,
        Interrupted,
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::WearOut),
            Just(Event::Fault),
            Just(Event::Condemn),
            Just(Event::Replace),
            Just(Event::StartFailed),
            Just(Event::Interrupted),
            (0..20_000u64).prop_map(Event::Pass),
        ]
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Name {
        Running,
        Worn,
        Failed,
        Retired,
    }

    fn name<I>(machine: &SlotMachine<I>) -> Name {
        match machine.state {
            State::Running { .. } => Name::Running,
            State::Worn { .. } => Name::Worn,
            State::Failed { .. } => Name::Failed,
            State::Retired => Name::Retired,
        }
    }

    proptest! {
        /// For any sequence of events: only the drawn transitions are taken, no instance is lost or used after its
        /// fault, a slot without an instance gets another one within the longest wait unless its policy was condemned,
        /// and serial numbers grow.
        #[test]
        fn only_the_drawn_transitions_happen(events in prop::collection::vec(event(), 0..200)) {
            let mut now = Instant::now();
            let mut made = 1u64;
            let mut ended = std::collections::BTreeSet::new();
            let mut machine = SlotMachine::new(made, now);
            for event in events {
                let (before, serial) = (name(&machine), machine.serial());
                let is_condemned = matches!(event, Event::Condemn);
                match event {
                    Event::WearOut => { machine.wear_out(now); }
                    Event::Fault => ended.extend(machine.fault(now).map(|(instance, _)| instance)),
                    Event::Condemn => machine.condemn(),
                    Event::Replace => {
                        if let Some(replacement) = machine.due(now) {
                            prop_assert!(machine.wants(replacement));
                            made += 1;
                            ended.extend(machine.install(made, now));
                            prop_assert_eq!(machine.serial(), serial + 1);
                        }
                    }
                    Event::StartFailed => { machine.start_failed(now); }
                    Event::Interrupted => machine.start_interrupted(now),
                    Event::Pass(ms) => now += Duration::from_millis(ms),
                }
                let after = name(&machine);
                let drawn = matches!(
                    (before, after),
                    (Name::Running, Name::Worn | Name::Failed)
                        | (Name::Worn, Name::Running | Name::Failed)
                        | (Name::Failed, Name::Running | Name::Retired)
                );
                prop_assert!(before == after || drawn, "{before:?} -> {after:?}");
                prop_assert!(after != Name::Retired || before == after || is_condemned);
                // Every instance is in the slot or has ended, and none twice.
                let held = machine.instance().copied();
                prop_assert_eq!(ended.len() as u64 + u64::from(held.is_some()), made);
                prop_assert!(held.is_none_or(|held| !ended.contains(&held)));
                match after {
                    Name::Failed => {
                        let retry_at = machine.retry_at().expect("a time");
                        prop_assert!(retry_at <= now + LONGEST_WAIT);
                    }
                    Name::Running | Name::Worn => prop_assert!(held.is_some() && machine.retry_at().is_none()),
                    Name::Retired => prop_assert!(held.is_none() && machine.due(now).is_none()),
                }
            }
        }
    }
}
