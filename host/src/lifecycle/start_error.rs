//! Errors of starting a policy.

use std::fmt;

/// Reason why a policy does not start in a channel: the stage that failed, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    stage: Stage,
    sentence: String,
    is_transient: bool,
    is_refusal: bool,
}

impl StartError {
    /// Creates an error of a policy's `init` with this sentence.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self::at(Stage::Init, sentence)
    }

    /// Creates an error of this stage.
    #[must_use]
    pub fn at(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { stage, sentence: sentence.into(), is_transient: false, is_refusal: false }
    }

    /// Creates an error that is caused by the machine (no thread, no memory) and not by the policy. The channel
    /// retries.
    #[must_use]
    pub fn transient(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { is_transient: true, ..Self::at(stage, sentence) }
    }

    /// Creates an error of a policy that works, but refuses its configuration.
    #[must_use]
    pub fn refusal(sentence: impl Into<String>) -> Self {
        Self { is_refusal: true, ..Self::new(sentence) }
    }

    /// Returns whether the policy works, but refuses its configuration.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        self.is_refusal
    }

    /// Returns whether the machine caused the error, and not the policy.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// Returns the stage that failed.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }
}

/// The stages from a policy file to RPCs, in order. A policy can be rejected at each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// Reading the file, once it has not changed for a while.
    File,
    /// Reading its settings, and comparing the digest that they ask for.
    Settings,
    /// Checking its size.
    Size,
    /// Counting what is in it: functions, types, imports.
    Scan,
    /// Parsing it as WebAssembly.
    Parse,
    /// Comparing its imports and exports with the contract.
    World,
    /// Comparing its imports with what the operator grants.
    Grants,
    /// Compiling it.
    Compile,
    /// Creating an instance in a channel.
    Instantiate,
    /// Calling `init` with the configuration.
    Init,
    /// Trial picks before the first RPC.
    PreFlight,
}

/// Prints as `pre-flight`.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Settings => "settings",
            Self::Size => "size",
            Self::Scan => "scan",
            Self::Parse => "parse",
            Self::World => "world",
            Self::Grants => "grants",
            Self::Compile => "compile",
            Self::Instantiate => "instantiate",
            Self::Init => "init",
            Self::PreFlight => "pre-flight",
        })
    }
}
