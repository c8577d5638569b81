//! x
mod balancer;
pub mod channel;
pub mod connectivity;
pub mod picker;
pub mod policy;
pub mod policy_dir;
pub mod resolver;
pub mod subconn;
pub use channel::Channel;
pub use policy_dir::PolicyDir;
pub use resolver::Target;
