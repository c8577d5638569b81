//! Instruments of the policy, exported as `hotpick_policy_<name>`, or under their own name if it begins with `grpc_lb_`.
//! They are created in
//! [`Policy::init`](crate::Policy::init).

#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::metrics as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;

/// A value that only increases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(u32);

/// A value that can increase and decrease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(u32);

/// A distribution of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(u32);

impl Counter {
    /// Creates a counter, or returns the one with this name. Names match `[a-z_][a-z0-9_]*`.
    ///
    /// # Errors
    ///
    /// The name is invalid, there are too many instruments, or the name belongs to another kind of instrument.
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::counter(name, help).map(Self)
    }

    /// Adds to the counter.
    pub fn add(self, delta: u64) {
        host::add(self.0, delta);
    }
}

impl Gauge {
    /// Creates a gauge, or returns the one with this name.
    ///
    /// # Errors
    ///
    /// As for [`Counter::new`].
    pub fn new(name: &str, help: &str) -> Result<Self, String> {
        host::gauge(name, help).map(Self)
    }

    /// Sets the gauge.
    pub fn set(self, value: f64) {
        host::observe(self.0, value);
    }
}

impl Histogram {
    /// Creates a histogram with these upper bounds, in ascending order, or returns the one with this name.
    ///
    /// # Errors
    ///
    /// As for [`Counter::new`], or the bounds are not ascending.
    pub fn new(name: &str, help: &str, buckets: &[f64]) -> Result<Self, String> {
        host::histogram(name, help, buckets).map(Self)
    }

    /// Records a value.
    pub fn observe(self, value: f64) {
        host::observe(self.0, value);
    }
}
