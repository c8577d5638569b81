//! `replay`: the same calls as in a trace, in an instance of its own.

use super::super::WasmPolicy;
use crate::policy::instance::{InstanceError, Player};
use crate::trace::{Event, Recorded, Trace};

/// Limits of CPU time are multiplied by this: whether the policy is fast enough is not the question.
const MORE_TIME: u32 = 20;

/// What a replay has found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Replayed {
    /// Number of calls of the policy that were repeated.
    pub calls: u64,
    /// Number of picks among them.
    pub picks: u64,
    /// Number of picks by plans.
    pub planned: u64,
    /// The first call in which the policy did something else than in the trace.
    pub difference: Option<Difference>,
}

/// A call in which a policy does something else than in a trace.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// Index of the event in [`Trace::events`].
    pub event: usize,
    /// What differs: the policy's answer, or what it asked of the host.
    pub text: String,
    /// Whether the policy read values of metadata that are hashed in the trace, which may be the reason.
    pub has_hashed_values: bool,
}

/// Reason why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The trace ends before `init` has returned.
    #[error("the trace ends before the policy had started")]
    TooShort,
    /// The policy does not start.
    #[error("the policy does not start: {0}")]
    Start(String),
}

/// Repeats the calls of a trace, with the answers that the host gave then, and compares what the policy does. The
/// same policy does exactly the same: whether it is the same is in its digest and in [`Start::digest`](crate::trace::Start).
///
/// Compiled code needs up to 640 KiB of stack: not for threads with less.
///
/// # Errors
///
/// If there is nothing to repeat.
pub fn replay(policy: &WasmPolicy, trace: &Trace) -> Result<Replayed, ReplayError> {
    let mut replayed = Replayed { calls: 1, picks: 0, planned: 0, difference: None };
    let [Recorded { event: Event::Start(start), .. }, init, ..] = &*trace.events else {
        return Err(ReplayError::TooShort);
    };
    let Event::Init(result) = &init.event else { return Err(ReplayError::TooShort) };
    let policy = policy.clone().with_generation(start.generation).with_more_time(MORE_TIME);
    let differs = |event, text, has_hashed_values| Difference { event, text, has_hashed_values };
    let started = Player::start(policy.program(), start, result, &init.answers);
    let (player, difference) =
        started.map_err(|error: InstanceError| ReplayError::Start(error.to_string()))?;
    replayed.difference = difference.map(|text| differs(1, text, false));
    let (Some(mut player), None) = (player, &replayed.difference) else { return Ok(replayed) };
    let mut has_hashed_values = false;
    for (at, recorded) in trace.events.iter().enumerate().skip(2) {
        match &recorded.event {
            Event::Pick(pick) => {
                replayed.picks += 1;
                has_hashed_values |= pick.values.iter().any(|(_, value)| value.is_hashed());
            }
            Event::Planned(_) => replayed.planned += 1,
            Event::End(_) | Event::Method(_) | Event::Finish(_) | Event::Fault(_) => {}
            _ => replayed.calls += 1,
        }
        let mut later =
            trace.events[at + 1..].iter().map(|recorded| &recorded.event).filter(|event| is_call(event));
        let was_fault = is_call(&recorded.event) && matches!(later.next(), Some(Event::Fault(_)));
        if was_fault && later.any(|event| !matches!(event, Event::Finish(_))) {
            let text = "the recording goes on after a fault, which no recording does".to_owned();
            replayed.difference = Some(differs(at + 1, text, false));
            break;
        }
        let found = match player.play(recorded) {
            // The recorded call exceeded its time here, and has more now: the trace ends with it.
            Ok(_) if was_fault => break,
            Ok(found) => found,
            Err(_) if was_fault => break,
            Err(fault) => Some(format!("the policy failed, and in the recording it did not: {fault}")),
        };
        if let Some(text) = found {
            replayed.difference = Some(differs(at, text, has_hashed_values));
            break;
        }
    }
    replayed.calls += replayed.picks;
    Ok(replayed)
}

/// Returns whether this is a call of the policy, or what followed from one. Events of RPCs on other threads, which do not
/// wait for the instance, may be recorded between a call and its fault.
const fn is_call(event: &Event) -> bool {
    !matches!(event, Event::End(_) | Event::Planned(_) | Event::Method(_))
}
