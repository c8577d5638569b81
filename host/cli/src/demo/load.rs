//! Callers of the demo, with their counts and latencies.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;
use hotpick::Channel;
use hotpick_echo::{EchoClient, EchoRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

/// Values of the metadata `color`, used in turn. Only the policy `color` reads them.
const COLORS: [&str; 4] = ["red", "blue", "blue", "blue"];
/// Number of messages on a stream, after which it is closed and another opened.
const MESSAGES: usize = 200;

/// Callers that send RPCs until [`Load::stop`].
#[derive(Debug)]
pub(super) struct Load {
    counts: Arc<Counts>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Counts {
    stop: AtomicBool,
    succeeded: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<Status>>,
    /// Latencies of the unary RPCs since the last [`Load::sample`] (microseconds), one histogram for each caller.
    latencies: Vec<Mutex<Histogram<u64>>>,
}

/// Counts since the start of the load, and latencies since the previous sample.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    /// Latencies of the unary RPCs since the previous sample (microseconds).
    pub(super) latencies: Histogram<u64>,
}

impl Load {
    /// Starts callers of unary RPCs, and streams. Every second stream stays open until the end; the others are replaced
    /// after [`MESSAGES`] messages.
    pub(super) fn start(channel: &Channel, callers: usize, streams: usize) -> anyhow::Result<Self> {
        let histogram = Histogram::new(3)?;
        let counts = Arc::new(Counts {
            stop: AtomicBool::new(false),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            first_failure: Mutex::new(None),
            latencies: (0..callers).map(|_| Mutex::new(histogram.clone())).collect(),
        });
        let client = EchoClient::new(channel.clone());
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            tasks.spawn(call(client.clone(), Arc::clone(&counts), caller));
        }
        for stream in 0..streams {
            let messages = if stream % 2 == 0 { usize::MAX } else { MESSAGES };
            tasks.spawn(converse(client.clone(), Arc::clone(&counts), messages));
        }
        Ok(Self { counts, tasks })
    }

    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        let mut latencies = Histogram::new(3)?;
        for caller in &self.counts.latencies {
            let mut caller = caller.lock().unwrap_or_else(PoisonError::into_inner);
            latencies.add(&*caller)?;
            caller.reset();
        }
        Ok(Sample {
            succeeded: self.counts.succeeded.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            latencies,
        })
    }

    /// Stops all callers, after their RPCs in flight have ended.
    pub(super) async fn stop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }

    pub(super) fn first_failure(&self) -> Option<Status> {
        self.counts.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Counts {
    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count<T>(&self, result: Result<T, Status>) {
        match result {
            Ok(_) => {
                self.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(status);
            }
        }
    }
}

async fn call(mut client: EchoClient<Channel>, counts: Arc<Counts>, caller: usize) {
    for color in COLORS.iter().cycle().skip(caller) {
        if !counts.is_running() {
            return;
        }
        let started = Instant::now();
        let result = client.unary(colored(EchoRequest::new("hello"), color)).await;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let latencies = counts.latencies[caller].lock();
        latencies.unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        counts.count(result);
    }
}

async fn converse(mut client: EchoClient<Channel>, counts: Arc<Counts>, messages: usize) {
    while counts.is_running() {
        counts.count(stream(&mut client, &counts, messages).await);
    }
}

/// Runs one stream. A message is sent when the previous one has been answered.
async fn stream(client: &mut EchoClient<Channel>, counts: &Counts, messages: usize) -> Result<(), Status> {
    let (send, receive) = mpsc::channel(1);
    let mut answers = client.bidi(colored(ReceiverStream::new(receive), "blue")).await?.into_inner();
    let ended = || Status::internal("the stream ended early");
    for _ in 0..messages {
        if !counts.is_running() {
            break;
        }
        send.send(EchoRequest::new("hello")).await.map_err(|_| ended())?;
        answers.next().await.ok_or_else(ended)??;
    }
    drop(send);
    while let Some(answer) = answers.next().await {
        answer?;
    }
    Ok(())
}

fn colored<T>(message: T, color: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("color", tonic::metadata::MetadataValue::from_static(color));
    request
}
