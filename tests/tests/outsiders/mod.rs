//! Clients and servers that nobody vouches for: what one RPC, one answer or one connection does to itself, and not to the
//! others. Each was once seen to do it.

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

/// A stream of the echo service that is open while others do what they do, and answers when it is asked.
struct Neighbour {
    requests: mpsc::Sender<hotpick_echo::EchoRequest>,
    answers: tonic::Streaming<hotpick_echo::EchoResponse>,
}

impl Neighbour {
    async fn open(caller: &Caller) -> Self {
        let (requests, receive) = mpsc::channel(1);
        let answers = caller.client.clone().bidi(ReceiverStream::new(receive)).await;
        let mut neighbour = Self { requests, answers: answers.expect("open").into_inner() };
        neighbour.answers("at first").await;
        neighbour
    }

    /// It is still there, and so is its connection.
    async fn answers(&mut self, when: &str) {
        let request = hotpick_echo::EchoRequest::new("hello");
        self.requests.send(request).await.unwrap_or_else(|_| panic!("{when}: the stream is over"));
        let answer = hotpick_tests::soon("an answer", self.answers.message()).await;
        let answer = answer.unwrap_or_else(|status| panic!("{when}: {status}"));
        assert!(answer.is_some(), "{when}: the stream has ended");
    }
}

/// A proxy of such a channel, and a caller behind it.
async fn proxied(channel: &Channel) -> (Proxied, Caller) {
    let proxied = Proxied::start(channel, ProxyOptions::default()).await;
    let through = to(proxied.address).connect_lazy().expect("a channel");
    let caller = Caller::ready(&through, None).await;
    (proxied, caller)
}

/// To one server by hand, whose connections are not given up for being slow.
fn channel(server: std::net::SocketAddr) -> ChannelBuilder {
    Channel::builder(format!("static:///{server}"))
}
