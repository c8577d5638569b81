//! The lower bound: a round robin of requests over hyper's connections.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tonic::body::Body;

/// One connection to each backend, used in turn.
#[derive(Clone)]
pub(crate) struct RawHyper {
    connections: Arc<Vec<(SendRequest<Body>, Authority)>>,
    next: Arc<AtomicUsize>,
}

impl RawHyper {
    pub(crate) async fn connect(addresses: &[SocketAddr]) -> Self {
        let mut connections = Vec::new();
        for address in addresses {
            let stream = TcpStream::connect(address).await.expect("connected");
            stream.set_nodelay(true).expect("a socket");
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(1 << 20).initial_connection_window_size((1 << 31) - 1);
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2");
            tokio::spawn(connection);
            connections.push((sender, address.to_string().parse().expect("an authority")));
        }
        Self { connections: Arc::new(connections), next: Arc::default() }
    }
}

impl tower::Service<Request<Body>> for RawHyper {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len();
        let (sender, authority) = &self.connections[at];
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).expect("a URI");
        Box::pin(sender.clone().send_request(request))
    }
}
