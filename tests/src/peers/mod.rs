//! Third-party programs that the tests run: dnsmasq, etcd, grpcio in Python, grpc-js in Node, Envoy.

mod dnsmasq;
mod etcd;
mod process;
mod tools;

pub use self::dnsmasq::Dnsmasq;
pub use self::etcd::{Etcd, Hosts};
pub use self::process::Process;
pub use self::tools::{
    Reference, available, built, collector_command, free_port, node_command, proxies, python, python_command,
    wait_for_port, with_sbin,
};
pub(crate) use self::tools::{root, target};
