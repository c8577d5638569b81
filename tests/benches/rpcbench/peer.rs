//! The clients that are compared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hotpick::channel::{ChannelBuilder, ChannelStatus};
use hotpick::directory::PolicyStatus;
use hotpick::policy::RolloutMode;
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::{Policies, standard};
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic::transport::Channel as TonicChannel;

use super::raw::RawHyper;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    TonicSingle,
    TonicList,
    RawHyper,
    Native,
    /// hotpick with the policy of this name.
    Wasm(&'static str),
    /// The same with plans disabled: the policy is called for each RPC.
    Called(&'static str),
    /// hotpick with the policy of this name, which is recorded to files.
    Recorded(&'static str),
    /// hotpick with this policy, and with `round_robin` called as a shadow or a canary of half of the RPCs.
    Beside(&'static str, RolloutMode),
    /// hotpick with the native picker, and observers of RPCs.
    Observed(Observed),
}

/// Who observes RPCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// `hotpick_admin::Calls`: metrics for Prometheus.
    Counted,
    /// The same, and `hotpick_otel::Traces` of one RPC in a hundred.
    Traced,
    /// `hotpick_otel::Metrics`.
    OtelMetrics,
}

/// A kind of RPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rpc {
    Unary,
    /// A stream of ten responses.
    Stream,
}

/// A connected client. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Client {
    Tonic(EchoClient<TonicChannel>),
    Raw(EchoClient<RawHyper>),
    Hotpick(
        EchoClient<hotpick::Channel>,
        /// Keeps the directory followed.
        Option<Arc<Policies>>,
    ),
}

impl Peer {
    /// All peers. The first one is the baseline.
    pub(crate) const ALL: [Self; 15] = [
        Self::TonicSingle,
        Self::TonicList,
        Self::RawHyper,
        Self::Native,
        Self::Called("round_robin"),
        Self::Wasm("round_robin"),
        Self::Wasm("p2c_ewma"),
        Self::Wasm("color"),
        Self::Recorded("p2c_ewma"),
        Self::Recorded("color"),
        Self::Beside("p2c_ewma", RolloutMode::Shadow),
        Self::Beside("p2c_ewma", RolloutMode::Canary),
        Self::Observed(Observed::Counted),
        Self::Observed(Observed::Traced),
        Self::Observed(Observed::OtelMetrics),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TonicSingle => "tonic, one Channel",
            Self::TonicList => "tonic balance_list",
            Self::RawHyper => "hyper, round robin by hand",
            Self::Native => "hotpick, native picker",
            Self::Called(_) => "hotpick, round_robin.wasm called",
            Self::Wasm("round_robin") => "hotpick, round_robin.wasm planned",
            Self::Wasm("p2c_ewma") => "hotpick, p2c_ewma.wasm",
            Self::Wasm(_) => "hotpick, color.wasm",
            Self::Recorded("p2c_ewma") => "hotpick, p2c_ewma.wasm recorded",
            Self::Recorded(_) => "hotpick, color.wasm recorded",
            Self::Beside(_, RolloutMode::Shadow) => "hotpick, p2c_ewma.wasm, round_robin.wasm as a shadow",
            Self::Beside(..) => "hotpick, p2c_ewma.wasm, round_robin.wasm as a canary",
            Self::Observed(Observed::Counted) => "hotpick, native picker, metrics for Prometheus",
            Self::Observed(Observed::Traced) => "hotpick, native picker, the same and 1 % traced",
            Self::Observed(Observed::OtelMetrics) => "hotpick, native picker, metrics by OpenTelemetry",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|peer| peer.name() == name).expect("a peer")
    }

    pub(crate) async fn connect(self, addresses: &[SocketAddr]) -> Client {
        let endpoint = |address: &SocketAddr| {
            tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("a URI")
        };
        match self {
            Self::TonicSingle => {
                let channel = endpoint(&addresses[0]).connect().await.expect("connected");
                Client::Tonic(EchoClient::new(channel))
            }
            Self::TonicList => {
                let channel = TonicChannel::balance_list(addresses.iter().map(endpoint));
                Client::Tonic(EchoClient::new(channel))
            }
            Self::RawHyper => {
                let raw = RawHyper::connect(addresses).await;
                Client::Raw(EchoClient::with_origin(raw, "http://backends".parse().expect("a URI")))
            }
            Self::Native => Self::hotpick(addresses, None, "", None).await,
            Self::Wasm(policy) => Self::hotpick(addresses, Some(policy), "", None).await,
            Self::Called(policy) => Self::hotpick(addresses, Some(policy), "plans = false", None).await,
            Self::Recorded(policy) => {
                let traces = tempfile::tempdir().expect("a directory").keep();
                let settings = format!("[record]\ndirectory = {traces:?}");
                Self::hotpick(addresses, Some(policy), &settings, None).await
            }
            Self::Beside(policy, mode) => {
                let client = Self::hotpick(addresses, Some(policy), "", None).await;
                if let Client::Hotpick(_, Some(policies)) = &client {
                    let settings = format!(
                        "plans = false\n[rollout]\nmode = \"{mode}\"\nsteps = [50]\ninterval = 3600\n"
                    );
                    policies.put(&format!("{policy}.toml"), settings.as_bytes());
                    policies.put(&format!("{policy}.wasm"), &standard("round_robin"));
                    let used = |status: &PolicyStatus| {
                        status.rollout.as_ref().is_some_and(|rollout| rollout.reading.candidate.begun > 0)
                    };
                    // Its first RPCs are before the new version is there.
                    while !policies.followed.status().iter().any(used) {
                        client.call(Rpc::Unary).await;
                    }
                }
                client
            }
            Self::Observed(by) => Self::hotpick(addresses, None, "", Some(by)).await,
        }
    }

    async fn hotpick(
        addresses: &[SocketAddr],
        policy: Option<&str>,
        settings: &str,
        observed: Option<Observed>,
    ) -> Client {
        let endpoint = |address: &SocketAddr| Endpoint::new((*address).into()).with_attribute("color", "red");
        let resolver = ManualResolver::new(addresses.iter().map(endpoint).collect::<Vec<_>>());
        let mut builder = hotpick::Channel::builder("static:///bench").resolver(resolver);
        if let Some(by) = observed {
            builder = by.observe(builder);
        }
        let policies = policy.map(|name| {
            let files = [
                (&*format!("{name}.wasm"), &*standard(name)),
                (&*format!("{name}.toml"), settings.as_bytes()),
            ];
            Policies::with(&files)
        });
        if let (Some(name), Some(policies)) = (policy, &policies) {
            builder = builder.policies(&policies.followed).policy(name);
        }
        let channel = builder.connect_lazy().expect("a channel");
        let ready = |status: &ChannelStatus| {
            let all = status.ready.ready().len() == addresses.len();
            all && policy.is_none_or(|name| status.policy.name == name && status.policy.generation > 0)
        };
        channel.wait_for(ready).await;
        Client::Hotpick(EchoClient::new(channel), policies.map(Arc::new))
    }
}

impl Observed {
    fn observe(self, builder: ChannelBuilder) -> ChannelBuilder {
        let traced = || {
            opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
            // The spans are made and thrown away: what an exporter costs is not the channel's.
            let provider = SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).build();
            hotpick_otel::Traces::sampled(provider.tracer("bench"), 0.01)
        };
        match self {
            Self::Counted => builder.observer(hotpick_admin::Calls::default()),
            Self::Traced => builder.observer(hotpick_admin::Calls::default()).observer(traced()),
            Self::OtelMetrics => {
                let exporter = InMemoryMetricExporter::default();
                let reader =
                    PeriodicReader::builder(exporter).with_interval(Duration::from_secs(3600)).build();
                let provider = SdkMeterProvider::builder().with_reader(reader).build();
                let metrics = hotpick_otel::Metrics::new(&provider.meter("bench"));
                // As a program does that has metrics until it ends.
                std::mem::forget(provider);
                builder.observer(metrics)
            }
        }
    }
}

impl Client {
    /// Sends one RPC, which must not fail.
    pub(crate) async fn call(&self, rpc: Rpc) {
        // A macro, because the clients differ in type, and boxing the RPC would distort the measurement.
        macro_rules! call {
            ($client:expr) => {
                match rpc {
                    Rpc::Unary => drop($client.clone().unary(request(1)).await.expect("no RPC fails")),
                    Rpc::Stream => {
                        let stream = $client.clone().server_stream(request(10)).await;
                        let mut stream = stream.expect("no RPC fails").into_inner();
                        while let Some(response) = stream.next().await {
                            response.expect("no RPC fails");
                        }
                    }
                }
            };
        }
        match self {
            Self::Tonic(client) => call!(client),
            Self::Raw(client) => call!(client),
            Self::Hotpick(client, _) => call!(client),
        }
    }
}

/// A request with the metadata that the policy `color` picks by.
fn request(count: u32) -> Request<EchoRequest> {
    let mut request = Request::new(EchoRequest { text: "hello".to_owned(), count });
    request.metadata_mut().insert("color", tonic::metadata::MetadataValue::from_static("red"));
    request
}
