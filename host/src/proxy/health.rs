//! The proxy's own health, by gRPC's protocol (gRFC A17, `doc/health-checking.md`).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use tokio_stream::StreamExt as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;
use tower_service::Service;

use crate::channel::Channel;
use crate::connectivity::ConnectivityState;

/// Path of all methods of the health service.
const SERVICE: &str = "/grpc.health.v1.Health/";

type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers the health service while the proxy lives: SERVING while the channel is READY, or IDLE and about to connect when
/// an RPC comes.
pub(super) struct OwnHealth {
    answer: Box<dyn Fn(Request<Body>) -> Answering + Send + Sync>,
    _follows: Arc<AbortOnDropHandle<()>>,
}

impl OwnHealth {
    pub(super) fn of(channel: &Channel) -> Self {
        let (reporter, server) = health_reporter();
        let mut states = Box::pin(channel.states());
        let follows = tokio::spawn(async move {
            while let Some(state) = states.next().await {
                let serves = matches!(state, ConnectivityState::Ready | ConnectivityState::Idle);
                let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status("", status).await;
            }
        });
        let answer = move |request| -> Answering {
            let mut server = server.clone();
            Box::pin(async move {
                match server.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            })
        };
        Self { answer: Box::new(answer), _follows: Arc::new(AbortOnDropHandle::new(follows)) }
    }

    /// Returns whether an RPC with this path is one of the health service.
    pub(super) fn is_asked(path: &str) -> bool {
        path.starts_with(SERVICE)
    }

    pub(super) fn answer(&self, request: Request<Body>) -> Answering {
        (self.answer)(request)
    }
}

impl fmt::Debug for OwnHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnHealth")
    }
}
