//! Shared code of the benchmarks: backends in a separate process, and callers whose RPCs are measured.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use hotpick_echo::Backend;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Time for which callers run before they are measured.
const WARM_UP: Duration = Duration::from_millis(100);

/// Backends in a separate process, so that their CPU time can be measured separately. Dropping it ends the process.
#[derive(Debug)]
pub struct Servers {
    process: Child,
    /// Addresses that the backends listen on.
    pub addresses: Vec<SocketAddr>,
}

impl Servers {
    /// Starts `count` backends, by running this program again. Its `main` must first call
    /// [`serve_if_asked`](Self::serve_if_asked).
    ///
    /// # Panics
    ///
    /// Panics if the process does not start.
    #[must_use]
    pub fn start(count: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["serve", &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("started");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let address = |line: std::io::Result<String>| line.expect("a line").parse().expect("an address");
        Self { addresses: lines.take(count).map(address).collect(), process }
    }

    /// If [`start`](Self::start) started this process, serves the backends until the parent process ends, and returns
    /// true. The program must then exit.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    #[must_use]
    pub fn serve_if_asked() -> bool {
        let mut arguments = std::env::args().skip(1);
        let (Some("serve"), Some(count)) = (arguments.next().as_deref(), arguments.next()) else {
            return false;
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut backends = Vec::new();
            for n in 0..count.parse().expect("a number") {
                let address = "127.0.0.1:0".parse().expect("an address");
                backends.push(Backend::start(&format!("red-{n}"), address).await.expect("a free port"));
            }
            for backend in &backends {
                println!("{}", backend.address());
            }
            // Standard input is closed when the parent process ends.
            let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
            let _ = ended.await;
        });
        true
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Runs callers that each send RPCs sequentially, measured for `turn` after a warm-up. Calls `mark` when measuring
/// starts and again when it ends. Returns the number of RPCs that ended in between, and the time measured.
///
/// # Panics
///
/// Panics if an RPC panics.
pub async fn closed_loop<F: Future<Output = ()> + Send>(
    callers: usize,
    turn: Duration,
    call: impl Fn(usize) -> F + Clone + Send + 'static,
    mut mark: impl FnMut(),
) -> (u64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let counting = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (call, stop, counting) = (call.clone(), Arc::clone(&stop), Arc::clone(&counting));
        tasks.spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                call(caller).await;
                count += u64::from(counting.load(Ordering::Relaxed));
            }
            count
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let start = Instant::now();
    mark();
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(turn).await;
    counting.store(false, Ordering::Relaxed);
    let took = start.elapsed();
    mark();
    stop.store(true, Ordering::Relaxed);
    let mut rpcs = 0;
    while let Some(count) = tasks.join_next().await {
        rpcs += count.expect("no RPC fails");
    }
    (rpcs, took)
}

/// Starts RPCs at a fixed rate for `turn`, whether or not earlier ones have ended. Returns the latencies, in
/// nanoseconds, from the time when each RPC was due.
///
/// # Panics
///
/// Panics if an RPC panics.
pub async fn open_loop<F: Future<Output = ()> + Send>(
    per_second: f64,
    turn: Duration,
    call: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Histogram<u64> {
    const STEP: Duration = Duration::from_millis(1);
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("a histogram");
    let mut record = |took: Result<Duration, _>| {
        let took: Duration = took.expect("no RPC fails");
        latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    };
    let mut ticks = tokio::time::interval(STEP);
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    let (mut started, mut caller) = (0.0, 0);
    while start.elapsed() < turn {
        ticks.tick().await;
        while started < per_second * start.elapsed().as_secs_f64() {
            // Not the time of the tick: after a stall many RPCs are started at once, and each was due at its own time.
            let due = start + Duration::from_secs_f64(started / per_second);
            started += 1.0;
            caller += 1;
            let call = call.clone();
            tasks.spawn(async move {
                call(caller).await;
                due.elapsed()
            });
        }
        while let Some(took) = tasks.try_join_next() {
            record(took);
        }
    }
    while let Some(took) = tasks.join_next().await {
        record(took);
    }
    latencies
}

/// Returns a sentence with the load of the machine in the last minute, for the output of a benchmark.
///
/// # Panics
///
/// Panics on systems other than Linux.
#[must_use]
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").expect("/proc of Linux");
    let load = load.split(' ').next().unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    format!("Load of the machine in the last minute: {load}, of {processors} processors.")
}

/// Counts the instructions of a command from the last call of `function` on, with valgrind. Returns `None` if valgrind
/// cannot be run.
///
/// # Panics
///
/// Panics if the command fails.
#[must_use]
pub fn instructions(program: &[String], function: &str) -> Option<u64> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--zero-before={function}"));
    command.arg(format!("--callgrind-out-file={}", file.display())).args(program);
    let output = command.output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counted = std::fs::read_to_string(file).expect("the output of callgrind");
    let totals = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    Some(totals.expect("a line of totals").trim().parse().expect("a number"))
}

/// Returns a quantile of latencies, in microseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "microseconds")]
pub fn micros(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}
