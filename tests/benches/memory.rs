//! Memory of the first channel with a policy, and of each further one.
//!
//! `cargo bench --workspace --bench memory` prints a table in Markdown and takes less than a minute. The channels of the first
//! two columns have resolved their target, and the policy is active; no subconn is connected. Those of the last one
//! have sent RPCs to three endpoints, which are another process.

use std::net::SocketAddr;

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick_tests::bench::Servers;
use hotpick_tests::table::Table;
use hotpick_tests::{Caller, Policies, STANDARD, metadata, resident, standard};
use tonic::Request;
use tonic::metadata::MetadataMap;

const CHANNELS: u64 = 200;
/// Number of channels that have connections.
const CONNECTED: u64 = 50;
const RPCS: u32 = 20;

fn main() {
    if Servers::serve_if_asked() {
        return;
    }
    let servers = Servers::start(3);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(&servers.addresses));
}

async fn measure(servers: &[SocketAddr]) {
    // Nothing listens on these ports.
    let nowhere: Vec<_> = (1..=3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    // Initializes the engine, the runtime and the allocator, which are not measured.
    let mut all = vec![channels("pick_first", &nowhere, 1).await, channels("pick_first", servers, 1).await];
    let mut table =
        Table::new(["policy", "first channel", "each further channel", "each with ready endpoints"]);
    for name in STANDARD.into_iter().filter(|name| *name != "pick_first") {
        let apart = channels(name, &nowhere, CHANNELS).await;
        let connected = channels(name, servers, CONNECTED).await;
        let memory = [apart.first, apart.further, connected.further].map(|memory| format!("{memory} KiB"));
        table.row([format!("`{name}`")].into_iter().chain(memory));
        all.extend([apart, connected]);
    }
    println!("{table}");
    drop(all);
}

/// Channels, and their memory in KiB.
struct Measured {
    first: u64,
    /// That of each one but the first.
    further: u64,
    _channels: Vec<Channel>,
    _policies: Policies,
}

/// Creates a channel to these endpoints, and `further` ones.
async fn channels(name: &str, endpoints: &[SocketAddr], further: u64) -> Measured {
    let policies = Policies::with(&[(&format!("{name}.wasm"), &standard(name))]);
    // Compilation is not measured.
    policies.wait_for(name, |status| status.version.is_some()).await;
    let before = resident("self");
    let mut channels = vec![channel(&policies, name, endpoints).await];
    let first = resident("self").saturating_sub(before);
    for _ in 0..further {
        channels.push(channel(&policies, name, endpoints).await);
    }
    let further = resident("self").saturating_sub(before + first) / further;
    Measured { first, further, _channels: channels, _policies: policies }
}

async fn channel(policies: &Policies, name: &str, endpoints: &[SocketAddr]) -> Channel {
    let colors = ["red", "blue"].into_iter().cycle();
    let endpoint =
        |(address, color): (&SocketAddr, _)| Endpoint::new((*address).into()).with_attribute("color", color);
    let resolver = ManualResolver::new(endpoints.iter().zip(colors).map(endpoint).collect::<Vec<_>>());
    let builder = Channel::builder("static:///bench").resolver(resolver).policies(&policies.followed);
    let channel = builder.policy(name).connect_lazy().expect("a channel");
    channel.wait_for(|status: &ChannelStatus| status.policy.generation > 0).await;
    if endpoints[0].port() > 3 {
        // Some policies connect to few endpoints, or only to those that they pick.
        channel.wait_for(|status: &ChannelStatus| status.can_pick).await;
        for number in 0..RPCS {
            let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
            *request.metadata_mut() = MetadataMap::from_headers(metadata(number));
            Caller::of(&channel).request(request).await.expect("an answer");
        }
    }
    channel
}
