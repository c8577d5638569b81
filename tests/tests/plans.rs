//! Tests of plans (picks made ahead) and of shards (several instances of a policy in a channel).

use std::sync::Arc;

use hotpick::channel::ChannelStatus;
use hotpick::connectivity::ConnectivityState;
use hotpick::directory::PolicyStatus;
use hotpick::picker::{PickInfo, PickResult, PickedBy, Picker};
use hotpick::policy::{Limits, Placement, Policy as _, WasmPolicy};
use hotpick::resolver::ResolverUpdate;
use hotpick::subconn::FakeSubConns;
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, STANDARD, soon, standard};
use http::HeaderMap;

async fn with(cluster: &Cluster, name: &str, bytes: &[u8], settings: &str) -> (Policies, Caller) {
    let (file, toml) = (format!("{name}.wasm"), format!("{name}.toml"));
    let policies = Policies::with(&[(&file, bytes), (&toml, settings.as_bytes())]);
    let channel =
        cluster.channel().policies(&policies.followed).policy(name).connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some(name)).await;
    (policies, caller)
}

fn status(policies: &Policies, name: &str) -> PolicyStatus {
    policies.followed.status().into_iter().find(|policy| policy.name == name).expect("a loaded policy")
}

#[tokio::test]
async fn planned_picks_are_those_that_would_be_made_and_are_counted() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    for settings in ["", "plans = false"] {
        let (policies, caller) = with(&cluster, "round_robin", &standard("round_robin"), settings).await;
        let begin = status(&policies, "round_robin").totals;
        // 900 picks take several plans, and are not a multiple of a plan's length.
        let mut order = Vec::new();
        for _ in 0..900 {
            order.push(caller.call().await.expect("no RPC fails"));
        }
        assert!(order.chunks(3).all(|three| three == &order[..3]), "{order:?}");
        let end = status(&policies, "round_robin").totals;
        assert_eq!(end.picks - begin.picks, 900);
        assert_eq!(end.planned_picks - begin.planned_picks, if settings.is_empty() { 900 } else { 0 });
    }
}

#[tokio::test]
async fn a_plan_is_void_when_the_endpoints_change() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    let (_policies, caller) = with(&cluster, "round_robin", &standard("round_robin"), "").await;
    caller.tally(10).await;
    let mut endpoints = cluster.endpoints();
    endpoints.truncate(2);
    cluster.resolver.update(ResolverUpdate::endpoints(endpoints));
    let two = |status: &ChannelStatus| status.ready.ready().len() == 2;
    soon("two endpoints", caller.channel().wait_for(two)).await;
    assert_eq!(caller.tally(20).await.into_values().collect::<Vec<_>>(), [10, 10]);
    cluster.resolver.update(ResolverUpdate::endpoints(cluster.endpoints()));
    let three = |status: &ChannelStatus| status.ready.ready().len() == 3;
    soon("three endpoints", caller.channel().wait_for(three)).await;
    assert_eq!(caller.tally(30).await.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

/// Picks in a row, by one thread.
#[tokio::test]
async fn picks_in_a_row_are_those_of_the_plan_in_force() {
    let (mut endpoints, none) = (FakeSubConns::default(), HeaderMap::new());
    let all = endpoints.ready(3);
    for shards in [1, 2] {
        let policy = WasmPolicy::compile("round_robin", 1, &standard("round_robin"), Limits::default());
        let policy = policy.expect("a policy").with_shards(shards);
        let mut builder = policy.start(&Placement::new("static:///plans", "{}"), &all).expect("started");
        let picker = builder.build(&all);
        let first = PickInfo::new("/hotpick.echo.Echo/Unary", &none);
        let pick = |picker: &Arc<dyn Picker>, info: &PickInfo<'_>| match picker.pick(info) {
            PickResult::Pick(pick) => (pick.subconn.id(), pick.by),
            other => panic!("{other:?}"),
        };
        // Several plans, strictly in their order.
        let picks: Vec<_> = (0..999).map(|_| pick(&picker, &first)).collect();
        assert!(picks.iter().all(|(_, by)| *by == PickedBy::Planned));
        assert!(picks.chunks(3).all(|three| three == &picks[..3]), "{picks:?}");
        // A retry is not planned.
        let mut retry = first.clone();
        retry.attempt = 1;
        assert_eq!(pick(&picker, &retry).1, PickedBy::Called);
        assert_eq!(pick(&picker, &first).1, PickedBy::Planned);
        // Planned picks of an endpoint that is not ready any more are void, whatever snapshot the picker has.
        let gone = all.all().get(1).expect("three");
        let two = endpoints.change(gone, ConnectivityState::Idle);
        let next = builder.build(&two);
        for picker in [&picker, &next, &picker] {
            assert!((0..50).all(|_| pick(picker, &first).0 != gone.id()));
        }
        drop(endpoints.change(gone, ConnectivityState::Ready));
    }
}

/// What a policy is told of, it is told of for picks in a row as well.
#[tokio::test]
async fn picks_in_a_row_are_reported_to_a_policy_that_wants_outcomes() {
    let (mut endpoints, none) = (FakeSubConns::default(), HeaderMap::new());
    let all = endpoints.ready(3);
    let policy = WasmPolicy::compile("weighted", 1, &standard("weighted_round_robin"), Limits::default());
    let policy = policy.expect("a policy");
    let mut builder = policy.start(&Placement::new("static:///plans", "{}"), &all).expect("started");
    let picker = builder.build(&all);
    let info = PickInfo::new("/hotpick.echo.Echo/Unary", &none);
    for _ in 0..500 {
        let PickResult::Pick(pick) = picker.pick(&info) else { panic!("no pick") };
        assert!(pick.done.is_some() && pick.by == PickedBy::Planned);
    }
}

/// Returns a policy whose plans pick the first subconn twice. From the sixth plan on, the second pick is of a subconn
/// that does not exist. The pre-flight asks for fewer plans.
fn runs_wild() -> Vec<u8> {
    let make = r#"
        (global $made (mut i32) (i32.const 0))
        (func (export "hotpick:policy/plans@0.1.0#make") (param i32 i64 i64) (result i32)
            (global.set $made (i32.add (global.get $made) (i32.const 1)))
            (i32.store8 (i32.const 64) (i32.ne (global.get $first) (i32.const -1)))
            (i32.store (i32.const 68) (i32.const 80))
            (i32.store (i32.const 72) (i32.const 2))
            (i32.store (i32.const 80) (global.get $first))
            (i32.store (i32.const 84)
                (select (i32.const 999) (global.get $first) (i32.gt_u (global.get $made) (i32.const 5))))
            (i32.const 64))"#;
    let world = "package test:plans; world plans {
        include hotpick:policy/policy@0.1.0;
        export hotpick:policy/plans@0.1.0;
    }";
    Wat { exports: make, ..Wat::default() }.component_with(world)
}

#[tokio::test]
async fn a_plan_of_nonsense_is_a_fault_and_costs_no_rpc() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let settings = "limits.faults-per-minute = 1000";
    let (policies, caller) = with(&cluster, "wild", &runs_wild(), settings).await;
    caller.tally(100).await;
    let status = policies.wait_for("wild", |status| status.totals.fallback_picks > 0).await;
    assert_eq!(status.last_fault.as_deref(), Some("picked subconn 999, which does not exist"));
    assert!(status.totals.planned_picks > 0);
}

#[tokio::test]
async fn several_instances_share_the_picks_of_a_channel() {
    let cluster = Cluster::start(&["a", "b", "c"]).await;
    for plans in ["", "plans = false"] {
        let settings = format!("shards = 3\n{plans}");
        let (policies, caller) = with(&cluster, "round_robin", &standard("round_robin"), &settings).await;
        let load = Load::start(&caller, 16, 0);
        let tally = caller.tally(300).await;
        let (_, failed) = load.stop().await;
        assert!(failed.is_empty() && tally.len() == 3, "{failed:?} {tally:?}");
        let one = Policies::with(&[("round_robin.wasm", &standard("round_robin"))]);
        let channel = cluster.channel().policies(&one.followed).policy("round_robin").connect_lazy();
        let _one = Caller::ready(&channel.expect("a channel"), Some("round_robin")).await;
        let memory = |policies: &Policies| {
            let [of_channel] = &status(policies, "round_robin").channels[..] else { panic!("one channel") };
            of_channel.memory
        };
        assert_eq!(memory(&policies), 3 * memory(&one));
    }
}

#[tokio::test]
async fn shards_out_of_range_are_refused() {
    let policies = Policies::with(&[("a.wasm", &standard("random")), ("a.toml", b"shards = 0")]);
    let status = policies.wait_for("a", |status| status.rejected.is_some()).await;
    let error = status.rejected.expect("refused").to_string();
    assert!(error.contains("shards is 0: use a number from 1 to 64"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_one_of_several_instances_is_refused_by_name() {
    let alone = ["bounded_hash", "pick_first", "priority", "outlier", "sticky", "subset"];
    let cluster = Cluster::start(&["a", "b"]).await;
    for name in STANDARD {
        let file = format!("{name}.toml");
        let policies = Policies::with(&[(&format!("{name}.wasm"), &standard(name)), (&file, b"shards = 2")]);
        let channel =
            cluster.channel().policies(&policies.followed).policy(name).connect_lazy().expect("a channel");
        let started_or_refused =
            |status: &ChannelStatus| status.refused.is_some() || status.policy.generation > 0;
        let status = soon("the policy", channel.wait_for(started_or_refused)).await;
        let error = status.refused.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            error.contains("shards: must be 1: each of several"),
            alone.contains(&name),
            "{name}: {error}"
        );
        // If the policy was refused, round robin picks.
        Caller::of(&channel).tally(4).await;
    }
}
