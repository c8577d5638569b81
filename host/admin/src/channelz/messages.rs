//! The messages of `grpc/channelz/v1/channelz.proto`, with the fields that are used.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Channel {
    #[prost(message, optional, tag = "1")]
    pub(super) reference: Option<ChannelRef>,
    #[prost(message, optional, tag = "2")]
    pub(super) data: Option<ChannelData>,
    #[prost(message, repeated, tag = "4")]
    pub(super) subchannels: Vec<SubchannelRef>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Subchannel {
    #[prost(message, optional, tag = "1")]
    pub(super) reference: Option<SubchannelRef>,
    #[prost(message, optional, tag = "2")]
    pub(super) data: Option<ChannelData>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChannelRef {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SubchannelRef {
    #[prost(int64, tag = "7")]
    pub(super) id: i64,
    #[prost(string, tag = "8")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ChannelData {
    #[prost(message, optional, tag = "1")]
    pub(super) state: Option<State>,
    #[prost(string, tag = "2")]
    pub(super) target: String,
    #[prost(message, optional, tag = "3")]
    pub(super) trace: Option<Trace>,
    #[prost(int64, tag = "4")]
    pub(super) started: i64,
    #[prost(int64, tag = "5")]
    pub(super) succeeded: i64,
    #[prost(int64, tag = "6")]
    pub(super) failed: i64,
}

/// `ChannelConnectivityState`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct State {
    /// 1 for IDLE to 5 for SHUTDOWN, in the order of gRPC's states.
    #[prost(int32, tag = "1")]
    pub(super) state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Trace {
    #[prost(int64, tag = "1")]
    pub(super) logged: i64,
    #[prost(message, repeated, tag = "3")]
    pub(super) events: Vec<TraceEvent>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TraceEvent {
    #[prost(string, tag = "1")]
    pub(super) description: String,
    /// 1: info, 2: warning.
    #[prost(int32, tag = "2")]
    pub(super) severity: i32,
    #[prost(message, optional, tag = "3")]
    pub(super) timestamp: Option<Timestamp>,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

/// A request for a list: `GetTopChannels`, `GetServers`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct ListRequest {
    #[prost(int64, tag = "1")]
    pub(super) start: i64,
    #[prost(int64, tag = "2")]
    pub(super) max: i64,
}

/// A request for one thing: `GetChannel`, `GetSubchannel`, `GetServer`, `GetSocket`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct OneRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Channels {
    #[prost(message, repeated, tag = "1")]
    pub(super) channels: Vec<Channel>,
    #[prost(bool, tag = "2")]
    pub(super) end: bool,
}

/// The answer to `GetServers`: there are none.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct NoServers {
    #[prost(bool, tag = "2")]
    pub(super) end: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OneChannel {
    #[prost(message, optional, tag = "1")]
    pub(super) channel: Option<Channel>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct OneSubchannel {
    #[prost(message, optional, tag = "1")]
    pub(super) subchannel: Option<Subchannel>,
}
