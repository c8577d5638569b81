//! The integration tests: real servers on loopback, real components, a real directory.

mod channel;
mod conformance;
mod corpus;
mod interop;
mod policies;
mod reload;
mod resolvers;
mod tls;
