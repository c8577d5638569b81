//! Backends on the loopback interface, and their callers.

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

/// Several backends. The part of a backend's name before the `-` is its colour.
#[derive(Debug)]
pub struct Cluster {
    /// The backends, in the resolver's order.
    pub backends: Vec<Backend>,
    /// Resolver that reports the backends as endpoints.
    pub resolver: ManualResolver,
}

impl Cluster {
    /// Starts a backend for each name.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn start(names: &[&str]) -> Self {
        let mut backends = Vec::new();
        for name in names {
            let address = "127.0.0.1:0".parse().expect("an address");
            backends.push(Backend::start(name, address).await.expect("a free port"));
        }
        let resolver = ManualResolver::new(backends.iter().map(endpoint).collect::<Vec<_>>());
        Self { backends, resolver }
    }

    /// Returns the builder of a channel to all backends.
    pub fn channel(&self) -> ChannelBuilder {
        Channel::builder("static:///cluster").resolver(self.resolver.clone())
    }

    /// Returns the endpoints of the backends.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.backends.iter().map(endpoint).collect()
    }

    /// Number of connections that the backends have accepted.
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

/// Number of RPCs that each backend answered.
pub type Tally = BTreeMap<String, usize>;

impl Caller {
    /// Returns a caller once the channel's policy knows all subconns as ready and, if `policy` is given, a version of
    /// this policy is active.
    pub async fn ready(channel: &Channel, policy: Option<&str>) -> Self {
        let settled = |status: &ChannelStatus| {
            // `status.ready` is what the policy knows; a subconn may be ready a little earlier.
            !status.subconns.is_empty()
                && status.ready.ready().len() == status.subconns.len()
                && policy.is_none_or(|name| status.policy.name == name && status.policy.generation > 0)
        };
        crate::soon("all subconns ready", channel.wait_for(settled)).await;
        Self::of(channel)
    }

    /// Returns a caller on a channel in any state.
    #[must_use]
    pub fn of(channel: &Channel) -> Self {
        Self { channel: channel.clone(), client: EchoClient::new(channel.clone()) }
    }

    /// Sends a unary RPC. Returns the name of the backend that answered.
    ///
    /// # Errors
    ///
    /// Returns the status of an RPC that failed.
    pub async fn call(&self) -> Result<String, Status> {
        self.request(Request::new(EchoRequest::new("hello"))).await
    }

    /// Sends a unary RPC with the metadata `color`. Returns the name of the backend that answered.
    ///
    /// # Errors
    ///
    /// Returns the status of an RPC that failed.
    pub async fn call_color(&self, color: &'static str) -> Result<String, Status> {
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("color", tonic::metadata::MetadataValue::from_static(color));
        self.request(request).await
    }

    /// Sends this unary RPC. Returns the name of the backend that answered.
    ///
    /// # Errors
    ///
    /// Returns the status of an RPC that failed.
    pub async fn request(&self, request: Request<EchoRequest>) -> Result<String, Status> {
        let response = self.client.clone().unary(request).await?.into_inner();
        assert_eq!(response.text, "hello", "the request is not echoed");
        Ok(response.backend)
    }

    /// Sends `n` unary RPCs sequentially, and counts them by backend.
    ///
    /// # Panics
    ///
    /// Panics if an RPC fails.
    pub async fn tally(&self, n: usize) -> Tally {
        let mut tally = Tally::new();
        for _ in 0..n {
            *tally.entry(self.call().await.expect("no RPC fails")).or_default() += 1;
        }
        tally
    }

    /// Returns the channel.
    #[must_use]
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns the channel's status.
    #[must_use]
    pub fn status(&self) -> ChannelStatus {
        self.channel.status()
    }

    /// Number of connection attempts of the channel's current subconns.
    #[must_use]
    pub fn dials(&self) -> u64 {
        self.status().subconns.iter().map(|subconn| subconn.stats().dials).sum()
    }
}

/// Background load until [`stop`](Self::stop): callers of unary RPCs, and long-lived streams.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<(usize, Vec<Status>)>,
}

impl Load {
    /// Starts the given numbers of callers and of streams.
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

    /// Stops the load. Returns the number of RPCs and messages, and the statuses of the RPCs that failed.
    ///
    /// # Panics
    ///
    /// Panics if a caller panicked.
    pub async fn stop(mut self) -> (usize, Vec<Status>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut calls, mut failed) = (0, Vec::new());
        while let Some(task) = crate::soon("all callers stopped", self.tasks.join_next()).await {
            let (more, failures) = task.expect("no caller panics");
            calls += more;
            failed.extend(failures);
        }
        (calls, failed)
    }
}

/// Keeps one stream open until `stop`. Sends each message when the previous one has been answered.
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
