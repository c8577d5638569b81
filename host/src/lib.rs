//! A client-side load balancer for gRPC whose policies are WebAssembly components.
//!
//! A [`Channel`] is what tonic's generated clients send RPCs through. It resolves a target, keeps a
//! connection to each endpoint, and asks a policy for every RPC which of them to use. Policies lie in a
//! directory as `.wasm` files, written in any language; when a file changes, the next RPC is picked by
//! the new version, on the connections that are there.
//!
//! ```no_run
//! use hotpick::{Channel, PolicyDir};
//! # use hotpick_echo::EchoClient as GreeterClient;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let policies = PolicyDir::open("policies.d")?;
//! let channel = Channel::builder("static:///127.0.0.1:5001,127.0.0.1:5002")
//!     .policies(&policies)
//!     .policy("color") // policies.d/color.wasm
//!     .connect_lazy()?;
//! let mut greeter = GreeterClient::new(channel);
//! # Ok(())
//! # }
//! ```
//!
//! # Concepts
//!
//! The names are gRPC's.
//!
//! * [`Target`]: what a channel connects to: a DNS name, a file, a list, a prefix in etcd. A
//!   [`Resolver`](resolver::Resolver) follows it and reports [`Endpoint`](resolver::Endpoint)s: addresses
//!   with a weight and attributes.
//! * [`SubConn`](subconn::SubConn): the connection to one endpoint, in one of five
//!   [states](connectivity::ConnectivityState), by TCP or a Unix socket, with or without [TLS](tls). The
//!   host owns the connections: swapping a policy does not touch them.
//! * [`Picker`](picker::Picker): chooses the subconn of each attempt of an RPC. It is immutable and built from a
//!   snapshot, the [`ReadySet`](subconn::ReadySet). The balancer replaces it whenever an endpoint, a connection or
//!   the policy changes.
//! * [`Policy`](policy::Policy): builds pickers. [`WasmPolicy`](policy::WasmPolicy) is one in WebAssembly;
//!   [`RoundRobin`](policy::RoundRobin) is native, and is the fallback when there is no other.
//! * [`PolicyDir`]: a directory of policies, followed while RPCs run.
//! * [`ServiceConfig`](service_config::ServiceConfig): the policy, and the timeouts and wait-for-ready of each
//!   method; from the channel's builder, or from the resolver.
//!
//! # Failure isolation
//!
//! A policy can route, queue, fail and drop RPCs, and nothing else. If a file is not a policy, does not fit the
//! contract (`wit/policy.wit`) or fails its trial picks, the active version stays active. If a policy traps, exceeds
//! its time or memory, or picks a subconn that does not exist, its instance ends: the fallback picks for the RPC in
//! hand, or fails it if the policy's settings say `on-fault = "fail"`. Another instance then starts, with the state
//! that was saved last. If that happens too often, the version before becomes active again. The log ([`tracing`]),
//! [`Channel::status`] and [`PolicyDir::status`] say why.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod activity;
mod backoff;
mod balancer;
pub mod call;
pub mod channel;
pub mod connectivity;
pub mod directory;
#[cfg(feature = "etcd")]
pub mod etcd;
mod files;
mod headers;
mod http2;
mod lifecycle;
mod load_report;
pub mod net;
pub mod picker;
pub mod policy;
mod policy_version;
pub mod proxy;
pub mod resolver;
pub mod retry;
pub mod service_config;
mod setters;
pub mod subconn;
mod supervision;
mod text;
mod timeout;
pub mod tls;
pub mod trace;
pub mod transport;
mod waiting;
mod workers;

/// What the command `hotpick` shares with the library. Not for others: it may change at any time.
#[doc(hidden)]
pub mod __cli {
    pub use crate::files::from_toml;
}

pub use self::channel::Channel;
pub use self::directory::PolicyDir;
pub use self::resolver::Target;
pub use self::supervision::panics;

impl Channel {
    /// Starts to build a channel to a target, such as `static:///10.0.0.1:5001,10.0.0.2:5001`.
    pub fn builder(target: impl Into<String>) -> channel::ChannelBuilder {
        // Registered here: etcd is reached through a channel, so it is above the channel and the resolvers.
        #[cfg(feature = "etcd")]
        etcd::register();
        channel::ChannelBuilder::new(target.into())
    }
}
