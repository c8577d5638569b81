//! Rollouts: a new version beside the active one, as a shadow and as a canary.

use std::time::Duration;

use hotpick::directory::{PolicyState, PolicyStatus, RolloutError, RolloutStatus};
use hotpick::policy::{MetricValue, RolloutCommand, RolloutPhase, Verdict, digest};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, probe, standard};

/// Returns a policy that sends everything to the first endpoint.
fn first() -> Vec<u8> {
    Wat::default().component()
}

fn canary(steps: &str, interval: f64, min_rpcs: u64) -> String {
    format!(
        "[rollout]\nsteps = {steps}\ninterval = {interval}\nmin-rpcs = {min_rpcs}\nmax-latency-increase = 1.0\n"
    )
}

struct Channel {
    cluster: Cluster,
    policies: Policies,
    caller: Caller,
}

impl Channel {
    /// Starts a channel with this policy as `p`.
    async fn start(active: &[u8], settings: &str) -> Self {
        let cluster = Cluster::start(&["a", "b", "c"]).await;
        let policies = Policies::with(&[("p.wasm", active), ("p.toml", settings.as_bytes())]);
        let channel = cluster.channel().policies(&policies.followed).policy("p").connect_lazy();
        let caller = Caller::ready(&channel.expect("a channel"), Some("p")).await;
        Self { cluster, policies, caller }
    }

    async fn status(&self, condition: impl Fn(&PolicyStatus) -> bool) -> PolicyStatus {
        self.policies.wait_for("p", condition).await
    }

    /// Waits until the channel uses the new version beside the active one.
    async fn started(&self) -> RolloutStatus {
        let beside = |status: &PolicyStatus| status.rollout.is_some() && status.channels.len() == 2;
        self.status(beside).await.rollout.expect("a rollout")
    }

    /// Sends RPCs until the new version has been asked for one.
    async fn in_use(&self) -> RolloutStatus {
        loop {
            let rollout = self.started().await;
            if rollout.reading.candidate.begun > 0 {
                return rollout;
            }
            self.caller.call().await.expect("no RPC fails");
        }
    }
}

fn generation(status: &PolicyStatus) -> u64 {
    status.version.as_ref().map_or(0, |version| version.generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_sends_all_to_a_slow_endpoint_is_rolled_back_at_its_first_step() {
    let it = Channel::start(&standard("round_robin"), &canary("[1, 5, 25, 100]", 2.0, 20)).await;
    it.cluster.backends[0].set_delay(Duration::from_millis(40));
    let dials = it.caller.dials();
    let load = Load::start(&it.caller, 30, 2);
    it.policies.put("p.wasm", &first());
    let status = it.status(|status| status.quarantined.is_some()).await;
    let after = 1500;
    it.caller.tally(after).await;
    let (calls, failed) = load.stop().await;
    let calls = (calls + after) as u64;
    assert!(failed.is_empty(), "{failed:?}");
    let quarantined = status.quarantined.clone().expect("quarantined");
    assert!(quarantined.reason.contains("p50 is longer"), "{}", quarantined.reason);
    assert_eq!((quarantined.version.generation, generation(&status)), (2, 1));
    let ended = status.last_rollout.as_ref().expect("a rollout");
    assert_eq!((ended.step, ended.share), (0, 1.0));
    let tried = ended.reading.candidate.begun;
    assert!(tried >= 20 && tried * 100 < calls, "{tried} of {calls}");
    assert_eq!(it.caller.dials(), dials);
    // The file is known, and is not tried again.
    assert_eq!(it.status(|status| status.rollout.is_none()).await.state, PolicyState::Quarantined);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_canary_is_promoted_step_by_step_with_its_state() {
    let it = Channel::start(&probe(), &canary("[10, 50, 100]", 0.5, 100)).await;
    let dials = it.caller.dials();
    let load = Load::start(&it.caller, 8, 2);
    // Another configuration is another version, too.
    it.policies
        .put("p.toml", format!("{}\n[config]\nleak = 1\n", canary("[10, 50, 100]", 0.5, 100)).as_bytes());
    let status = it.status(|status| generation(status) == 2).await;
    let (_, failed) = load.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(it.caller.dials(), dials);
    let ended = status.last_rollout.clone().expect("a rollout");
    let texts: Vec<_> = ended.events.iter().map(|event| event.text.as_str()).collect();
    let begins = ["started with 10 %", "10 % to 50 %: pass", "50 % to 95 %: pass", "promoted: pass"];
    let decided: Vec<_> = texts.iter().filter(|text| !text.contains("not enough")).collect();
    assert!(
        decided.len() == 4 && decided.iter().zip(begins).all(|(text, begin)| text.starts_with(begin)),
        "{texts:?}"
    );
    // The state of earlier instances: the canary's own, which had been handed the active version's.
    let restored = |status: &PolicyStatus| {
        status.metrics.iter().any(|metric| metric.name == "probe_restored") && status.channels.len() == 1
    };
    it.status(restored).await;
}

#[tokio::test]
async fn a_shadow_is_told_of_every_rpc_and_never_used() {
    let it = Channel::start(
        &standard("round_robin"),
        "[rollout]\nmode = \"shadow\"\ninterval = 0.2\nmin-rpcs = 10\n",
    )
    .await;
    it.policies.put("p.wasm", &probe());
    let rollout = it.in_use().await;
    assert_eq!(rollout.share, 0.0);
    // In the order of the round robin: no pick is the shadow's.
    let mut order = Vec::new();
    for _ in 0..300 {
        order.push(it.caller.call().await.expect("no RPC fails"));
    }
    assert!(order.chunks(3).all(|three| three == &order[..3]), "{order:?}");
    let passed = |status: &PolicyStatus| {
        let verdict = status.rollout.as_ref().and_then(|rollout| rollout.verdict.clone());
        matches!(verdict, Some(Verdict::Pass(_)))
    };
    let status = it.status(passed).await;
    assert_eq!(generation(&status), 1);
    let told = |status: &PolicyStatus| {
        let done = status.metrics.iter().find(|metric| metric.name == "probe_done");
        done.is_some_and(|done| matches!(done.value, MetricValue::Counter(300..)))
    };
    it.status(told).await;
    it.policies.followed.steer("p", RolloutCommand::Promote).await.expect("promoted");
    it.status(|status| generation(status) == 2 && status.channels.len() == 1).await;
    it.caller.tally(10).await;
}

#[tokio::test]
async fn without_rpcs_nothing_is_decided() {
    let it = Channel::start(&standard("round_robin"), &canary("[50, 100]", 0.2, 20)).await;
    it.policies.put("p.wasm", &standard("random"));
    it.started().await;
    let late = |status: &PolicyStatus| {
        let verdict = status.rollout.as_ref().and_then(|rollout| rollout.verdict.clone());
        matches!(verdict, Some(Verdict::NotEnough(_)))
    };
    let status = it.status(late).await;
    assert_eq!((status.state, generation(&status)), (PolicyState::Rollout, 1));
    // Then with them.
    let load = Load::start(&it.caller, 4, 0);
    it.status(|status| generation(status) == 2).await;
    assert!(load.stop().await.1.is_empty());
}

#[tokio::test]
async fn an_operator_steers() {
    let it = Channel::start(&standard("round_robin"), &canary("[50, 100]", 0.3, 10)).await;
    let steer = |command| it.policies.followed.steer("p", command);
    assert_eq!(steer(RolloutCommand::Pause).await, Err(RolloutError::None("p".to_owned())));
    it.policies.put("p.wasm", &standard("random"));
    it.started().await;
    steer(RolloutCommand::Pause).await.expect("paused");
    assert!(matches!(steer(RolloutCommand::Pause).await, Err(RolloutError::Refused(_))));
    // A verdict of a paused rollout is said, and not followed.
    let load = Load::start(&it.caller, 4, 0);
    let passed = |status: &PolicyStatus| {
        let rollout = status.rollout.as_ref();
        rollout.is_some_and(|rollout| matches!(rollout.verdict, Some(Verdict::Pass(_))))
    };
    let rollout = it.status(passed).await.rollout.expect("a rollout");
    assert_eq!((rollout.phase, rollout.share), (RolloutPhase::Paused, 50.0));
    steer(RolloutCommand::Abort).await.expect("aborted");
    let status = it.status(|status| status.rollout.is_none() && status.channels.len() == 1).await;
    assert_eq!((generation(&status), status.state), (1, PolicyState::Quarantined));
    // The next file is another rollout, which ends when a file without one replaces it.
    it.policies.put("p.wasm", &first());
    it.started().await;
    std::fs::remove_file(it.policies.path().join("p.toml")).expect("removed");
    it.status(|status| status.rollout.is_none() && generation(status) > 2 && status.channels.len() == 1)
        .await;
    assert!(load.stop().await.1.is_empty());
}

#[tokio::test]
async fn a_canary_that_fails_or_is_refused_is_rolled_back_at_once() {
    // An interval far longer than the test waits.
    let settings = format!("{}max-fallback = 1.0\n", canary("[50, 100]", 600.0, 10));
    let it = Channel::start(&standard("round_robin"), &settings).await;
    let load = Load::start(&it.caller, 4, 0);
    // Trial picks are not so many.
    let pick = "(if (i64.gt_u (local.get $call) (i64.const 1500)) (then (unreachable)))
                (call $picked (global.get $first))";
    it.policies.put("p.wasm", &Wat { pick, ..Wat::default() }.component());
    let status = it.status(|status| status.quarantined.is_some()).await;
    let reason = status.quarantined.clone().expect("it").reason;
    assert!(reason.starts_with("3 faults, the last: "), "{reason}");
    assert_eq!(generation(&status), 1);
    it.policies.put("p.toml", format!("{settings}[config]\nodd = 1\n").as_bytes());
    it.policies.put("p.wasm", &probe());
    let refused = |status: &PolicyStatus| {
        status
            .quarantined
            .as_ref()
            .is_some_and(|quarantine| quarantine.reason.contains("refused its configuration"))
    };
    let status = it.status(refused).await;
    assert_eq!(generation(&status), 1);
    assert!(load.stop().await.1.is_empty());
}

#[tokio::test]
async fn each_rpc_is_on_one_side() {
    let it = Channel::start(&standard("round_robin"), &canary("[50, 100]", 600.0, 10)).await;
    it.policies.put("p.wasm", &standard("random"));
    let before = it.in_use().await.reading;
    it.caller.tally(200).await;
    let after = it.started().await.reading;
    let candidate = after.candidate.begun - before.candidate.begun;
    let active = after.active.begun - before.active.begun;
    assert_eq!(candidate + active, 200);
    assert!(candidate > 60 && active > 60, "{candidate} and {active}");
}

/// RPCs that the new version keeps for ever are no reason to wait for more of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_keeps_rpcs_is_rolled_back_before_it_has_all_of_them() {
    let it = Channel::start(&standard("round_robin"), &canary("[10, 100]", 600.0, 200)).await;
    let load = Load::start(&it.caller, 30, 0);
    let pick =
        "(if (i64.gt_u (local.get $call) (i64.const 1500)) (then (return (call $picked (i32.const -1)))))
                (call $picked (global.get $first))";
    it.policies.put("p.wasm", &Wat { pick, ..Wat::default() }.component());
    let status = it.status(|status| status.quarantined.is_some()).await;
    let reason = status.quarantined.expect("it").reason;
    assert!(reason.contains("of its RPCs fail"), "{reason}");
    let (_, failed) = load.stop().await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn a_rollout_ends_with_its_file() {
    let it = Channel::start(&standard("round_robin"), &canary("[50, 100]", 600.0, 10)).await;
    it.policies.put("p.wasm", &first());
    it.in_use().await;
    std::fs::remove_file(it.policies.path().join("p.wasm")).expect("removed");
    let status = it.status(|status| status.rollout.is_none() && status.channels.len() == 1).await;
    assert_eq!(generation(&status), 1);
    let events = status.last_rollout.expect("it").events;
    assert_eq!(events.last().map(|event| event.text.as_str()), Some("ended: its file is gone"));
    let tally = it.caller.tally(30).await;
    assert_eq!(tally.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // A file that is bad ends it as well; the good one put back is active.
    it.policies.put("p.wasm", &first());
    it.in_use().await;
    it.policies.put("p.wasm", b"garbage");
    it.status(|status| status.rollout.is_none() && status.rejected.is_some()).await;
    it.policies.put("p.wasm", &first());
    it.in_use().await;
    it.policies.followed.steer("p", RolloutCommand::Promote).await.expect("promoted");
    let promoted = generation(&it.status(|status| status.rollout.is_none()).await);
    it.policies.put("p.wasm", &standard("round_robin"));
    it.started().await;
    it.policies.followed.steer("p", RolloutCommand::Promote).await.expect("promoted");
    it.status(|status| generation(status) > promoted && status.channels.len() == 1).await;
}

/// The active version fails too often while another one is tried: that one goes on beside the version before.
#[tokio::test]
async fn a_rollout_goes_on_beside_the_version_before() {
    let it = Channel::start(&standard("round_robin"), "").await;
    it.caller.tally(10).await;
    // Instances fail after a while.
    let pick = "(if (i64.gt_u (local.get $call) (i64.const 3000)) (then (unreachable)))
                (call $picked (global.get $first))";
    it.policies.put("p.wasm", &Wat { pick, ..Wat::default() }.component());
    it.status(|status| generation(status) == 2 && status.channels.len() == 1).await;
    it.policies.put("p.toml", canary("[1, 100]", 600.0, 100_000).as_bytes());
    it.policies.put("p.wasm", &standard("random"));
    it.started().await;
    let load = Load::start(&it.caller, 8, 0);
    let back = |status: &PolicyStatus| {
        let is_first =
            status.version.as_ref().is_some_and(|version| version.digest == digest(&standard("round_robin")));
        is_first && status.rollout.is_some() && status.channels.len() == 2
    };
    it.status(back).await;
    assert!(load.stop().await.1.is_empty());
    it.policies.followed.steer("p", RolloutCommand::Promote).await.expect("promoted");
    let status = it.status(|status| status.rollout.is_none() && status.channels.len() == 1).await;
    assert_eq!(status.version.expect("it").digest, digest(&standard("random")));
    assert!(status.quarantined.is_none());
}
