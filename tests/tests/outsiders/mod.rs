//! Failure isolation against untrusted clients and servers: one bad RPC, answer or connection does not affect others.
//! Each case is a regression test.

mod clients;
mod hostile;

mod policies;
mod servers;

use hotpick::Channel;
use hotpick::channel::ChannelBuilder;
use hotpick::proxy::ProxyOptions;
use hotpick_tests::Caller;
use hotpick_tests::scripted::Proxied;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::conformance::{begin, hello, to, within};

/// An open stream of the echo service, to test that it survives what other RPCs do.
struct Neighbour {
    requests: mpsc::Sender<hotpick_echo::EchoRequest>,
    answers: tonic::Streaming<hotpick_echo::EchoResponse>,
}

impl Neighbour {
    async fn open(caller: &Caller) -> Self {
        let (requests, receive) = mpsc::channel(1);
        let answers = caller.client.clone().bidi(ReceiverStream::new(receive)).await;
        let mut neighbour = Self { requests, answers: answers.expect("open").into_inner() };
        neighbour.assert_answers("at first").await;
        neighbour
    }

    /// Asserts that the stream, and so its connection, still works.
    async fn assert_answers(&mut self, when: &str) {
        let request = hotpick_echo::EchoRequest::new("hello");
        self.requests.send(request).await.unwrap_or_else(|_| panic!("{when}: the stream is over"));
        let answer = hotpick_tests::soon("an answer", self.answers.message()).await;
        let answer = answer.unwrap_or_else(|status| panic!("{when}: {status}"));
        assert!(answer.is_some(), "{when}: the stream has ended");
    }
}

/// Starts a proxy that serves this channel. Returns a caller that goes through the proxy.
async fn proxied(channel: &Channel) -> (Proxied, Caller) {
    let proxied = Proxied::start(channel, ProxyOptions::default()).await;
    let through = to(proxied.address).connect_lazy().expect("a channel");
    let caller = Caller::ready(&through, None).await;
    (proxied, caller)
}

/// Returns a channel to one scripted server, with default timeouts so that slow connections are not given up.
fn channel(server: std::net::SocketAddr) -> ChannelBuilder {
    Channel::builder(format!("static:///{server}"))
}
