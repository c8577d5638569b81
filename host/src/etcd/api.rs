//! The part of etcd's gRPC API that discovery needs (`rpc.proto` and `kv.proto` of etcd 3), over a hotpick
//! [`Channel`].
//!
//! The messages are declared here because the crates for etcd need protoc to be built, and their watches end when a
//! member restarts.

use std::sync::{Arc, Mutex, PoisonError};

use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, IntoStreamingRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::attempts::{CallTimeouts, hedged, is_transient};
use super::credentials::Credentials;
use crate::channel::{Channel, WaitForReady};
use crate::connectivity::ConnectivityState;
use crate::workers;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    #[prost(uint64, tag = "1")]
    pub(super) cluster_id: u64,
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(bool, tag = "7")]
    pub(super) serializable: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

/// An answer of which no field is used.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Done {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    /// 0: put, 1: deleted.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
}

impl Event {
    pub(super) const fn is_delete(&self) -> bool {
        self.kind == 1
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseGrantRequest {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}

/// The answer to a lease grant or a keep-alive.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lease {
    /// Seconds; 0 if the lease does not exist.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseId {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// A client of etcd. When a member does not answer a call, another member is asked.
#[derive(Clone, Debug)]
pub(super) struct Client {
    grpc: Grpc<Channel>,
    channel: Channel,
    credentials: Option<Arc<Credentials>>,
    /// Token of the last login. `None`: not logged in, or the token is no longer valid.
    token: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

/// Bytes of the largest accepted answer. A larger list has more endpoints than a channel should balance over.
const LARGEST_ANSWER: usize = 64 << 20;

impl Client {
    pub(super) fn new(channel: Channel, credentials: Option<Credentials>) -> Self {
        Self {
            grpc: Grpc::new(channel.clone()).max_decoding_message_size(LARGEST_ANSWER),
            channel,
            credentials: credentials.map(Arc::new),
            token: Arc::default(),
        }
    }

    pub(super) const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Reads a list. A list that may be out of date is accepted only if `is_credible`.
    pub(super) async fn range(
        &self,
        request: RangeRequest,
        timeouts: CallTimeouts,
        is_credible: impl Fn(&RangeResponse) -> bool,
    ) -> Result<RangeResponse, Status> {
        let once = |number: usize| {
            let is_credible = &is_credible;
            // The first attempt is a linearizable read, which needs a quorum. If it takes too long or fails, later
            // attempts read what the member itself knows.
            let serializable = number > 0;
            let request = RangeRequest { serializable, ..request.clone() };
            async move {
                let answer: RangeResponse =
                    self.once("/etcdserverpb.KV/Range", &request, timeouts, !serializable).await?;
                if serializable && !is_credible(&answer) {
                    return Err(Status::unavailable("the answering etcd member lags behind the others"));
                }
                Ok(answer)
            }
        };
        self.hedged(timeouts, once).await
    }

    pub(super) async fn put(&self, request: PutRequest, timeouts: CallTimeouts) -> Result<Done, Status> {
        self.unary("/etcdserverpb.KV/Put", request, timeouts).await
    }

    /// Creates a lease with this number. An existing lease is not an error: an earlier attempt may have created it.
    pub(super) async fn grant(&self, ttl: i64, id: i64, timeouts: CallTimeouts) -> Result<(), Status> {
        let granted: Result<Lease, Status> =
            self.unary("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest { ttl, id }, timeouts).await;
        match granted {
            Err(status)
                if status.code() == Code::FailedPrecondition && status.message().contains("exists") =>
            {
                Ok(())
            }
            granted => granted.map(drop),
        }
    }

    pub(super) async fn revoke(&self, id: i64, timeouts: CallTimeouts) -> Result<Done, Status> {
        self.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseId { id }, timeouts).await
    }

    /// Renews a lease once. Returns its remaining time in seconds; 0 if the lease does not exist.
    ///
    /// etcd has a long-lived stream for this, but a stream stays with one member. Here each call may go to another one.
    pub(super) async fn keep_alive(&self, id: i64, timeouts: CallTimeouts) -> Result<i64, Status> {
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let once = |_| async {
            let request = tokio_stream::once(LeaseId { id });
            let answer = async {
                let mut answers: Streaming<Lease> = self.streaming(path, request, timeouts).await?;
                answers.message().await
            };
            answer.await?.map(|lease| lease.ttl).ok_or_else(|| Status::unavailable("etcd ended the stream"))
        };
        self.hedged(timeouts, once).await
    }

    /// Opens a watch. Returns its answers, and the sender of its requests: dropping the sender ends the watch.
    pub(super) async fn watch(
        &self,
        create: WatchCreate,
        timeouts: CallTimeouts,
    ) -> Result<(Streaming<WatchResponse>, mpsc::Sender<WatchRequest>), Status> {
        let once = |_| async {
            let (open, requests) = mpsc::channel(1);
            // Cannot fail: the channel has room for one request.
            let _ = open.try_send(WatchRequest { create: Some(create.clone()) });
            let requests = ReceiverStream::new(requests);
            Ok((self.streaming("/etcdserverpb.Watch/Watch", requests, timeouts).await?, open))
        };
        self.hedged(timeouts, once).await
    }

    async fn hedged<T, F>(&self, timeouts: CallTimeouts, attempt: impl Fn(usize) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        // A caller that does not wait for a connection gets an error at once if there is none.
        let goes_on = |status: &Status| {
            is_transient(status) && (timeouts.waits || self.channel.state() == ConnectivityState::Ready)
        };
        hedged(timeouts, goes_on, attempt).await
    }

    async fn unary<Q, A>(&self, path: &'static str, message: Q, timeouts: CallTimeouts) -> Result<A, Status>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.hedged(timeouts, |_| self.once(path, &message, timeouts, true)).await
    }

    /// Makes one attempt of a call. If the token is no longer valid, logs in and makes one more.
    async fn once<Q, A>(
        &self,
        path: &'static str,
        message: &Q,
        timeouts: CallTimeouts,
        with_leader: bool,
    ) -> Result<A, Status>
    where
        Q: prost::Message + Clone + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let send = async |token: Option<MetadataValue<Ascii>>| {
            let mut request = Request::new(message.clone());
            request.set_timeout(timeouts.whole);
            prepare(&mut request, token, timeouts, with_leader);
            let path = PathAndQuery::from_static(path);
            self.grpc.clone().unary(request, path, ProstCodec::default()).await.map(Response::into_inner)
        };
        let token = self.token(timeouts).await?;
        match send(token.clone()).await {
            Err(status) if token.is_some() && is_void(&status) => {
                self.forget(&token);
                send(self.token(timeouts).await?).await
            }
            result => result,
        }
    }

    async fn streaming<Q, A>(
        &self,
        path: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
        timeouts: CallTimeouts,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let token = self.token(timeouts).await?;
        let mut request = requests.into_streaming_request();
        prepare(&mut request, token.clone(), timeouts, true);
        let path = PathAndQuery::from_static(path);
        let opened = self.grpc.clone().streaming(request, path, ProstCodec::default()).await;
        opened.map(Response::into_inner).inspect_err(|status| {
            if is_void(status) {
                // The next attempt logs in.
                self.forget(&token);
            }
        })
    }

    /// Drops the token if a watch was cancelled for a missing permission. A watch reports that without a status.
    pub(super) fn cancelled(&self, reason: &str) {
        if reason.contains("auth") || reason.contains("permission") {
            *self.lock() = None;
        }
    }

    /// Returns the token of the login, and logs in if there is none. `None`: there are no credentials.
    async fn token(&self, timeouts: CallTimeouts) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some(credentials) = &self.credentials else { return Ok(None) };
        let known = self.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let theirs = Arc::clone(credentials);
        let password = workers::run(move || theirs.password()).await;
        let password =
            password.map_err(|lost| lost.to_string()).flatten().map_err(Status::unauthenticated)?;
        let mut request = Request::new(AuthenticateRequest { name: credentials.user.clone(), password });
        request.set_timeout(timeouts.whole);
        prepare(&mut request, None, timeouts, true);
        let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
        let answer = self.grpc.clone().unary(request, path, ProstCodec::default()).await;
        let answer: AuthenticateResponse = answer
            .map_err(|status| {
                let user = &credentials.user;
                Status::new(status.code(), format!("login as {user:?}: {}", status.message()))
            })?
            .into_inner();
        let token = MetadataValue::try_from(answer.token)
            .map_err(|_| Status::internal("etcd's login token is not valid in gRPC metadata"))?;
        *self.lock() = Some(token.clone());
        Ok(Some(token))
    }

    /// Drops this token. A newer one, from a login in between, stays.
    fn forget(&self, token: &Option<MetadataValue<Ascii>>) {
        let mut known = self.lock();
        if *known == *token {
            *known = None;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<MetadataValue<Ascii>>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn prepare<Q>(
    request: &mut Request<Q>,
    token: Option<MetadataValue<Ascii>>,
    timeouts: CallTimeouts,
    with_leader: bool,
) {
    if with_leader {
        // A member that has lost its leader fails the call, instead of continuing as if nothing had happened.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    }
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request.extensions_mut().insert(WaitForReady(timeouts.waits));
}

/// Returns whether a new login is needed: the token has expired, or etcd's users have changed.
fn is_void(status: &Status) -> bool {
    status.code() == Code::Unauthenticated || status.message().contains("revision of auth store is old")
}
