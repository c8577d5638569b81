//! `hotpick record`: a recording of a policy at work in a sidecar.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use http_body_util::BodyExt as _;

use super::client::{Listener, token};

#[derive(Debug, clap::Args)]
pub(crate) struct RecordArguments {
    /// The admin listener of a sidecar, which must allow control: http://HOST:PORT with a token, or unix:/PATH for its
    /// control socket.
    #[arg(value_name = "URL")]
    url: String,
    /// The policy. Needed if there are several.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Only a channel to this target.
    #[arg(long, value_name = "TARGET")]
    target: Option<String>,
    /// Length of the recording.
    #[arg(long, value_name = "N", default_value_t = 30)]
    seconds: u64,
    /// Size at which the recording ends (MiB).
    #[arg(long, value_name = "N", default_value_t = 64)]
    mib: u64,
    /// Metadata keys of which the values are recorded although the policy does not declare them.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    metadata: Vec<String>,
    /// Metadata keys of which the values are recorded as they are. Others are hashed.
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    plain: Vec<String>,
    /// Where the trace is written. By default POLICY.trace.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// File with the token that the sidecar asks for.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) fn record(arguments: &RecordArguments) -> anyhow::Result<ExitCode> {
    let listener = Listener::parse(&arguments.url)?;
    let token = token(arguments.token_file.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fetch(arguments, &listener, token.as_deref()))
}

/// Time beyond the length of a recording for the instance to be replaced, and for the last bytes.
const MORE: Duration = Duration::from_secs(10);

async fn fetch(
    arguments: &RecordArguments,
    listener: &Listener,
    token: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("policy", &arguments.policy), ("target", &arguments.target)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.append_pair("seconds", &arguments.seconds.to_string());
    query.append_pair("mib", &arguments.mib.to_string());
    for (name, values) in [("metadata", &arguments.metadata), ("plain", &arguments.plain)] {
        query.append_pair(name, &values.join(","));
    }
    let answer = listener.ask(Method::POST, &format!("/record?{}", query.finish()), token).await?;
    let name = arguments.policy.as_deref().unwrap_or("policy");
    let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.trace")));
    // With the first bytes: what was there is kept if there are none.
    let mut file = None;
    let mut body = answer.into_body();
    let mut written = 0;
    let ends = tokio::time::Instant::now() + Duration::from_secs(arguments.seconds) + MORE;
    loop {
        match tokio::time::timeout_at(ends, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(&[][..], |data| data);
                let create = || std::fs::File::create(&out).with_context(|| format!("cannot write {out:?}"));
                let file = match &mut file {
                    Some(file) => file,
                    None => file.insert(create()?),
                };
                file.write_all(bytes).with_context(|| format!("cannot write {out:?}"))?;
                written += bytes.len();
            }
            Ok(Some(Err(error))) => {
                eprintln!("hotpick: the connection ended ({error}): the trace is cut off");
                break;
            }
            Ok(None) => break,
            Err(_) => {
                anyhow::bail!("the sidecar did not end the recording in time: no RPC, or no instance started")
            }
        }
    }
    anyhow::ensure!(written > 0, "nothing was recorded: no instance of the policy was started");
    say!("{} {written} bytes", out.display());
    drop(file);
    if let Ok(trace) = crate::replay::read(&out) {
        say!("{}", crate::replay::described(&trace));
    }
    Ok(ExitCode::SUCCESS)
}
