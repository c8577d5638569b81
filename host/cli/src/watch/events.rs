//! Server-sent events of `/live`.

use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::client::Lines;
use super::model::Update;

/// The events of one stream.
pub(crate) struct Events {
    body: Incoming,
    lines: Lines,
    name: String,
    ready: std::collections::VecDeque<Update>,
}

impl Events {
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body, lines: Lines::default(), name: String::new(), ready: std::collections::VecDeque::new() }
    }

    /// Waits for the next event. `None`: the stream has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        loop {
            if let Some(update) = self.ready.pop_front() {
                return Some(update);
            }
            let frame = self.body.frame().await?.ok()?;
            for line in self.lines.feed(frame.data_ref().map_or(&[][..], |data| data)) {
                if let Some(name) = line.strip_prefix("event: ") {
                    name.clone_into(&mut self.name);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    // A newer listener may have events that are not known here.
                    self.ready.extend(Update::parse(&self.name, data));
                }
            }
        }
    }
}
