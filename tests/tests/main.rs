//! The integration tests: real servers on loopback, real components, a real directory.

mod channel;
mod conformance;
mod policies;
mod reload;
