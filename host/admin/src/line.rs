//! One RPC as a line of JSON: for the access log of the sidecar, and for `hotpick tap`.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use hotpick::call::{AttemptRecord, CallRecord, DelayRecord, Messages, code_name};
use serde::Serialize;

use crate::status::millis;

/// The members of a line.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    target: &'a str,
    method: Cow<'a, str>,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Cow<'a, str>>,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    client_ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolving_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_delay_ms: Option<f64>,
    attempts: Vec<AttemptLine<'a>>,
}

#[derive(Serialize)]
struct AttemptLine<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    picked: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    said: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_ms: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    delays: Vec<DelayLine<'a>>,
    request: MessagesLine,
    response: MessagesLine,
}

#[derive(Serialize)]
struct DelayLine<'a> {
    #[serde(rename = "for")]
    delay: &'static str,
    ms: f64,
    reason: Cow<'a, str>,
}

#[derive(Serialize)]
struct MessagesLine {
    messages: u64,
    bytes: u64,
}

/// Returns an RPC that has ended as a line of JSON, without its end: time, method, code, latency, attempts with endpoint,
/// policy, delays and sizes, and the client of a proxy. `docs/operating.md` describes the members.
#[must_use]
pub fn line(record: &CallRecord<'_>) -> String {
    let started = SystemTime::now().checked_sub(record.duration).unwrap_or(SystemTime::UNIX_EPOCH);
    let unless_zero = |time: Duration| (!time.is_zero()).then(|| millis(time));
    let line = Line {
        time: humantime::format_rfc3339_millis(started).to_string(),
        target: &record.call.target,
        method: clipped(record.call.method()),
        code: code_name(record.code),
        message: record.message.map(clipped),
        ms: millis(record.duration),
        peer: record.call.peer.as_ref().map(ToString::to_string),
        client_ended: record.client_ended,
        resolving_ms: unless_zero(record.resolving),
        retry_delay_ms: unless_zero(record.retry_delay),
        attempts: record.attempts.iter().map(attempt).collect(),
    };
    // Fails for no value of these types.
    serde_json::to_string(&line).unwrap_or_default()
}

fn attempt(attempt: &AttemptRecord) -> AttemptLine<'_> {
    let pick = attempt.pick.as_ref();
    let policy = pick.and_then(|pick| pick.policy.as_deref());
    AttemptLine {
        kind: attempt.kind.name(),
        endpoint: pick.map(|pick| pick.subconn.endpoint().addresses()[0].to_string()),
        policy: policy.map(|policy| policy.name.as_str()),
        version: policy.map(|policy| policy.generation),
        picked: pick.map(|pick| pick.by.name()),
        said: pick.and_then(|pick| pick.explanation.as_deref()).map(clipped),
        code: attempt.code.map(code_name),
        ms: millis(attempt.duration()),
        sent_ms: attempt.latency().map(millis),
        delays: attempt.delays.iter().map(DelayLine::of).collect(),
        request: messages(attempt.request),
        response: messages(attempt.response),
    }
}

impl<'a> DelayLine<'a> {
    fn of(record: &'a DelayRecord) -> Self {
        Self { delay: record.delay.name(), ms: millis(record.duration), reason: clipped(&record.reason) }
    }
}

const fn messages(messages: Messages) -> MessagesLine {
    MessagesLine { messages: messages.count, bytes: messages.bytes }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Longest text of a line (characters).
const LONGEST: usize = 500;

fn clipped(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((at, _)) => format!("{}...", &text[..at]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(clipped("\u{e4}"), "\u{e4}");
        let long = "\u{e4}".repeat(1000);
        let long = clipped(&long);
        assert!(long.ends_with("\u{e4}...") && long.chars().count() == 503);
    }
}
