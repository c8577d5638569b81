//! What a policy asks of the host in a call, and what it is answered: recorded, or played back.

#[cfg(feature = "testing")]
use serde::de::DeserializeOwned;
use twox_hash::XxHash64;

use crate::trace::Scratch;

/// A function that a policy calls, with its argument or the hash of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// Number of the function in [`NAMES`].
    pub(super) function: u8,
    pub(super) argument: u64,
}

/// The functions whose answers depend on the host. Their order is part of the format of traces.
const NAMES: [&str; 26] = [
    "env.method-name",
    "env.now",
    "env.random",
    "env.level-enabled",
    "stats.in-flight",
    "stats.least",
    "stats.read",
    "stats.responses",
    "call.declare-metadata",
    "call.declare-affinity",
    "call.declare-affinity-number",
    "call.metadata",
    "call.metadata-all",
    "call.metadata-hash",
    "call.metadata-number",
    "call.set-metadata",
    "call.tried",
    "call.time-left",
    "metrics.counter",
    "metrics.gauge",
    "metrics.histogram",
    "timers.schedule",
    "wasi clock",
    "wasi random bytes",
    "wasi random number",
    "wasi random seed",
];

macro_rules! questions {
    ($($name:ident = $number:literal,)*) => {
        impl Question {
            $(pub(super) const fn $name(argument: u64) -> Self {
                Self { function: $number, argument }
            })*
        }
    };
}

questions! {
    method_name = 0,
    now = 1,
    random = 2,
    level_enabled = 3,
    in_flight = 4,
    least = 5,
    read = 6,
    responses = 7,
    declare_metadata = 8,
    declare_affinity = 9,
    declare_affinity_number = 10,
    metadata = 11,
    metadata_all = 12,
    metadata_hash = 13,
    metadata_number = 14,
    set_metadata = 15,
    tried = 16,
    time_left = 17,
    counter = 18,
    gauge = 19,
    histogram = 20,
    schedule = 21,
    wasi_clock = 22,
    wasi_random_bytes = 23,
    wasi_random_number = 24,
    wasi_random_seed = 25,
}

/// Returns what stands for arguments in a question.
pub(super) fn hashed(arguments: &[&[u8]]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = XxHash64::with_seed(0);
    for argument in arguments {
        hasher.write(&(argument.len() as u64).to_le_bytes());
        hasher.write(argument);
    }
    hasher.finish()
}

/// Returns what stands for a list of subconns in a question.
pub(super) fn ids(ids: &[u32]) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = XxHash64::with_seed(0);
    ids.iter().for_each(|id| hasher.write(&id.to_le_bytes()));
    hasher.finish()
}

impl std::fmt::Display for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = NAMES.get(usize::from(self.function)).unwrap_or(&"a function that there is not");
        write!(f, "{name}({})", self.argument)
    }
}

/// The tape of an instance.
#[derive(Debug, Default)]
pub(crate) enum Tape {
    /// Nothing is recorded.
    #[default]
    Off,
    /// The answers in the current call are appended.
    Recording(Scratch),
    /// The answers come from a trace.
    #[cfg(feature = "testing")]
    Playing(Playback),
}

/// Answers from a trace.
#[cfg(feature = "testing")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Playback {
    answers: Vec<u8>,
    at: usize,
    /// How the questions differ from the recorded ones, if they do.
    difference: Option<String>,
}

#[cfg(feature = "testing")]
impl Playback {
    /// Sets the answers for the next call.
    pub(crate) fn load(&mut self, answers: &[u8]) {
        answers.clone_into(&mut self.answers);
        self.at = 0;
    }

    /// Returns how the questions of the call differed from the recorded ones, if they did.
    pub(crate) fn difference(&mut self) -> Option<String> {
        let left = self.answers.get(self.at..).filter(|left| !left.is_empty());
        let left = left.map(|left| format!("the policy did not ask {}", named(read(left))));
        self.difference.take().or(left)
    }

    /// Returns the recorded answer to a question. `None`: the question is another one, or not the recorded one.
    pub(super) fn answer<A: DeserializeOwned>(&mut self, question: Question) -> Option<A> {
        if self.difference.is_some() {
            return None;
        }
        let rest = self.answers.get(self.at..).unwrap_or_default();
        let recorded = read(rest);
        if recorded.map(|(recorded, _)| recorded) != Some(question) {
            let recorded = named(recorded);
            self.difference = Some(format!("the policy asked {question}, and in the recording {recorded}"));
            return None;
        }
        let (answer, after) = postcard::take_from_bytes(recorded?.1).ok()?;
        self.at += rest.len() - after.len();
        Some(answer)
    }
}

#[cfg(feature = "testing")]
fn read(bytes: &[u8]) -> Option<(Question, &[u8])> {
    let (function, rest) = bytes.split_first()?;
    let (argument, rest) = postcard::take_from_bytes(rest).ok()?;
    Some((Question { function: *function, argument }, rest))
}

#[cfg(feature = "testing")]
fn named(recorded: Option<(Question, &[u8])>) -> String {
    recorded.map_or_else(|| "nothing more".to_owned(), |(question, _)| question.to_string())
}
