//! Answers a policy's questions: the host does, or a trace.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::HostState;
use super::tape::{Question, Tape};
use crate::policy::instance::bindings::hotpick::policy::stats::{ResponseCounts, Summary};
use crate::trace::{Numbers, Scratch};

/// An answer, as it is recorded: a question, and the answer in the format of traces.
pub(super) trait Answer: Serialize + DeserializeOwned {
    fn record(&self, question: Question, out: &mut Scratch) {
        out.push(&(question.function, question.argument, self));
    }
}

impl Answer for bool {}
impl Answer for String {}
impl Answer for Option<String> {}
impl Answer for Option<u32> {}
impl Answer for Option<Summary> {}
impl Answer for Vec<u8> {}
impl Answer for Vec<Vec<u8>> {}
impl Answer for (u64, u64) {}
impl Answer for Result<u32, String> {}
impl Answer for Result<(), String> {}

/// Numbers are written without the serialiser, which takes three times as long: policies ask for them in each pick.
#[inline]
fn numbers(question: Question, out: &mut Scratch, write: impl FnOnce(&mut Numbers<'_>)) {
    out.numbers(|out| {
        out.byte(question.function);
        out.number(question.argument);
        write(out);
    });
}

impl Answer for u32 {
    fn record(&self, question: Question, out: &mut Scratch) {
        numbers(question, out, |out| out.number((*self).into()));
    }
}

impl Answer for u64 {
    fn record(&self, question: Question, out: &mut Scratch) {
        numbers(question, out, |out| out.number(*self));
    }
}

impl Answer for Option<u64> {
    fn record(&self, question: Question, out: &mut Scratch) {
        numbers(question, out, |out| match self {
            None => out.byte(0),
            Some(number) => {
                out.byte(1);
                out.number(*number);
            }
        });
    }
}

impl Answer for Option<ResponseCounts> {
    fn record(&self, question: Question, out: &mut Scratch) {
        numbers(question, out, |out| {
            let Some(counts) = self else { return out.byte(0) };
            out.byte(1);
            out.number(counts.in_flight.into());
            out.number(counts.max_streams.into());
            for number in [
                counts.silence,
                counts.begun,
                counts.waited,
                counts.abandoned,
                counts.abandoned_after,
                counts.ended,
                counts.faulty,
            ] {
                out.number(number);
            }
        });
    }
}

impl HostState {
    /// Returns whether questions are recorded or played back.
    pub(super) const fn is_taped(&self) -> bool {
        !matches!(self.tape, Tape::Off)
    }

    /// Answers a question of the policy: by `answer`, unless a trace is played back.
    pub(super) fn answered<A: Answer>(
        &mut self,
        question: Question,
        answer: impl FnOnce(&mut Self) -> A,
    ) -> A {
        match self.tape {
            Tape::Off => answer(self),
            Tape::Recording(_) => {
                let answer = answer(self);
                if let Tape::Recording(answers) = &mut self.tape {
                    answer.record(question, answers);
                }
                answer
            }
            #[cfg(feature = "testing")]
            Tape::Playing(_) => self.taped(question, answer, |_, _| None),
        }
    }

    /// Like [`answered`](Self::answered), with what the trace is to contain in place of the answer.
    pub(super) fn answered_as<A: Answer>(
        &mut self,
        question: Question,
        answer: impl FnOnce(&mut Self) -> A,
        shown: impl FnOnce(&Self, &A) -> Option<A>,
    ) -> A {
        if matches!(self.tape, Tape::Off) { answer(self) } else { self.taped(question, answer, shown) }
    }

    #[inline(never)]
    fn taped<A: Answer>(
        &mut self,
        question: Question,
        answer: impl FnOnce(&mut Self) -> A,
        shown: impl FnOnce(&Self, &A) -> Option<A>,
    ) -> A {
        #[cfg(feature = "testing")]
        if let Tape::Playing(playback) = &mut self.tape
            && let Some(recorded) = playback.answer(question)
        {
            // What the function does besides its answer is done as well.
            let _ = answer(self);
            return recorded;
        }
        let answer = answer(self);
        let shown = shown(self, &answer);
        if let Tape::Recording(answers) = &mut self.tape {
            shown.as_ref().unwrap_or(&answer).record(question, answers);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written by hand is what the serialiser writes.
    #[test]
    fn numbers_are_recorded_in_the_format_of_traces() {
        fn check<A: Answer>(answer: &A) {
            let question = Question { function: 7, argument: 300 };
            let mut out = Scratch::default();
            answer.record(question, &mut out);
            let expected = postcard::to_allocvec(&(question.function, question.argument, answer));
            assert_eq!(out.written(), expected.expect("serialised"));
        }
        for number in [0, 127, 128, u64::MAX] {
            check(&number);
            check(&Some(number));
            check(&u32::try_from(number).unwrap_or(u32::MAX));
            let counts = ResponseCounts {
                in_flight: 3,
                max_streams: u32::MAX,
                silence: number,
                begun: 5,
                waited: number,
                abandoned: 7,
                abandoned_after: 8,
                ended: number,
                faulty: 10,
            };
            check(&Some(counts));
        }
        check(&None::<u64>);
        check(&None::<ResponseCounts>);
    }
}
