//! Recordings of policies at work, and their replay.

use std::time::Duration;

use futures_util::StreamExt as _;
use hotpick::connectivity::ConnectivityState;
use hotpick::picker::PickInfo;
use hotpick::policy::{
    Limits, Placement, Replayed, SimulatedChannel, SimulatedPick, SimulatedRpc, WasmPolicy, replay,
};
use hotpick::resolver::Endpoint;
use hotpick::trace::{Event, Finish, RecordOptions, Trace, TraceStream};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Policies, STANDARD, standard};
use http::{HeaderMap, HeaderValue};
use tonic::Code;

/// Returns the bytes of a recording that has ended, or ends now.
async fn bytes(mut trace: TraceStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(block) = trace.next().await {
        bytes.extend(block);
    }
    bytes
}

fn read(bytes: &[u8]) -> Trace {
    Trace::read(bytes).expect("a trace")
}

fn endpoints(count: usize, round: usize) -> Vec<(Endpoint, ConnectivityState)> {
    let endpoint = |number: usize| {
        let address = std::net::SocketAddr::from(([10, 0, 0, u8::try_from(number).expect("few")], 80));
        let color = format!("color-{}", number % 2);
        let zone = ["a", "b"][number % 2];
        let endpoint =
            Endpoint::new(address.into()).with_attribute("color", color).with_attribute("zone", zone);
        let is_down = round > 0 && number == round % count;
        (endpoint, if is_down { ConnectivityState::TransientFailure } else { ConnectivityState::Ready })
    };
    (0..count).map(endpoint).collect()
}

fn metadata(number: u64) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (key, value) in [
        ("color", format!("color-{}", number % 3)),
        ("hash-key", format!("user-{}", number % 50)),
        ("session-id", format!("session-{}", number % 40)),
    ] {
        metadata.insert(key, HeaderValue::from_str(&value).expect("a value"));
    }
    metadata
}

/// Sends RPCs through a channel that is simulated: some fail, some are retried, and endpoints come and go.
async fn rpcs(policy: &WasmPolicy, config: &str, count: u64) {
    let placement = Placement::new("sim:///servers", config).with_seed(7);
    let mut channel = SimulatedChannel::start(policy, &placement, endpoints(5, 0)).expect("started");
    let mut random = fastrand::Rng::with_seed(1);
    let mut in_flight: Vec<SimulatedRpc> = Vec::new();
    for number in 0..count {
        tokio::time::advance(Duration::from_micros(random.u64(1..2000))).await;
        if number % 500 == 499 {
            channel.update(endpoints(5 + random.usize(..2), usize::try_from(number).expect("few")));
        }
        let metadata = metadata(number);
        let mut tried = Vec::new();
        for attempt in 0..=u32::from(random.u32(..10) == 0) {
            let mut info = PickInfo::new(if number % 2 == 0 { "/a.B/C" } else { "/a.B/D" }, &metadata);
            (info.attempt, info.tried) = (attempt, &tried);
            if let SimulatedPick::Sent(mut sent) = channel.pick(&info) {
                tried.push(sent.subconn());
                sent.respond();
                in_flight.push(sent);
            }
        }
        while in_flight.len() > 20 {
            let code = if random.u32(..20) == 0 { Code::Unavailable } else { Code::Ok };
            in_flight.swap_remove(random.usize(..in_flight.len())).end(code, false, None);
        }
    }
}

fn compile(name: &str) -> WasmPolicy {
    let mut limits = Limits::default();
    limits.pick *= 10;
    WasmPolicy::compile(name, 1, &standard(name), limits).expect("a policy")
}

fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

fn record(policy: &WasmPolicy, config: &str, count: u64) -> Trace {
    in_virtual_time(async {
        let options = RecordOptions::default().with_time(Duration::from_secs(3000));
        let stream = policy.record(&options).expect("recorded");
        rpcs(policy, config, count).await;
        read(&bytes(stream).await)
    })
}

fn same(policy: &WasmPolicy, trace: &Trace) -> Replayed {
    let replayed = replay(policy, trace).expect("replayed");
    assert_eq!(replayed.difference, None, "of {} events", trace.events.len());
    replayed
}

#[test]
fn every_standard_policy_does_the_same_again() {
    for name in STANDARD {
        let policy = compile(name);
        let config = match name {
            "outlier" => r#"{"interval":"1s"}"#,
            _ => "{}",
        };
        let trace = record(&policy, config, 3000);
        let replayed = same(&policy, &trace);
        assert!(replayed.picks + replayed.planned >= 3000, "{name}: {replayed:?}");
        assert!(!trace.is_cut);
        let count =
            |is: fn(&Event) -> bool| trace.events.iter().filter(|recorded| is(&recorded.event)).count();
        assert!(count(|event| matches!(event, Event::Ready(_))) >= 6, "{name}");
        // Some are in flight at the end, and a third have a color that no endpoint has.
        assert!(count(|event| matches!(event, Event::End(_))) >= 1900, "{name}");
    }
}

/// The first difference is found, and said, whatever it is.
#[test]
fn another_policy_is_told_from_the_recorded_one() {
    let trace = record(&compile("least_request"), "{}", 1000);
    for other in ["random", "round_robin", "p2c_ewma", "maglev"] {
        let replayed = replay(&compile(other), &trace).expect("replayed");
        let difference = replayed.difference.expect(other);
        assert!(difference.event < 60, "{other}: {difference:?}");
    }
}

#[test]
fn a_trace_that_is_cut_is_replayed_as_far_as_it_goes() {
    let policy = compile("p2c_ewma");
    let bytes = in_virtual_time(async {
        let stream = policy.record(&RecordOptions::default().with_time(Duration::from_secs(3000)));
        rpcs(&policy, "{}", 3000).await;
        bytes(stream.expect("recorded")).await
    });
    let whole = read(&bytes);
    let mut replayed = 0;
    for cut in (0..bytes.len()).step_by(4999) {
        let Ok(trace) = Trace::read(&bytes[..cut]) else { continue };
        assert!(trace.is_cut && whole.events.starts_with(&trace.events));
        same(&policy, &trace);
        replayed += 1;
    }
    assert!(replayed > 5, "{} bytes", bytes.len());
}

/// Other threads go on while the instance fails: what they record may come between the call and its fault.
#[test]
fn what_other_threads_record_beside_a_fault_is_no_difference() {
    let fails = Wat {
        pick: "(if (i64.ge_u (local.get $call) (i64.const 1500)) (then unreachable))
               (call $picked (global.get $first))",
        ..Wat::default()
    };
    let policy = WasmPolicy::compile("fails", 1, &fails.component(), Limits::default()).expect("a policy");
    let mut trace = record(&policy, "{}", 2000);
    same(&policy, &trace);
    let fault = trace.events.iter().rposition(|recorded| matches!(recorded.event, Event::Fault(_)));
    let fault = fault.expect("it has failed");
    let pick = trace.events[fault - 1].clone();
    assert!(matches!(pick.event, Event::Pick(_)), "{pick:?}");
    let end = trace.events.iter().find(|recorded| matches!(recorded.event, Event::End(_))).cloned();
    let end = end.expect("RPCs have ended");

    trace.events.insert(fault, end.clone());
    trace.events.insert(fault + 2, end);
    same(&policy, &trace);
    trace.events.insert(fault + 2, pick);
    let difference = replay(&policy, &trace).expect("replayed").difference.expect("no recording goes on so");
    assert_eq!(difference.text, "the recording goes on after a fault, which no recording does");
}

/// Values of metadata are not in a trace, unless the settings say so or the trace has them anyway.
#[test]
fn values_of_metadata_are_hashed() {
    let policy = compile("sticky");
    for (plain, is_there) in [(vec![], false), (vec!["session-id".to_owned()], true)] {
        let bytes = in_virtual_time(async {
            let options = RecordOptions::default().with_time(Duration::from_secs(3000)).with_plain(plain);
            let stream = policy.record(&options).expect("recorded");
            rpcs(&policy, "{}", 500).await;
            bytes(stream).await
        });
        let found = bytes.windows(9).any(|window| window == b"session-1");
        assert_eq!(found, is_there);
        same(&policy, &read(&bytes));
    }
}

#[tokio::test]
async fn a_recording_of_a_running_channel_begins_at_once_and_loses_no_rpc() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = Policies::with(&[("p2c_ewma.wasm", &standard("p2c_ewma"))]);
    let channel = cluster.channel().policies(&policies.followed).policy("p2c_ewma").connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("p2c_ewma")).await;
    caller.tally(100).await;
    let options = RecordOptions::default().with_time(Duration::from_millis(300));
    let stream = policies.followed.record("p2c_ewma", &options).expect("there is this policy");
    assert!(policies.followed.record("p2c", &options).is_none());
    let recorded = tokio::spawn(bytes(stream));
    while !recorded.is_finished() {
        caller.call().await.expect("no RPC fails");
    }
    let trace = read(&recorded.await.expect("no panic"));
    assert_eq!(trace.events.last().map(|last| &last.event), Some(&Event::Finish(Finish::Ended)));
    let replayed = same(&compile("p2c_ewma"), &trace);
    assert!(replayed.picks > 10, "{replayed:?}");
}
