//! Versions that fail while they are active.

use hotpick::channel::ChannelStatus;
use hotpick::directory::{PolicyState, PolicyStatus};
use hotpick::policy::{FaultKind, digest};
use hotpick::{Channel, PolicyDir};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, soon, standard};
use tonic::Code;

/// Builds a channel with the policy `p`, whose RPCs are wait-for-ready by default.
fn patient(cluster: &Cluster, policies: &PolicyDir) -> Channel {
    cluster.channel().policies(policies).policy("p").wait_for_ready(true).connect_lazy().expect("a channel")
}

fn digest_is(wanted: &str) -> impl Fn(&ChannelStatus) -> bool + '_ {
    move |status| status.policy.digest == wanted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_fails_goes_back_to_the_one_before_and_stays_away() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let (good, bad) = (standard("round_robin"), Wat::every(1, "unreachable"));
    let policies = Policies::with(&[("p.wasm", &good)]);
    let channel = patient(&cluster, &policies.followed);
    let caller = Caller::ready(&channel, Some("p")).await;
    let load = Load::start(&caller, 4, 1);
    policies.put("p.wasm", &bad);
    let status = policies.wait_for("p", |policy| policy.state == PolicyState::Quarantined).await;
    soon("the previous version", channel.wait_for(digest_is(&digest(&good)))).await;
    let quarantine = status.quarantined.clone().expect("a reason");
    assert_eq!((quarantine.version.generation, &quarantine.version.digest), (2, &digest(&bad)));
    assert_eq!(
        status.version.as_ref().map(|version| version.generation),
        Some(3),
        "the rollback has its own generation"
    );
    assert!(status.faults[&FaultKind::Trap] >= 1);
    policies.wait_for("p", |policy| policy.totals.fallback_picks >= 1).await;
    // Writing the same bytes does not end the quarantine.
    policies.put("p.wasm", &bad);
    policies.put("q.wasm", &good);
    policies.wait_for("q", |policy| policy.version.is_some()).await;
    assert_eq!(channel.status().policy.generation, 3);
    let status = policies.wait_for("p", |_| true).await;
    assert_eq!((status.state, status.loads), (PolicyState::Quarantined, 3));
    // Changed settings end the quarantine; the version fails again.
    policies.put("p.toml", b"[limits]\ntimers = 1\n");
    policies.wait_for("p", |policy| policy.loads == 5).await;
    soon("the previous version", channel.wait_for(|status| status.policy.generation == 5)).await;
    // A good file ends the quarantine, too.
    policies.put("p.wasm", &standard("random"));
    soon("the good version", channel.wait_for(digest_is(&digest(&standard("random"))))).await;
    let status = policies.wait_for("p", |policy| policy.quarantined.is_none()).await;
    assert_eq!(status.state, PolicyState::Probation);
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    assert_eq!(caller.dials(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nothing_to_go_back_to_round_robin_serves_after_three_faults() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::every(1, "unreachable"))]);
    let channel = patient(&cluster, &policies.followed);
    let caller = Caller::ready(&channel, Some("p")).await;
    let load = Load::start(&caller, 4, 1);
    let native = |status: &ChannelStatus| status.policy.name == "round_robin";
    soon("round robin", channel.wait_for(native)).await;
    let status = policies.wait_for("p", |policy| policy.state == PolicyState::Quarantined).await;
    assert_eq!(status.faults[&FaultKind::Trap], 3);
    let reason = status.quarantined.expect("a reason").reason;
    assert!(reason.starts_with("3 faults within a minute, the last: trapped: "), "{reason}");
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    // A new channel does not start the quarantined version.
    let late = patient(&cluster, &policies.followed);
    let late = Caller::ready(&late, None).await;
    assert_eq!(late.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    policies.put("p.wasm", &Wat::first());
    soon("the good version", channel.wait_for(digest_is(&digest(&Wat::first())))).await;
}

#[tokio::test]
async fn an_operator_may_have_rpcs_fail_rather_than_go_anywhere() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let settings = b"on-fault = 'fail'\n[limits]\nfaults-per-minute = 1000\n";
    let policies = Policies::with(&[("p.wasm", &Wat::every(1, "unreachable")), ("p.toml", settings)]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    caller.tally(10).await;
    let mut request = tonic::Request::new(hotpick_echo::EchoRequest::new("hello"));
    request.extensions_mut().insert(hotpick::channel::WaitForReady(true));
    request.set_timeout(std::time::Duration::from_millis(300));
    // Each new instance picks again for this wait-for-ready RPC, and traps.
    let status = caller.request(request).await.expect_err("the policy traps");
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("on-fault"), "{status:?}");
    assert!(channel.status().faults.count > 1, "the new instance did not pick again");
}

#[tokio::test]
async fn rpcs_that_must_not_go_anywhere_do_not_when_there_is_no_policy_left() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let traps = Wat::every(1, "unreachable");
    let policies = Policies::with(&[("p.wasm", &traps), ("p.toml", b"on-fault = 'fail'\n")]);
    let channel = patient(&cluster, &policies.followed);
    let caller = Caller::ready(&channel, Some("p")).await;
    let queued = tokio::spawn({
        let caller = caller.clone();
        async move { caller.call().await }
    });
    soon("quarantine", channel.wait_for(|status| status.policy.name == "refuses")).await;
    let mut request = tonic::Request::new(hotpick_echo::EchoRequest::new("hello"));
    request.extensions_mut().insert(hotpick::channel::WaitForReady(false));
    let status = caller.request(request).await.expect_err("no policy is active");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("is quarantined"), "{status:?}");
    policies.put("p.wasm", &Wat::first());
    soon("the queued RPC", queued).await.expect("no panic").expect("served by the next version");
}

/// The endpoints do not change; only the policy's state does.
#[tokio::test]
async fn an_rpc_that_is_held_is_picked_for_again_when_the_policy_has_learned_something() {
    let cluster = Cluster::start(&["a"]).await;
    let patience = Wat {
        imports: r#"(import "hotpick:policy/timers@0.1.0" "schedule" (func $schedule (param i32 i64 i32)))"#,
        init: "(call $schedule (i32.const 1) (i64.const 100000000) (i32.const 64)) (i32.const 0)",
        exports: r#"(global $open (mut i32) (i32.const 0))
                    (func (export "hotpick:policy/alarms@0.1.0#fired") (param i32 i64)
                        (global.set $open (i32.const 1)))"#,
        pick: "(if (i32.and (local.get $wait) (i32.eqz (global.get $open)))
                   (then (return (call $picked (i32.const -1)))))
               (call $picked (global.get $first))",
        ..Wat::default()
    };
    let policies = Policies::with(&[("p.wasm", &patience.component())]);
    let channel = patient(&cluster, &policies.followed);
    let caller = Caller::ready(&channel, Some("p")).await;
    assert_eq!(soon("the RPC", caller.call()).await.expect("served"), "a");
}

#[tokio::test]
async fn grants_and_limits_of_the_settings_count() {
    let asks = Wat {
        imports: r#"(import "hotpick:policy/call@0.1.0" "declare-metadata" (func $declare (param i32 i32 i32)))"#,
        exports: r#"(data (i32.const 1000) "color")"#,
        // Returns the host's result, which has the same type.
        init: "(call $declare (i32.const 1000) (i32.const 5) (i32.const 64)) (i32.const 64)",
        ..Wat::default()
    };
    let cluster = Cluster::start(&["a", "b"]).await;
    for (settings, reason) in [
        ("[grants]\nmetadata = ['tenant']\n", "the operator does not grant metadata key \"color\""),
        ("[limits]\nmetadata-keys = 0\n", "at most 0 metadata keys"),
    ] {
        let policies = Policies::with(&[("p.wasm", &asks.component()), ("p.toml", settings.as_bytes())]);
        let channel = patient(&cluster, &policies.followed);
        let status = soon("the refusal", channel.wait_for(|status| status.refused.is_some())).await;
        let refused = status.refused.expect("a reason").to_string();
        assert!(refused.contains(reason), "{refused}");
    }
    let policies = Policies::with(&[
        ("p.wasm", &asks.component()),
        ("p.toml", b"[grants]\ncapabilities = ['env', 'stats']\n"),
    ]);
    let status = policies.wait_for("p", |policy: &PolicyStatus| policy.rejected.is_some()).await;
    let error = status.rejected.expect("a reason").to_string();
    assert_eq!(error, "imports the capability \"call\", which its settings do not grant");
    policies.put("p.toml", b"[limits]\nmemory-mib = 4096\n");
    let is_over_cap = |policy: &PolicyStatus| {
        policy.rejected.as_ref().is_some_and(|error| error.to_string().contains("limits.memory-mib"))
    };
    policies.wait_for("p", is_over_cap).await;
    policies.put("p.toml", b"[grants]\nmetadata = ['color']\n");
    policies.wait_for("p", |policy| policy.version.is_some()).await;
}

/// A compiled policy is not compiled again, neither for other settings nor by another process.
#[tokio::test]
async fn a_cache_outlives_the_process_and_rejects_tampering() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (files, home) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::fs::write(files.path().join("p.wasm"), standard("color")).expect("written");
    let cache = home.path().join("cache");
    let mut options = hotpick::directory::PolicyDirOptions::default();
    options.compile.cache = Some(cache.clone());
    let load = || hotpick::directory::load(files.path().join("p.wasm"), &options).expect("a policy");
    drop(load());
    assert_eq!(std::fs::metadata(&cache).expect("made").mode() & 0o777, 0o700);
    let cached = || std::fs::read_dir(&cache).expect("a cache").flatten().next().expect("a file").path();
    let (file, whole) = (cached(), std::fs::read(cached()).expect("read"));
    // A load from the cache needs no compiler. The updated modification time shows that the cache was used.
    let before = std::fs::metadata(&file).expect("there").modified().expect("a time");
    drop(load());
    assert!(
        std::fs::metadata(&file).expect("there").modified().expect("a time") > before,
        "the cached file was not used"
    );
    // A damaged file is re-created.
    let mut damaged = whole.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    std::fs::write(&file, &damaged).expect("written");
    drop(load());
    assert_eq!(std::fs::read(cached()).expect("read").len(), whole.len());
    assert_ne!(std::fs::read(cached()).expect("read"), damaged);
    // A directory that others can write to is not used.
    std::fs::remove_file(cached()).expect("removed");
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).expect("changed");
    drop(load());
    assert_eq!(std::fs::read_dir(&cache).expect("a cache").count(), 0);
}

/// New channels get the version that all channels use, and a version that fails later is rolled back to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_every_channel_refuses_is_taken_back() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let (good, refused) = (standard("random"), Wat { init: "unreachable", ..Wat::default() }.component());
    let policies = Policies::with(&[("p.wasm", &good)]);
    let channel = patient(&cluster, &policies.followed);
    let caller = Caller::ready(&channel, Some("p")).await;
    let load = Load::start(&caller, 4, 1);
    policies.put("p.wasm", &refused);
    let status = policies.wait_for("p", |policy| policy.rejected.is_some()).await;
    let error = status.rejected.expect("a reason");
    assert_eq!(error.stage(), hotpick::policy::Stage::Init, "{error}");
    assert_eq!(status.version.map(|version| version.digest), Some(digest(&good)));
    let late = patient(&cluster, &policies.followed);
    Caller::ready(&late, Some("p")).await;
    assert_eq!(late.status().policy.digest, digest(&good));
    // This channel never swapped its policy.
    assert_eq!((channel.status().swaps, channel.status().policy.generation), (0, 1));
    // A rollback skips the version that all channels refused.
    policies.put("p.wasm", &Wat { changed: "unreachable", ..Wat::default() }.component());
    policies.wait_for("p", |policy| policy.loads > 3).await;
    policies.put("p.wasm", &Wat::every(1, "unreachable"));
    policies.wait_for("p", |policy| policy.state == PolicyState::Quarantined).await;
    soon("the first version", channel.wait_for(digest_is(&digest(&good)))).await;
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

/// The policy loops in `init`, for which its settings allow a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_overtaken_or_whose_channel_is_closed_is_cut() {
    let cluster = Cluster::start(&["a"]).await;
    let looping = Wat { init: "(loop (br 0)) (i32.const 0)", ..Wat::default() }.component();
    let policies = Policies::with(&[("p.wasm", &looping), ("p.toml", b"[limits]\ninit-ms = 60000\n")]);
    let connect =
        || cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    // More channels than threads that start policies.
    let channels: Vec<_> = (0..12).map(|_| connect()).collect();
    for channel in &channels {
        // Round robin picks after the first-policy timeout of 5 s; the policy is still starting.
        Caller::ready(channel, None).await;
        assert_eq!(channel.status().policy.generation, 0);
    }
    channels.iter().for_each(Channel::close);
    let begin = std::time::Instant::now();
    let channel = connect();
    policies.put("p.wasm", &Wat::first());
    soon("the good version", channel.wait_for(digest_is(&digest(&Wat::first())))).await;
    assert!(begin.elapsed() < std::time::Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// In a simulation a policy that fails is shown and counted, and the run goes on with the fallback, as in production.
#[test]
fn a_simulated_policy_that_traps_is_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    // Trial picks are not so many.
    let pick = "(if (i64.gt_u (local.get $call) (i64.const 2000)) (then (unreachable)))
                (call $picked (global.get $first))";
    let file = folder.path().join("trap.wasm");
    std::fs::write(&file, Wat { pick, ..Wat::default() }.component()).expect("written");
    let scenario = folder.path().join("short.toml");
    std::fs::write(&scenario, "seconds = 3.0\n").expect("written");
    let mut command = hotpick_tests::peers::built("hotpick");
    let output = command.arg("sim").arg(&file).arg("--scenario").arg(&scenario).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let row = text.lines().find(|line| line.contains("trap.wasm")).unwrap_or_else(|| panic!("{text}"));
    let cells: Vec<_> = row.split_whitespace().collect();
    let number = |at: usize| cells[at].parse::<u64>().expect("a number");
    // RPCs, errors, picks of the fallback, and faults.
    let last = cells.len() - 1;
    assert!(number(1) > 10_000 && number(6) == 0 && number(last - 1) > 1000 && number(last) == 3, "{text}");
}
