//! gRPC's service config: the load-balancing policy, and defaults for the RPCs of each method.

mod config;
mod duration;
mod error;
mod retries;

pub use self::config::ServiceConfig;
pub(crate) use self::config::{MethodConfig, MethodConfigs, PolicyConfig};
pub use self::error::ServiceConfigError;
