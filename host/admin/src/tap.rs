//! RPCs as they end, for those who listen.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use hotpick::call::CallRecord;
use http_body::Frame;
use serde_json::json;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::line::line;

/// RPCs that a listener may be behind. It misses those beyond.
const BEHIND: usize = 1024;

/// Hands out RPCs as they end. Costs a load for each RPC while nobody listens.
#[derive(Debug)]
pub(crate) struct Tap(broadcast::Sender<Arc<Tapped>>);

/// An RPC that has ended.
#[derive(Debug)]
pub(crate) struct Tapped {
    pub(crate) method: String,
    /// Addresses of the endpoints of its attempts.
    pub(crate) endpoints: Vec<String>,
    /// Names of the policies of its attempts.
    pub(crate) policies: Vec<String>,
    pub(crate) line: String,
}

impl Default for Tap {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Tap {
    pub(crate) fn ended(&self, record: &CallRecord<'_>) {
        if self.0.receiver_count() > 0 {
            self.tell(record);
        }
    }

    #[cold]
    fn tell(&self, record: &CallRecord<'_>) {
        let picks = || record.attempts.iter().filter_map(|attempt| attempt.pick.as_ref());
        let tapped = Tapped {
            method: record.call.method().to_owned(),
            endpoints: picks().map(|pick| pick.subconn.endpoint().addresses()[0].to_string()).collect(),
            policies: picks()
                .filter_map(|pick| pick.policy.as_ref().map(|policy| policy.name.clone()))
                .collect(),
            line: line(record),
        };
        // Fails if the last listener has left meanwhile.
        let _ = self.0.send(Arc::new(tapped));
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Tapped>> {
        self.0.subscribe()
    }
}

/// Which RPCs a listener wants.
#[derive(Debug, PartialEq)]
pub(crate) struct Filter {
    method: Option<String>,
    endpoint: Option<String>,
    policy: Option<String>,
    /// Part of the RPCs, from 0 to 1.
    share: f64,
}

impl Filter {
    /// Reads a filter from the query of a request.
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        let mut filter = Self { method: None, endpoint: None, policy: None, share: 1.0 };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "method" => filter.method = Some(value.into_owned()),
                "endpoint" => filter.endpoint = Some(value.into_owned()),
                "policy" => filter.policy = Some(value.into_owned()),
                "share" => {
                    let share = value.parse().ok().filter(|share| (0.0..=1.0).contains(share));
                    filter.share =
                        share.ok_or_else(|| format!("share is {value:?}: expected a number from 0 to 1"))?;
                }
                _ => {
                    return Err(format!(
                        "unknown parameter {name:?}: expected method, endpoint, policy or share"
                    ));
                }
            }
        }
        Ok(filter)
    }

    /// Returns whether the listener wants this RPC. A method, an endpoint or a policy is wanted if it contains the text.
    fn wants(&self, tapped: &Tapped) -> bool {
        let contains = |wanted: &Option<String>, texts: &[String]| {
            wanted.as_ref().is_none_or(|wanted| texts.iter().any(|text| text.contains(wanted)))
        };
        contains(&self.method, std::slice::from_ref(&tapped.method))
            && contains(&self.endpoint, &tapped.endpoints)
            && contains(&self.policy, &tapped.policies)
            && (self.share >= 1.0 || fastrand::f64() < self.share)
    }
}

/// Returns the frames of one listener: a line of JSON for each RPC that it wants, and one that says how many RPCs it has
/// missed because it reads too slowly.
pub(crate) fn lines(
    taps: Vec<broadcast::Receiver<Arc<Tapped>>>,
    filter: Filter,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let all = futures_util::stream::select_all(taps.into_iter().map(BroadcastStream::new));
    all.filter_map(move |tapped| {
        let line = match tapped {
            Ok(tapped) => filter.wants(&tapped).then(|| tapped.line.clone()),
            Err(BroadcastStreamRecvError::Lagged(missed)) => Some(json!({ "missed": missed }).to_string()),
        };
        std::future::ready(line.map(|line| Ok(Frame::data(format!("{line}\n").into()))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_wants_what_contains_its_texts() {
        let tapped = Tapped {
            method: "shop.Cart/Add".to_owned(),
            endpoints: vec!["10.0.0.1:5001".to_owned(), "10.0.0.2:5001".to_owned()],
            policies: vec!["color".to_owned()],
            line: String::new(),
        };
        let wants = |query: &str| Filter::parse(query).expect("valid").wants(&tapped);
        assert!(wants("") && wants("method=Cart%2F") && wants("endpoint=10.0.0.2&policy=color"));
        assert!(
            !wants("method=Basket")
                && !wants("endpoint=10.0.0.3")
                && !wants("policy=p2c")
                && !wants("share=0")
        );
        assert!(Filter::parse("share=2").expect_err("too much").contains("from 0 to 1"));
        assert!(Filter::parse("path=x").expect_err("unknown").contains("unknown parameter"));
    }
}
