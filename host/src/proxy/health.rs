//! The proxy's own health, by gRPC's protocol (gRFC A17, `doc/health-checking.md`).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream};
use http::{Request, Response};
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tower_service::Service as _;

use crate::channel::Channel;
use crate::connectivity::ConnectivityState;

/// Path of all methods of the health service.
const SERVICE: &str = "/grpc.health.v1.Health/";
/// Maximum size of a request: the name of a service, and its length.
const MAX_REQUEST: usize = 4 << 10;

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the health service while the proxy lives: SERVING while the channel is READY, or IDLE and about to connect when
/// an RPC comes.
pub(super) struct OwnHealth {
    server: HealthServer<Answers>,
    _follows: Arc<AbortOnDropHandle<()>>,
}

/// Ends the streams of one client connection: present among the extensions of its requests.
#[derive(Clone)]
struct Drains(CancellationToken);

/// The health service, for the service `""`, which is the proxy as a whole.
#[derive(Clone)]
struct Answers {
    status: watch::Receiver<ServingStatus>,
}

impl OwnHealth {
    pub(super) fn of(channel: &Channel) -> Self {
        let (set, status) = watch::channel(ServingStatus::NotServing);
        let mut states = Box::pin(channel.states());
        let follows = tokio::spawn(async move {
            while let Some(state) = states.next().await {
                let serves = matches!(state, ConnectivityState::Ready | ConnectivityState::Idle);
                let new = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
                set.send_if_modified(|status| std::mem::replace(status, new) != new);
            }
        });
        let server = HealthServer::new(Answers { status }).max_decoding_message_size(MAX_REQUEST);
        Self { server, _follows: Arc::new(AbortOnDropHandle::new(follows)) }
    }

    /// Returns whether an RPC with this path is one of the health service.
    pub(super) fn is_asked(path: &str) -> bool {
        path.starts_with(SERVICE)
    }

    /// Answers an RPC of the health service. A stream ends with UNAVAILABLE when `drains` is cancelled: it would
    /// otherwise keep its connection open.
    pub(super) fn answer(&self, mut request: Request<Body>, drains: CancellationToken) -> Answering {
        request.extensions_mut().insert(Drains(drains));
        let mut server = self.server.clone();
        Box::pin(async move {
            match server.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    }
}

#[tonic::async_trait]
impl Health for Answers {
    async fn check(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if request.get_ref().service.is_empty() {
            return Ok(tonic::Response::new(response(*self.status.borrow())));
        }
        Err(Status::not_found("unknown service: the proxy reports its own health only, by the service \"\""))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let drains =
            request.extensions().get::<Drains>().map(|Drains(token)| token.clone()).unwrap_or_default();
        let end = stream::once(async move {
            drains.cancelled_owned().await;
            Err(Status::unavailable("the proxy closes this connection"))
        });
        let statuses: BoxStream<'static, ServingStatus> = if request.get_ref().service.is_empty() {
            Box::pin(WatchStream::new(self.status.clone()))
        } else {
            // By the protocol the stream stays, as the service may be registered later.
            Box::pin(stream::once(async { ServingStatus::ServiceUnknown }))
        };
        // Ends at the first error.
        let all = stream::select(statuses.map(|status| Ok(response(status))), end);
        Ok(tonic::Response::new(Box::pin(all)))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl fmt::Debug for OwnHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnHealth")
    }
}
