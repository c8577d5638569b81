//! The integration tests: real servers on loopback, real components, a real directory.

mod channel;
mod conformance;
mod corpus;
mod directory;
mod etcd;
mod faults;
mod fuzz;
mod house;
mod interop;
mod languages;
mod loading;
mod museum;
mod outsiders;
mod parts;
mod plans;
mod policies;
mod readers;
mod references;
mod reload;
mod resolvers;
mod runtimes;
mod scarcity;
mod sidecar;
mod standard;
mod stress;
mod tls;
