//! The integration tests: real servers on loopback, real components, a real directory.

mod channel;
mod policies;
mod reload;
