//! Load-balancing policies for [hotpick](https://docs.rs/hotpick), in Rust.
//!
//! A policy is a type that implements [`Policy`], and one line that makes a WebAssembly component of
//! it. The host tells it of endpoints and of which subconns are ready, and asks it for a subconn for
//! each RPC:
//!
//! ```
//! use hotpick_guest::{PickInfo, PickResult, Placement, Policy, SubConn, Nanos};
//!
//! /// Always the first: the preferred of the ready ones.
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
//! // In a test, natively, with no Wasm target:
//! let mut host = hotpick_guest::testing::FakeHost::<First>::start("{}")?;
//! host.ready(&[7, 8]);
//! assert_eq!(host.pick(&Default::default()), PickResult::Pick(7));
//! # Ok::<(), String>(())
//! ```
//!
//! The crate is built as a `cdylib` for `wasm32-unknown-unknown`; `hotpick build` does that, and makes
//! a component of the result.
//!
//! # What is there already
//!
//! Typed [configurations](mod@config) with their JSON Schema; [groups](group) that RPCs are spread over, round robin, by least
//! request or by P2C; [random] numbers, and choices with weights; the [ring] of consistent hashing, and what of an RPC is
//! [hashed](key); the [states] of subconns for policies that decide when to connect. The standard policies are made of these.
//!
//! # Rules
//!
//! Calls never overlap. A panic, or running past a time limit, ends the instance: the RPC in hand is
//! picked by the host's own round robin, and a fresh instance starts from [`Policy::init`]. A panic's
//! message goes to the host's log.

// The generated code names the crate.
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
pub mod states;
pub mod stats;
pub mod stride;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod timers;

use self::__bindings as bindings;
use self::__parts as parts;

// What `export!` and the generated code name in a policy's crate.
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

/// The [`PickInfo::method`] of every method that has no number of its own: callers can make methods up, and the host
/// numbers 4,096 of them.
pub const OTHER_METHOD: u32 = 4096;

/// A hash map whose hasher is small and fast. The standard library's is made for keys that an enemy chooses: mix a
/// seed into those.
pub type Map<K, V> = std::collections::HashMap<K, V, rustc_hash::FxBuildHasher>;

/// A load-balancing policy. One instance serves one channel.
pub trait Policy: Sized + 'static {
    /// Starts the policy. Called first, off the request path. `config` is JSON, `{}` if none is given;
    /// see [`mod@config`]. Metadata keys are declared here ([`call::declare_metadata`]).
    ///
    /// # Errors
    ///
    /// An error refuses the configuration, and so this version: the one in force stays. It should name
    /// the field that is wrong.
    fn init(config: &str, placement: &Placement) -> Result<Self, String>;

    /// The resolver's list changed. The first call adds everything; an endpoint whose weight or
    /// attributes changed is in `added` again.
    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        let _ = (added, removed, now);
    }

    /// The set of ready subconns changed. In the resolver's order; may be empty.
    fn ready(&mut self, ready: &[SubConn], now: Nanos);

    /// Chooses a subconn for an RPC. Called for each attempt of each RPC, on its path: the host cuts a
    /// call that takes more than 2 ms.
    fn pick(&mut self, info: &PickInfo) -> PickResult;
}

/// A policy that picks ahead, so that the host need not call it for each RPC: one whose picks depend on nothing but
/// its own state, or on the affinity key alone.
pub trait Plans: Policy {
    /// The next picks. Called when the policy has been told of endpoints, of what is ready, or of a timer, and when the
    /// picks of the plan before are used up; each of these ends that plan. `budget` is the longest plan that the host
    /// takes.
    ///
    /// Without a plan ([`Plan::None`]) the policy is called for each RPC, as it is for those that a
    /// [table](Plan::ByAffinity) has nothing for.
    fn plan(&mut self, budget: usize, random: u64, now: Nanos) -> Plan;
}

/// A policy that is told how its RPCs end.
pub trait Outcomes: Policy {
    /// RPCs that this instance has picked for have ended; each is told once. The host waits some
    /// milliseconds for more of them.
    fn done(&mut self, batch: &[Outcome], now: Nanos);
}

/// A policy that is told the state of each subconn.
pub trait Connectivity: Policy {
    /// A subconn is in another state than before; a new one begins as idle. `message` explains
    /// transient-failure. Called after [`Policy::endpoints`], and before [`Policy::ready`].
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, now: Nanos);
}

/// A policy with timers.
pub trait Alarms: Policy {
    /// The timer of this number, which [`timers::schedule`] has set, is due.
    fn fired(&mut self, id: u32, now: Nanos);
}

/// A policy that hands its state to the next version, or to the instance that replaces it after a fault.
pub trait Handover: Policy {
    /// The state now. Called before a swap, and from time to time; RPCs wait meanwhile.
    fn save(&mut self) -> Saved;

    /// Takes over what the one before has saved. Called right after [`Policy::init`].
    ///
    /// # Errors
    ///
    /// The state cannot be used: then the policy is started anew, without it.
    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String>;
}

/// A policy that documents itself to tools.
pub trait About: Policy {
    /// What it does, and what its configuration may be.
    fn describe() -> Description;
}

/// Makes the component's exports of a [`Policy`], and of the optional parts that are named:
/// `export!(Mine)`, `export!(Mine: Outcomes, Handover)`. Once in a crate; nothing natively.
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

/// What [`export!`] checks natively.
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

/// The hash that the host makes of metadata values ([`PickInfo::affinity`], [`call::metadata_hash`]). It says where a value
/// belongs, and not which it is: anyone can make values that have the same.
#[must_use]
pub fn hash(value: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, value)
}

/// XXH64 with a seed. With 0 it is [`hash`].
#[must_use]
pub fn hash_with_seed(seed: u64, value: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(seed, value)
}

/// A random number below `bound`, out of a uniform `random`; 0 if `bound` is 0.
///
/// ```
/// assert_eq!(hotpick_guest::below(10, 0), 0);
/// assert_eq!(hotpick_guest::below(10, u64::MAX), 9);
/// ```
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "less than `bound`")]
pub fn below(bound: usize, random: u64) -> usize {
    // The upper half of the product (Lemire, 2019): no division, and no bias that could be measured.
    ((random as u128 * bound as u128) >> 64) as usize
}

/// A duration as the contract has it; the longest that there is, if it is longer.
#[must_use]
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Placement {
    /// In [`Policy::init`], of a policy that cannot be one of several instances: refuses that, for this reason.
    ///
    /// # Errors
    ///
    /// It is one of several.
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
    /// Of a first attempt, at the beginning of time.
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
    /// The value of an attribute.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|attribute| attribute.key == key)
            .map(|attribute| attribute.value.as_str())
    }

    /// What stands for the endpoint in consistent hashing: its attribute `hash_key` (gRFC A76), or else, also
    /// if that is empty, its first address.
    #[must_use]
    pub fn hash_key(&self) -> &str {
        let address = || self.addresses.first().map_or("", String::as_str);
        self.attribute("hash_key").filter(|key| !key.is_empty()).unwrap_or_else(address)
    }
}

impl Plan {
    /// As many picks as do not take long to make.
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

/// How many picks a sequence has: their price for each is near to its floor, and all of them are made in microseconds.
///
/// A prime: of a plan that is void before it is used up only the first picks count, and the next begins where it would
/// have ended. Were that a multiple of the number of endpoints, as that of most lengths is for some, it would be the same
/// endpoint each time: so it is for 251 endpoints alone.
const PLANNED: usize = 251;

impl Description {
    /// A summary, and the schema of the configuration.
    #[must_use]
    pub fn of<C: config::Config>(summary: &str) -> Self {
        Self { summary: summary.to_owned(), config_schema: C::json_schema() }
    }
}

impl Outcome {
    /// The RPC says that something is wrong with the server, rather than with the request: the codes that
    /// go-zero and others count so.
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
