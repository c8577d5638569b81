//! How byte streams are opened, if not by TCP or Unix sockets.

use std::fmt;
use std::io;
use std::pin::Pin;

use crate::net::{BoxedIo, Io};
use crate::resolver::Address;

/// Opens byte streams to addresses: in memory, by vsock, through a proxy. Implemented for asynchronous closures.
///
/// ```
/// use hotpick::resolver::Address;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Whatever the address, the server is at the other end of a pipe in memory.
/// let channel = hotpick::Channel::builder("static:///server:1")
///     .connect_with(|_address: Address| async move {
///         let (client, server) = tokio::io::duplex(64 << 10);
///         tokio::spawn(async move { drop(server) }); // hand it to the server instead
///         Ok(client)
///     })
///     .connect_lazy()?;
/// # Ok(())
/// # }
/// ```
pub trait Connect: Send + Sync {
    /// Opens a byte stream to one address of an endpoint. Called by the channel for each attempt to connect, within
    /// its runtime; the attempt's time limit applies. With TLS the channel does the handshake on the stream.
    ///
    /// # Errors
    ///
    /// The address cannot be reached.
    fn connect(&self, address: Address) -> Connecting;
}

/// A byte stream that is being opened.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<BoxedIo>> + Send>>;

impl<F, R, T> Connect for F
where
    F: Fn(Address) -> R + Send + Sync,
    R: Future<Output = io::Result<T>> + Send + 'static,
    T: Io + 'static,
{
    fn connect(&self, address: Address) -> Connecting {
        let connecting = self(address);
        Box::pin(async move { Ok(Box::new(connecting.await?) as BoxedIo) })
    }
}

impl fmt::Debug for dyn Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}
