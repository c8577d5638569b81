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
//! The names are gRPC's own.
//!
//! * [`Target`]: what a channel connects to: a DNS name, a file, a list, a prefix in etcd. A
//!   [`Resolver`](resolver::Resolver) watches it and yields [`Endpoint`](resolver::Endpoint)s: addresses
//!   with a weight and attributes.
//! * [`SubConn`](subconn::SubConn): the connection to one endpoint, in one of five
//!   [states](connectivity::ConnectivityState), by TCP or a Unix socket, with [TLS](tls) or without. The
//!   host owns it; no change of policy touches it.
//! * [`Picker`](picker::Picker): what is asked for a subconn, once for each attempt of each RPC. It is
//!   immutable and built from a snapshot, the [`ReadySet`](subconn::ReadySet); the balancer replaces it
//!   whenever an endpoint, a connection or the policy changes.
//! * [`Policy`](policy::Policy): what makes pickers. [`WasmPolicy`](policy::WasmPolicy) is one in
//!   WebAssembly, [`RoundRobin`](policy::RoundRobin) the native one that stands in when there is none.
//! * [`PolicyDir`]: a directory of policies, followed as its files change.
//! * [`ServiceConfig`](service_config::ServiceConfig): which policy is to balance, and what the RPCs of
//!   each method are given; from the channel's builder, or from the resolver while RPCs run.
//!
//! # What a policy can do to you
//!
//! Route, hold and fail RPCs, as is its office; nothing else. A file that is no policy, or that the contract (`wit/policy.wit`)
//! does not fit, leaves the version in force, and so does one whose trial picks go wrong. A policy that
//! traps, loops, or picks what does not exist ends its instance: the RPC in hand is picked by the native round
//! robin, and a fresh instance starts with the state that was saved last; if that happens too often the
//! version before is back. The reasons are in the log ([`tracing`]) and in [`Channel::status`] and
//! [`PolicyDir::status`]; `docs/operating.md` has all of it.

mod activity;
mod backoff;
mod balancer;
pub mod channel;
pub mod connectivity;
pub mod directory;
#[cfg(feature = "etcd")]
pub mod etcd;
mod files;
mod headers;
mod http2;
mod lifecycle;
pub mod net;
pub mod picker;
pub mod policy;
pub mod proxy;
pub mod resolver;
pub mod service_config;
mod setters;
pub mod subconn;
mod supervision;
mod text;
mod timeout;
pub mod tls;
pub mod transport;
mod workers;

pub use self::channel::Channel;
pub use self::directory::PolicyDir;
pub use self::resolver::Target;
pub use self::supervision::panics;

impl Channel {
    /// Starts to build a channel to a target, such as `static:///10.0.0.1:5001,10.0.0.2:5001`.
    pub fn builder(target: impl Into<String>) -> channel::ChannelBuilder {
        // Above the resolvers and the channel, because etcd is reached through a channel.
        #[cfg(feature = "etcd")]
        etcd::register();
        channel::ChannelBuilder::new(target.into())
    }
}
