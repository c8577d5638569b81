//! `hotpick tap`: RPCs of a sidecar as they end, one line each.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use http_body_util::BodyExt as _;
use serde::Deserialize;

use super::client::{Lines, Listener, token};

#[derive(Debug, clap::Args)]
pub(crate) struct TapArguments {
    /// The admin listener of a sidecar: http://HOST:PORT. Its configuration must allow it: tap = true in [admin].
    #[arg(value_name = "URL")]
    url: String,
    /// Only RPCs whose method contains this text.
    #[arg(long, value_name = "TEXT")]
    method: Option<String>,
    /// Only RPCs with an attempt at an endpoint whose address contains this text.
    #[arg(long, value_name = "TEXT")]
    endpoint: Option<String>,
    /// Only RPCs with an attempt picked by a policy whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    policy: Option<String>,
    /// Part of the RPCs, from 0 to 1.
    #[arg(long, value_name = "PART")]
    share: Option<f64>,
    /// File with the token that the sidecar asks for.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the lines of JSON as they come.
    #[arg(long)]
    json: bool,
}

pub(crate) fn tap(arguments: &TapArguments) -> anyhow::Result<ExitCode> {
    let listener = Listener::parse(&arguments.url)?;
    if let Some(share) = arguments.share {
        anyhow::ensure!((0.0..=1.0).contains(&share), "--share is {share}: expected a number from 0 to 1");
    }
    let token = token(arguments.token_file.as_ref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(arguments, &listener, token.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

async fn follow(arguments: &TapArguments, listener: &Listener, token: Option<&str>) -> anyhow::Result<()> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let TapArguments { method, endpoint, policy, share, .. } = arguments;
    for (name, value) in [("method", method), ("endpoint", endpoint), ("policy", policy)] {
        if let Some(value) = value {
            // Methods are shown without their leading slash.
            query.append_pair(name, value.trim_start_matches('/'));
        }
    }
    if let Some(share) = share {
        query.append_pair("share", &share.to_string());
    }
    let answer = listener.get(&format!("/tap?{}", query.finish()), token).await?;
    let (mut body, mut lines) = (answer.into_body(), Lines::default());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { break };
        for line in lines.feed(frame.data_ref().map_or(&[][..], |data| data)) {
            let text = if arguments.json { line } else { described(&line) };
            match writeln!(io::stdout().lock(), "{text}") {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
    }
    anyhow::bail!("the sidecar has ended, or closed the connection")
}

/// An RPC, or how many were missed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Missed { missed: u64 },
    Rpc(Box<Rpc>),
}

#[derive(Deserialize)]
struct Rpc {
    time: String,
    method: String,
    code: String,
    message: Option<String>,
    ms: f64,
    peer: Option<String>,
    resolving_ms: Option<f64>,
    retry_delay_ms: Option<f64>,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct Attempt {
    kind: String,
    endpoint: Option<String>,
    policy: Option<String>,
    version: Option<u64>,
    picked: Option<String>,
    said: Option<String>,
    code: Option<String>,
    ms: f64,
    #[serde(default)]
    delays: Vec<Delay>,
}

#[derive(Deserialize)]
struct Delay {
    #[serde(rename = "for")]
    delay: String,
    ms: f64,
    reason: String,
}

/// Describes an RPC in one line for people. What cannot be read is shown as it is.
fn described(line: &str) -> String {
    let rpc = match serde_json::from_str(line) {
        Ok(Said::Rpc(rpc)) => rpc,
        Ok(Said::Missed { missed }) => return format!("({missed} RPCs were missed: too many to show)"),
        Err(_) => return printable(line),
    };
    let Rpc { time, method, code, message, ms, peer, resolving_ms, retry_delay_ms, attempts } = *rpc;
    // The time of the day is enough for a live view.
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time.trim_end_matches('Z'));
    let mut text = format!("{time} {method} {code} {ms:.2} ms");
    // Writing to a String cannot fail.
    if let Some(waited) = resolving_ms {
        let _ = write!(text, "  waited {waited:.2} ms for resolving");
    }
    if let Some(waited) = retry_delay_ms {
        let _ = write!(text, "  waited {waited:.2} ms between attempts");
    }
    for attempt in &attempts {
        text.push_str("  ");
        if attempts.len() > 1 || attempt.code.as_ref() != Some(&code) {
            let code = attempt.code.as_deref().unwrap_or("?");
            let _ = write!(text, "[{} {code} {:.2} ms] ", attempt.kind, attempt.ms);
        }
        text.push_str(attempt.endpoint.as_deref().unwrap_or("no endpoint"));
        if let Some(policy) = &attempt.policy {
            let picked = attempt.picked.as_deref().unwrap_or_default();
            let _ = match attempt.version {
                Some(version) => write!(text, " {policy} #{version} {picked}"),
                None => write!(text, " {policy} (built in) {picked}"),
            };
        }
        for delay in &attempt.delays {
            let _ = write!(text, ", waited {:.2} ms for {} ({})", delay.ms, delay.delay, delay.reason);
        }
        if let Some(said) = &attempt.said {
            let _ = write!(text, ", {said:?}");
        }
    }
    if let Some(message) = message {
        let _ = write!(text, "  {message:?}");
    }
    if let Some(peer) = peer {
        let _ = write!(text, "  from {peer}");
    }
    printable(&text)
}

/// What a client chose must not move the cursor.
fn printable(text: &str) -> String {
    text.replace(hotpick_admin::is_unprintable, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rpc_is_one_line() {
        let line = r#"{"time":"2026-11-29T16:03:19.630Z","target":"t","method":"echo.Echo/Unary","code":"OK","ms":61.772,
            "peer":"127.0.0.1:1","attempts":[
            {"kind":"original","endpoint":"10.0.0.1:1","policy":"color","version":3,"picked":"planned","code":"UNAVAILABLE",
             "ms":10.0,"request":{},"response":{}},
            {"kind":"retry","endpoint":"10.0.0.2:1","policy":"color","version":3,"picked":"called","said":"red","code":"OK",
             "ms":1.5,"delays":[{"for":"connecting","ms":1.25,"reason":"no endpoint is ready"}],"request":{},"response":{}}]}"#;
        assert_eq!(
            described(line),
            "16:03:19.630 echo.Echo/Unary OK 61.77 ms  [original UNAVAILABLE 10.00 ms] 10.0.0.1:1 color #3 planned  \
             [retry OK 1.50 ms] 10.0.0.2:1 color #3 called, waited 1.25 ms for connecting (no endpoint is ready), \
             \"red\"  from 127.0.0.1:1"
        );
        assert_eq!(described(r#"{"missed":7}"#), "(7 RPCs were missed: too many to show)");
        assert_eq!(described("\"x\""), "\"x\"");
    }

    #[test]
    fn what_a_client_chose_does_not_move_the_cursor() {
        let line =
            "{\"time\":\"\",\"method\":\"a\\u001b[2J\\u202e\",\"code\":\"OK\",\"ms\":1,\"attempts\":[]}";
        assert!(!described(line).contains(['\u{1b}', '\u{202e}']));
    }
}
