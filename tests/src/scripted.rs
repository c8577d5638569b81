//! An h2 server that runs a closure for each request, and an in-process proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use hotpick::Channel;
use hotpick::net::Undelivered;
use hotpick::proxy::{Client, Proxy, ProxyOptions};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A server that passes each request to a closure. It tolerates any number of cancelled and reset streams. Dropping it
/// closes all of its connections.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A request, and the handle to send its response.
pub type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

impl Scripted {
    /// Listens on a free port. Runs `answer` for each request in a separate task.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Exchange) -> A + Clone + Send + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let counted = Arc::clone(&accepted);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).expect("a socket");
                let answer = answer.clone();
                connections.spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder
                        .max_pending_accept_reset_streams(usize::MAX)
                        .max_concurrent_reset_streams(100_000)
                        .max_local_error_reset_streams(None)
                        .max_header_list_size(4 << 20)
                        .initial_connection_window_size(1 << 30);
                    let Ok(mut connection) = builder.handshake(stream).await else { return };
                    let mut answers = JoinSet::new();
                    loop {
                        tokio::select! {
                            exchange = connection.accept() => match exchange {
                                Some(Ok(exchange)) => drop(answers.spawn(answer(exchange))),
                                Some(Err(_)) | None => return,
                            },
                            Some(_) = answers.join_next() => {}
                        }
                    }
                });
            }
        });
        Self { address, accepted, _tasks: tasks }
    }

    /// Address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// Returns the headers of a gRPC response.
///
/// # Panics
///
/// Never, because the headers are constant.
#[must_use]
pub fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a response")
}

/// Sends a response of the echo service: "hello", from this backend. Ignores errors if the stream has ended.
pub fn answer(respond: &mut SendResponse<Bytes>, backend: &str) {
    let mut message = b"\x0a\x05hello\x12".to_vec();
    message.push(u8::try_from(backend.len()).unwrap_or_default());
    message.extend_from_slice(backend.as_bytes());
    let length = u32::try_from(message.len()).unwrap_or_default().to_be_bytes();
    let Ok(mut stream) = respond.send_response(head(), false) else { return };
    let _ = stream.send_data([&[0], &length[..], &message].concat().into(), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = stream.send_trailers(trailers);
}

/// An in-process proxy of a channel, on a free port.
#[derive(Debug)]
pub struct Proxied {
    /// Address that it listens on.
    pub address: SocketAddr,
    /// The proxy that serves the connections.
    pub proxy: Proxy,
    drain: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Proxied {
    /// Starts a proxy of this channel.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn start(channel: &Channel, options: ProxyOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let proxy = Proxy::new(channel.clone(), options);
        let served = proxy.clone();
        let (drain, mut drained) = oneshot::channel::<()>();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (all, _) = tokio::sync::watch::channel(());
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("accepted");
                        stream.set_nodelay(true).expect("a socket");
                        let (proxy, mut draining) = (served.clone(), all.subscribe());
                        connections.spawn(async move {
                            // Completes when the sender is dropped.
                            let drain = async move { while draining.changed().await.is_ok() {} };
                            let client = Client::default().with_undelivered(Some(Undelivered::of(&stream)));
                            let _ = proxy.serve_connection_of(client, Box::new(stream), drain).await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                    _ = &mut drained => break,
                }
            }
            drop(all);
            while connections.join_next().await.is_some() {}
        });
        Self { address, proxy, drain: Some(drain), tasks }
    }

    /// Shuts down gracefully: rejects new connections and RPCs, and waits until the existing ones have ended.
    pub async fn drain(mut self) {
        drop(self.drain.take());
        while self.tasks.join_next().await.is_some() {}
    }
}
