//! The part of etcd's gRPC API that discovery needs (`rpc.proto` and `kv.proto` of etcd 3), over a
//! [`Channel`] of hotpick's own.
//!
//! Written down here instead of taken from a crate: those need protoc to be built, and their watches end
//! when a member restarts.

use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{IntoStreamingRequest, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::channel::{Channel, WaitForReady};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
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

/// Of answers that are good for nothing but their arrival.
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

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseGrantRequest {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

/// Of grants and of keep-alives.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lease {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// Seconds; 0 of a lease that is gone.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseId {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// A client of etcd.
#[derive(Clone, Debug)]
pub(super) struct Client(Grpc<Channel>);

/// A server that registers itself outlasts a moment without etcd.
fn patient<Q>(message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(WaitForReady(true));
    request
}

/// More keys than that are more than a channel should balance over.
const LARGEST_ANSWER: usize = 64 << 20;

impl Client {
    pub(super) fn new(channel: Channel) -> Self {
        Self(Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER))
    }

    pub(super) async fn range(&mut self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.unary("/etcdserverpb.KV/Range", Request::new(request)).await
    }

    pub(super) async fn put(&mut self, request: PutRequest) -> Result<Done, Status> {
        self.unary("/etcdserverpb.KV/Put", patient(request)).await
    }

    pub(super) async fn grant(&mut self, ttl: i64) -> Result<Lease, Status> {
        self.unary("/etcdserverpb.Lease/LeaseGrant", patient(LeaseGrantRequest { ttl })).await
    }

    pub(super) async fn revoke(&mut self, id: i64) -> Result<Done, Status> {
        self.unary("/etcdserverpb.Lease/LeaseRevoke", patient(LeaseId { id })).await
    }

    /// Opens a watch. It stays open as long as `requests` does.
    pub(super) async fn watch(
        &mut self,
        requests: impl tokio_stream::Stream<Item = WatchRequest> + Send + 'static,
    ) -> Result<Streaming<WatchResponse>, Status> {
        self.streaming("/etcdserverpb.Watch/Watch", requests).await
    }

    pub(super) async fn keep_alive(
        &mut self,
        requests: impl tokio_stream::Stream<Item = LeaseId> + Send + 'static,
    ) -> Result<Streaming<Lease>, Status> {
        self.streaming("/etcdserverpb.Lease/LeaseKeepAlive", requests).await
    }

    async fn unary<Q, A>(&mut self, path: &'static str, mut request: Request<Q>) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        request.set_timeout(super::PATIENCE);
        let path = PathAndQuery::from_static(path);
        self.0.unary(request, path, ProstCodec::default()).await.map(Response::into_inner)
    }

    async fn streaming<Q, A>(
        &mut self,
        path: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut request = requests.into_streaming_request();
        // A member that has lost its leader would go on as if nothing happened.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        let path = PathAndQuery::from_static(path);
        let open = self.0.streaming(request, path, ProstCodec::default());
        // The stream itself has no end, but the headers must come.
        let opened = tokio::time::timeout(super::PATIENCE, open).await;
        opened.map_err(|_| Status::deadline_exceeded("etcd does not answer"))?.map(Response::into_inner)
    }
}
