//! A client whose RPCs are balanced by a WebAssembly policy. Run `cargo run -p hotpick-examples --example hello`,
//! and, while it runs, `cp policies/dist/color.wasm <the directory that it prints>/greeting.wasm`.

use std::time::Duration;

use hotpick::{Channel, PolicyDir};
use hotpick_echo::{Backend, EchoClient, EchoRequest};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("hotpick=info").init();
    let first = Backend::start("first", "127.0.0.1:0".parse()?).await?;
    let second = Backend::start("second", "127.0.0.1:0".parse()?).await?;

    let directory = std::env::temp_dir().join("hotpick-hello");
    std::fs::create_dir_all(&directory)?;
    println!("policies are read from {}: copy one in as greeting.wasm", directory.display());

    let policies = PolicyDir::open(&directory)?;
    let channel = Channel::builder(format!("static:///{},{}", first.address(), second.address()))
        .policies(&policies)
        .policy("greeting")
        .connect_lazy()?;
    let mut client = EchoClient::new(channel.clone());
    for n in 0..60 {
        let response = client.unary(EchoRequest::new(format!("hello {n}"))).await?.into_inner();
        println!("{} said {:?}, picked by {}", response.backend, response.text, channel.status().policy);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
