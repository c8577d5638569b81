//! What a policy is started with, and why it may not start.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::resolver::ResolveNow;

/// For whom a policy is started.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Placement {
    /// The channel's target.
    pub target: String,
    /// The policy's configuration: JSON.
    pub config: String,
    /// What the channel's policy before this one has to hand over.
    pub handover: Option<Handover>,
    /// Asks the channel's resolver for a new answer.
    pub resolve_now: ResolveNow,
    /// Has the RPCs that the policy holds picked for again.
    pub pick_again: PickAgain,
    /// The start is not wanted any more.
    pub(crate) cut: Arc<AtomicBool>,
    /// Of the random numbers that the policy sees.
    pub(crate) seeds: Arc<AtomicU64>,
    /// Which of several instances.
    pub(crate) shard: Shard,
}

/// One of the instances that a policy has in a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    pub(crate) number: u32,
    pub(crate) count: u32,
    /// Which channel's.
    pub(crate) channel: u64,
}

impl Placement {
    /// A placement in the channel to `target`, with a configuration in JSON.
    #[must_use]
    pub fn new(target: impl Into<String>, config: impl Into<String>) -> Self {
        let (target, config) = (target.into(), config.into());
        let seeds = Arc::new(AtomicU64::new(fastrand::u64(..)));
        Self {
            target,
            config,
            handover: None,
            resolve_now: ResolveNow::default(),
            pick_again: PickAgain::default(),
            cut: Arc::default(),
            seeds,
            shard: Shard { number: 0, count: 1, channel: 0 },
        }
    }

    /// The same, with random numbers that are the same each time: for tests and simulations.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seeds: Arc::new(AtomicU64::new(seed)), ..self }
    }

    /// A seed for one instance.
    pub(crate) fn next_seed(&self) -> u64 {
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(seed).u64(..)
    }
}

/// For a policy whose answer may be another one now, though nothing has changed but itself: the RPCs that it
/// holds are picked for again.
#[derive(Clone, Debug, Default)]
pub struct PickAgain(Arc<Notify>);

impl PickAgain {
    /// Asks for it. Several requests in a row count as one.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits until it is asked for. Cancel-safe.
    pub(crate) async fn requested(&self) {
        self.0.notified().await;
    }
}

/// The state of a policy at work, for the one that takes over.
#[derive(Clone)]
pub struct Handover(Arc<dyn Fn() -> Vec<Saved> + Send + Sync>);

/// A policy's state, in a format of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Saved {
    /// The number of the format.
    pub schema: u32,
    /// The state.
    pub data: Vec<u8>,
}

impl Handover {
    /// `save` may block. It is called when the successor starts, which may never be.
    pub fn new(save: impl Fn() -> Vec<Saved> + Send + Sync + 'static) -> Self {
        Self(Arc::new(save))
    }

    /// The state at this moment; empty if there is none to be had.
    #[must_use]
    pub fn save(&self) -> Vec<Saved> {
        (self.0)()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handover")
    }
}

impl Saved {
    /// A state in this format.
    #[must_use]
    pub fn new(schema: u32, data: impl Into<Vec<u8>>) -> Self {
        Self { schema, data: data.into() }
    }
}

/// Why a policy does not start for a channel: the stage that it failed at, and one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    stage: Stage,
    sentence: String,
    is_passing: bool,
}

impl StartError {
    /// An error of a policy's `init` with this sentence.
    #[must_use]
    pub fn new(sentence: impl Into<String>) -> Self {
        Self::at(Stage::Init, sentence)
    }

    /// An error of this stage.
    #[must_use]
    pub fn at(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { stage, sentence: sentence.into(), is_passing: false }
    }

    /// An error of this stage that says nothing of the policy: the machine lacked something. The channel tries again, by
    /// and by.
    #[must_use]
    pub fn passing(stage: Stage, sentence: impl Into<String>) -> Self {
        Self { is_passing: true, ..Self::at(stage, sentence) }
    }

    /// Whether it is the machine that was in the way, and not the policy.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        self.is_passing
    }

    /// The stage that failed.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }
}

/// The stages on a policy's way from a file to the RPCs, in order. At each it can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// The file is read, once it has come to rest.
    File,
    /// The settings beside it, and the digest that they ask for.
    Settings,
    /// It is not too large.
    Size,
    /// There is not too much of anything in it.
    Scan,
    /// It is WebAssembly.
    Parse,
    /// It imports and exports what the contract has.
    World,
    /// It imports only what the operator grants.
    Grants,
    /// It is compiled.
    Compile,
    /// A channel makes an instance.
    Instantiate,
    /// The policy takes its configuration.
    Init,
    /// Trial picks.
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
