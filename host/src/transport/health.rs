//! Health checking on a subconn's own connection (`doc/health-checking.md`, gRFC A17).

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tracing::{Instrument as _, Span};

use super::connection::{Connection, ConnectionState, SendError, StreamPermit};
use super::dial::Dialer;
use super::replay::Replay;
use crate::backoff::Backoff;
use crate::http2::Received;

/// Health of the peer, as its health service reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The service has not answered yet.
    Unknown,
    Serving,
    /// The peer does not serve, or the check fails, with the reason.
    Failing(String),
}

/// The health check of one connection, for the service that the current service config names.
pub(super) struct Checkup {
    connection: std::sync::Weak<Connection>,
    origin: http::Uri,
    backoff: Backoff,
    service: watch::Receiver<Option<Arc<str>>>,
    /// Span of the channel.
    span: Span,
    running: Option<Running>,
}

struct Running {
    health: watch::Receiver<Health>,
    _task: AbortOnDropHandle<()>,
}

impl Checkup {
    /// Starts to check a connection. `health` counts until the peer answers.
    pub(super) fn start(
        connection: &Arc<Connection>,
        dialer: &Dialer,
        origin: http::Uri,
        health: Health,
    ) -> Self {
        let mut checkup = Self {
            connection: Arc::downgrade(connection),
            origin,
            backoff: dialer.options.backoff,
            service: dialer.health.clone(),
            span: dialer.span.clone(),
            running: None,
        };
        checkup.restart(health);
        checkup
    }

    /// Returns the current health. Without health checking it is `Serving`.
    pub(super) fn health(&mut self) -> Health {
        match &mut self.running {
            Some(running) => running.health.borrow_and_update().clone(),
            None => Health::Serving,
        }
    }

    /// Waits until [`health`](Self::health) may have changed.
    pub(super) async fn changed(&mut self) {
        let health = async {
            match &mut self.running {
                // An error means that the task has ended with its runtime.
                Some(running) => {
                    if running.health.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                None => std::future::pending().await,
            }
        };
        let restart = tokio::select! {
            biased;
            Ok(()) = self.service.changed() => true,
            () = health => false,
        };
        if restart {
            self.restart(Health::Unknown);
        }
    }

    fn restart(&mut self, health: Health) {
        let service = self.service.borrow_and_update().clone();
        self.running = service.zip(self.connection.upgrade()).map(|(service, connection)| {
            let (sender, health) = watch::channel(health.clone());
            let state = Arc::clone(connection.state());
            let client = HealthClient::with_origin(Client(connection), self.origin.clone());
            let watching = check(client, state, service, self.backoff, sender);
            let watching = watching.in_current_span().instrument(self.span.clone());
            Running { health, _task: AbortOnDropHandle::new(tokio::spawn(watching)) }
        });
    }
}

/// Watches the health service until the connection ends, or the peer reports that it has no such service. When the
/// stream ends, opens another one: at once if the stream had delivered an answer, otherwise after a backoff.
async fn check(
    mut client: HealthClient<Client>,
    state: Arc<ConnectionState>,
    service: Arc<str>,
    backoff: Backoff,
    health: watch::Sender<Health>,
) {
    let mut failures = 0;
    loop {
        // The check counts against the number of streams that the peer allows.
        let stream = StreamPermit::take_unchecked(&state);
        let request = HealthCheckRequest { service: service.to_string() };
        let mut status = Status::unavailable("the stream ended");
        match client.watch(request).await {
            Err(error) => status = error,
            Ok(response) => {
                let mut answers = response.into_inner();
                loop {
                    match answers.message().await {
                        Ok(Some(answer)) => {
                            failures = 0;
                            health.send_replace(match answer.status() {
                                ServingStatus::Serving => Health::Serving,
                                other => Health::Failing(format!(
                                    "the health service reports {} for {service:?}",
                                    other.as_str_name()
                                )),
                            });
                        }
                        Ok(None) => break,
                        Err(error) => {
                            status = error;
                            break;
                        }
                    }
                }
            }
        }
        drop(stream);
        if status.code() == Code::Unimplemented {
            tracing::warn!("server has no health service: it counts as healthy");
            health.send_replace(Health::Serving);
            // Keeps the sender: dropping it would look like a change.
            return std::future::pending().await;
        }
        // The first failure may be the end of the connection, which is reported elsewhere.
        if failures > 0 {
            let reason = format!("the health check fails: {}", status.message());
            health.send_replace(Health::Failing(reason));
            tokio::time::sleep(backoff.delay(failures, fastrand::f64())).await;
        }
        failures += 1;
    }
}

/// One connection, as the service that tonic's clients need.
#[derive(Clone)]
struct Client(Arc<Connection>);

impl tower_service::Service<http::Request<Body>> for Client {
    type Response = http::Response<Received>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let connection = Arc::clone(&self.0);
        let (head, body) = request.into_parts();
        let replay = Replay::new(body, 0);
        let first = replay.start();
        Box::pin(async move {
            let body = first.ok_or_else(|| Status::internal("a body has no first sending"))?;
            let sent = connection.send(http::Request::from_parts(head, body)).await;
            // The request is a single message, which has been sent by now.
            drop(replay);
            match sent {
                Ok(response) => Ok(response),
                // The connection is lost, and this check is about to be dropped.
                Err(SendError::NotSent(_) | SendError::Unprocessed { refused: false, .. }) => {
                    std::future::pending().await
                }
                Err(
                    SendError::Unprocessed { status, .. }
                    | SendError::Failed(status)
                    | SendError::Dropped(status),
                ) => Err(status),
            }
        })
    }
}
