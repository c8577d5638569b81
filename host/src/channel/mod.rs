//! The channel: what tonic's generated clients send RPCs through.
//!
//! A [builder] makes the [channel](channel::Channel) and starts its balancer. A [call] is picked for and sent, attempt by attempt, until
//! its response begins; the response's [body] ends it.

mod body;
mod builder;
mod call;
#[expect(clippy::module_inception, reason = "the channel itself")]
mod channel;

pub use self::builder::{ChannelBuilder, ConnectError};
pub use self::call::WaitForReady;
pub use self::channel::{Channel, ChannelStatus};
