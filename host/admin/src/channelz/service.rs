//! The RPCs of channelz.

use std::future::{Ready, ready};
use std::sync::Arc;

use hotpick::connectivity::ConnectivityState;
use hotpick::subconn::SubConn;
use http::{Request, Response};
use prost::Message;
use serde_json::Value;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::messages::{
    Channel, ChannelData, ChannelRef, Channels, ListRequest, NoServers, OneChannel, OneRequest,
    OneSubchannel, State, Subchannel, SubchannelRef, Timestamp, Trace, TraceEvent,
};
use crate::live::Live;
use crate::subjects::{Subjects, Watched};

const SERVICE: &str = "/grpc.channelz.v1.Channelz/";
/// Channels in one answer, if the request does not say.
const AT_ONCE: usize = 100;

/// Answers an RPC.
pub(crate) async fn answer<B>(subjects: Arc<Subjects>, live: Arc<Live>, request: Request<B>) -> Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send,
{
    let source = Source { subjects, live };
    match request.uri().path().strip_prefix(SERVICE) {
        Some("GetTopChannels") => unary(request, move |list| Ok(source.channels(list))).await,
        Some("GetServers") => unary(request, |_: ListRequest| Ok(NoServers { end: true })).await,
        Some("GetChannel") => unary(request, move |one: OneRequest| source.channel(one.id)).await,
        Some("GetSubchannel") => unary(request, move |one: OneRequest| source.subchannel(one.id)).await,
        Some("GetServer" | "GetServerSockets" | "GetSocket") => {
            unary(request, |one: OneRequest| -> Result<OneChannel, Status> {
                Err(Status::not_found(format!("there is no server and no socket {}", one.id)))
            })
            .await
        }
        _ => Status::new(Code::Unimplemented, "the admin listener serves grpc.channelz.v1.Channelz")
            .into_http(),
    }
}

async fn unary<B, Q, A>(
    request: Request<B>,
    answer: impl Fn(Q) -> Result<A, Status> + Send + Sync + 'static,
) -> Response<Body>
where
    B: HttpBody + Send + 'static,
    B::Error: Into<StdError> + Send,
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    struct Answers<F>(F);
    impl<F, Q, A> UnaryService<Q> for Answers<F>
    where
        F: Fn(Q) -> Result<A, Status>,
        A: Message,
    {
        type Response = A;
        type Future = Ready<Result<tonic::Response<A>, Status>>;

        fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
            ready((self.0)(request.into_inner()).map(tonic::Response::new))
        }
    }
    Grpc::new(ProstCodec::<A, Q>::default()).unary(Answers(answer), request).await
}

/// Where answers come from.
struct Source {
    subjects: Arc<Subjects>,
    live: Arc<Live>,
}

impl Source {
    fn channels(&self, request: ListRequest) -> Channels {
        let most = usize::try_from(request.max).ok().filter(|max| *max > 0).unwrap_or(AT_ONCE).min(AT_ONCE);
        let all = self.subjects.channels.iter().zip(1i64..).skip_while(|(_, id)| *id < request.start);
        let mut channels: Vec<_> =
            all.take(most + 1).map(|(watched, id)| self.describe(watched, id)).collect();
        let end = channels.len() <= most;
        channels.truncate(most);
        Channels { channels, end }
    }

    fn channel(&self, id: i64) -> Result<OneChannel, Status> {
        let watched =
            self.watched(id).ok_or_else(|| Status::not_found(format!("there is no channel {id}")))?;
        Ok(OneChannel { channel: Some(self.describe(watched, id)) })
    }

    fn subchannel(&self, id: i64) -> Result<OneSubchannel, Status> {
        let found = self.watched(id >> 32).and_then(|watched| {
            let status = watched.channel.status();
            status.subconns.into_iter().find(|subconn| id_of(id >> 32, subconn) == id)
        });
        let subconn = found.ok_or_else(|| Status::not_found(format!("there is no subchannel {id}")))?;
        let stats = subconn.stats();
        let trace = subconn.last_error().map(|error| {
            let event = TraceEvent { description: error, severity: WARNING, timestamp: None };
            Trace { logged: 1, events: vec![event] }
        });
        let data = ChannelData {
            state: Some(state(subconn.state())),
            target: address(&subconn),
            trace,
            started: number(stats.picked),
            succeeded: number(stats.succeeded),
            // To channelz, everything that does not end with OK has failed.
            failed: number(stats.failed.saturating_add(stats.cancelled)),
        };
        Ok(OneSubchannel {
            subchannel: Some(Subchannel { reference: Some(reference(id >> 32, &subconn)), data: Some(data) }),
        })
    }

    fn watched(&self, id: i64) -> Option<&Watched> {
        self.subjects.channels.get(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    fn describe(&self, watched: &Watched, id: i64) -> Channel {
        let (status, totals) = (watched.channel.status(), watched.calls.totals());
        let failed = totals.failed.saturating_add(totals.cancelled);
        let events: Vec<_> = self.live.events(&status.target).iter().map(event).collect();
        let data = ChannelData {
            state: Some(state(status.state)),
            target: status.target.clone(),
            trace: Some(Trace { logged: i64::try_from(events.len()).unwrap_or(i64::MAX), events }),
            started: number(totals.started),
            succeeded: number(totals.ended.saturating_sub(failed)),
            failed: number(failed),
        };
        Channel {
            reference: Some(ChannelRef { id, name: status.target.clone() }),
            data: Some(data),
            subchannels: status.subconns.iter().map(|subconn| reference(id, subconn)).collect(),
        }
    }
}

const INFO: i32 = 1;
const WARNING: i32 = 2;

fn event(json: &Value) -> TraceEvent {
    let millis = json["t"].as_i64().unwrap_or_default();
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or_default();
    TraceEvent {
        description: json["text"].as_str().unwrap_or_default().to_owned(),
        severity: if matches!(json["kind"].as_str(), Some("swap" | "joined")) { INFO } else { WARNING },
        timestamp: Some(Timestamp { seconds: millis / 1000, nanos }),
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The number of a subchannel: unique among all channels.
fn id_of(channel: i64, subconn: &SubConn) -> i64 {
    (channel << 32) | i64::from(subconn.id())
}

fn address(subconn: &SubConn) -> String {
    subconn.endpoint().addresses()[0].to_string()
}

fn reference(channel: i64, subconn: &SubConn) -> SubchannelRef {
    SubchannelRef { id: id_of(channel, subconn), name: address(subconn) }
}

const fn state(state: ConnectivityState) -> State {
    State {
        state: match state {
            ConnectivityState::Idle => 1,
            ConnectivityState::Connecting => 2,
            ConnectivityState::Ready => 3,
            ConnectivityState::TransientFailure => 4,
            ConnectivityState::Shutdown => 5,
        },
    }
}
