//! Load-balancing policies for [hotpick](https://docs.rs/hotpick), in Rust.
//!
//! A policy is a type that implements [`Policy`], and a macro call that exports it from a WebAssembly component. The
//! host notifies it of endpoints and of the subconns that are ready, and calls it to choose a subconn for each RPC:
//!
//! ```
//! use hotpick_guest::{PickInfo, PickResult, Placement, Policy, SubConn, Nanos};
//!
//! /// Picks the first ready subconn, which the resolver prefers.
//! struct First(Vec<SubConn>);
//!
//! impl Policy for First {
//!     fn init(_config: &str, _placement: &Placement) -> Result<Self, String> {
//!         Ok(First(Vec::new()))
//!     }
//!
//!     fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
//!         self.0 = ready.to_vec();
//!     }
//!
//!     fn pick(&mut self, _info: &PickInfo) -> PickResult {
//!         self.0.first().map_or(PickResult::Queue, |first| PickResult::Pick(*first))
//!     }
//! }
//!
//! hotpick_guest::export!(First);
//!
//! // In a native test, without a WebAssembly target:
//! let mut host = hotpick_guest::testing::FakeHost::<First>::start("{}")?;
//! host.ready(&[7, 8]);
//! assert_eq!(host.pick(&Default::default()), PickResult::Pick(7));
//! # Ok::<(), String>(())
//! ```
//!
//! The crate is built as a `cdylib` for `wasm32-unknown-unknown`. `hotpick build` does that, and makes a component of
//! the result.
//!
//! # Building blocks
//!
//! - [Configurations](mod@config): types with a parser and a JSON Schema.
//! - [Groups](group): endpoints that RPCs are balanced over by round robin, least request or P2C.
//! - [Random numbers](random), and random choices by weight.
//! - [Rings](ring) for consistent hashing, and the [keys](key) of RPCs that are hashed.
//! - [States](states) of subconns, for policies that decide when to connect.
//!
//! The standard policies are made of these.
//!
//! # Rules
//!
//! Calls never overlap. A panic or an exceeded time limit ends the instance: the host picks for the current RPC with
//! its own round robin, and starts a new instance with [`Policy::init`]. The message of a panic appears in the host's
//! log.

// The generated code refers to the crate by name.
extern crate self as hotpick_guest;

#[doc(hidden)]
#[path = "bindings.rs"]
pub mod __bindings;
#[doc(hidden)]
#[path = "parts.rs"]
pub mod __parts;
pub mod answers;
pub mod call;
#[cfg(target_arch = "wasm32")]
mod component;
pub mod config;
pub mod connections;
pub mod env;
#[cfg(not(target_arch = "wasm32"))]
mod fake;
pub mod group;
mod json;
pub mod key;
mod map;
pub mod metrics;
pub mod random;
pub mod recent;
pub mod ring;
mod set;
#[cfg(feature = "sources")]
pub mod sources;
pub mod states;
pub mod stats;
pub mod stride;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod timers;

use self::__bindings as bindings;
use self::__parts as parts;

// Used by `export!` and the generated code in a policy's crate.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use self::bindings::__export_policy as __export;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use self::component::{Component as __Component, Exported as __Exported};
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use self::parts::{
    about::__export_about, alarms::__export_alarms, connectivity::__export_connectivity,
    handover::__export_handover, outcomes::__export_outcomes, plans::__export_plans,
};
#[doc(hidden)]
pub use wit_bindgen as __wit_bindgen;

pub use std::time::Duration;

pub use self::bindings::exports::hotpick::policy::endpoints::Endpoint;
pub use self::bindings::exports::hotpick::policy::lifecycle::Placement;
pub use self::bindings::exports::hotpick::policy::picker::{
    FailCode, Nanos, PickInfo, PickResult, Subconn as SubConn,
};
pub use self::bindings::hotpick::policy::types::{Attribute, ConnectivityState, StatusCode};
pub use self::map::{MethodMap, SubConnMap, Weights};
pub use self::parts::about::exports::hotpick::policy::about::Description;
pub use self::parts::handover::exports::hotpick::policy::handover::Saved;
pub use self::parts::outcomes::exports::hotpick::policy::outcomes::{Load, Outcome};
pub use self::parts::plans::exports::hotpick::policy::plans::Plan;
pub use self::set::SubConnSet;

/// The [`PickInfo::method`] of all methods without a number of their own. Callers can make methods up, so the host
/// numbers only 4,096 of them.
pub const OTHER_METHOD: u32 = 4096;

/// A hash map with a small and fast hasher. The standard library's hasher is made for keys that an attacker chooses:
/// mix a seed into such keys.
pub type Map<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// A load-balancing policy. An instance serves one channel.
pub trait Policy: Sized + 'static {
    /// Starts the policy. Called first, off the request path. `config` is JSON, `{}` if no configuration is given; see
    /// [`mod@config`]. Metadata keys are declared here ([`call::declare_metadata`]).
    ///
    /// # Errors
    ///
    /// An error refuses the configuration, and so this version: the active version stays. The text should name the
    /// field that is wrong.
    fn init(config: &str, placement: &Placement) -> Result<Self, String>;

    /// Called when the resolver's list changed. The first call adds all endpoints. An endpoint whose weight or
    /// attributes changed is in `added` again.
    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        let _ = (added, removed, now);
    }

    /// Called when the set of ready subconns changed, with the whole set in the resolver's order. The set may be empty.
    fn ready(&mut self, ready: &[SubConn], now: Nanos);

    /// Chooses a subconn for an RPC. Called for each attempt of each RPC, on the request path. The host aborts a call
    /// that takes more than 2 ms.
    fn pick(&mut self, info: &PickInfo) -> PickResult;
}

/// A policy that picks ahead, so that the host need not call it for each RPC. Its picks may depend only on its own
/// state, or only on the affinity.
pub trait Plans: Policy {
    /// Returns the next picks. Called after notifications of endpoints, of ready subconns and of timers, and when the
    /// picks of the previous plan are used up. Each of these ends the previous plan. `budget` is the greatest number of
    /// picks that the host accepts.
    ///
    /// Without a plan ([`Plan::None`]) the policy is called for each RPC. It is also called for RPCs that a
    /// [table](Plan::ByAffinity) has no entry for.
    fn plan(&mut self, budget: usize, random: u64, now: Nanos) -> Plan;
}

/// A policy that is notified of how its RPCs ended.
pub trait Outcomes: Policy {
    /// Reports RPCs that this instance picked for and that have ended, each once. The host waits some milliseconds to
    /// batch them.
    fn done(&mut self, batch: &[Outcome], now: Nanos);
}

/// A policy that is notified of the state of each subconn.
pub trait Connectivity: Policy {
    /// Called when the state of a subconn changed. A new subconn is idle, which is not reported. `message` is the
    /// reason for transient-failure. Called after [`Policy::endpoints`] and before [`Policy::ready`].
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, now: Nanos);
}

/// A policy with timers.
pub trait Alarms: Policy {
    /// Called when a timer that [`timers::schedule`] set has expired. `id` is its number.
    fn fired(&mut self, id: u32, now: Nanos);
}

/// A policy that hands its state over to the next version, or to the instance that replaces it after a fault.
pub trait Handover: Policy {
    /// Returns the state. Called before a swap, and periodically; RPCs wait in the meantime.
    fn save(&mut self) -> Saved;

    /// Restores the state that the previous instances saved. Called right after [`Policy::init`].
    ///
    /// # Errors
    ///
    /// The state cannot be used. The host then starts another instance without the state.
    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String>;
}

/// A policy that documents itself to tools.
pub trait About: Policy {
    /// Returns a summary of the policy, and the schema of its configuration.
    fn describe() -> Description;
}

/// Exports a [`Policy`] and the named optional parts from the component: `export!(Mine)`,
/// `export!(Mine: Outcomes, Handover)`. Once in a crate. In native builds it only checks the types.
#[macro_export]
macro_rules! export {
    ($policy:ty $(: $($part:ident),+ $(,)?)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static POLICY: ::std::cell::RefCell<Option<$policy>> = const { ::std::cell::RefCell::new(None) };
            }
            impl $crate::__Exported for $policy {
                fn with<R>(run: impl FnOnce(&mut Option<Self>) -> R) -> R {
                    POLICY.with_borrow_mut(run)
                }
            }
            type Component = $crate::__Component<$policy>;
            $crate::__export!(Component with_types_in $crate::__bindings);
            $($($crate::__export_part!($part Component);)+)?
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            $crate::__is_policy::<$policy>();
            $($($crate::__is_part!($part $policy);)+)?
        };
    };
}

/// Checked by [`export!`] in native builds.
#[doc(hidden)]
pub const fn __is_policy<P: Policy>() {}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_part {
    (Plans $component:ident) => {
        $crate::__export_plans!($component with_types_in $crate::__parts::plans);
    };
    (Outcomes $component:ident) => {
        $crate::__export_outcomes!($component with_types_in $crate::__parts::outcomes);
    };
    (Connectivity $component:ident) => {
        $crate::__export_connectivity!($component with_types_in $crate::__parts::connectivity);
    };
    (Alarms $component:ident) => {
        $crate::__export_alarms!($component with_types_in $crate::__parts::alarms);
    };
    (Handover $component:ident) => {
        $crate::__export_handover!($component with_types_in $crate::__parts::handover);
    };
    (About $component:ident) => {
        $crate::__export_about!($component with_types_in $crate::__parts::about);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __is_part {
    ($part:ident $policy:ty) => {{
        const fn is_part<P: $crate::$part>() {}
        is_part::<$policy>();
    }};
}

/// Returns the hash that the host computes for metadata values ([`PickInfo::affinity`], [`call::metadata_hash`]). The
/// hash spreads values; it does not identify them, because anyone can make values with equal hashes.
#[must_use]
pub fn hash(value: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, value)
}

/// Returns the XXH64 hash with a seed. With seed 0 it equals [`hash`].
#[must_use]
pub fn hash_with_seed(seed: u64, value: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(seed, value)
}

/// Returns a random number below `bound`, made from a uniformly distributed `random`; 0 if `bound` is 0.
///
/// ```
/// assert_eq!(hotpick_guest::below(10, 0), 0);
/// assert_eq!(hotpick_guest::below(10, u64::MAX), 9);
/// ```
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "less than `bound`")]
pub fn below(bound: usize, random: u64) -> usize {
    // The upper half of the product (Lemire, 2019) needs no division, and its bias is too small to measure.
    ((random as u128 * bound as u128) >> 64) as usize
}

/// Returns a duration in nanoseconds, as in the contract. A longer duration saturates.
#[must_use]
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Placement {
    /// Refuses, in [`Policy::init`], to run as one of several instances, for this reason.
    ///
    /// # Errors
    ///
    /// The policy is started as one of several instances.
    pub fn must_be_alone(&self, reason: &str) -> Result<(), String> {
        if self.shards < 2 {
            return Ok(());
        }
        let mut sentence = String::from("shards: must be 1: ");
        sentence.push_str(reason);
        Err(sentence)
    }
}

impl Default for PickInfo {
    /// Returns the information of a first attempt at time 0.
    fn default() -> Self {
        Self {
            call: 0,
            method: 0,
            affinity: None,
            random: 0,
            now: 0,
            attempt: 0,
            wait_for_ready: false,
            requeued: false,
        }
    }
}

impl Endpoint {
    /// Returns the value of an attribute. `None` if the endpoint does not have it.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.key == key)
            .map(|attribute| attribute.value.as_str())
    }

    /// Returns the key of the endpoint for consistent hashing: its attribute `hash_key` (gRFC A76), or its first
    /// address if the attribute is missing or empty.
    #[must_use]
    pub fn hash_key(&self) -> &str {
        let address = || self.addresses.first().map_or("", String::as_str);
        self.attribute("hash_key").filter(|key| !key.is_empty()).unwrap_or_else(address)
    }
}

impl Plan {
    /// Returns a plan with as many picks as can be made in a short time.
    ///
    /// ```
    /// use hotpick_guest::Plan;
    ///
    /// let mut turn = 0;
    /// let next = || { turn += 1; Some(turn % 3) };
    /// let Plan::Sequence(picks) = Plan::sequence(5, next) else { panic!() };
    /// assert_eq!(picks, [1, 2, 0, 1, 2]);
    /// ```
    #[must_use]
    pub fn sequence(budget: usize, mut pick: impl FnMut() -> Option<SubConn>) -> Self {
        let length = budget.min(PLANNED);
        let mut picks = Vec::with_capacity(length);
        while picks.len() < length
            && let Some(picked) = pick()
        {
            picks.push(picked);
        }
        if picks.is_empty() { Self::None } else { Self::Sequence(picks) }
    }
}

/// Number of picks in a sequence. The cost per pick is near its minimum, and all picks take only microseconds.
///
/// The number is prime. When a plan becomes invalid early, only its first picks count, and the next plan starts where
/// the whole plan would have ended. If the length were a multiple of the number of endpoints, each plan would start
/// with the same endpoint. With a prime, that happens only for 251 endpoints.
const PLANNED: usize = 251;

impl Description {
    /// Returns a description with a summary and the schema of the configuration.
    #[must_use]
    pub fn of<C: config::Config>(summary: &str) -> Self {
        Self { summary: summary.to_owned(), config_schema: C::json_schema() }
    }
}

impl Outcome {
    /// Returns whether the outcome says more about the server than about the request. The codes are those that go-zero
    /// and others count.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !self.not_sent
            && matches!(
                self.code,
                StatusCode::Unavailable
                    | StatusCode::DeadlineExceeded
                    | StatusCode::Internal
                    | StatusCode::Unknown
                    | StatusCode::DataLoss
                    | StatusCode::ResourceExhausted
                    | StatusCode::Unimplemented
            )
    }
}
