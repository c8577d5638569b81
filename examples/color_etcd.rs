//! Routing by colour over servers that register themselves in etcd:
//! `cargo run -p hotpick-examples --example color_etcd -- 127.0.0.1:2379`, with an etcd there.
//!
//! Three servers put an entry each, with a lease; a channel follows the entries; the policy `color` sends an
//! RPC with the metadata `color: red` to the red ones in turns. A server that leaves revokes its entry first,
//! and no RPC notices.

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

    /// First the entry goes, so that no new RPC comes; then those that are open finish.
    async fn leave(self) {
        self.entry.revoke().await;
        self.server.leave();
        self.server.left().await;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let etcd = Etcd::builder(&address).connect()?;
    let mut servers = Vec::new();
    for (name, color) in [("green-1", "green"), ("red-1", "red"), ("red-2", "red")] {
        servers.push(Registered::start(&etcd, name, color).await?);
    }

    let policies = PolicyDir::open("policies/dist")?;
    let channel = Channel::builder(format!("etcd:///{SERVICE}?endpoints={address}"))
        .policies(&policies)
        .policy("color")
        .connect()?;
    let ready = |status: &hotpick::channel::ChannelStatus| {
        status.policy.generation > 0 && status.ready.ready().len() == 3
    };
    channel.wait_for(ready).await;
    for color in ["red", "green"] {
        let mut answers = Vec::new();
        for _ in 0..4 {
            answers.push(call(&channel, color).await?);
        }
        // From a random start: shown from its first.
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

/// An RPC with this colour. Gives the name of the server that answered.
async fn call(channel: &Channel, color: &'static str) -> anyhow::Result<String> {
    let mut request = Request::new(EchoRequest::new("hello"));
    request.metadata_mut().insert("color", MetadataValue::from_static(color));
    Ok(EchoClient::new(channel.clone()).unary(request).await?.into_inner().backend)
}
