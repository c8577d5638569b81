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
pub mod call;
#[cfg(target_arch = "wasm32")]
mod component;
pub mod env;
#[cfg(not(target_arch = "wasm32"))]
mod fake;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

use self::__bindings as bindings;

// What `export!` and the generated code name in a policy's crate.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use self::bindings::__export_policy as __export;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use self::component::{Component as __Component, Exported as __Exported};
#[doc(hidden)]
pub use wit_bindgen as __wit_bindgen;

pub use self::bindings::exports::hotpick::policy::endpoints::Endpoint;
pub use self::bindings::exports::hotpick::policy::lifecycle::Placement;
pub use self::bindings::exports::hotpick::policy::picker::{
    FailCode, Nanos, PickInfo, PickResult, Subconn as SubConn,
};
pub use self::bindings::hotpick::policy::types::Attribute;

/// A load-balancing policy. One instance serves one channel.
pub trait Policy: Sized + 'static {
    /// Starts the policy. Called first, off the request path. `config` is JSON, `{}` if none is given;
    /// see [`parse_config`]. Metadata keys are declared here ([`call::declare_metadata`]).
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

/// Makes the component's exports of a [`Policy`]. Once in a crate; nothing natively.
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
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
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = $crate::__is_policy::<$policy>();
    };
}

/// What [`export!`] checks natively.
#[doc(hidden)]
pub const fn __is_policy<P: Policy>() {}

/// Reads a configuration. Unknown and missing fields are named in the error, if the type has
/// `#[serde(deny_unknown_fields)]`.
///
/// # Errors
///
/// The JSON does not fit `T`.
pub fn parse_config<T: serde::de::DeserializeOwned>(config: &str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|error| format!("configuration: {error}"))
}

/// The hash that the host makes of metadata values ([`PickInfo::affinity`], [`call::metadata_hash`]):
/// a policy that hashes an attribute with it can compare the two.
#[must_use]
pub fn hash(value: &[u8]) -> u64 {
    twox_hash::XxHash64::oneshot(0, value)
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
