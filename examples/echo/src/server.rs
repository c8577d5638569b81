//! A backend with a listener of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::{Echo, EchoRequest, EchoResponse, EchoServer};

/// An echo server on a port of its own. Dropping it is like killing its process: the listener and all
/// connections close at once.
#[derive(Debug)]
pub struct Backend {
    name: String,
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    notice: watch::Sender<Notice>,
    left: CancellationToken,
    health: Option<HealthReporter>,
    temper: Arc<Temper>,
    _tasks: JoinSet<()>,
}

/// What a backend's connections are told.
#[derive(Clone, Copy, Debug, Default)]
struct Notice {
    /// GOAWAY, so many times.
    drains: usize,
    /// And no new connection.
    leave: bool,
}

/// What a backend may be beside an echo server.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BackendOptions {
    /// It has the health service, which at first says SERVING of no service.
    pub health: bool,
    /// How many streams it allows at once on a connection.
    pub max_streams: Option<u32>,
}

impl Backend {
    /// Starts a server that answers as `name`, on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub async fn start(name: &str, address: SocketAddr) -> std::io::Result<Self> {
        Self::start_with(name, address, BackendOptions::default()).await
    }

    /// Starts a server with these options.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub async fn start_with(
        name: &str,
        address: SocketAddr,
        options: BackendOptions,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let temper = Arc::new(Temper::default());
        let echo = EchoServer::new(Service { name: name.to_owned(), temper: Arc::clone(&temper) });
        let notice = watch::Sender::new(Notice::default());
        let left = CancellationToken::new();
        let server = Server {
            accepted: Arc::clone(&accepted),
            notice: notice.subscribe(),
            left: left.clone(),
            options,
        };
        let health = options.health.then(HealthReporter::new);
        let service =
            health.clone().map(|reporter| HealthServer::new(HealthService::from_health_reporter(reporter)));
        tasks.spawn(server.serve(listener, Both { echo, health: service }));
        Ok(Self { name: name.to_owned(), address, accepted, notice, left, health, temper, _tasks: tasks })
    }

    /// Says whether a service is healthy, if there is a health service.
    pub async fn set_serving(&self, service: &str, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};

        if let Some(reporter) = &self.health {
            reporter.set_service_status(service, if serving { Serving } else { NotServing }).await;
        }
    }

    /// Answers unary RPCs after this time from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.temper
            .delay_micros
            .store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Answers unary RPCs with INTERNAL from now on, or does not any more.
    pub fn set_failing(&self, failing: bool) {
        self.temper.failing.store(failing, Ordering::Relaxed);
    }

    /// The name that it answers as.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends GOAWAY on every connection, as a server does that is about to restart or that limits the age
    /// of connections. Streams that are open go on; new connections are accepted.
    pub fn drain(&self) {
        self.notice.send_modify(|notice| notice.drains += 1);
    }

    /// Ends in good order, as a server does on SIGTERM: takes no new connection, sends GOAWAY on each that
    /// there is, and lets open streams go on.
    pub fn leave(&self) {
        self.notice.send_modify(|notice| notice.leave = true);
    }

    /// Waits, after [`leave`](Self::leave), until the last connection has ended.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// What serves the connections of a backend.
struct Server {
    accepted: Arc<AtomicUsize>,
    notice: watch::Receiver<Notice>,
    left: CancellationToken,
    options: BackendOptions,
}

impl Server {
    /// Serves until dropped. tonic spawns a task for each connection, which would outlive a drop of the
    /// server; each is therefore served here, in a set that ends with this task.
    async fn serve(self, listener: TcpListener, service: Both) {
        let mut connections = JoinSet::new();
        let mut notice = self.notice.clone();
        loop {
            tokio::select! {
                incoming = listener.accept() => {
                    let Ok((stream, _)) = incoming else {
                        // Out of file descriptors, most likely: to try again at once would spin.
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    };
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                    let notice = self.notice.clone();
                    connections.spawn(serve_connection(stream, service.clone(), notice, self.options));
                }
                Some(_) = connections.join_next() => {}
                () = leaving(&mut notice) => break,
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
        self.left.cancel();
    }
}

/// Waits until the backend is to end.
async fn leaving(notice: &mut watch::Receiver<Notice>) {
    let _ = notice.wait_for(|notice| notice.leave).await;
}

async fn serve_connection(
    stream: TcpStream,
    service: Both,
    mut notice: watch::Receiver<Notice>,
    options: BackendOptions,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper_util::service::TowerToHyperService::new(service);
    let mut server = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    if let Some(max) = options.max_streams {
        server.max_concurrent_streams(max);
    }
    let connection = server.serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What was said before is for those that were there, but for the end.
    if notice.borrow_and_update().leave {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            // The peer's going away is no news here.
            _ = &mut connection => return,
            Ok(()) = notice.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// The echo service, and perhaps the health service beside it.
#[derive(Clone)]
struct Both {
    echo: EchoServer<Service>,
    health: Option<HealthServer<HealthService>>,
}

impl tower_service::Service<http::Request<Incoming>> for Both {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        match &mut self.health {
            Some(health) if request.uri().path().starts_with("/grpc.health.v1.Health/") => {
                health.call(request)
            }
            // Which answers UNIMPLEMENTED to what it does not know.
            _ => self.echo.call(request),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

#[derive(Clone, Debug)]
struct Service {
    name: String,
    temper: Arc<Temper>,
}

/// How it answers unary RPCs.
#[derive(Debug, Default)]
struct Temper {
    delay_micros: AtomicU64,
    failing: AtomicBool,
}

impl Service {
    fn answer(&self, text: String) -> EchoResponse {
        EchoResponse { text, backend: self.name.clone() }
    }
}

type Responses = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Service {
    type ServerStreamStream = Responses;
    type BidiStream = Responses;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let delay = self.temper.delay_micros.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        if self.temper.failing.load(Ordering::Relaxed) {
            return Err(Status::internal(format!("{} is not well", self.name)));
        }
        Ok(Response::new(self.answer(request.into_inner().text)))
    }

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Responses>, Status> {
        let EchoRequest { text, count } = request.into_inner();
        let answer = self.answer(text);
        let answers = (0..count).map(move |_| Ok(answer.clone()));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers))))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        let mut requests = request.into_inner();
        let mut text = String::new();
        while let Some(request) = requests.next().await {
            text.push_str(&request?.text);
        }
        Ok(Response::new(self.answer(text)))
    }

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Responses>, Status> {
        let service = self.clone();
        let answers = request.into_inner().map(move |request| Ok(service.answer(request?.text)));
        Ok(Response::new(Box::pin(answers)))
    }
}
