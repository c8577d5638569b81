//! A backend with a listener of its own.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::{Echo, EchoRequest, EchoResponse, EchoServer};

/// An echo server on a port of its own. Dropping it is like killing its process: the listener and all
/// connections close at once.
#[derive(Debug)]
pub struct Backend {
    name: String,
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    drains: watch::Sender<usize>,
    _tasks: JoinSet<()>,
}

impl Backend {
    /// Starts a server that answers as `name`, on `address`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub async fn start(name: &str, address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let service = EchoServer::new(Service { name: name.to_owned() });
        let drains = watch::Sender::new(0);
        tasks.spawn(serve(listener, service, Arc::clone(&accepted), drains.subscribe()));
        Ok(Self { name: name.to_owned(), address, accepted, drains, _tasks: tasks })
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
        self.drains.send_modify(|drains| *drains += 1);
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Serves until dropped. tonic spawns a task for each connection, which would outlive a drop of the
/// server; each is therefore served here, in a set that ends with this task.
async fn serve(
    listener: TcpListener,
    service: EchoServer<Service>,
    accepted: Arc<AtomicUsize>,
    drains: watch::Receiver<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            incoming = listener.accept() => {
                let Ok((stream, _)) = incoming else {
                    // Out of file descriptors, most likely: to try again at once would spin.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                };
                accepted.fetch_add(1, Ordering::Relaxed);
                let mut drains = drains.clone();
                drains.mark_unchanged();
                connections.spawn(serve_connection(stream, service.clone(), drains));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    service: EchoServer<Service>,
    mut drains: watch::Receiver<usize>,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper_util::service::TowerToHyperService::new(service);
    let connection = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
        .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            // The peer's going away is no news here.
            _ = &mut connection => return,
            Ok(()) = drains.changed() => connection.as_mut().graceful_shutdown(),
        }
    }
}

#[derive(Clone, Debug)]
struct Service {
    name: String,
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
        Ok(Response::new(self.answer(request.into_inner().text)))
    }

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Responses>, Status> {
        let EchoRequest { text, count } = request.into_inner();
        let answers: Vec<_> = (0..count).map(|_| Ok(self.answer(text.clone()))).collect();
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
