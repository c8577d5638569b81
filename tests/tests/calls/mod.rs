//! RPCs with several attempts, the limits of RPCs, and the record of each.

mod overload;
mod peers;
mod records;
mod retries;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hotpick::Channel;
use hotpick::channel::{ChannelBuilder, ChannelStatus};
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::attempts::{Attempt, Attempts};
use hotpick_tests::soon;
use tonic::{Code, Request, Status};

/// Sends RPCs with scripts.
struct Scripts {
    servers: Attempts,
    client: EchoClient<Channel>,
    channel: Channel,
}

/// How an RPC ended, and its attempts.
#[derive(Debug)]
struct Outcome {
    result: Result<String, Status>,
    attempts: Vec<Attempt>,
}

impl Scripts {
    /// Starts servers, and a channel with this service config.
    async fn start(servers: usize, config: serde_json::Value) -> Self {
        Self::with(servers, |builder| {
            builder
                .service_config(hotpick::service_config::ServiceConfig::from_json(config).expect("a config"))
        })
        .await
    }

    async fn with(servers: usize, build: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Self {
        let servers = Attempts::start(servers).await;
        let channel = build(Channel::builder(servers.target())).connect_lazy().expect("a channel");
        let count = servers.addresses().len();
        // ring_hash connects only on request.
        let is_settled =
            |status: &ChannelStatus| status.policy.name == "ring_hash" || status.ready.ready().len() == count;
        soon("connections", channel.wait_for(is_settled)).await;
        Self { servers, client: EchoClient::new(channel.clone()), channel }
    }

    fn request(script: &str) -> (String, Request<EchoRequest>) {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let call = CALLS.fetch_add(1, Ordering::Relaxed).to_string();
        let mut request = Request::new(EchoRequest::new("hello"));
        request.metadata_mut().insert("call", call.parse().expect("a value"));
        request.metadata_mut().insert("script", script.parse().expect("a value"));
        (call, request)
    }

    /// Makes an RPC with this script.
    async fn call(&self, script: &str) -> Outcome {
        self.call_within(script, None).await
    }

    async fn call_within(&self, script: &str, timeout: Option<Duration>) -> Outcome {
        let (call, mut request) = Self::request(script);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let result = soon(script, self.client.clone().unary(request)).await;
        let result = result.map(|response| response.into_inner().backend);
        Outcome { result, attempts: self.servers.of(&call) }
    }
}

impl Outcome {
    fn code(&self) -> Code {
        self.result.as_ref().map_or_else(Status::code, |_| Code::Ok)
    }

    /// The code, and what each attempt says of those before.
    fn summary(&self) -> String {
        let previous = |attempt: &Attempt| attempt.previous.clone().unwrap_or_else(|| "-".to_owned());
        let attempts: Vec<_> = self.attempts.iter().map(previous).collect();
        format!("{:?} after {}", self.code(), attempts.join(" "))
    }

    /// Time between two attempts.
    fn gap(&self, first: usize) -> Duration {
        self.attempts[first + 1].at.duration_since(self.attempts[first].at)
    }

    fn servers(&self) -> Vec<usize> {
        self.attempts.iter().map(|attempt| attempt.server).collect()
    }
}
