//! Routing by colour over servers that register themselves in etcd:
//! `cargo run -p hotpick-examples --example color_etcd -- 127.0.0.1:2379`, with etcd at that address.
//!
//! Three servers each put an entry with a lease into etcd, and a channel follows the entries. The policy `color`
//! sends RPCs with the metadata `color: red` to the red servers in turn. A server that leaves revokes its entry
//! first, so that no RPC fails.

use std::time::Duration;

use hotpick::etcd::{Etcd, Registration};
use hotpick::{Channel, PolicyDir};
use hotpick_echo::{Backend, EchoClient, EchoRequest};
use tonic::Request;
use tonic::metadata::MetadataValue;

const SERVICE: &str = "services/echo";

/// A server that has registered itself.
struct Registered {
    server: Backend,
    entry: Registration,
}

impl Registered {
    async fn start(etcd: &Etcd, name: &str, color: &str) -> anyhow::Result<Self> {
        let server = Backend::start(name, "127.0.0.1:0".parse()?).await?;
        let (address, port) = (server.address().ip().to_string(), server.address().port());
        let value = serde_json::json!({"address": address, "port": port, "color": color});
        let key = format!("{SERVICE}/{name}");
        let entry = Registration::start(etcd, key, value, Duration::from_secs(5)).await?;
        Ok(Self { server, entry })
    }

    /// Shuts down gracefully: revokes the entry, so that no new RPCs arrive, and waits for RPCs in flight.
    async fn leave(self) {
        self.entry.revoke().await;
        self.server.leave();
        self.server.left().await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let etcd = Etcd::builder(&address).connect_lazy()?;
    let mut servers = Vec::new();
    for (name, color) in [("green-1", "green"), ("red-1", "red"), ("red-2", "red")] {
        servers.push(Registered::start(&etcd, name, color).await?);
    }

    let policies = PolicyDir::open("policies/dist")?;
    let channel = Channel::builder(format!("etcd:///{SERVICE}?endpoints={address}"))
        .policies(&policies)
        .policy("color")
        .connect_lazy()?;
    let ready = |status: &hotpick::channel::ChannelStatus| {
        status.policy.generation > 0 && status.ready.ready().len() == 3
    };
    channel.wait_for(ready).await;
    for color in ["red", "green"] {
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(call(&channel, color).await?);
        }
        // The policy starts at a random server; the output starts at the first one.
        let first = answers.iter().position(|name| name.ends_with("-1")).unwrap_or_default();
        answers.rotate_left(first);
        println!("{color}: {}", answers.join(" "));
    }

    let calls = tokio::spawn(async move {
        let mut failed = 0;
        for _ in 0..500 {
            failed += u32::from(call(&channel, "red").await.is_err());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        failed
    });
    println!("red-2 leaves");
    servers.remove(2).leave().await;
    println!("{} failed", calls.await?);
    Ok(())
}

/// Sends an RPC with this colour. Returns the name of the server that answered.
async fn call(channel: &Channel, color: &'static str) -> anyhow::Result<String> {
    let mut request = Request::new(EchoRequest::new("hello"));
    request.metadata_mut().insert("color", MetadataValue::from_static(color));
    Ok(EchoClient::new(channel.clone()).unary(request).await?.into_inner().backend)
}
