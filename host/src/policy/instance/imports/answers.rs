//! Answers a policy's questions: the host does, or a trace.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::HostState;
use super::tape::{Question, Tape};

impl HostState {
    /// Returns whether questions are recorded or played back.
    pub(super) const fn is_taped(&self) -> bool {
        !matches!(self.tape, Tape::Off)
    }

    /// Answers a question of the policy: by `answer`, unless a trace is played back.
    pub(super) fn answered<A: Serialize + DeserializeOwned>(
        &mut self,
        question: Question,
        answer: impl FnOnce(&mut Self) -> A,
    ) -> A {
        if matches!(self.tape, Tape::Off) { answer(self) } else { self.taped(question, answer, |_, _| None) }
    }

    /// Like [`answered`](Self::answered), with what the trace is to contain in place of the answer.
    pub(super) fn answered_as<A: Serialize + DeserializeOwned>(
        &mut self,
        question: Question,
        answer: impl FnOnce(&mut Self) -> A,
        shown: impl FnOnce(&Self, &A) -> Option<A>,
    ) -> A {
        if matches!(self.tape, Tape::Off) { answer(self) } else { self.taped(question, answer, shown) }
    }

    #[inline(never)]
    fn taped<A: Serialize + DeserializeOwned>(
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
            answers.push(&(question.function, question.argument, shown.as_ref().unwrap_or(&answer)));
        }
        answer
    }
}
