//! Control of a sidecar: recordings and rollouts, by the command, with a token or through the control socket.

use std::path::Path;
use std::process::Output;

use hotpick_tests::{Cluster, Load, peers, standard};

use super::{Sidecar, until};

/// Runs `hotpick` with these arguments.
async fn hotpick(arguments: &[&str]) -> Output {
    let mut command = peers::built("hotpick");
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
    output.expect("it runs")
}

/// Runs it, and returns what it said. It must succeed.
async fn said(arguments: &[&str]) -> String {
    let output = hotpick(arguments).await;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{errors}");
    out.into_owned()
}

/// Runs it, and returns the error. It must fail with one line.
async fn refused(arguments: &[&str]) -> String {
    let output = hotpick(arguments).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(error.trim().lines().count(), 1, "{error}");
    error
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_recorded_replayed_compared_and_simulated() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = tempfile::tempdir().expect("a folder");
    let file = |name: &str| policies.path().join(name);
    std::fs::write(file("least_request.wasm"), standard("least_request")).expect("written");
    let other = policies.path().join("other");
    std::fs::create_dir(&other).expect("made");
    std::fs::write(other.join("random.wasm"), standard("random")).expect("written");
    let top = format!(
        "policies = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\ncontrol_socket = \"FOLDER/control\"",
        policies.path()
    );
    let sidecar = Sidecar::start(&cluster, &top, "policy = \"least_request\"");
    let caller = sidecar.caller().await;
    let socket = format!("unix:{}", sidecar.path("control").display());
    let trace = sidecar.path("it.trace");
    until("the policy", async || sidecar.metric("hotpick_policy_generation{").await == Some(1.0)).await;

    let load = Load::start(&caller, 4, 0);
    // Not for everyone who can read metrics.
    let admin = format!("http://{}", sidecar.admin);
    let error = refused(&["record", &admin, "--seconds", "1", "-o", text(&trace)]).await;
    assert!(error.contains("403") && error.contains("control is off here"), "{error}");
    let error = refused(&["record", &socket, "--policy", "none"]).await;
    assert!(error.contains("there is no policy \"none\": there are least_request"), "{error}");
    let error = refused(&["record", &socket, "--target", "dns:///other"]).await;
    assert!(error.contains("no channel to this target"), "{error}");
    said(&["record", &socket, "--seconds", "1", "-o", text(&trace)]).await;
    let (_, failed) = load.stop().await;
    assert!(failed.is_empty(), "{failed:?}");

    let (own, other) = (file("least_request.wasm"), other.join("random.wasm"));
    let out = said(&["replay", text(&trace), text(&own), "--against", text(&other)]).await;
    assert!(
        out.contains(", all the same") && out.contains("picks differ") && out.contains("estimated"),
        "{out}"
    );
    let out = said(&["sim", text(&own), text(&other), "--scenario", text(&trace)]).await;
    assert_eq!(out.lines().count(), 4, "{out}");

    // A trace that is cut is replayed as far as it goes; one that is damaged, or something else, is refused.
    let bytes = std::fs::read(&trace).expect("a trace");
    let broken = sidecar.path("broken.trace");
    std::fs::write(&broken, &bytes[..bytes.len() - 1]).expect("written");
    let out = said(&["replay", text(&broken), text(&own)]).await;
    assert!(out.contains("it is cut off") && out.contains("all the same"), "{out}");
    let damage = |at: usize| {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&broken, damaged).expect("written");
    };
    for (at, sentence) in [
        (3, "is not a trace of hotpick"),
        (14, "is in format 0 of traces, and this program reads format 1"),
        (18, "is a trace of the contract hntpick:policy@0.1.0"),
        (bytes.len() / 2, "is damaged at byte"),
    ] {
        damage(at);
        let error = refused(&["replay", text(&broken), text(&own)]).await;
        assert!(error.contains(sentence), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_is_shown_and_steered() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let policies = tempfile::tempdir().expect("a folder");
    let put = |name: &str, bytes: &[u8]| std::fs::write(policies.path().join(name), bytes).expect("written");
    put("p.wasm", &standard("round_robin"));
    put("p.toml", b"[rollout]\nsteps = [50, 100]\ninterval = 600\n");
    put("token", b"secret\n");
    let token = policies.path().join("token");
    let top = format!(
        "policies = {:?}\n[admin]\nlisten = \"127.0.0.1:0\"\ncontrol = true\ntoken_file = {token:?}",
        policies.path()
    );
    let sidecar = Sidecar::start(&cluster, &top, "policy = \"p\"");
    let caller = sidecar.caller().await;
    until("the policy", async || sidecar.metric("hotpick_policy_generation{").await == Some(1.0)).await;
    let admin = format!("http://{}", sidecar.admin);
    let steer = |command| ["rollout", &admin, command, "p", "--token-file", text(&token)];
    let error = refused(&steer("pause")).await;
    assert!(
        error.contains("409") && error.contains("no rollout of the policy \"p\" is in progress"),
        "{error}"
    );
    put("p.wasm", &standard("random"));
    let share = "hotpick_policy_rollout_share{policy=\"p\"}";
    until("the rollout", async || sidecar.metric(share).await == Some(0.5)).await;
    let error = refused(&["rollout", &admin, "promote"]).await;
    assert!(error.contains("401") && error.contains("control needs the token"), "{error}");

    // Both versions side by side.
    until("RPCs of both", async || {
        caller.call().await.expect("no RPC fails");
        let mut both = true;
        for side in ["active", "candidate"] {
            let rpcs = format!("hotpick_policy_rollout_interval_rpcs{{policy=\"p\",side=\"{side}\"}}");
            both &= sidecar.metric(&rpcs).await.is_some_and(|rpcs| rpcs > 3.0);
        }
        both
    })
    .await;
    let status = sidecar.json("/policies").await;
    let rollout = &status["policies"][0]["rollout"];
    assert_eq!((&rollout["generation"], &rollout["step"]), (&2.into(), &1.into()), "{status}");
    assert!(
        rollout["candidate"]["rpcs"].as_u64() > Some(3) && rollout["active"]["p50_ms"].is_number(),
        "{status}"
    );
    assert_eq!(status["policies"][0]["state"], "rollout");

    assert_eq!(said(&steer("pause")).await, "the rollout of p is paused\n");
    let error = refused(&steer("pause")).await;
    assert!(error.contains("the rollout is paused already"), "{error}");
    assert_eq!(said(&steer("promote")).await, "the rollout of p is promoted\n");
    until("the new version", async || sidecar.metric("hotpick_policy_generation{").await == Some(2.0)).await;
    let status = sidecar.json("/policies").await;
    let events = &status["policies"][0]["last_rollout"]["events"];
    let texts: Vec<_> =
        events.as_array().into_iter().flatten().filter_map(|event| event["text"].as_str()).collect();
    assert_eq!(texts, ["started with 50 % of the RPCs", "paused by an operator", "promoted by an operator"]);
    caller.tally(10).await;
}
