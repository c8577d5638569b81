//! The parameters with which a policy is started.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::resolver::ResolveNow;

/// The channel that a policy is started in, and its configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Placement {
    /// The channel's target.
    pub target: String,
    /// The policy's configuration: JSON.
    pub config: String,
    /// State of the channel's previous policy.
    pub handover: Option<Handover>,
    /// Asks the channel's resolver for a new answer.
    pub resolve_now: ResolveNow,
    /// Requests another pick for the RPCs that the policy has queued.
    pub pick_again: PickAgain,
    /// Set when the start is no longer wanted.
    pub(crate) cut: Arc<AtomicBool>,
    /// Seeds of the random numbers that the policy sees.
    pub(crate) seeds: Arc<AtomicU64>,
    /// Position of this instance among several.
    pub(crate) shard: Shard,
    pub(crate) standing: Standing,
    /// Whether instances are replaced in the thread of the runtime: in virtual time, which does not wait for others.
    pub(crate) is_simulated: bool,
    /// The seed of all instances, if it is one of the past.
    pub(crate) past_seed: Option<u64>,
}

/// What a policy may do in a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything.
    #[default]
    Active,
    /// It picks beside another version, which decides what is disconnected.
    Canary,
    /// Nothing that it asks for is done.
    Shadow,
}

/// One of the instances of a policy in a channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shard {
    pub(crate) number: u32,
    pub(crate) count: u32,
    /// Number of the channel.
    pub(crate) channel: u64,
}

impl Placement {
    /// Creates a placement in the channel to `target`, with a configuration in JSON.
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
            standing: Standing::default(),
            is_simulated: false,
            past_seed: None,
        }
    }

    /// Makes the policy's random numbers reproducible, for tests and simulations.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seeds: Arc::new(AtomicU64::new(seed)), ..self }
    }

    /// Gives the first instance exactly this seed, as a trace has it.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn with_past(mut self, seed: u64, saved: Vec<SavedState>) -> Self {
        self.past_seed = Some(seed);
        if !saved.is_empty() {
            self.handover = Some(Handover::new(move || saved.clone()));
        }
        self
    }

    /// Sets what the policy may do.
    pub(crate) fn with_standing(self, standing: Standing) -> Self {
        Self { standing, ..self }
    }

    /// Returns a seed for one instance.
    pub(crate) fn next_seed(&self) -> u64 {
        if let Some(seed) = self.past_seed {
            return seed;
        }
        let seed = self.seeds.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(seed).u64(..)
    }
}

/// Requests another pick for queued RPCs, from a policy whose answers have changed although no endpoint has.
#[derive(Clone, Debug, Default)]
pub struct PickAgain(Arc<Notify>);

impl PickAgain {
    /// Requests another pick. Several requests in quick succession count as one.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits for a request. Cancel-safe.
    pub(crate) async fn requested(&self) {
        self.0.notified().await;
    }
}

/// Access to the state of a running policy, for its successor.
#[derive(Clone)]
pub struct Handover(Arc<dyn Fn() -> Vec<SavedState> + Send + Sync>);

/// A policy's state, in the policy's own format.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedState {
    /// Number of the format.
    pub schema: u32,
    /// The state.
    pub data: Vec<u8>,
}

impl Handover {
    /// Creates access by a function, which may block. The function is called when the successor starts, if at all.
    pub fn new(save: impl Fn() -> Vec<SavedState> + Send + Sync + 'static) -> Self {
        Self(Arc::new(save))
    }

    /// Returns the current state; empty if there is none.
    #[must_use]
    pub fn save(&self) -> Vec<SavedState> {
        (self.0)()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handover")
    }
}

impl SavedState {
    /// Creates a state in this format.
    #[must_use]
    pub fn new(schema: u32, data: impl Into<Vec<u8>>) -> Self {
        Self { schema, data: data.into() }
    }
}
