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
    escaped(serde_json::to_string(&line).unwrap_or_default())
}

/// Escapes what JSON allows but a terminal obeys. Such characters occur in texts only.
fn escaped(json: String) -> String {
    if !json.contains(is_unprintable) {
        return json;
    }
    let escape = |character: char| {
        let mut units = [0; 2];
        let units = character.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect::<String>()
    };
    let mut text = String::with_capacity(json.len() + 16);
    for character in json.chars() {
        if is_unprintable(character) { text.push_str(&escape(character)) } else { text.push(character) }
    }
    text
}

/// Returns whether a terminal may obey a character instead of showing it: control characters, and those that change the
/// direction of the text around them.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn attempt(attempt: &AttemptRecord) -> AttemptLine<'_> {
    let pick = attempt.pick.as_ref();
    let policy = pick.and_then(|pick| pick.policy.as_deref());
    AttemptLine {
        kind: attempt.kind.name(),
        endpoint: pick.map(|pick| pick.subconn.endpoint().addresses()[0].to_string()),
        policy: policy.map(|policy| policy.name.as_str()),
        // A policy that is built in has none.
        version: policy.map(|policy| policy.generation).filter(|generation| *generation > 0),
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
    fn what_a_terminal_would_obey_is_escaped() {
        let text = "\u{4e2d}\u{9b}2J\u{202e}\u{7f}";
        let json = escaped(serde_json::to_string(text).expect("text"));
        assert_eq!(json, "\"\u{4e2d}\\u009b2J\\u202e\\u007f\"");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn long_texts_are_clipped_between_characters() {
        assert_eq!(clipped("\u{e4}"), "\u{e4}");
        let long = "\u{e4}".repeat(1000);
        let long = clipped(&long);
        assert!(long.ends_with("\u{e4}...") && long.chars().count() == 503);
    }
}
