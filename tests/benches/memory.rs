//! Memory of the first channel with a policy, and of each further one.
//!
//! `cargo bench --workspace --bench memory` prints a table in Markdown and takes a few seconds. The channels have
//! resolved their target and the policy is active; no subconn is connected.

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick_tests::table::Table;
use hotpick_tests::{Policies, STANDARD, resident, standard};

const CHANNELS: u64 = 200;

#[tokio::main]
async fn main() {
    let mut table = Table::new(["policy", "first channel", "each further channel"]);
    // Initializes the engine, the runtime and the allocator, which are not measured.
    let warm = [Measured::start("pick_first").await];
    let mut all = Vec::new();
    for name in STANDARD.into_iter().filter(|name| *name != "pick_first") {
        let measured = Measured::start(name).await;
        table.row([
            format!("`{name}`"),
            format!("{} KiB", measured.first),
            format!("{} KiB", measured.further / CHANNELS),
        ]);
        all.push(measured);
    }
    println!("{table}");
    drop((warm, all));
}

struct Measured {
    first: u64,
    further: u64,
    _channels: Vec<Channel>,
    _policies: Policies,
}

impl Measured {
    async fn start(name: &str) -> Self {
        let policies = Policies::with(&[(&format!("{name}.wasm"), &standard(name))]);
        // Compilation is not measured.
        policies.wait_for(name, |status| status.version.is_some()).await;
        let before = resident("self");
        let mut channels = vec![channel(&policies, name).await];
        let first = resident("self").saturating_sub(before);
        for _ in 0..CHANNELS {
            channels.push(channel(&policies, name).await);
        }
        let further = resident("self").saturating_sub(before + first);
        Self { first, further, _channels: channels, _policies: policies }
    }
}

async fn channel(policies: &Policies, name: &str) -> Channel {
    // Nothing listens on these ports.
    let builder = Channel::builder("ipv4:127.0.0.1:1,127.0.0.1:2,127.0.0.1:3").policies(&policies.followed);
    let channel = builder.policy(name).connect_lazy().expect("a channel");
    channel.wait_for(|status: &ChannelStatus| status.policy.generation > 0).await;
    channel
}
