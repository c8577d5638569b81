//! The stream of server-sent events that feeds a page.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_core::Stream;
use http_body::Frame;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::sampler::{Live, Message};

/// Returns the frames of one page's stream: the whole state, then what changes. A page that does not read fast enough
/// gets the whole state again.
pub(crate) fn stream(live: Arc<Live>) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    let messages = live.listen();
    futures_util::stream::unfold((live, messages, true), |(live, mut messages, is_first)| async move {
        let event = if is_first { Some(snapshot(&live)) } else { next(&live, &mut messages).await };
        Some((Ok(Frame::data(event?)), (live, messages, false)))
    })
}

async fn next(live: &Live, messages: &mut Receiver<Message>) -> Option<Bytes> {
    match messages.recv().await {
        Ok(Message::Tick(data)) => Some(event("tick", &data)),
        Ok(Message::Event(data)) => Some(event("event", &data)),
        Ok(Message::Changed) | Err(RecvError::Lagged(_)) => Some(snapshot(live)),
        Err(RecvError::Closed) => None,
    }
}

fn snapshot(live: &Live) -> Bytes {
    event("snapshot", &live.snapshot().to_string())
}

/// JSON has no line breaks, so one line of data is enough.
fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}
