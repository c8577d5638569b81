//! What observers are told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hotpick::Channel;
use hotpick::call::{
    AttemptRecord, Call, CallEvent, CallObserver, CallRecord, CallWatcher, DelayType, PickedBy,
};
use hotpick::channel::WaitForReady;
use hotpick::resolver::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target};
use hotpick::service_config::ServiceConfig;
use hotpick_echo::{EchoClient, EchoRequest};
use hotpick_tests::raw::RawServer;
use hotpick_tests::{Policies, soon, standard};
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request};

use super::Scripts;

/// Writes down what it is told.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

/// A call that has ended, without what changes from run to run.
impl Log {
    fn push(&self, line: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Takes the lines once the last one starts with `end`.
    async fn until(&self, end: &str) -> Vec<String> {
        let taken = async {
            loop {
                {
                    let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    if lines.last().is_some_and(|line| line.starts_with(end)) {
                        return std::mem::take(&mut *lines);
                    }
                }
                tokio::task::yield_now().await;
            }
        };
        soon(end, taken).await
    }
}

fn described(attempt: &AttemptRecord) -> String {
    let AttemptRecord { kind, previous, pick, delays, sent, responded, request, response, .. } = attempt;
    let by = pick.as_ref().map_or("nobody".to_owned(), |pick| {
        let policy = pick.policy.as_ref().map_or("", |policy| policy.name.as_str());
        format!("{} {policy}", pick.by.name())
    });
    let delays: Vec<_> = delays.iter().map(|delay| delay.delay.name()).collect();
    format!(
        "{} {previous} by {by} delays {delays:?} sent {} responded {} {:?}{} out {}/{} in {}/{}",
        kind.name(),
        sent.is_some(),
        responded.is_some(),
        attempt.code.expect("it has ended"),
        if attempt.client_ended { " client" } else { "" },
        request.count,
        request.bytes,
        response.count,
        response.bytes,
    )
}

impl CallObserver for Log {
    fn attempt_started(&self, call: &Call, attempt: &AttemptRecord) {
        assert!(call.method().starts_with("hotpick.echo.Echo/"));
        self.push(format!("start {}", attempt.kind.name()));
    }

    fn attempt_ended(&self, _call: &Call, attempt: &AttemptRecord) {
        assert!(attempt.latency().is_none_or(|latency| latency <= attempt.duration()));
        self.push(format!("attempt {}", described(attempt)));
    }

    fn call_ended(&self, record: &CallRecord<'_>) {
        assert!(record.attempts.iter().all(|attempt| attempt.ended.is_some()));
        assert!(record.attempts.iter().all(|attempt| attempt.duration() <= record.duration));
        let client = if record.client_ended { " client" } else { "" };
        self.push(format!("call {:?}{client} after {} attempts", record.code, record.attempts.len()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_each_rpc_is_recorded_once() {
    let log = Log::default();
    let config = json!({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"]
    }}]});
    let config = ServiceConfig::from_json(config).expect("valid");
    let scripts = Scripts::with(2, |builder| builder.service_config(config).observer(log.clone())).await;
    let by = "by native round_robin delays [] sent true";
    for (script, lines) in [
        (
            "ok",
            vec![
                "start original",
                "attempt original 0 {by} responded true Ok out 1/7 in 1/10",
                "call Ok after 1 attempts",
            ],
        ),
        (
            "14,refuse,ok",
            vec![
                "start original",
                "attempt original 0 {by} responded true Unavailable out 1/7 in 0/0",
                "start retry",
                "attempt retry 1 {by} responded false Unavailable out 1/7 in 0/0",
                "start transparent_retry",
                "attempt transparent_retry 1 {by} responded true Ok out 1/7 in 1/10",
                "call Ok after 3 attempts",
            ],
        ),
        (
            "h13",
            vec![
                "start original",
                "attempt original 0 {by} responded true Internal out 1/7 in 0/0",
                "call Internal after 1 attempts",
            ],
        ),
        (
            "http404",
            vec![
                "start original",
                "attempt original 0 {by} responded true Unimplemented out 1/7 in 0/0",
                "call Unimplemented after 1 attempts",
            ],
        ),
        (
            "reset",
            vec![
                "start original",
                "attempt original 0 {by} responded false Internal out 1/7 in 0/0",
                "call Internal after 1 attempts",
            ],
        ),
    ] {
        scripts.call(script).await;
        let lines: Vec<_> = lines.into_iter().map(|line| line.replace("{by}", by)).collect();
        assert_eq!(log.until("call").await, lines, "{script}");
    }
    // The deadline, and a caller that gives up.
    scripts.call_within("hang", Some(Duration::from_millis(50))).await;
    let late = log.until("call").await;
    assert_eq!(
        late[1..],
        [
            format!("attempt original 0 {by} responded false DeadlineExceeded client out 1/7 in 0/0"),
            "call DeadlineExceeded client after 1 attempts".to_owned(),
        ]
    );
    let (call, request) = Scripts::request("hang");
    let mut client = scripts.client.clone();
    let rpc = tokio::spawn(async move { client.unary(request).await });
    while scripts.servers.of(&call).is_empty() {
        tokio::task::yield_now().await;
    }
    rpc.abort();
    assert_eq!(log.until("call").await[2], "call Cancelled client after 1 attempts");
    // A closed channel.
    scripts.channel.close();
    assert_eq!(scripts.call("ok").await.code(), Code::Cancelled);
    assert_eq!(log.until("call").await, ["call Cancelled after 0 attempts"]);
}

/// Hedges: those that were not needed are given up, and end before the RPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_are_recorded_as_such() {
    let log = Log::default();
    let config = json!({"methodConfig": [{"name": [{}], "hedgingPolicy": {
        "maxAttempts": 2, "hedgingDelay": "0.02s", "nonFatalStatusCodes": []
    }}]});
    let config = ServiceConfig::from_json(config).expect("valid");
    let scripts = Scripts::with(1, |builder| builder.service_config(config).observer(log.clone())).await;
    scripts.call("hang,ok").await;
    let lines = log.until("call").await;
    assert_eq!(lines[..2], ["start original", "start hedge"]);
    assert!(lines[2].contains("Cancelled client"), "{lines:#?}");
    assert!(lines[3].starts_with("attempt hedge 1") && lines[3].contains(" Ok "), "{lines:#?}");
    assert_eq!(lines[4..], ["call Ok after 2 attempts"]);
}

/// A call's delays by attempt, and the time that it waited for its target.
#[derive(Clone, Default)]
struct Delays(Arc<Mutex<Vec<(DelayType, String)>>>, Arc<tokio::sync::Notify>);

impl CallObserver for Delays {
    fn call_started(&self, _call: &Call, _metadata: &http::HeaderMap) -> Option<Box<dyn CallWatcher>> {
        self.1.notify_one();
        None
    }

    fn call_ended(&self, record: &CallRecord<'_>) {
        let mut all = self.0.lock().expect("no panic");
        if !record.resolving.is_zero() {
            all.push((DelayType::Resolving, String::new()));
        }
        for delay in record.attempts.iter().flat_map(|attempt| &attempt.delays) {
            assert!(!delay.duration.is_zero());
            all.push((delay.delay, delay.reason.clone()));
        }
    }
}

/// A resolver that has no answer yet.
#[derive(Debug)]
struct Late(Mutex<Option<UnboundedReceiver<ResolverUpdate>>>);

impl Resolver for Late {
    fn watch(&self, _target: &Target, _resolve_now: ResolveNow) -> ResolverStream {
        let answers = self.0.lock().expect("no panic").take().expect("watched once");
        Box::pin(UnboundedReceiverStream::new(answers))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rpc_says_what_it_waited_for() {
    let delays = Delays::default();
    let server = RawServer::bind().await;
    let (resolved, answers) = tokio::sync::mpsc::unbounded_channel();
    let channel = Channel::builder("static:///replaced:1")
        .resolver(Late(Mutex::new(Some(answers))))
        .observer(delays.clone())
        .connect_lazy()
        .expect("a channel");
    let mut client = EchoClient::new(channel.clone());
    let mut request = Request::new(EchoRequest::new("hello"));
    request.extensions_mut().insert(WaitForReady(true));
    let rpc = tokio::spawn(async move { client.unary(request).await });
    soon("the RPC", delays.1.notified()).await;
    let endpoint = Endpoint::new(server.address().into());
    resolved.send(ResolverUpdate::endpoints([endpoint])).expect("the channel listens");
    let _peer = soon("a connection", server.accept(&[])).await;
    let is_in_flight = async {
        while channel.status().subconns.first().is_none_or(|subconn| subconn.stats().in_flight == 0) {
            tokio::task::yield_now().await;
        }
    };
    soon("the RPC in flight", is_in_flight).await;
    rpc.abort();
    let _ = rpc.await;
    let seen = delays.0.lock().expect("no panic").clone();
    assert_eq!(seen.first().map(|(delay, _)| *delay), Some(DelayType::Resolving), "{seen:?}");
    assert_eq!(seen[1..], [(DelayType::Connecting, "no endpoint is ready".to_owned())]);
}

/// Adds a header, and writes down the events.
#[derive(Clone, Default)]
struct Tracer(Log);

impl CallObserver for Tracer {
    fn call_started(&self, _call: &Call, metadata: &http::HeaderMap) -> Option<Box<dyn CallWatcher>> {
        // Only those that ask for it.
        metadata.contains_key("script").then(|| Box::new(self.clone()) as Box<dyn CallWatcher>)
    }
}

impl CallWatcher for Tracer {
    fn on(&mut self, event: CallEvent<'_>) {
        self.0.push(match event {
            CallEvent::Sending { attempt, metadata, record } => {
                let by = record.pick.as_ref().expect("picked").by;
                assert!(matches!(by, PickedBy::Called | PickedBy::Planned));
                metadata.insert("grpc-previous-rpc-attempts", http::HeaderValue::from_static("traced"));
                format!("sending {attempt}")
            }
            CallEvent::MessageSent { attempt, sequence, size } => format!("sent {attempt} {sequence} {size}"),
            CallEvent::MessageReceived { attempt, sequence, size } => {
                format!("received {attempt} {sequence} {size}")
            }
            CallEvent::AttemptStarted { attempt, .. } => format!("started {attempt}"),
            CallEvent::AttemptEnded { attempt, record } => format!("ended {attempt} {:?}", record.code),
            CallEvent::Ended(record) => format!("call {:?}", record.code),
            other => format!("{other:?}"),
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_is_told_what_happens_and_may_add_metadata() {
    let tracer = Tracer::default();
    let policies = Policies::cached();
    policies.put("random.wasm", &standard("random"));
    let directory = Policies::follow(policies.path());
    let scripts =
        Scripts::with(1, |builder| builder.policies(&directory).policy("random").observer(tracer.clone()))
            .await;
    soon("the policy", scripts.channel.wait_for(|status| status.policy.name == "random")).await;
    let outcome = scripts.call("ok").await;
    assert_eq!(outcome.summary(), "Ok after traced");
    assert_eq!(
        tracer.0.until("call").await,
        ["started 0", "sending 0", "sent 0 0 7", "received 0 0 10", "ended 0 Some(Ok)", "call Ok",]
    );
    // An RPC that is not watched, and a stream with several messages.
    let mut client = scripts.client.clone();
    let _ = client.unary(EchoRequest::new("hello")).await;
    let (_, request) = Scripts::request("ok");
    let (metadata, extensions, _) = request.into_parts();
    let messages = tokio_stream::iter(["a", "bc"].map(EchoRequest::new));
    let request = Request::from_parts(metadata, extensions, messages);
    let answers = client.bidi(request).await.expect("an answer").into_inner();
    assert_eq!(answers.collect::<Vec<_>>().await.len(), 1);
    let lines = tracer.0.until("call").await;
    assert_eq!(lines[2..4], ["sent 0 0 3", "sent 0 1 4"]);
}
