//! `hotpick rollout`: steers the rollout of a policy in a sidecar.

use std::path::PathBuf;
use std::process::ExitCode;

use http::Method;
use http_body_util::BodyExt as _;

use super::client::{Listener, token};

#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArguments {
    /// The admin listener of a sidecar, which must allow control: http://HOST:PORT with a token, or unix:/PATH for its
    /// control socket.
    #[arg(value_name = "URL")]
    url: String,
    /// What to do.
    #[arg(value_name = "COMMAND", value_parser = ["pause", "resume", "promote", "abort"])]
    command: String,
    /// The policy. Needed if there are several.
    #[arg(value_name = "NAME")]
    policy: Option<String>,
    /// File with the token that the sidecar asks for.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) fn rollout(arguments: &RolloutArguments) -> anyhow::Result<ExitCode> {
    let listener = Listener::parse(&arguments.url)?;
    let token = token(arguments.token_file.as_ref())?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("command", &arguments.command);
    if let Some(policy) = &arguments.policy {
        query.append_pair("policy", policy);
    }
    let path = format!("/rollout?{}", query.finish());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(async {
        let answer = listener.ask(Method::POST, &path, token.as_deref()).await?;
        anyhow::Ok(answer.into_body().collect().await?.to_bytes())
    })?;
    say!("{}", String::from_utf8_lossy(&said).trim());
    Ok(ExitCode::SUCCESS)
}
