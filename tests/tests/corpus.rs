//! The corpus of bad files, under load: no RPC fails, the last good version stays active, and the reason is reported.

use std::collections::BTreeMap;

use hotpick::channel::ChannelStatus;
use hotpick::directory::{PolicyState, PolicyStatus};
use hotpick::policy::{FaultKind, digest};
use hotpick::{Channel, PolicyDir};
use hotpick_tests::corpus::{Bad, End, File, corpus, truncations, with_wasi};
use hotpick_tests::wat::Wat;
use hotpick_tests::{Caller, Cluster, Load, Policies, soon};

/// A channel with a good active policy, and a caller whose RPCs are wait-for-ready.
struct Subject {
    cluster: Cluster,
    policies: Policies,
    channel: Channel,
    caller: Caller,
}

impl Subject {
    async fn new() -> Self {
        let cluster = Cluster::start(&["a", "b"]).await;
        let policies = Policies::with(&[("p.wasm", &Wat::first())]);
        let channel = cluster.channel().policies(&policies.followed).policy("p").wait_for_ready(true);
        let channel = channel.connect_lazy().expect("a channel");
        let caller = Caller::ready(&channel, Some("p")).await;
        Self { cluster, policies, channel, caller }
    }

    fn put(&self, file: &File) {
        file.put(&self.policies.path().join("p.wasm"));
    }

    fn good() -> File {
        File::Bytes(Wat::first())
    }

    /// Waits until the version with this digest is active.
    async fn active(&self, digest: &str) -> ChannelStatus {
        soon("the active version", self.channel.wait_for(|status| status.policy.digest == digest)).await
    }

    async fn status(&self, condition: impl Fn(&PolicyStatus) -> bool) -> PolicyStatus {
        self.policies.wait_for("p", condition).await
    }

    /// Writes a bad file, waits for the expected result, and restores the good file.
    async fn try_file(&self, bad: &Bad) {
        let name = bad.name;
        let good = digest(&Wat::first());
        self.put(&bad.file);
        match (bad.end, &bad.file) {
            (End::Rejected(stage, words), _) => {
                let status = self.status(|policy| policy.rejected.is_some()).await;
                let error = status.rejected.expect("a reason");
                assert_eq!(error.stage(), stage, "{name}: {error}");
                expect_words(name, &error.to_string(), words);
                assert_eq!(status.state, PolicyState::Rejected, "{name}");
            }
            (End::Refused(stage, words), _) => {
                // The only channel refused the version, so it is rolled back.
                let status = self.status(|policy| policy.rejected.is_some()).await;
                let error = status.rejected.expect("a reason");
                assert_eq!(error.stage(), stage, "{name}: {error}");
                expect_words(name, &error.to_string(), words);
                assert!(status.rejections.contains_key(&stage), "{name}: {:?}", status.rejections);
            }
            (End::Quarantined(words), File::Bytes(bytes)) => {
                let status = self.status(|policy| policy.quarantined.is_some()).await;
                let quarantine = status.quarantined.expect("a reason");
                assert_eq!(quarantine.version.digest, digest(bytes), "{name}");
                expect_words(name, &quarantine.reason, words);
                self.active(&good).await;
            }
            (End::Harmless, File::Bytes(bytes)) => {
                self.active(&digest(bytes)).await;
                let before = self.status(|_| true).await.totals.picks;
                let status = self.status(|policy| policy.totals.picks > before + 1000).await;
                assert!(status.quarantined.is_none(), "{name}: {:?}", status.quarantined);
            }
            (End::CannotHandOver(kinds), File::Bytes(bytes)) => {
                self.active(&digest(bytes)).await;
                let before = self.status(|_| true).await.faults;
                self.put(&Self::good());
                self.active(&good).await;
                let more = |policy: &PolicyStatus| {
                    let count = |faults: &BTreeMap<FaultKind, u64>, kind| faults.get(kind).copied();
                    kinds.iter().all(|kind| count(&policy.faults, kind) > count(&before, kind))
                };
                self.status(more).await;
            }
            (End::Gone, _) => {
                self.status(|policy| policy.state == PolicyState::Removed).await;
            }
            (end, _) => panic!("{name}: {end:?} needs a file with bytes"),
        }
        if !matches!(bad.end, End::Harmless | End::CannotHandOver(_)) {
            assert_eq!(self.channel.status().policy.digest, good, "{name}");
        }
        // This also replaces a FIFO by a file.
        self.put(&Self::good());
        let settled = |policy: &PolicyStatus| {
            matches!(policy.state, PolicyState::Active | PolicyState::Probation)
                && policy.version.as_ref().is_some_and(|version| version.digest == good)
        };
        self.status(settled).await;
        let restored = |status: &ChannelStatus| status.policy.digest == good && status.refused.is_none();
        soon("the good version", self.channel.wait_for(restored)).await;
    }
}

fn expect_words(name: &str, message: &str, words: &str) {
    assert!(message.contains(words), "{name}: {message}");
    assert!(!message.contains('\n') && message.len() < 2000, "{name}: not one short line: {message:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bad_file_costs_an_rpc() {
    let subject = Subject::new().await;
    let corpus = corpus();
    assert!(corpus.len() >= 60, "{}", corpus.len());
    for bad in &corpus {
        let load = Load::start(&subject.caller, 4, 1);
        eprintln!("{bad:?}");
        subject.try_file(bad).await;
        let (calls, failed) = load.stop().await;
        assert!(failed.is_empty(), "{bad:?}: {} of {calls} failed: {:?}", failed.len(), failed[0]);
    }
    assert_eq!(subject.cluster.accepted(), 2, "a bad file caused a connection");
}

/// Truncates a policy at the end of each section, where the rest may be valid, and at 200 other places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_part_of_a_policy_is_a_policy() {
    let subject = Subject::new().await;
    let load = Load::start(&subject.caller, 2, 1);
    let names = (0..).map(|n| format!("cut-{n}"));
    let cut: Vec<_> = names.zip(truncations(200, 7)).collect();
    for (name, bytes) in &cut {
        subject.policies.put(&format!("{name}.wasm"), bytes);
    }
    for (name, bytes) in &cut {
        let status = subject.policies.wait_for(name, |policy| policy.rejected.is_some()).await;
        assert!(status.version.is_none(), "{name}: loaded {} bytes", bytes.len());
    }
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

/// Overwrites a file repeatedly with two policies in turn while it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_it_is_read_is_read_whole_or_not_at_all() {
    let subject = Subject::new().await;
    let load = Load::start(&subject.caller, 4, 1);
    let other = Wat { pick: "(call $picked (global.get $first)) (nop)", ..Wat::default() }.component();
    let (one, two) = (Wat::first(), other);
    let path = subject.policies.path().join("p.wasm");
    let writer = std::thread::spawn({
        let (one, two) = (one.clone(), two.clone());
        move || {
            for n in 0..2000 {
                std::fs::write(&path, if n % 2 == 0 { &two } else { &one }).expect("written");
            }
            std::fs::write(&path, &two).expect("written");
        }
    });
    subject.active(&digest(&two)).await;
    writer.join().expect("no panic");
    subject.active(&digest(&two)).await;
    let status = subject.status(|policy| policy.rejected.is_none()).await;
    assert!(status.rejections.is_empty(), "{:?}", status.rejections);
    let (calls, failed) = load.stop().await;
    assert!(failed.is_empty(), "{} of {calls} failed: {:?}", failed.len(), failed[0]);
}

#[tokio::test]
async fn a_policy_that_needs_wasi_runs_unless_it_may_not() {
    let cluster = Cluster::start(&["a", "b"]).await;
    let policies = Policies::with(&[("p.wasm", &with_wasi())]);
    let channel =
        cluster.channel().policies(&policies.followed).policy("p").connect_lazy().expect("a channel");
    let caller = Caller::ready(&channel, Some("p")).await;
    assert_eq!(caller.tally(10).await.get("a"), Some(&10));
    // An operator can withhold WASI.
    let without = b"[grants]\ncapabilities = ['env']\n";
    let refusing = Policies::with(&[("q.wasm", &with_wasi()), ("q.toml", without)]);
    let status = refusing.wait_for("q", |policy| policy.rejected.is_some()).await;
    let error = status.rejected.expect("a reason").to_string();
    assert_eq!(error, "imports the capability \"wasi\", which its settings do not grant");
}

#[test]
fn a_missing_file_is_an_error_and_a_missing_directory_is_not() {
    let options = hotpick::directory::PolicyDirOptions::default();
    let error = hotpick::directory::load("nowhere.wasm", &options).expect_err("the file is missing");
    assert!(error.to_string().starts_with("cannot be read: "), "{error}");
    drop(PolicyDir::open("/nowhere/at/all").expect("a missing directory is not an error"));
}
