//! Instruments of the policy's own, exported as `hotpick_policy_<name>`. They are made in
//! [`Policy::init`](crate::Policy::init).

#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::metrics as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// A number that only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u32);

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(u32);

/// How often values were how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(u32);

impl Counter {
    /// Makes a counter, or finds the one of this name: `[a-z_][a-z0-9_]*`.
    ///
    /// # Errors
    ///
    /// It is no name, there are too many instruments, or it is one of another kind.
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::counter(name, help).map(Self)
    }

    /// Adds.
    pub fn add(self, delta: u64) {
        host::add(self.0, delta);
    }
}

impl Gauge {
    /// Makes a gauge, or finds the one of this name.
    ///
    /// # Errors
    ///
    /// As [`Counter::new`].
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::gauge(name, help).map(Self)
    }

    /// Sets it.
    pub fn set(self, value: f64) {
        host::observe(self.0, value);
    }
}

impl Histogram {
    /// Makes a histogram with these upper bounds, ascending, or finds the one of this name.
    ///
    /// # Errors
    ///
    /// As [`Counter::new`], or the bounds are not ascending.
    pub fn new(name: &str, help: &str, buckets: &[f64]) -> Result<Self, String> {
        host::histogram(name, help, buckets).map(Self)
    }

    /// Puts a value in.
    pub fn observe(self, value: f64) {
        host::observe(self.0, value);
    }
}
