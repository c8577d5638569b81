//! Discovery by etcd: servers [register](Registration) themselves under a prefix, with a lease; channels to
//! `etcd:///prefix?endpoints=host:port,host:port` [follow](EtcdResolver) the keys under the prefix.
//!
//! A value is a JSON object: `address` as `host:port`, or a host beside a `port`; optionally a `weight`. Every other
//! member of the object becomes an attribute of the endpoint:
//!
//! ```json
//! {"address": "10.0.0.1", "port": 5001, "weight": 2, "color": "red"}
//! ```
//!
//! A member may be frozen, cut off or gone. A call is sent to another member when one is silent for 1 s or 2 s, and a
//! failed step is retried after at most 2 s. The entry of a live server stays while a quorum of members lives.

mod api;
mod attempts;
mod cluster;
mod credentials;
mod registration;
mod resolver;
mod target;

pub use self::cluster::{Etcd, EtcdBuilder};
pub use self::registration::Registration;
pub use self::resolver::EtcdResolver;
pub(crate) use self::resolver::register;
