//! Discovery by etcd: servers [register](Registration) themselves under a prefix, with a lease; channels to
//! `etcd:///prefix?endpoints=host:port,host:port` [follow](EtcdResolver) what is there.
//!
//! A value is a JSON object: `address` as `host:port`, or a host beside a `port`; perhaps a `weight`; and
//! every other member becomes an attribute of the endpoint:
//!
//! ```json
//! {"address": "10.0.0.1", "port": 5001, "weight": 2, "color": "red"}
//! ```
//!
//! A member may be frozen, cut off or gone: each call is tried at another when one is silent for a second or two, and nothing
//! waits longer than 2 s to be tried again. As long as a quorum of members and a server live, the server's entry stays.

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
