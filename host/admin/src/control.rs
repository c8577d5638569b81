//! Requests that change something, or that show what RPCs carry: by POST, and not for everyone who can read metrics.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hotpick::PolicyDir;
use hotpick::policy::RolloutCommand;
use hotpick::trace::{RecordOptions, TraceStream};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::body::Body;

use crate::access::is_bearer;

/// Why a request is refused: a status, and a sentence.
pub(crate) type Refused = (StatusCode, String);

/// Who may control policies.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// The token to show. `None`: only who is trusted anyway.
    pub(crate) token: Option<String>,
}

impl Control {
    /// Refuses a request without the token.
    pub(crate) fn admit(&self, headers: &HeaderMap, is_trusted: bool) -> Result<(), Refused> {
        match &self.token {
            _ if is_trusted => Ok(()),
            Some(token) if is_bearer(headers, token) => Ok(()),
            Some(_) => {
                let sentence = "control needs the token: send Authorization: Bearer TOKEN";
                Err((StatusCode::UNAUTHORIZED, sentence.to_owned()))
            }
            None => {
                let sentence = "control is off here: set control = true and token_file, or control_socket, in [admin] \
                                of the sidecar's configuration";
                Err((StatusCode::FORBIDDEN, sentence.to_owned()))
            }
        }
    }
}

/// The fields of a query.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query that may have these fields.
    pub(crate) fn parse(query: &str, fields: &[&str]) -> Result<Self, Refused> {
        let pairs = form_urlencoded::parse(query.as_bytes()).into_owned().collect::<Vec<_>>();
        match pairs.iter().find(|(name, _)| !fields.contains(&name.as_str())) {
            Some((name, _)) => Err(bad(format!("{name:?} is no parameter: there are {}", fields.join(", ")))),
            None => {
                let is_twice = |(at, (name, _)): &(usize, &(String, String))| {
                    pairs[..*at].iter().any(|(other, _)| other == name)
                };
                match pairs.iter().enumerate().find(is_twice) {
                    Some((_, (name, _))) => Err(bad(format!("{name} is there twice"))),
                    None => Ok(Self(pairs)),
                }
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn list(&self, name: &str) -> Vec<String> {
        let values = self.get(name).into_iter().flat_map(|values| values.split(','));
        values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    fn number(&self, name: &str, most: u64) -> Result<Option<u64>, Refused> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=most).contains(number));
        number.map(Some).ok_or_else(|| bad(format!("{name} is {text:?}: use a number from 1 to {most}")))
    }

    /// Returns the policy that the request is about. Without a name, the only one there is.
    pub(crate) fn policy(&self, policies: &PolicyDir) -> Result<String, Refused> {
        let names: Vec<_> = policies.status().into_iter().map(|status| status.name).collect();
        let listed = || if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        match (self.get("policy"), &*names) {
            (Some(name), _) if names.iter().any(|known| known == name) => Ok(name.to_owned()),
            (Some(name), _) => {
                Err((StatusCode::NOT_FOUND, format!("there is no policy {name:?}: there are {}", listed())))
            }
            (None, [only]) => Ok(only.clone()),
            (None, _) => Err(bad(format!("name a policy: there are {}", listed()))),
        }
    }
}

pub(crate) fn bad(sentence: String) -> Refused {
    (StatusCode::BAD_REQUEST, sentence)
}

/// Starts a recording.
pub(crate) fn record(policies: Option<&PolicyDir>, query: &str) -> Result<TraceStream, Refused> {
    let policies = policies.ok_or_else(no_policies)?;
    let query = Query::parse(query, &["policy", "target", "seconds", "mib", "metadata", "plain"])?;
    let policy = query.policy(policies)?;
    let mut options = RecordOptions::default()
        .with_target(query.get("target").map(str::to_owned))
        .with_metadata(query.list("metadata"))
        .with_plain(query.list("plain"));
    if let Some(seconds) = query.number("seconds", RecordOptions::LONGEST.as_secs())? {
        options.time = Duration::from_secs(seconds);
    }
    if let Some(mib) = query.number("mib", RecordOptions::LARGEST >> 20)? {
        options.bytes = mib << 20;
    }
    let status = policies.status().into_iter().find(|status| status.name == policy);
    let channels = status.map(|status| status.channels).unwrap_or_default();
    let fits = |target: &String| options.target.as_ref().is_none_or(|wanted| wanted == target);
    if !channels.iter().any(|usage| fits(&usage.target)) {
        let targets: Vec<_> = channels.iter().map(|usage| usage.target.as_str()).collect();
        let targets = if targets.is_empty() { "none".to_owned() } else { targets.join(", ") };
        let sentence = format!("no channel to this target uses the policy {policy:?}: there are {targets}");
        return Err((StatusCode::CONFLICT, sentence));
    }
    let recorded = policies.record(&policy, &options);
    recorded.ok_or_else(|| (StatusCode::SERVICE_UNAVAILABLE, "too many recordings are requested".to_owned()))
}

/// Steers a rollout. Returns a sentence that says so.
pub(crate) async fn steer(policies: Option<&PolicyDir>, query: &str) -> Result<String, Refused> {
    let policies = policies.ok_or_else(no_policies)?;
    let query = Query::parse(query, &["policy", "command"])?;
    let command = match query.get("command") {
        Some("pause") => RolloutCommand::Pause,
        Some("resume") => RolloutCommand::Resume,
        Some("promote") => RolloutCommand::Promote,
        Some("abort") => RolloutCommand::Abort,
        other => {
            let other = other.unwrap_or_default();
            return Err(bad(format!("command is {other:?}: use pause, resume, promote or abort")));
        }
    };
    let policy = query.policy(policies)?;
    let steered = policies.steer(&policy, command).await;
    steered.map_err(|error| (StatusCode::CONFLICT, error.to_string()))?;
    let said = match command {
        RolloutCommand::Pause => "paused",
        RolloutCommand::Resume => "resumed",
        RolloutCommand::Promote => "promoted",
        _ => "rolled back",
    };
    Ok(format!("the rollout of {policy} is {said}"))
}

pub(crate) fn no_policies() -> Refused {
    (StatusCode::NOT_FOUND, "there is no policy directory".to_owned())
}

/// Returns a trace as the body of a response.
pub(crate) fn body(trace: TraceStream) -> Body {
    Body::new(StreamBody::new(trace.map(|bytes| Ok::<_, tonic::Status>(Frame::data(Bytes::from(bytes))))))
}
