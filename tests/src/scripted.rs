//! A server whose answers a test writes, on h2, and a proxy in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use hotpick::Channel;
use hotpick::proxy::{Proxy, ProxyOptions};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A server that does with each request what the test says. It minds no cancelled or reset stream. Dropping it closes
/// all of its connections.
#[derive(Debug)]
pub struct Scripted {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A request, and where its answer goes.
pub type Exchange = (Request<RecvStream>, SendResponse<Bytes>);

impl Scripted {
    /// Listens on a free port; each request is a task of its own.
    ///
    /// # Panics
    ///
    /// There is no port.
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

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it has had.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// The head of a response of gRPC.
///
/// # Panics
///
/// Never.
#[must_use]
pub fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("a response")
}

/// An answer of the echo service: "hello", from this backend. What cannot be sent, because the stream is over, is not.
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

/// A proxy of a channel, in this process, on a port of its own.
#[derive(Debug)]
pub struct Proxied {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it serves connections with.
    pub proxy: Proxy,
    drain: Option<oneshot::Sender<()>>,
    tasks: JoinSet<()>,
}

impl Proxied {
    /// Serves this channel.
    ///
    /// # Panics
    ///
    /// There is no port.
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
                        let (proxy, mut told) = (served.clone(), all.subscribe());
                        connections.spawn(async move {
                            // Until the sender is dropped.
                            let drain = async move { while told.changed().await.is_ok() {} };
                            let _ = proxy.serve_connection(stream, drain).await;
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

    /// Takes no new connection and no new RPC, and waits for the end of those that there are.
    pub async fn drain(mut self) {
        drop(self.drain.take());
        while self.tasks.join_next().await.is_some() {}
    }
}
