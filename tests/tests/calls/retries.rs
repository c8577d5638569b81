//! Retries and hedging (gRFC A6).

use std::time::{Duration, Instant};

use hotpick::retry::{RetryBudget, RetryOptions, RetryPolicy};
use hotpick_echo::EchoRequest;
use hotpick_tests::{Policies, soon, standard};
use serde_json::{Value, json};
use tonic::{Code, Request};

use super::Scripts;

const MS: Duration = Duration::from_millis(1);

/// A service config with this retry policy for all methods.
fn retrying(max_attempts: u32) -> Value {
    json!({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": max_attempts,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.05s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]
    }}]})
}

fn hedging(max_attempts: u32, delay: &str) -> Value {
    json!({"methodConfig": [{"name": [{}], "hedgingPolicy": {
        "maxAttempts": max_attempts,
        "hedgingDelay": delay,
        "nonFatalStatusCodes": ["UNAVAILABLE"]
    }}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rpc_is_retried_until_it_succeeds_or_there_were_enough_attempts() {
    let scripts = Scripts::start(1, retrying(3)).await;
    for (script, summary) in [
        ("ok", "Ok after -"),
        ("14,ok", "Ok after - 1"),
        ("14,8,ok", "Ok after - 1 2"),
        ("14,14,14,ok", "Unavailable after - 1 2"),
        // Another code is not retried, first or later.
        ("13", "Internal after -"),
        ("14,13,ok", "Internal after - 1"),
        // Headers have arrived.
        ("h14,ok", "Unavailable after -"),
        // An intermediary has answered, and a connection has failed.
        ("http503,ok", "Ok after - 1"),
        ("reset,ok", "Internal after -"),
        // Transparent retries do not count.
        ("refuse,ok", "Ok after - -"),
        ("refuse,refuse,ok", "Ok after - - 1"),
        ("14,refuse,14,ok", "Ok after - 1 1 2"),
    ] {
        assert_eq!(scripts.call(script).await.summary(), summary, "{script}");
    }
    let last = scripts.call("14").await.result.expect_err("it fails");
    assert_eq!(last.message(), "as scripted", "the last status passes through");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_when_to_retry() {
    let scripts = Scripts::start(1, retrying(4)).await;
    let outcome = scripts.call("14/150,14,ok").await;
    assert_eq!(outcome.summary(), "Ok after - 1 2");
    assert!(outcome.gap(0) >= 150 * MS, "{:?}", outcome.gap(0));
    assert!(outcome.gap(1) < 150 * MS, "the backoff starts again: {:?}", outcome.gap(1));
    for stop in ["14/-1,ok", "14/x,ok"] {
        assert_eq!(scripts.call(stop).await.summary(), "Unavailable after -", "{stop}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_is_that_of_all_attempts() {
    let scripts = Scripts::start(1, retrying(5)).await;
    let begun = Instant::now();
    let outcome = scripts.call_within("14/100,14/100,14/100,ok", Some(150 * MS)).await;
    assert_eq!(outcome.summary(), "DeadlineExceeded after - 1");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_is_replayed_whole_or_not_at_all() {
    let with = |buffer| {
        Scripts::with(1, move |builder| {
            let retries = RetryOptions::default().with_buffer(buffer);
            builder.retries(retries).service_config(
                hotpick::service_config::ServiceConfig::from_json(retrying(3)).expect("valid"),
            )
        })
    };
    let large = "x".repeat(300_000);
    for (buffer, code, attempts) in [(1 << 20, None, 2), (100_000, Some(Code::Unavailable), 1)] {
        let scripts = with(buffer).await;
        // The server answers when the request has overflowed the buffer.
        let (call, request) = Scripts::request("50:14,ok");
        let (metadata, extensions, _) = request.into_parts();
        let request = Request::from_parts(metadata, extensions, EchoRequest::new(large.clone()));
        let result = soon("an answer", scripts.client.clone().unary(request)).await;
        assert_eq!(result.err().map(|status| status.code()), code, "buffer {buffer}");
        let seen = scripts.servers.of(&call);
        assert_eq!(seen.len(), attempts);
        if code.is_none() {
            assert!(seen[1].body.len() > large.len(), "{}", seen[1].body.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_stop_while_too_many_rpcs_fail() {
    let mut config = retrying(2);
    config["retryThrottling"] = json!({"maxTokens": 4, "tokenRatio": 1});
    let scripts = Scripts::start(1, config).await;
    // 4 tokens; each failed attempt takes one, and retries need more than 2.
    assert_eq!(scripts.call("14").await.summary(), "Unavailable after - 1");
    assert_eq!(scripts.call("14,ok").await.summary(), "Unavailable after -");
    // A success gives one back: 1, 2, 3.
    for _ in 0..2 {
        assert_eq!(scripts.call("ok").await.code(), Code::Ok);
    }
    assert_eq!(scripts.call("14,ok").await.summary(), "Unavailable after -");
    for _ in 0..4 {
        assert_eq!(scripts.call("ok").await.code(), Code::Ok);
    }
    assert_eq!(scripts.call("14,ok").await.summary(), "Ok after - 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_limits_retries_without_a_service_config() {
    let budget =
        RetryBudget::default().with_ratio(0.0).with_min_per_second(1).with_window(Duration::from_secs(2));
    let scripts = Scripts::with(1, |builder| builder.retries(RetryOptions::within(budget))).await;
    let mut retried = 0;
    for _ in 0..20 {
        retried += scripts.call("14,ok").await.attempts.len() - 1;
    }
    // 1/s for 2 s.
    assert_eq!(retried, 2);
    // By default a fifth of the RPCs, and some more for channels with few.
    let options = RetryOptions::within(RetryBudget::default().with_min_per_second(0));
    let scripts = Scripts::with(1, |builder| builder.retries(options)).await;
    let mut retried = 0;
    for _ in 0..50 {
        retried += scripts.call("14,ok").await.attempts.len() - 1;
    }
    assert_eq!(retried, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_channel_limits_what_the_config_asks_for() {
    let config = || hotpick::service_config::ServiceConfig::from_json(retrying(5)).expect("valid");
    let limited = RetryOptions::default().with_max_attempts(2);
    let scripts = Scripts::with(1, |builder| builder.service_config(config()).retries(limited)).await;
    assert_eq!(scripts.call("14").await.summary(), "Unavailable after - 1");
    let off = RetryOptions::default().with_enabled(false);
    let scripts = Scripts::with(1, |builder| builder.service_config(config()).retries(off)).await;
    assert_eq!(scripts.call("14,ok").await.summary(), "Unavailable after -");
    assert_eq!(scripts.call("refuse,ok").await.summary(), "Ok after - -", "a transparent retry");
    let more = RetryOptions::default().with_max_attempts(9);
    let nine = RetryPolicy::new(9, [Code::Unavailable]).and_then(|policy| policy.with_backoff(MS, MS, 1.0));
    let more = more.with_policy(Some(nine.expect("a policy")));
    let scripts = Scripts::with(1, |builder| builder.retries(more)).await;
    assert_eq!(scripts.call("14").await.attempts.len(), 9);
}

/// However many attempts there are: who refuses is not pressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_rpc_is_retried_transparently_once_after_a_refusal() {
    for (attempts, sent) in [(1, 2), (2, 3), (5, 6)] {
        let policy = RetryPolicy::new(attempts.max(2), [Code::Unavailable])
            .and_then(|policy| policy.with_backoff(MS, MS, 1.0))
            .expect("a policy");
        let options = RetryOptions::default().with_policy((attempts > 1).then_some(policy));
        let scripts = Scripts::with(1, |builder| builder.retries(options)).await;
        let outcome = scripts.call("refuse").await;
        assert_eq!((outcome.code(), outcome.attempts.len()), (Code::Unavailable, sent), "{attempts}");
    }
}

/// The native round robin, and the standard policies that choose freely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_to_an_endpoint_that_was_not_tried() {
    further_attempts_go_elsewhere(retrying(4), "14,14,14,ok").await;
}

/// The attempts before it are still in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_goes_to_an_endpoint_that_was_not_tried() {
    further_attempts_go_elsewhere(hedging(4, "0.005s"), "hang,hang,hang,ok").await;
}

/// Runs a script of four attempts on four endpoints.
async fn further_attempts_go_elsewhere(config: Value, script: &str) {
    for policy in
        ["", "round_robin", "least_request", "p2c_ewma", "random", "ring_hash", "maglev", "bounded_hash"]
    {
        let config = config.clone();
        let policies = Policies::cached();
        if !policy.is_empty() {
            policies.put(&format!("{policy}.wasm"), &standard(policy));
        }
        let directory = Policies::follow(policies.path());
        let scripts = Scripts::with(4, |builder| {
            let config = hotpick::service_config::ServiceConfig::from_json(config).expect("valid");
            let builder = builder.service_config(config).policies(&directory);
            match policy {
                "" => builder,
                "ring_hash" => builder.policy(policy).policy_config(json!({"hashOn": "method"})),
                "maglev" | "bounded_hash" => {
                    builder.policy(policy).policy_config(json!({"hashOn": "method"}))
                }
                _ => builder.policy(policy),
            }
        })
        .await;
        if !policy.is_empty() {
            soon(policy, scripts.channel.wait_for(|status| status.policy.name == policy)).await;
        }
        for _ in 0..10 {
            let outcome = scripts.call(script).await;
            assert!(outcome.summary().starts_with("Ok after -"), "{policy}: {}", outcome.summary());
            let mut servers = outcome.servers();
            servers.sort_unstable();
            assert_eq!(servers, [0, 1, 2, 3], "{policy}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedges_are_sent_until_one_is_answered() {
    let scripts = Scripts::start(3, hedging(3, "0.05s")).await;
    // The first one is answered in time.
    assert_eq!(scripts.call("ok").await.summary(), "Ok after -");
    let outcome = scripts.call("hang,hang,ok").await;
    assert_eq!(outcome.summary(), "Ok after - 1 2");
    assert!(outcome.gap(0) >= 45 * MS && outcome.gap(1) >= 45 * MS);
    let mut servers = outcome.servers();
    servers.sort_unstable();
    assert_eq!(servers, [0, 1, 2], "each at another endpoint");
    // The first one may still win.
    let outcome = scripts.call("80:ok,hang,hang").await;
    assert_eq!(outcome.summary(), "Ok after - 1");
    assert_eq!(outcome.result.as_deref().ok(), Some(outcome.servers()[0].to_string().as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hedge_that_fails_is_followed_by_the_next_or_ends_the_rpc() {
    let scripts = Scripts::start(1, hedging(3, "10s")).await;
    // Not fatal: the next one at once.
    let outcome = scripts.call("14,14,ok").await;
    assert_eq!(outcome.summary(), "Ok after - 1 2");
    assert!(outcome.gap(1) < Duration::from_secs(5));
    assert_eq!(scripts.call("14").await.summary(), "Unavailable after - 1 2");
    // Fatal.
    assert_eq!(scripts.call("14,13,ok").await.summary(), "Internal after - 1");
    // Pushback: later, or no more.
    let outcome = scripts.call("14/100,ok").await;
    assert_eq!(outcome.summary(), "Ok after - 1");
    assert!(outcome.gap(0) >= 100 * MS);
    assert_eq!(scripts.call("14/-1,ok").await.summary(), "Unavailable after -");
    // Without a delay all are sent at once.
    let scripts = Scripts::start(1, hedging(3, "0s")).await;
    let mut outcome = scripts.call("hang,hang,ok").await;
    // The server may see them in any order.
    outcome.attempts.sort_by_key(|attempt| attempt.previous.clone());
    assert_eq!(outcome.summary(), "Ok after - 1 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_too_large_to_be_hedged_goes_on_alone() {
    let config = hotpick::service_config::ServiceConfig::from_json(hedging(3, "0.02s")).expect("valid");
    let scripts = Scripts::with(1, |builder| {
        builder.service_config(config).retries(RetryOptions::default().with_buffer(10_000))
    })
    .await;
    let (send, receive) = tokio::sync::mpsc::channel(1);
    let (call, request) = Scripts::request("ok");
    let (metadata, extensions, _) = request.into_parts();
    let messages = tokio_stream::wrappers::ReceiverStream::new(receive);
    let request = Request::from_parts(metadata, extensions, messages);
    let mut client = scripts.client.clone();
    let rpc = tokio::spawn(async move { client.client_stream(request).await });
    send.send(EchoRequest::new("a")).await.expect("open");
    let all_sent = async {
        while scripts.servers.of(&call).len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    soon("three attempts", all_sent).await;
    for _ in 0..10 {
        send.send(EchoRequest::new("b".repeat(5_000))).await.expect("open");
    }
    drop(send);
    soon("an answer", rpc).await.expect("no panic").expect("OK");
    let bodies: Vec<_> = scripts.servers.of(&call).into_iter().map(|attempt| attempt.body.len()).collect();
    assert_eq!(bodies.iter().filter(|size| **size > 50_000).count(), 1, "{bodies:?}");
}

/// Attempts that were not needed are reset, and count as given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_in_flight() {
    let scripts = Scripts::start(2, hedging(4, "0.01s")).await;
    for script in ["hang,hang,ok", "hang,14,hang,ok", "14", "hang,13"] {
        scripts.call(script).await;
    }
    scripts.call_within("hang", Some(50 * MS)).await;
    let idle = async {
        while scripts.channel.status().subconns.iter().any(|subconn| subconn.stats().in_flight > 0) {
            tokio::task::yield_now().await;
        }
    };
    soon("no RPC in flight", idle).await;
    let sum = |of: fn(&hotpick::subconn::SubConnStats) -> u64| -> u64 {
        scripts.channel.status().subconns.iter().map(|subconn| of(&subconn.stats())).sum()
    };
    assert_eq!(sum(|stats| stats.succeeded), 2);
    assert!(sum(|stats| stats.cancelled) >= 5, "attempts that lost");
    assert!(sum(|stats| stats.failed) >= 6, "what servers failed, and the deadline");
    let ended = sum(|stats| stats.succeeded + stats.failed + stats.cancelled);
    assert_eq!(sum(|stats| stats.picked), ended);
    soon("a shutdown", scripts.channel.shutdown()).await;
}

/// A channel that is closed starts no further attempt, and its RPCs do not wait for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_is_closed_does_not_retry() {
    let retry = json!({"methodConfig": [{"name": [{}], "retryPolicy": {
        "maxAttempts": 5, "initialBackoff": "100s", "maxBackoff": "100s", "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"]
    }}]});
    for (config, script) in
        [(&retry, "14"), (&retry, "hang"), (&hedging(3, "100s"), "hang"), (&hedging(3, "0s"), "hang")]
    {
        let scripts = Scripts::start(2, config.clone()).await;
        let close = async {
            let has_begun = |stats: hotpick::subconn::SubConnStats| stats.failed > 0 || stats.in_flight > 0;
            while !scripts.channel.status().subconns.iter().any(|subconn| has_begun(subconn.stats())) {
                tokio::task::yield_now().await;
            }
            scripts.channel.close();
        };
        let (outcome, ()) = soon("the end", async { tokio::join!(scripts.call(script), close) }).await;
        assert!(outcome.summary().starts_with("Cancelled after"), "{script}: {}", outcome.summary());
        let most = if config["methodConfig"][0]["hedgingPolicy"]["hedgingDelay"] == "0s" { 3 } else { 1 };
        assert!(outcome.attempts.len() <= most, "{script}: {}", outcome.summary());
    }
}
