//! The state machine of a rollout: pure, so that it can be tested without policies or a clock.
//!
//! ```text
//!            pass, and there is a next step
//!                 +------+
//!                 v      |   pass at the last step, promote
//! start -----> RUNNING --+-------------------------------------> promoted
//!               |  ^  \      fail, faults, abort, refused
//!         pause |  |   +---------------------------------------> rolled back
//!               v  | resume    ^
//!              PAUSED ---------+
//! ```
//!
//! An interval without enough RPCs goes on, and neither promotes nor rolls back. While it is paused the share stays, and
//! faults still roll back.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::cohort::Reading;
use super::settings::{RolloutMode, RolloutSettings};
use super::verdict::{Verdict, severe, verdict};

/// A command of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RolloutCommand {
    /// Stay at this step, whatever the verdicts are.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Make the new version active now.
    Promote,
    /// Roll the new version back.
    Abort,
}

/// Whether a rollout goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RolloutPhase {
    /// Verdicts decide.
    Running,
    /// An operator decides.
    Paused,
}

/// A decision in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RolloutEvent {
    /// When.
    pub at: SystemTime,
    /// What, with its numbers.
    pub text: String,
}

/// What a rollout goes by.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) reading: Reading,
    /// Faults of the new version since the rollout started, and the last one.
    pub(crate) faults: u64,
    pub(crate) last_fault: Option<String>,
    /// Why a channel refused the new version, if one did.
    pub(crate) refusal: Option<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// The interval is over: begin another one, with this share of the RPCs (per cent).
    Begin(f64),
    /// Make the new version active.
    Promote,
    /// Use the active version alone, and quarantine the new one for this reason.
    RollBack(String),
}

/// A rollout.
#[derive(Clone, Debug)]
pub(crate) struct RolloutMachine {
    settings: RolloutSettings,
    /// Number of faults that are too many.
    most_faults: u64,
    phase: RolloutPhase,
    step: usize,
    /// When the interval began.
    since: Instant,
    verdict: Option<Verdict>,
    events: VecDeque<RolloutEvent>,
}

/// Largest share of a canary (per cent): without any RPCs of the active version there is nothing to compare with.
const LARGEST: f64 = 95.0;
/// Decisions that are remembered.
const EVENTS: usize = 50;

impl RolloutMachine {
    pub(crate) fn new(settings: RolloutSettings, most_faults: u64, now: Instant) -> Self {
        let mut machine = Self {
            settings,
            most_faults,
            phase: RolloutPhase::Running,
            step: 0,
            since: now,
            verdict: None,
            events: VecDeque::new(),
        };
        machine.say(match machine.settings.mode {
            RolloutMode::Shadow => "started as a shadow".to_owned(),
            RolloutMode::Canary => format!("started with {} % of the RPCs", machine.share()),
        });
        machine
    }

    /// Returns the share of the RPCs that the new version picks for (per cent).
    pub(crate) fn share(&self) -> f64 {
        match self.settings.mode {
            RolloutMode::Shadow => 0.0,
            RolloutMode::Canary => self.settings.steps.get(self.step).copied().unwrap_or(100.0).min(LARGEST),
        }
    }

    pub(crate) const fn settings(&self) -> &RolloutSettings {
        &self.settings
    }

    pub(crate) const fn phase(&self) -> RolloutPhase {
        self.phase
    }

    pub(crate) const fn step(&self) -> usize {
        self.step
    }

    /// Returns the verdict of the last interval, or of the present one as far as it is late.
    pub(crate) const fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    pub(crate) const fn events(&self) -> &VecDeque<RolloutEvent> {
        &self.events
    }

    /// Returns when the present interval is over.
    pub(crate) fn due(&self) -> Instant {
        self.since + Duration::from_secs_f64(self.settings.interval)
    }

    /// Decides what follows from what was seen.
    pub(crate) fn tend(&mut self, now: Instant, seen: &Seen) -> Option<Decision> {
        if let Some(refusal) = &seen.refusal {
            return Some(self.roll_back(format!("a channel refused it: {refusal}")));
        }
        if seen.faults >= self.most_faults {
            let last = seen.last_fault.as_deref().unwrap_or("unknown");
            return Some(self.roll_back(format!("{} faults, the last: {last}", seen.faults)));
        }
        if self.phase == RolloutPhase::Running
            && let Some(why) = severe(&self.settings, &seen.reading)
        {
            return Some(self.roll_back(why));
        }
        if now < self.due() {
            return None;
        }
        let verdict = verdict(&self.settings, &seen.reading);
        let has_changed = self.verdict.as_ref().map(Verdict::name) != Some(verdict.name());
        self.verdict = Some(verdict.clone());
        match verdict {
            Verdict::NotEnough(_) => {
                // Said once, not at each look.
                if has_changed {
                    self.say(format!("step {}: {verdict}", self.step + 1));
                }
                None
            }
            Verdict::Fail(why) if self.phase == RolloutPhase::Running => Some(self.roll_back(why)),
            Verdict::Fail(_) => Some(self.begin(now, format!("paused, {verdict}"))),
            Verdict::Pass(_) => {
                let is_last = self.step + 1 >= self.settings.steps.len();
                let goes_on =
                    self.phase == RolloutPhase::Running && self.settings.mode == RolloutMode::Canary;
                if goes_on && is_last {
                    self.say(format!("promoted: {verdict}"));
                    return Some(Decision::Promote);
                }
                let before = self.share();
                self.step += usize::from(goes_on);
                let after = self.share();
                let text =
                    if goes_on { format!("{before} % to {after} %: {verdict}") } else { verdict.to_string() };
                Some(self.begin(now, text))
            }
        }
    }

    /// Carries out a command. An error says why it makes no sense.
    pub(crate) fn command(&mut self, command: RolloutCommand) -> Result<Option<Decision>, &'static str> {
        match (command, self.phase) {
            (RolloutCommand::Pause, RolloutPhase::Running) => {
                self.phase = RolloutPhase::Paused;
                self.say("paused by an operator".to_owned());
                Ok(None)
            }
            (RolloutCommand::Pause, RolloutPhase::Paused) => Err("the rollout is paused already"),
            (RolloutCommand::Resume, RolloutPhase::Paused) => {
                self.phase = RolloutPhase::Running;
                self.say("resumed by an operator".to_owned());
                Ok(None)
            }
            (RolloutCommand::Resume, RolloutPhase::Running) => Err("the rollout is not paused"),
            (RolloutCommand::Promote, _) => {
                self.say("promoted by an operator".to_owned());
                Ok(Some(Decision::Promote))
            }
            (RolloutCommand::Abort, _) => Ok(Some(self.roll_back("aborted by an operator".to_owned()))),
        }
    }

    /// Notes that the rollout ends otherwise.
    pub(crate) fn ended(&mut self, why: &str) {
        self.say(format!("ended: {why}"));
    }

    fn begin(&mut self, now: Instant, text: String) -> Decision {
        self.since = now;
        self.say(text);
        Decision::Begin(self.share())
    }

    fn roll_back(&mut self, why: String) -> Decision {
        self.say(format!("rolled back: {why}"));
        Decision::RollBack(why)
    }

    fn say(&mut self, text: String) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(RolloutEvent { at: SystemTime::now(), text });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::cohort::SideReading;
    use super::*;

    fn enough() -> Seen {
        let mut side = SideReading::default();
        (side.begun, side.ended) = (1000, 1000);
        let reading = Reading { active: side.clone(), candidate: side, compared: 1000, agreed: 900 };
        Seen { reading, ..Seen::default() }
    }

    fn machine(mode: RolloutMode, now: Instant) -> RolloutMachine {
        RolloutMachine::new(RolloutSettings { mode, ..RolloutSettings::default() }, 3, now)
    }

    #[test]
    fn each_pass_is_a_step_and_the_last_one_promotes() {
        let mut now = Instant::now();
        let mut machine = machine(RolloutMode::Canary, now);
        let mut shares = vec![machine.share()];
        loop {
            assert_eq!(machine.tend(now, &enough()), None);
            now += Duration::from_secs(30);
            match machine.tend(now, &enough()).expect("a decision") {
                Decision::Begin(share) => shares.push(share),
                decision => break assert_eq!(decision, Decision::Promote),
            }
        }
        assert_eq!(shares, [1.0, 5.0, 25.0, LARGEST]);
    }

    #[test]
    fn no_traffic_promotes_nothing_and_says_so_once() {
        let mut now = Instant::now();
        let mut machine = machine(RolloutMode::Canary, now);
        for _ in 0..100 {
            now += Duration::from_secs(30);
            assert_eq!(machine.tend(now, &Seen::default()), None);
        }
        assert_eq!(machine.events().len(), 2);
        assert_eq!(machine.verdict().map(Verdict::name), Some("not enough"));
        assert!(matches!(machine.tend(now, &enough()), Some(Decision::Begin(_))));
    }

    #[test]
    fn a_shadow_is_promoted_by_an_operator_alone() {
        let mut now = Instant::now();
        let mut machine = machine(RolloutMode::Shadow, now);
        for _ in 0..10 {
            now += Duration::from_secs(30);
            assert_eq!(machine.tend(now, &enough()), Some(Decision::Begin(0.0)));
        }
        assert_eq!(machine.command(RolloutCommand::Promote), Ok(Some(Decision::Promote)));
    }

    #[derive(Clone, Debug)]
    enum Input {
        Tend { after: u64, enough: bool, failed: u64, faults: u64 },
        Command(RolloutCommand),
    }

    fn input() -> impl Strategy<Value = Input> {
        let command = prop_oneof![
            Just(RolloutCommand::Pause),
            Just(RolloutCommand::Resume),
            Just(RolloutCommand::Promote),
            Just(RolloutCommand::Abort),
        ];
        prop_oneof![
            8 => (0..100u64, any::<bool>(), 0..300u64, 0..4u64)
                .prop_map(|(after, enough, failed, faults)| Input::Tend { after, enough, failed, faults }),
            1 => command.prop_map(Input::Command),
        ]
    }

    proptest! {
        /// Whatever happens: the share never falls and is one of the steps, without enough RPCs nothing is decided, a
        /// paused rollout stays at its share, and too many faults always roll back.
        #[test]
        fn only_the_drawn_transitions_happen(inputs in prop::collection::vec(input(), 0..60)) {
            let mut now = Instant::now();
            let mut machine = machine(RolloutMode::Canary, now);
            for input in inputs {
                let (before, phase) = (machine.share(), machine.phase());
                let decision = match &input {
                    Input::Tend { after, enough: is_enough, failed, faults } => {
                        now += Duration::from_secs(*after);
                        let mut seen = if *is_enough { enough() } else { Seen::default() };
                        seen.reading.candidate.failed = if *is_enough { *failed } else { 0 };
                        seen.faults = *faults;
                        let decision = machine.tend(now, &seen);
                        if *faults >= 3 {
                            prop_assert!(matches!(decision, Some(Decision::RollBack(_))));
                        } else if !is_enough {
                            prop_assert_eq!(&decision, &None);
                        } else if phase == RolloutPhase::Paused {
                            prop_assert!(matches!(decision, None | Some(Decision::Begin(_))));
                            prop_assert!(machine.share() == before);
                        } else if *failed > 100 {
                            prop_assert!(matches!(decision, Some(Decision::RollBack(_))));
                        }
                        decision
                    }
                    Input::Command(command) => machine.command(*command).unwrap_or_default(),
                };
                prop_assert!(machine.share() >= before);
                prop_assert!(machine.settings().steps.contains(&machine.share()) || machine.share() == LARGEST);
                prop_assert!(machine.events().len() <= EVENTS);
                if matches!(decision, Some(Decision::Promote | Decision::RollBack(_))) {
                    break;
                }
            }
        }
    }
}
