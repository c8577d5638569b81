//! The callers of the demo, and what they count.

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

/// The colours that RPCs ask for, in turn. Only the policy `color` looks at them.
const COLORS: [&str; 4] = ["red", "blue", "blue", "blue"];
/// Messages on a stream before it is closed and another opened.
const MESSAGES: usize = 200;

/// Callers that call for as long as they may.
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
    /// Microseconds of the unary RPCs since the last [`Load::sample`].
    latencies: Vec<Mutex<Histogram<u64>>>,
}

/// What has been counted.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    /// Since the last sample.
    pub(super) latencies: Histogram<u64>,
}

impl Load {
    /// Starts so many callers of unary RPCs, and so many streams. Every second stream stays open
    /// throughout.
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

    /// Lets the RPCs under way end, and ends.
    pub(super) async fn stop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }

    pub(super) fn first_failure(&self) -> Option<Status> {
        self.counts.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Counts {
    fn goes_on(&self) -> bool {
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
        if !counts.goes_on() {
            return;
        }
        let begun = Instant::now();
        let result = client.unary(colored(EchoRequest::new("hello"), color)).await;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let latencies = counts.latencies[caller].lock();
        latencies.unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        counts.count(result);
    }
}

async fn converse(mut client: EchoClient<Channel>, counts: Arc<Counts>, messages: usize) {
    while counts.goes_on() {
        counts.count(stream(&mut client, &counts, messages).await);
    }
}

/// One stream: a message goes out when the answer to the one before has come.
async fn stream(client: &mut EchoClient<Channel>, counts: &Counts, messages: usize) -> Result<(), Status> {
    let (send, receive) = mpsc::channel(1);
    let mut answers = client.bidi(colored(ReceiverStream::new(receive), "blue")).await?.into_inner();
    let ended = || Status::internal("the stream ended before its time");
    for _ in 0..messages {
        if !counts.goes_on() {
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
