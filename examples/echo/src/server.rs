//! An echo server with its own listener.

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

/// An echo server on its own port. Dropping it is like killing its process: the listener and all connections close
/// at once.
#[derive(Debug)]
pub struct Backend {
    name: String,
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    notice: watch::Sender<Notice>,
    left: CancellationToken,
    health: Option<HealthReporter>,
    behavior: Arc<Behavior>,
    _tasks: JoinSet<()>,
}

/// Notifies a backend's connections that they must end.
#[derive(Clone, Copy, Debug, Default)]
struct Notice {
    /// Number of times that GOAWAY was requested.
    drains: usize,
    /// The backend shuts down: no new connections are accepted.
    leave: bool,
}

/// Options of a backend.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct BackendOptions {
    /// Whether the backend has a health service. At first it knows only the server as a whole, which is SERVING.
    pub health: bool,
    /// Streams allowed at once on a connection. `None`: hyper's default.
    pub max_streams: Option<u32>,
}

impl Backend {
    /// Starts a server that answers as `name`, on `address`. Port 0 selects a free port.
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
        let behavior = Arc::new(Behavior::default());
        let echo = EchoServer::new(Service { name: name.to_owned(), behavior: Arc::clone(&behavior) });
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
        tasks.spawn(server.serve(listener, Services { echo, health: service }));
        Ok(Self { name: name.to_owned(), address, accepted, notice, left, health, behavior, _tasks: tasks })
    }

    /// Sets the health of a service. Does nothing without a health service.
    pub async fn set_serving(&self, service: &str, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};

        if let Some(reporter) = &self.health {
            reporter.set_service_status(service, if serving { Serving } else { NotServing }).await;
        }
    }

    /// Delays responses to unary RPCs by this time from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.behavior
            .delay_micros
            .store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Sets whether unary RPCs fail with INTERNAL.
    pub fn set_failing(&self, failing: bool) {
        self.behavior.failing.store(failing, Ordering::Relaxed);
    }

    /// Returns the name in the backend's responses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address that the backend listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends GOAWAY on every connection, like a server that limits the age of connections or is about to restart.
    /// Open streams continue, and new connections are accepted.
    pub fn drain(&self) {
        self.notice.send_modify(|notice| notice.drains += 1);
    }

    /// Starts a graceful shutdown, like a server on SIGTERM: accepts no new connections, sends GOAWAY on every
    /// connection, and lets open streams finish.
    pub fn leave(&self) {
        self.notice.send_modify(|notice| notice.leave = true);
    }

    /// Waits until the last connection has ended after [`leave`](Self::leave).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe.
    pub async fn left(&self) {
        self.left.cancelled().await;
    }

    /// Returns the number of connections accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// The accept loop of a backend.
struct Server {
    accepted: Arc<AtomicUsize>,
    notice: watch::Receiver<Notice>,
    left: CancellationToken,
    options: BackendOptions,
}

impl Server {
    /// Serves connections until it is dropped or the backend has shut down. tonic's server would spawn tasks that
    /// outlive it; here connections are served in a set that ends with this task.
    async fn serve(self, listener: TcpListener, service: Services) {
        let mut connections = JoinSet::new();
        let mut notice = self.notice.clone();
        loop {
            tokio::select! {
                incoming = listener.accept() => {
                    let Ok((stream, _)) = incoming else {
                        // Probably out of file descriptors: an immediate retry would spin.
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

/// Waits until the backend shuts down.
async fn leaving(notice: &mut watch::Receiver<Notice>) {
    let _ = notice.wait_for(|notice| notice.leave).await;
}

async fn serve_connection(
    stream: TcpStream,
    service: Services,
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
    // Earlier GOAWAYs were for earlier connections, but a shutdown is for this one too.
    if notice.borrow_and_update().leave {
        connection.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            // A lost connection needs no handling here.
            _ = &mut connection => return,
            Ok(()) = notice.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// The echo service, and optionally the health service.
#[derive(Clone)]
struct Services {
    echo: EchoServer<Service>,
    health: Option<HealthServer<HealthService>>,
}

impl tower_service::Service<http::Request<Incoming>> for Services {
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
            // It answers unknown methods with UNIMPLEMENTED.
            _ => self.echo.call(request),
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

#[derive(Clone, Debug)]
struct Service {
    name: String,
    behavior: Arc<Behavior>,
}

/// How a backend answers unary RPCs.
#[derive(Debug, Default)]
struct Behavior {
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
        let delay = self.behavior.delay_micros.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        if self.behavior.failing.load(Ordering::Relaxed) {
            return Err(Status::internal(format!("backend {} is set to fail", self.name)));
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
