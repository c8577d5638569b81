//! Conformance scenarios of a gRPC channel: the behaviour that the test suites of grpc-go and the other gRPC
//! implementations agree on. Where grpc-go's behaviour is known, it is the expected one.

mod connections;
mod endpoints;
mod health;
mod picks;

use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::WaitForReady;
use hotpick::connectivity::ConnectivityState::{self, Ready};
use hotpick::picker::{Pick, PickResult};
use hotpick::transport::SubConnOptions;
use hotpick_echo::EchoRequest;
use hotpick_tests::raw::{self, RawServer};
use hotpick_tests::{Caller, soon};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

pub(crate) fn hello() -> Request<EchoRequest> {
    Request::new(EchoRequest::new("hello"))
}

fn patient() -> Request<EchoRequest> {
    let mut request = hello();
    request.extensions_mut().insert(WaitForReady(true));
    request
}

pub(crate) fn within(mut request: Request<EchoRequest>, millis: u64) -> Request<EchoRequest> {
    request.set_timeout(Duration::from_millis(millis));
    request
}

/// Connection options with short timeouts and backoffs.
fn quick() -> SubConnOptions {
    let mut options = SubConnOptions::default();
    options.connect_timeout = Duration::from_millis(300);
    options.backoff.base = Duration::from_millis(20);
    options.backoff.max = Duration::from_millis(100);
    options
}

pub(crate) fn to(address: std::net::SocketAddr) -> hotpick::channel::ChannelBuilder {
    Channel::builder(format!("static:///{address}")).subconn_options(quick())
}

fn first_ready(ready: &hotpick::subconn::ReadySet) -> PickResult {
    ready.ready().first().map_or(PickResult::Queue, |first| PickResult::Pick(Pick::to(first.clone())))
}

async fn state(channel: &Channel, wanted: ConnectivityState) {
    soon(&wanted.to_string(), channel.wait_for(|status| status.state == wanted)).await;
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(what, poll).await;
}

/// Starts an RPC in a task of its own.
pub(crate) fn begin(
    caller: &Caller,
    request: Request<EchoRequest>,
) -> tokio::task::JoinHandle<Result<String, Status>> {
    let caller = caller.clone();
    tokio::spawn(async move { caller.request(request).await })
}

/// Opens a stream, which stays open while the sender is held.
async fn open(caller: &Caller) -> (mpsc::Sender<EchoRequest>, tonic::Streaming<hotpick_echo::EchoResponse>) {
    let (send, receive) = mpsc::channel(1);
    let answers = caller.client.clone().bidi(ReceiverStream::new(receive)).await.expect("open").into_inner();
    (send, answers)
}

/// Connects a channel to a [`RawServer`]. Returns both, a caller, and the peer of the connection, which is READY.
async fn raw_pair() -> (RawServer, Channel, Caller, raw::RawPeer) {
    let server = RawServer::bind().await;
    let channel = to(server.address()).connect_lazy().expect("a channel");
    let peer = server.accept(&[]).await;
    state(&channel, Ready).await;
    let caller = Caller::of(&channel);
    (server, channel, caller, peer)
}
