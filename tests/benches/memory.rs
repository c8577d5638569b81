//! Memory of a channel with a policy.
//!
//! `cargo bench --workspace --bench memory` prints a table in Markdown and takes about a minute. The channels of the second column
//! have resolved their target, and the policy is active; no subconn is connected. Those of the third have sent RPCs, and
//! have the connections that the policy has made. Each value is measured in a process of its own, whose first channels
//! use what is left of compiling and do not count.

use std::net::SocketAddr;
use std::process::Command;

use hotpick::Channel;
use hotpick::channel::ChannelStatus;
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick_tests::bench::{Servers, load};
use hotpick_tests::table::Table;
use hotpick_tests::{Caller, Policies, STANDARD, metadata, resident, standard};
use tonic::Request;
use tonic::metadata::MetadataMap;

/// Number of channels that are not measured.
const FIRST: usize = 20;
const CHANNELS: u64 = 80;
/// Number of RPCs of a channel that connects, with as many keys.
const RPCS: u32 = 20;

fn main() {
    if Servers::serve_if_asked() {
        return;
    }
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let ["measure", name, servers @ ..] = &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let servers: Vec<_> = servers.iter().map(|server| server.parse().expect("an address")).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        println!("{}", runtime.block_on(measure(name, &servers)));
        return;
    }
    let servers = Servers::start(3);
    let mut table = Table::new(["policy", "a channel", "with connections", "connections"]);
    for name in STANDARD {
        let measured = [&[][..], &servers.addresses].map(|servers| in_a_process(name, servers));
        let connections = measured[1].1.clone();
        let [apart, connected] = measured.map(|(memory, _)| format!("{memory} KiB"));
        table.row([format!("`{name}`"), apart, connected, connections]);
    }
    println!("{}\n\n{table}", load());
}

/// Measures channels to these servers, or to none, in a process of its own. Returns the memory of one in KiB, and its number
/// of connections.
fn in_a_process(name: &str, servers: &[SocketAddr]) -> (String, String) {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args(["measure", name]).args(servers.iter().map(ToString::to_string));
    let output = command.output().expect("started");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let (memory, connections) = text.trim().split_once(' ').expect("two numbers");
    (memory.to_owned(), connections.to_owned())
}

async fn measure(name: &str, servers: &[SocketAddr]) -> String {
    let policies = Policies::with(&[(&format!("{name}.wasm"), &standard(name))]);
    // Compilation is not measured.
    policies.wait_for(name, |status| status.version.is_some()).await;
    let mut channels = Vec::new();
    for _ in 0..FIRST {
        channels.push(channel(&policies, name, servers).await);
    }
    let before = resident("self");
    for _ in 0..CHANNELS {
        channels.push(channel(&policies, name, servers).await);
    }
    let memory = resident("self").saturating_sub(before) / CHANNELS;
    let last = channels.last().expect("many").status();
    format!("{memory} {}", last.ready.ready().len())
}

async fn channel(policies: &Policies, name: &str, servers: &[SocketAddr]) -> Channel {
    // Nothing listens on these ports.
    let nowhere = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let addresses = if servers.is_empty() { &nowhere } else { servers };
    let colors = ["red", "blue"].into_iter().cycle();
    let endpoint =
        |(address, color): (&SocketAddr, _)| Endpoint::new((*address).into()).with_attribute("color", color);
    let resolver = ManualResolver::new(addresses.iter().zip(colors).map(endpoint).collect::<Vec<_>>());
    let builder = Channel::builder("static:///bench").resolver(resolver).policies(&policies.followed);
    let channel = builder.policy(name).connect_lazy().expect("a channel");
    channel.wait_for(|status: &ChannelStatus| status.policy.generation > 0).await;
    if !servers.is_empty() {
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
