//! Metrics and traces by OTLP, to an OpenTelemetry collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use hotpick::call::{CallObserver, MethodNames};
use hotpick::{Channel, PolicyDir};
use hotpick_otel::{Metrics, Traces};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanProcessor,
};
use serde::Deserialize;

use super::LOG;

/// `[otlp]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// URL of the collector's gRPC port: `http://127.0.0.1:4317`.
    endpoint: String,
    /// Name of this program in metrics and traces.
    #[serde(default = "service")]
    service: String,
    /// Whether metrics are sent.
    #[serde(default = "yes")]
    metrics: bool,
    /// Time between two reports of metrics (seconds).
    #[serde(default = "interval")]
    interval: f64,
    /// Part of the RPCs that are traced, of those whose client says nothing of it: from 0 to 1. 0: only the RPCs of clients
    /// that ask for it.
    #[serde(default = "traces")]
    traces: f64,
}

fn service() -> String {
    "hotpick".to_owned()
}

const fn yes() -> bool {
    true
}

const fn interval() -> f64 {
    60.0
}

const fn traces() -> f64 {
    0.01
}

/// Spans that wait to be sent. Further ones are dropped.
const WAITING: usize = 2048;
/// Time for the last report when the proxy ends.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// Sends metrics and traces until dropped.
pub(super) struct Otlp {
    metrics: Option<(SdkMeterProvider, Metrics)>,
    provider: SdkTracerProvider,
    traces: Traces<SdkTracer>,
    dropped: Arc<AtomicU64>,
}

impl Settings {
    pub(super) fn with_endpoint(self, endpoint: String) -> Self {
        Self { endpoint, ..self }
    }

    /// Sends to this collector.
    pub(super) fn to(endpoint: String) -> Self {
        Self { endpoint, service: service(), metrics: yes(), interval: interval(), traces: traces() }
    }
}

/// Returns whether a URL is `http://HOST:PORT`.
fn is_address(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let is_plain =
        uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let has_port = uri.port_u16().is_some_and(|port| port > 0);
    is_plain && has_port && !authority.contains('@') && uri.host().is_some_and(|host| !host.is_empty())
}

impl Otlp {
    /// Starts to send. A collector that cannot be reached is tried again for each report.
    pub(super) fn start(settings: &Settings, methods: MethodNames) -> anyhow::Result<Self> {
        let Settings { endpoint, service, metrics, interval, traces } = settings;
        anyhow::ensure!(
            (0.0..=1.0).contains(traces),
            "otlp: traces is {traces}: set it to 0 (only RPCs whose client asks for it) to 1 (all)"
        );
        let interval = Duration::try_from_secs_f64(*interval)
            .ok()
            .filter(|interval| *interval >= Duration::from_secs(1));
        let interval = interval.context("otlp: interval must be at least 1 (seconds)")?;
        anyhow::ensure!(
            is_address(endpoint),
            "otlp: endpoint is {endpoint:?}: expected http://HOST:PORT of a collector's gRPC port"
        );
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let resource = Resource::builder().with_service_name(service.clone()).build();
        let metrics = if *metrics {
            let exporter = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build();
            let reader = PeriodicReader::builder(exporter.context("otlp")?).with_interval(interval).build();
            let provider =
                SdkMeterProvider::builder().with_resource(resource.clone()).with_reader(reader).build();
            let meter = opentelemetry::metrics::MeterProvider::meter(&provider, "hotpick");
            Some((provider, Metrics::with_methods(&meter, methods)))
        } else {
            None
        };
        let (waiting, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().context("otlp")?;
        let exporter = Counting {
            inner: exporter,
            waiting: Arc::clone(&waiting),
            dropped: Arc::clone(&dropped),
            is_failing: AtomicBool::new(false),
        };
        let config = BatchConfigBuilder::default().with_max_queue_size(2 * WAITING).build();
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let processor = Bounded { inner: batches, waiting, dropped: Arc::clone(&dropped) };
        let provider = SdkTracerProvider::builder()
            // The observer has decided.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_span_processor(processor)
            .build();
        let traces = Traces::sampled(provider.tracer("hotpick"), *traces);
        Ok(Self { metrics, provider, traces, dropped })
    }

    /// Returns the observers for a channel.
    pub(super) fn observers(&self) -> Vec<Arc<dyn CallObserver>> {
        let metrics =
            self.metrics.iter().map(|(_, metrics)| Arc::new(metrics.clone()) as Arc<dyn CallObserver>);
        metrics.chain([Arc::new(self.traces.clone()) as Arc<dyn CallObserver>]).collect()
    }

    /// Reports these policies, too.
    pub(super) fn follow_policies(&self, policies: &PolicyDir) {
        if let Some((_, metrics)) = &self.metrics {
            metrics.follow_policies(policies);
        }
    }

    /// Reports the connections of this channel, too.
    pub(super) fn follow(&self, channel: &Channel) {
        if let Some((_, metrics)) = &self.metrics {
            metrics.follow(channel);
        }
    }

    /// Returns a reader of the number of spans that were not sent.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = Arc::clone(&self.dropped);
        move || dropped.load(Ordering::Relaxed)
    }

    /// Sends what is left, for at most [`LAST_REPORT`].
    pub(super) async fn finish(self) {
        let Self { metrics, provider, .. } = self;
        let spans = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST_REPORT));
        let metrics = tokio::task::spawn_blocking(move || {
            metrics.map_or(Ok(()), |(provider, _)| provider.shutdown_with_timeout(LAST_REPORT))
        });
        // The exporters may take longer than they are told.
        let all = async { (spans.await, metrics.await) };
        match tokio::time::timeout(LAST_REPORT, all).await {
            Ok((Ok(Ok(())), Ok(Ok(())))) => {}
            _ => {
                tracing::warn!(target: LOG, "the last metrics and traces could not be sent to the collector");
            }
        }
    }
}

/// Hands spans on while fewer than [`WAITING`] wait.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &opentelemetry::Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts the spans that could not be sent.
#[derive(Debug)]
struct Counting {
    inner: SpanExporter,
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
    is_failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let exported = self.inner.export(batch).await;
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        match &exported {
            Ok(()) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(target: LOG, "spans are sent again");
                }
            }
            Err(error) => {
                self.dropped.fetch_add(count as u64, Ordering::Relaxed);
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target: LOG, %error, "spans cannot be sent: they are dropped, and RPCs go on");
                }
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
