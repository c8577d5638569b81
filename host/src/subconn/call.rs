//! An attempt of an RPC on a subconn, and how it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tonic::Code;

use super::Shared;
use super::transport::{InFlight, Transport};

/// What a picker wants to be told the end of an attempt with. Called on the RPC's path: must not block.
pub type Done = Box<dyn FnOnce(&DoneInfo<'_>) + Send>;

/// How an attempt of an RPC ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DoneInfo<'a> {
    /// The RPC's status code. None: it never left, or the peer has not looked at it; it is picked again,
    /// or ends without having been served.
    pub code: Option<Code>,
    /// The client gave up: it cancelled the RPC, or its deadline passed. That says little of the server.
    pub client_ended: bool,
    /// The trailers, if the RPC came so far.
    pub trailers: Option<&'a http::HeaderMap>,
}

/// What an attempt of an RPC is sent with.
pub(crate) struct Attempt {
    /// Told of the end once, whatever happens.
    pub(crate) done: Option<Done>,
    pub(crate) deadline: Option<Instant>,
    /// Since when the request says how long there is to the deadline; none if it does not.
    pub(crate) told: Option<Instant>,
}

/// An attempt of an RPC on a subconn. Ends once: [`end`](Self::end) says how, a drop means that the client
/// gave up, or that the deadline has passed.
pub(crate) struct Call {
    open: Option<Open>,
    deadline: Option<Instant>,
}

struct Open {
    subconn: Arc<Shared>,
    /// None until it is on a connection.
    stream: Option<InFlight>,
    done: Option<Done>,
    begun: Instant,
}

impl Call {
    pub(super) fn begin(subconn: Arc<Shared>, done: Option<Done>, deadline: Option<Instant>) -> Self {
        subconn.stats.begin();
        Self { open: Some(Open { subconn, stream: None, done, begun: Instant::now() }), deadline }
    }

    pub(super) fn on(&mut self, transport: &Transport) {
        if let Some(open) = &mut self.open {
            open.stream = Some(InFlight::on(transport.link()));
        }
    }

    /// It never left, or the peer has not looked at it.
    pub(super) fn not_sent(&mut self) {
        if let Some(open) = self.open.take() {
            open.subconn.stats.unsend();
            open.finish(&DoneInfo { code: None, client_ended: false, trailers: None });
        }
    }

    /// The RPC ended with this code, and these trailers if it came so far.
    pub(crate) fn end(&mut self, code: Code, trailers: Option<&http::HeaderMap>) {
        self.ended(&DoneInfo { code: Some(code), client_ended: false, trailers });
    }

    /// The client gave up, for this reason.
    pub(crate) fn give_up(&mut self, code: Code) {
        self.ended(&DoneInfo { code: Some(code), client_ended: true, trailers: None });
    }

    fn ended(&mut self, info: &DoneInfo<'_>) {
        if let Some(open) = self.open.take() {
            open.subconn.stats.end(info.code == Some(Code::Ok), info.client_ended, open.begun);
            open.finish(info);
        }
    }
}

impl Open {
    fn finish(self, info: &DoneInfo<'_>) {
        let Self { subconn, stream, done, begun: _ } = self;
        drop(stream);
        if subconn.waiting.load(Ordering::SeqCst) > 0 {
            subconn.room.notify_one();
        }
        if let Some(done) = done {
            done(info);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        match &self.open {
            None => {}
            Some(open) if open.stream.is_none() => self.not_sent(),
            Some(_) if self.deadline.is_some_and(|at| at <= Instant::now()) => {
                self.give_up(Code::DeadlineExceeded);
            }
            Some(_) => self.give_up(Code::Cancelled),
        }
    }
}
