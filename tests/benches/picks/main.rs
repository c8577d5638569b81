//! Cost of a pick through the whole pick path of an RPC, compared with the lower bound: a bare call of the component.
//!
//! `cargo bench --workspace --bench picks` prints tables in Markdown and takes less than a minute; with `-- changes` only
//! the last one. The channels take
//! turns in one run, and each ratio compares two values of the same round.

mod bare;
mod gate;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickerCell};
use hotpick::policy::{Limits, WasmPolicy};
use hotpick::policy::{Placement, Policy, RoundRobin};
use hotpick::subconn::{FakeSubConns, ReadySet};
use hotpick_tests::bench::load;
use hotpick_tests::table::{Table, median, ratio};
use hotpick_tests::wat::Wat;
use hotpick_tests::{metadata, standard};
use http::HeaderMap;
use rustix::thread::CpuSet;

use self::bare::Bare;

const ENDPOINTS: u32 = 10;
const ROUNDS: usize = 31;
/// Picks in one turn of a thread.
const PICKS: u32 = 50_000;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let _within = runtime.enter();
    let mut endpoints = FakeSubConns::default();
    let ready = endpoints.ready(ENDPOINTS);
    let round_robin = policy("round_robin", &standard("round_robin"));
    let called = round_robin.clone().with_plans(false);
    let key = policy("key", &with_affinity());
    let maglev = policy("maglev", &standard("maglev"));
    let [none, some] = [HeaderMap::new(), metadata(7)];
    let mut bare = Bare::start(ENDPOINTS);
    let mut channels = [
        Channel::new("native round robin", &RoundRobin::default(), &ready, &none),
        Channel::new("round_robin.wasm, called for each pick", &called, &ready, &none),
        Channel::new("the same with an affinity key", &key, &ready, &some),
        Channel::new("round_robin.wasm, planned", &round_robin, &ready, &none),
        Channel::new("maglev.wasm, planned", &maglev, &ready, &some),
    ];

    // `count NAME PICKS THREADS`, for a profiler or valgrind: only picks.
    if let [what, name, picks, threads] = &arguments[..]
        && what == "count"
    {
        let picks = picks.parse().expect("a number");
        match channels.iter().find(|channel| channel.name == name) {
            Some(channel) => std::thread::scope(|scope| {
                for _ in 0..threads.parse().expect("a number") {
                    scope.spawn(|| channel.pick(picks));
                }
            }),
            None => _ = bare.nanos_per_call(picks),
        }
        // Destructors must not be counted.
        std::process::exit(0);
    }
    if arguments.iter().any(|argument| argument == "gate") {
        let names: Vec<_> = channels.iter().map(|channel| channel.name).collect();
        std::process::exit(i32::from(!gate::holds(&names)));
    }

    if arguments.iter().any(|argument| argument == "changes") {
        updates(&round_robin);
        return;
    }

    let mut calls = Vec::new();
    let mut times = vec![Vec::new(); channels.len()];
    for _ in 0..ROUNDS {
        // As the channels' picks: on a thread and a processor of its own.
        let call = || {
            pin(0);
            bare.nanos_per_call(PICKS)
        };
        calls.push(std::thread::scope(|scope| scope.spawn(call).join().expect("no panic")));
        for (channel, times) in channels.iter_mut().zip(&mut times) {
            times.push(channel.nanos_per_pick(1));
        }
    }
    let mut table =
        Table::new(["pick, one thread", "ns", "against the bare call", "against native", "allocations"]);
    let bare_allocations = allocation_counter::measure(|| _ = bare.nanos_per_call(1000)).count_total;
    let cells = |times: &[f64], native: &[f64], allocations: u64| {
        let against = |others: &[f64]| ratio(times.iter().zip(others).map(|(time, other)| time / other), 2);
        let allocations = format!("{}", allocations as f64 / 1000.0);
        [format!("{:.1}", median(times.to_vec())), against(&calls), against(native), allocations]
    };
    let native = times[0].clone();
    let bare_row = cells(&calls, &native, bare_allocations);
    table.row(["a bare call of the component's pick".to_owned()].into_iter().chain(bare_row));
    for (channel, times) in channels.iter().zip(&times) {
        let count = allocation_counter::measure(|| channel.pick(1000)).count_total;
        table.row([channel.name.to_owned()].into_iter().chain(cells(times, &native, count)));
    }
    println!("{}\n\n{table}", load());
    threads(&ready, &round_robin, &none);
    updates(&round_robin);
    println!("{}", load());
}

/// Measures the update when one of many endpoints leaves or joins.
fn updates(round_robin: &WasmPolicy) {
    const CHANGES: usize = 200;
    let maglev = policy("maglev", &standard("maglev"));
    let p2c = policy("p2c_ewma", &standard("p2c_ewma"));
    let policies: [(&str, &dyn Policy); 4] = [
        ("native round robin", &RoundRobin::default()),
        ("round_robin.wasm", round_robin),
        ("p2c_ewma.wasm", &p2c),
        ("maglev.wasm", &maglev),
    ];
    let mut table = Table::new(["one endpoint leaves or joins, of", "10", "1,000", "10,000"]);
    let mut rows = vec![vec!["the host's own".to_owned()]];
    rows.extend(policies.map(|(name, _)| vec![name.to_owned()]));
    for count in [10, 1_000, 10_000] {
        let mut endpoints = FakeSubConns::default();
        let all = endpoints.ready(count);
        let placement = Placement::new("static:///bench", "{}");
        let mut builders = policies.map(|(_, policy)| policy.start(&placement, &all).expect("started"));
        builders.iter_mut().for_each(|builder| drop(builder.build(&all)));
        let mut times = vec![Vec::new(); rows.len()];
        for change in 0..CHANGES {
            // Each leaves, and joins again in the next change.
            let subconn = all.all().get(change / 2 * 7919 % all.all().len()).expect("one of them");
            let state = if change % 2 == 0 { ConnectivityState::Idle } else { ConnectivityState::Ready };
            let begin = Instant::now();
            let ready = endpoints.change(subconn, state);
            times[0].push(begin.elapsed());
            for (builder, times) in builders.iter_mut().zip(&mut times[1..]) {
                let begin = Instant::now();
                drop(builder.build(&ready));
                times.push(begin.elapsed());
            }
        }
        for (row, times) in rows.iter_mut().zip(times) {
            let micros = median(times.iter().map(Duration::as_secs_f64)) * 1e6;
            row.push(format!("{micros:.1} us"));
        }
    }
    rows.into_iter().for_each(|row| table.row(row));
    println!("{table}");
}

/// Measures picks of two concurrent threads.
fn threads(ready: &ReadySet, round_robin: &WasmPolicy, none: &HeaderMap) {
    let called = round_robin.clone().with_plans(false);
    let channels = [
        Channel::new("native round robin", &RoundRobin::default(), ready, none),
        Channel::new("round_robin.wasm, called, one instance", &called, ready, none),
        Channel::new("round_robin.wasm, called, two shards", &called.clone().with_shards(2), ready, none),
        Channel::new("round_robin.wasm, planned", round_robin, ready, none),
    ];
    let mut times = vec![(Vec::new(), Vec::new()); channels.len()];
    let mut computed = Vec::new();
    for _ in 0..ROUNDS {
        for (channel, (one, two)) in channels.iter().zip(&mut times) {
            one.push(channel.nanos_per_pick(1));
            two.push(channel.nanos_per_pick(2));
        }
        computed.push([1, 2].map(|threads| nanos_each(threads, compute)));
    }
    let mut table =
        Table::new(["two threads", "ns per pick", "picks/s against one thread", "against native", "p99"]);
    for (channel, (one, two)) in channels.iter().zip(&times) {
        let ratios = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>();
        table.row([
            channel.name.to_owned(),
            format!("{:.1}", median(two.clone())),
            ratio(ratios(one, two).into_iter().map(|ratio| 2.0 * ratio), 2),
            ratio(ratios(two, &times[0].1), 2),
            format!("{} ns", channel.p99()),
        ]);
    }
    table.row([
        "nothing but computation".to_owned(),
        format!("{:.1}", median(computed.iter().map(|[_, two]| *two))),
        ratio(computed.iter().map(|[one, two]| 2.0 * one / two), 2),
        String::new(),
        String::new(),
    ]);
    println!("{table}");
}

fn policy(name: &str, bytes: &[u8]) -> WasmPolicy {
    // The longest deadlines: under valgrind everything takes fifty times as long.
    let (mut limits, caps) = (Limits::default(), Limits::caps());
    (limits.pick, limits.update, limits.init) = (caps.pick, caps.update, caps.init);
    WasmPolicy::compile(name, 1, bytes, limits).expect("a policy")
}

/// A policy that picks the first ready subconn and declares `hash-key` as the affinity key.
fn with_affinity() -> Vec<u8> {
    Wat {
        imports: r#"(import "hotpick:policy/call@0.1.0" "declare-metadata" (func $declare (param i32 i32 i32)))
            (import "hotpick:policy/call@0.1.0" "declare-affinity" (func $affinity (param i32 i32)))"#,
        exports: r#"(data (i32.const 512) "hash-key")"#,
        init: "(call $declare (i32.const 512) (i32.const 8) (i32.const 600))
               (call $affinity (i32.load (i32.const 604)) (i32.const 620))
               (i32.const 0)",
        ..Wat::default()
    }
    .component()
}

/// The pick path of a channel: everything that an RPC passes to get its subconn.
struct Channel {
    name: &'static str,
    cell: Arc<PickerCell>,
    metadata: HeaderMap,
}

impl Channel {
    fn new(name: &'static str, policy: &dyn Policy, ready: &ReadySet, metadata: &HeaderMap) -> Self {
        let mut builder = policy.start(&Placement::new("static:///bench", "{}"), ready).expect("started");
        let cell = Arc::new(PickerCell::default());
        cell.publish(builder.build(ready));
        Self { name, cell, metadata: metadata.clone() }
    }

    /// Picks `times` times. The [gate] finds this function by its name.
    #[inline(never)]
    fn pick(&self, times: u32) {
        let info = PickInfo::new("/hotpick.echo.Echo/Unary", &self.metadata);
        for _ in 0..times {
            pick(&self.cell, &info);
        }
    }

    fn nanos_per_pick(&self, threads: usize) -> f64 {
        nanos_each(threads, |times| self.pick(times))
    }

    /// Returns the 99th percentile of a pick (nanoseconds) while another thread picks, including reading the clock.
    fn p99(&self) -> u64 {
        let mut all = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).expect("a histogram");
        let turn = |number: usize| {
            pin(number);
            let mut seen = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3).expect("a histogram");
            let info = PickInfo::new("/hotpick.echo.Echo/Unary", &self.metadata);
            let mut begin = Instant::now();
            for _ in 0..4 * PICKS {
                pick(&self.cell, &info);
                let end = Instant::now();
                seen.saturating_record(nanos(end - begin));
                begin = end;
            }
            seen
        };
        std::thread::scope(|scope| {
            let turn = &turn;
            let threads: Vec<_> = (0..2).map(|number| scope.spawn(move || turn(number))).collect();
            threads
                .into_iter()
                .for_each(|thread| all.add(thread.join().expect("no panic")).expect("the same bounds"));
        });
        all.value_at_quantile(0.99)
    }
}

/// Returns how long each of [`PICKS`] takes (nanoseconds) while this number of threads does the same, each on a processor of
/// its own. From the first thread's begin to the last one's end: threads that take turns on one processor are not faster
/// than one thread.
fn nanos_each(threads: usize, pick: impl Fn(u32) + Sync) -> f64 {
    let ready = AtomicUsize::new(0);
    let turn = |number: usize| {
        pin(number);
        pick(100);
        // A thread that sleeps would come later than the one that wakes it.
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < threads {
            std::hint::spin_loop();
        }
        let begin = Instant::now();
        pick(PICKS);
        (begin, Instant::now())
    };
    let times: Vec<_> = std::thread::scope(|scope| {
        let turn = &turn;
        let threads: Vec<_> = (0..threads).map(|number| scope.spawn(move || turn(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let begin = times.iter().map(|(begin, _)| *begin).min().expect("one");
    let end = times.iter().map(|(_, end)| *end).max().expect("one");
    (end - begin).as_secs_f64() * 1e9 / f64::from(PICKS)
}

/// Has this thread run on one of the processors that the process may use. Where there is only one, that is the one.
fn pin(number: usize) {
    static ALLOWED: LazyLock<Vec<usize>> = LazyLock::new(|| {
        let all = rustix::thread::sched_getaffinity(None).expect("the processors");
        (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect()
    });
    let mut own = CpuSet::new();
    own.set(ALLOWED[number % ALLOWED.len()]);
    rustix::thread::sched_setaffinity(None, &own).expect("pinned");
}

/// Computes in registers, for about as long as a called pick takes: two processors that share one core do not do this
/// twice as fast as one.
fn compute(times: u32) {
    let mut states = [1u64, 2, 3, 4];
    for _ in 0..times * 64 {
        for state in &mut states {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
        }
    }
    std::hint::black_box(states);
}

/// Picks once, like an RPC that has just started.
fn pick(cell: &PickerCell, info: &PickInfo<'_>) {
    loop {
        let mut info = info.clone();
        let pick = std::pin::pin!(cell.pick(&mut info));
        match pick.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(pick) => {
                std::hint::black_box(pick).expect("a subconn is ready");
                return;
            }
            // The instance is busy.
            Poll::Pending => std::hint::spin_loop(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
