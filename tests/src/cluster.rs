//! Backends on loopback, and callers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hotpick::Channel;
use hotpick::channel::{ChannelBuilder, ChannelStatus};
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick_echo::{Backend, EchoClient, EchoRequest};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::{Request, Status};

/// Some backends. A backend's name up to the `-` is its colour.
#[derive(Debug)]
pub struct Cluster {
    /// The backends, in the resolver's order.
    pub backends: Vec<Backend>,
    /// What the channel's endpoints come from.
    pub resolver: ManualResolver,
}

impl Cluster {
    /// Starts a backend for each name.
    ///
    /// # Panics
    ///
    /// There is no port to listen on.
    pub async fn start(names: &[&str]) -> Self {
        let mut backends = Vec::new();
        for name in names {
            let address = "127.0.0.1:0".parse().expect("an address");
            backends.push(Backend::start(name, address).await.expect("a free port"));
        }
        let resolver = ManualResolver::new(backends.iter().map(endpoint).collect::<Vec<_>>());
        Self { backends, resolver }
    }

    /// Begins a channel to all of the backends.
    pub fn channel(&self) -> ChannelBuilder {
        Channel::builder("static:///cluster").resolver(self.resolver.clone())
    }

    /// The endpoints of the backends.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.backends.iter().map(endpoint).collect()
    }

    /// How many connections the backends have accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.backends.iter().map(Backend::accepted).sum()
    }
}

fn endpoint(backend: &Backend) -> Endpoint {
    let color = backend.name().split('-').next().unwrap_or_default();
    Endpoint::new(backend.address().into()).with_attribute("color", color)
}

/// A client of the echo service on a channel.
#[derive(Clone, Debug)]
pub struct Caller {
    channel: Channel,
    /// The client that tonic generated.
    pub client: EchoClient<Channel>,
}

/// How many RPCs each backend answered.
pub type Tally = BTreeMap<String, usize>;

impl Caller {
    /// A caller on a channel, once all of its subconns are ready, to its policy, too, and, if `policy` is named, its first
    /// version is in force.
    pub async fn ready(channel: &Channel, policy: Option<&str>) -> Self {
        let settled = |status: &ChannelStatus| {
            // As the policy knows them: each by itself may be ready a little earlier.
            !status.subconns.is_empty()
                && status.ready.ready().len() == status.subconns.len()
                && policy.is_none_or(|name| status.policy.name == name && status.policy.generation > 0)
        };
        crate::soon("every subconn ready", channel.wait_for(settled)).await;
        Self::of(channel)
    }

    /// A caller on a channel as it is.
    #[must_use]
    pub fn of(channel: &Channel) -> Self {
        Self { channel: channel.clone(), client: EchoClient::new(channel.clone()) }
    }

    /// One unary RPC. Gives the name of the backend that answered.
    ///
    /// # Errors
    ///
    /// The RPC failed.
    pub async fn call(&self) -> Result<String, Status> {
        self.request(Request::new(EchoRequest::new("hello"))).await
    }

    /// One unary RPC with the metadata `color`.
    ///
    /// # Errors
    ///
    /// The RPC failed.
    pub async fn call_color(&self, color: &'static str) -> Result<String, Status> {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("color", tonic::metadata::MetadataValue::from_static(color));
        self.request(request).await
    }

    /// This unary RPC.
    ///
    /// # Errors
    ///
    /// The RPC failed.
    pub async fn request(&self, request: Request<EchoRequest>) -> Result<String, Status> {
        let response = self.client.clone().unary(request).await?.into_inner();
        assert_eq!(response.text, "hello", "an echo");
        Ok(response.backend)
    }

    /// `n` unary RPCs, one after the other, none of which may fail.
    ///
    /// # Panics
    ///
    /// One failed.
    pub async fn tally(&self, n: usize) -> Tally {
        let mut tally = Tally::new();
        for _ in 0..n {
            *tally.entry(self.call().await.expect("no RPC fails")).or_default() += 1;
        }
        tally
    }

    /// The channel.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The channel's status.
    #[must_use]
    pub fn status(&self) -> ChannelStatus {
        self.channel.status()
    }

    /// Connections that the channel has attempted to the subconns it has now.
    #[must_use]
    pub fn dials(&self) -> u64 {
        self.status().subconns.iter().map(|subconn| subconn.stats().dials).sum()
    }
}

/// Callers that call until they are told to stop: unary RPCs, and streams that stay open.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Vec<Status>)>,
}

impl Load {
    /// Starts so many callers, and so many streams.
    #[must_use]
    pub fn start(caller: &Caller, callers: usize, streams: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            tasks.spawn(async move {
                let (mut calls, mut failed) = (0, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    calls += 1;
                    failed.extend(caller.call().await.err());
                }
                (calls, failed)
            });
        }
        for _ in 0..streams {
            let (caller, stop) = (caller.clone(), Arc::clone(&stop));
            tasks.spawn(async move {
                let (messages, result) = converse(caller, &stop).await;
                (messages, result.err().into_iter().collect())
            });
        }
        Self { stop, tasks }
    }

    /// Stops, and gives the number of RPCs and messages, and the RPCs that failed.
    ///
    /// # Panics
    ///
    /// A caller did.
    pub async fn stop(mut self) -> (usize, Vec<Status>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut calls, mut failed) = (0, Vec::new());
        while let Some(task) = crate::soon("callers to stop", self.tasks.join_next()).await {
            let (more, failures) = task.expect("no caller panics");
            calls += more;
            failed.extend(failures);
        }
        (calls, failed)
    }
}

/// One stream for the whole time: a message goes out when the answer to the one before has come.
async fn converse(caller: Caller, stop: &AtomicBool) -> (usize, Result<(), Status>) {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(receive);
    let mut answers = match caller.client.clone().bidi(requests).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (0, Err(status)),
    };
    let mut messages = 0;
    while !stop.load(Ordering::Relaxed) {
        if send.send(EchoRequest::new("hello")).await.is_err() {
            return (messages, Err(Status::internal("the stream ended early")));
        }
        match answers.next().await {
            Some(Ok(_)) => messages += 1,
            Some(Err(status)) => return (messages, Err(status)),
            None => return (messages, Err(Status::internal("the stream ended early"))),
        }
    }
    drop(send);
    (messages, answers.next().await.map_or(Ok(()), |last| last.map(|_| ())))
}
