//! Policy files and settings that change while RPCs run.

use std::fs;

use hotpick::channel::ChannelStatus;
use hotpick::directory::PolicyStatus;
use hotpick::{Channel, PolicyDir};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, soon, standard};
use tonic::Code;

async fn channel_with_p(cluster: &Cluster, policies: &Policies) -> (Channel, Caller) {
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    (channel, caller)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_swaps_under_load_lose_nothing_and_dial_nothing() {
    let cluster = Cluster::start(&["red-1", "blue-1", "red-2"]).await;
    let versions = [standard("round_robin"), standard("random"), Wat::first(), standard("color")];
    let policies = Policies::with(&[("p.wasm", &versions[0])]);
    let (channel, caller) = channel_with_p(&cluster, &policies).await;
    let load = Load::start(&caller, 16, 4);
    for swap in 1..=200 {
        policies.put("p.wasm", &versions[swap % versions.len()]);
        let swapped = channel.wait_for(|status| status.swaps == swap as u64);
        soon("the swap", swapped).await;
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
    assert_eq!(cluster.accepted(), 3, "a swap created a connection");
    assert_eq!(caller.dials(), 3);
    let status = caller.status();
    assert_eq!((status.policy.generation, status.faults.count), (201, 0));
}

/// Files that are not valid policies: name, contents, reason.
fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let good = Wat::first();
    let other_version = Wat::default().module();
    let other_version = wit_with_version(&other_version);
    vec![
        ("empty", Vec::new(), "is not WebAssembly"),
        ("a text", b"#!/bin/sh\n".to_vec(), "is not WebAssembly"),
        ("half a file", good[..good.len() / 2].to_vec(), "is not valid: "),
        ("a header alone", good[..8].to_vec(), "does not export hotpick:policy/lifecycle@0.1"),
        ("a core module", Wat::default().module(), "is a core module without a component-type section"),
        ("another component", b"\0asm\x0d\0\x01\0".to_vec(), "it is not a policy"),
        ("another WIT version", other_version, "this host speaks 0.1.x of hotpick:policy"),
        ("an import that is not there", wants_more(), "does not fit the contract: "),
    ]
}

/// Returns a component that uses a future version of the WIT package.
fn wit_with_version(module: &[u8]) -> Vec<u8> {
    let component = hotpick::policy::componentize(module).expect("a component");
    let text = b"@0.1.0";
    let mut bytes = component;
    let positions: Vec<_> =
        bytes.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at).collect();
    for at in positions {
        bytes[at + 3] = b'2';
    }
    bytes
}

/// Returns a component that imports a function that the contract does not have.
fn wants_more() -> Vec<u8> {
    let imports =
        r#"(import "hotpick:policy/stats@0.1.0" "in-flight" (func $in_flight (param i32) (result i32)))"#;
    let mut bytes =
        Wat { imports, pick: "(call $picked (call $in_flight (i32.const 0)))", ..Wat::default() }.component();
    let name = b"in-flight";
    let positions = bytes.windows(name.len()).enumerate().filter(|(_, window)| window == name);
    for at in positions.map(|(at, _)| at).collect::<Vec<_>>() {
        bytes[at..at + name.len()].copy_from_slice(b"in-fright");
    }
    bytes
}

#[tokio::test]
async fn a_bad_file_leaves_the_previous_version_active_and_has_a_reason() {
    for (what, bytes, reason) in bad_files() {
        let cluster = Cluster::start(&["a", "b"]).await;
        let policies = Policies::with(&[("p.wasm", &Wat::first())]);
        let (channel, caller) = channel_with_p(&cluster, &policies).await;
        policies.put("p.wasm", &bytes);
        let status = policies.wait_for("p", |policy| policy.rejected.is_some()).await;
        let rejected = status.rejected.expect("a reason").to_string();
        assert!(rejected.contains(reason), "{what}: {rejected}");
        assert!(!rejected.contains('\n'), "{what}: more than one line: {rejected:?}");
        assert_eq!(status.version.expect("the previous version").generation, 1, "{what}");
        assert_eq!(caller.tally(10).await.get("a"), Some(&10), "{what}");
        assert_eq!(channel.status().swaps, 0, "{what}");
        // A new channel uses the valid version too.
        let (_, new) = channel_with_p(&cluster, &policies).await;
        assert_eq!(new.tally(10).await.get("a"), Some(&10), "{what}");
        // Restoring the valid file is not a swap, because its version stayed active.
        policies.put("p.wasm", &Wat::first());
        policies.wait_for("p", |policy| policy.rejected.is_none()).await;
        assert_eq!(caller.tally(10).await.get("a"), Some(&10), "{what}");
        assert_eq!(channel.status().swaps, 0, "{what}");
    }
}

#[tokio::test]
async fn a_bad_file_from_the_start_is_served_by_round_robin() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", b"garbage")]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::of(&channel);
    Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn a_file_that_is_not_a_regular_file_is_rejected_without_blocking() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    let (_channel, caller) = channel_with_p(&cluster, &policies).await;
    fs::create_dir(policies.path().join("folder.wasm")).expect("made");
    let rejected = |policy: &PolicyStatus| policy.rejected.is_some();
    let status = policies.wait_for("folder", rejected).await;
    assert_eq!(status.rejected.expect("a reason").to_string(), "cannot be read: it is not a regular file");
    policies.put("Bad Name.wasm", &Wat::first());
    let status = policies.wait_for("Bad Name", rejected).await;
    assert!(status.rejected.expect("a reason").to_string().contains("is not a policy name"));
    let status = std::process::Command::new("mkfifo").arg(policies.path().join("fifo.wasm")).status();
    assert!(status.expect("mkfifo runs").success());
    policies.wait_for("fifo", rejected).await;
    assert_eq!(caller.tally(5).await.get("a"), Some(&5));
}

#[tokio::test]
async fn a_removed_file_leaves_its_policy_active() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    let (channel, caller) = channel_with_p(&cluster, &policies).await;
    fs::remove_file(policies.path().join("p.wasm")).expect("removed");
    policies.wait_for("p", |policy| !policy.present).await;
    assert_eq!(caller.tally(10).await.get("a"), Some(&10));
    assert_eq!(channel.status().policy.generation, 1);
}

#[tokio::test]
async fn a_file_that_is_renamed_over_the_old_one_is_a_swap() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::first())]);
    let (channel, caller) = channel_with_p(&cluster, &policies).await;
    policies.put("p.wasm.part", &standard("round_robin"));
    fs::rename(policies.path().join("p.wasm.part"), policies.path().join("p.wasm")).expect("renamed");
    soon("the swap", channel.wait_for(|status| status.swaps == 1)).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
}

#[tokio::test]
async fn a_core_module_with_its_component_type_is_a_policy() {
    let cluster = Cluster::start(&["a"]).await;
    let policies = Policies::with(&[("p.wasm", &Wat::default().module_with_type())]);
    let (_channel, caller) = channel_with_p(&cluster, &policies).await;
    assert_eq!(caller.tally(5).await.get("a"), Some(&5));
}

#[tokio::test]
async fn a_directory_may_come_later() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let parent = tempfile::tempdir().expect("a directory");
    let path = parent.path().join("policies.d");
    let followed = PolicyDir::open(&path).expect("a missing directory is not an error");
    let channel = cluster.channel().policies(&followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, None).await;
    assert_eq!(caller.tally(10).await.into_values().collect::<Vec<_>>(), [5, 5]);
    fs::create_dir(&path).expect("made");
    fs::write(path.join("p.wasm"), Wat::first()).expect("written");
    let caller = Caller::ready(&channel, Some("p")).await;
    assert_eq!(caller.tally(10).await.get("a"), Some(&10));
}

#[test]
fn a_path_that_is_not_a_directory_is_refused_with_one_sentence() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = PolicyDir::open(file.path()).expect_err("refused").to_string();
    assert_eq!(error, format!("policy directory {:?} is not a directory", file.path()));
}

const COLOR_ANY: &[u8] = b"[config]\nunmatched = 'any'\n";

/// Returns a channel that uses the policy `color`, and a caller.
async fn color_with(cluster: &Cluster, policies: &Policies) -> (Channel, Caller) {
    let channel = cluster.channel().policies(&policies.followed).policy("color").connect_lazy();
    let channel = channel.expect("a channel");
    let caller = Caller::ready(&channel, Some("color")).await;
    (channel, caller)
}

#[tokio::test]
async fn settings_configure_a_policy_and_a_change_of_them_is_a_swap() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color")), ("color.toml", COLOR_ANY)]);
    let (channel, caller) = color_with(&cluster, &policies).await;
    caller.call_color("blue").await.expect("any colour is accepted");
    // Without settings, the default of the policy applies: fail.
    fs::remove_file(policies.path().join("color.toml")).expect("removed");
    soon("the swap", channel.wait_for(|status| status.swaps == 1)).await;
    assert_eq!(caller.call_color("blue").await.expect_err("no such colour").code(), Code::Unavailable);
    policies.put("color.toml", COLOR_ANY);
    let status = soon("the swap", channel.wait_for(|status| status.swaps == 2)).await;
    assert_eq!(status.policy.generation, 3);
    caller.call_color("blue").await.expect("any colour is accepted");
    // A channel's own configuration takes precedence.
    let own = cluster.channel().policies(&policies.followed).policy("color");
    let own = own.policy_config(serde_json::json!({"unmatched": "fail"})).connect_lazy().expect("a channel");
    let own = Caller::ready(&own, Some("color")).await;
    own.call_color("blue").await.expect_err("no such colour");
    assert_eq!(caller.dials(), 2);
}

#[tokio::test]
async fn a_policy_that_is_disabled_is_gone_at_once_and_back_when_it_is_enabled() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let (channel, caller) = color_with(&cluster, &policies).await;
    policies.put("color.toml", b"enabled = false\n");
    let native = |status: &ChannelStatus| status.policy.name == "round_robin";
    soon("round robin", channel.wait_for(native)).await;
    assert_eq!(caller.tally(10).await.len(), 2);
    assert!(!policies.followed.status()[0].enabled);
    // A new channel does not use it either.
    let other =
        cluster.channel().policies(&policies.followed).policy("color").connect_lazy().expect("a channel");
    Caller::ready(&other, None).await.call().await.expect("served");
    assert_eq!(other.status().policy.name, "round_robin");
    policies.put("color.toml", b"enabled = true\n");
    soon("the policy", channel.wait_for(|status| status.policy.name == "color")).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
}

#[tokio::test]
async fn invalid_settings_leave_the_version_active_and_have_a_reason() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color")), ("color.toml", COLOR_ANY)]);
    let (channel, caller) = color_with(&cluster, &policies).await;
    for (settings, reason) in [
        ("enabeld = true", "has settings that cannot be used: line 1: unknown field `enabeld`"),
        ("[config", "has settings that cannot be used: line 1: "),
        ("wasm-sha256 = '12'", ", but its settings ask for 12"),
    ] {
        policies.put("color.toml", settings.as_bytes());
        let rejected = policies.wait_for("color", |policy| {
            policy.rejected.as_ref().is_some_and(|error| error.to_string().contains(reason))
        });
        assert_eq!(rejected.await.version.map(|version| version.generation), Some(1));
        caller.call_color("blue").await.expect("any colour is accepted, as before");
    }
    // The digest is right and the configuration unchanged, so this is not a swap.
    let digest = hotpick::policy::digest(&standard("color"));
    let settings = format!("wasm-sha256 = '{digest}'\n{}", String::from_utf8_lossy(COLOR_ANY));
    policies.put("color.toml", settings.as_bytes());
    policies.wait_for("color", |policy| policy.rejected.is_none()).await;
    caller.call_color("blue").await.expect("any colour is accepted");
    assert_eq!(channel.status().swaps, 0);
}

#[tokio::test]
async fn a_policy_that_is_enabled_again_has_the_settings_that_lie_there() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color")), ("color.toml", COLOR_ANY)]);
    let (channel, caller) = color_with(&cluster, &policies).await;
    let native = |status: &ChannelStatus| status.policy.name == "round_robin";
    let color = |status: &ChannelStatus| status.policy.name == "color";
    let disable = async || {
        policies.put("color.toml", b"enabled = false\n");
        soon("round robin", channel.wait_for(native)).await;
    };
    // The configuration is as before.
    disable().await;
    policies.put("color.toml", COLOR_ANY);
    soon("the policy", channel.wait_for(color)).await;
    caller.call_color("blue").await.expect("any colour is accepted");
    // Without a configuration, the default of the policy applies: fail.
    disable().await;
    policies.put("color.toml", b"enabled = true\n");
    soon("the policy", channel.wait_for(color)).await;
    let failing = async { while caller.call_color("blue").await.is_ok() {} };
    soon("the default configuration", failing).await;
    // If the file is bad, the last valid version is used.
    disable().await;
    policies.put("color.wasm", b"junk");
    policies.put("color.toml", b"");
    soon("the policy", channel.wait_for(color)).await;
    policies.wait_for("color", |policy| policy.rejected.is_some() && policy.enabled).await;
    assert_eq!(caller.call_color("green").await.expect("served"), "green-1");
}

#[tokio::test]
async fn a_policy_whose_file_is_gone_can_be_disabled() {
    let cluster = Cluster::start(&["red-1", "green-1"]).await;
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let (channel, _caller) = color_with(&cluster, &policies).await;
    fs::remove_file(policies.path().join("color.wasm")).expect("removed");
    policies.wait_for("color", |policy| !policy.present).await;
    policies.put("color.toml", b"enabled = false\n");
    let native = |status: &ChannelStatus| status.policy.name == "round_robin";
    soon("round robin", channel.wait_for(native)).await;
    policies.put("color.wasm", &standard("color"));
    policies.put("color.toml", b"enabled = true\n");
    soon("the policy", channel.wait_for(|status| status.policy.name == "color")).await;
}

/// The unreadable settings might disable the policy.
#[tokio::test]
async fn settings_that_lead_nowhere_are_not_as_if_there_were_none() {
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    policies.wait_for("color", |policy| policy.version.is_some()).await;
    std::os::unix::fs::symlink("nowhere", policies.path().join("color.toml")).expect("linked");
    let status = policies.wait_for("color", |policy| policy.rejected.is_some()).await;
    let reason = status.rejected.expect("a reason").to_string();
    assert!(reason.starts_with("has settings that cannot be used: color.toml: No such file"), "{reason}");
}
