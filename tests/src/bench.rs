//! What benches have in common: backends in a process of their own, and callers that are measured.

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

/// How long callers are let run before they are measured.
const WARM_UP: Duration = Duration::from_millis(100);

/// Backends in a process of their own, so that their CPU time is theirs. They end when this is dropped.
#[derive(Debug)]
pub struct Servers {
    process: Child,
    /// Where they listen.
    pub addresses: Vec<SocketAddr>,
}

impl Servers {
    /// Starts so many: this program again, which must begin with [`serve_if_asked`](Self::serve_if_asked).
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start(count: usize) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["serve", &count.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("started");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let address = |line: std::io::Result<String>| line.expect("a line").parse().expect("an address");
        Self { addresses: lines.take(count).map(address).collect(), process }
    }

    /// If this program was started to be the backends it is nothing else, and this returns true when it has been that.
    ///
    /// # Panics
    ///
    /// There is no port to listen on.
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
            // Until who started it is gone.
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

/// Callers that call one RPC after the other, for so long. `begin` and `end` are called when measuring begins and
/// ends. Gives how many RPCs ended in that time, and how long it was.
///
/// # Panics
///
/// An RPC did.
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
    let begin = Instant::now();
    mark();
    counting.store(true, Ordering::Relaxed);
    tokio::time::sleep(turn).await;
    counting.store(false, Ordering::Relaxed);
    let took = begin.elapsed();
    mark();
    stop.store(true, Ordering::Relaxed);
    let mut rpcs = 0;
    while let Some(count) = tasks.join_next().await {
        rpcs += count.expect("no RPC fails");
    }
    (rpcs, took)
}

/// RPCs that begin at a rate, whatever becomes of those before, for so long. Gives the latencies, in nanoseconds, from
/// when each should have begun.
///
/// # Panics
///
/// An RPC did.
pub async fn open_loop<F: Future<Output = ()> + Send>(
    per_second: f64,
    turn: Duration,
    call: impl Fn(usize) -> F + Clone + Send + 'static,
) -> Histogram<u64> {
    const STEP: Duration = Duration::from_millis(1);
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("a histogram");
    let mut note = |took: Result<Duration, _>| {
        let took: Duration = took.expect("no RPC fails");
        latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    };
    let mut ticks = tokio::time::interval(STEP);
    let mut tasks = JoinSet::new();
    let begin = Instant::now();
    let (mut begun, mut caller) = (0.0, 0);
    while begin.elapsed() < turn {
        let due = ticks.tick().await;
        while begun < per_second * begin.elapsed().as_secs_f64() {
            begun += 1.0;
            caller += 1;
            let call = call.clone();
            tasks.spawn(async move {
                call(caller).await;
                due.elapsed()
            });
        }
        while let Some(took) = tasks.try_join_next() {
            note(took);
        }
    }
    while let Some(took) = tasks.join_next().await {
        note(took);
    }
    latencies
}

/// The instructions that a command takes from the last call of a function of its program on, by valgrind. None if there is no
/// valgrind.
///
/// # Panics
///
/// The program fails.
#[must_use]
pub fn instructions(program: &[String], function: &str) -> Option<u64> {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("callgrind.out");
    let mut command = Command::new("valgrind");
    command.arg("--tool=callgrind").arg(format!("--zero-before={function}"));
    command.arg(format!("--callgrind-out-file={}", file.display())).args(program);
    let output = command.output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let counted = std::fs::read_to_string(file).expect("callgrind writes it");
    let totals = counted.lines().find_map(|line| line.strip_prefix("totals: "));
    Some(totals.expect("there are totals").trim().parse().expect("a number"))
}

/// A quantile of latencies, in microseconds.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "microseconds")]
pub fn micros(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}
