//! The interface `env`: time, randomness, the log, names of methods.

use super::numbers::Methods;
use super::state::{HostState, LAST_WORDS};
use super::tape::Question;
use crate::policy::instance::bindings::hotpick::policy::{env, types};
use crate::policy::instance::time::now;
use crate::text::clip;

impl types::Host for HostState {}

impl env::Host for HostState {
    fn method_name(&mut self, id: u32) -> String {
        self.answered(Question::method_name(id.into()), |state| Methods::lock(&state.methods).name(id))
    }

    fn now(&mut self) -> u64 {
        self.answered(Question::now(0), |_| now())
    }

    fn random(&mut self) -> u64 {
        self.answered(Question::random(0), |state| state.random.u64(..))
    }

    fn log(&mut self, level: env::Level, message: String) {
        if is_enabled(level) {
            self.write(level, &message);
        }
    }

    fn level_enabled(&mut self, level: env::Level) -> bool {
        self.answered(Question::level_enabled(level as u64), |_| is_enabled(level))
    }
}

fn is_enabled(level: env::Level) -> bool {
    match level {
        env::Level::Trace => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::TRACE),
        env::Level::Debug => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::DEBUG),
        env::Level::Info => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::INFO),
        env::Level::Warn => tracing::enabled!(target: "hotpick::policy::log", tracing::Level::WARN),
        // Always enabled, because the message also appears in the fault.
        env::Level::Error => true,
    }
}

impl HostState {
    pub(super) fn write(&mut self, level: env::Level, message: &str) {
        if matches!(level, env::Level::Error) {
            let left = LAST_WORDS.saturating_sub(self.last_words.len());
            self.last_words.push_str(&clip(message, left));
        }
        if self.silent || !self.log.take(self.limits.log_lines) {
            return;
        }
        let (policy, message) = (&self.policy, clip(message, self.limits.log_line));
        match level {
            env::Level::Trace => tracing::trace!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Debug => tracing::debug!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Info => tracing::info!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Warn => tracing::warn!(target: "hotpick::policy::log", policy, "{message}"),
            env::Level::Error => tracing::error!(target: "hotpick::policy::log", policy, "{message}"),
        }
    }
}
