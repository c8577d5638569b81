//! An attempt of an RPC on a subconn, and how it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::Shared;
use super::transport::InFlight;

/// What is told how an attempt of an RPC ended, once. Called on the RPC's path: must not block.
pub struct Done(To);

enum To {
    Once(Box<dyn FnOnce(&DoneInfo<'_>) + Send>),
    /// One listener for many RPCs: a pick makes nothing of its own.
    Listener {
        listener: Arc<dyn Listener>,
        picked: Picked,
    },
}

/// Is told of the ends of many RPCs.
pub(crate) trait Listener: Send + Sync {
    fn done(&self, picked: Picked, end: &DoneInfo<'_>);
}

/// Which pick it was, as the picker numbers it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Picked {
    /// Which instance of the policy.
    pub(crate) serial: u64,
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) subconn: u32,
}

impl Done {
    /// Calls this.
    pub fn new(done: impl FnOnce(&DoneInfo<'_>) + Send + 'static) -> Self {
        Self(To::Once(Box::new(done)))
    }

    pub(crate) fn to(listener: Arc<dyn Listener>, picked: Picked) -> Self {
        Self(To::Listener { listener, picked })
    }

    fn tell(self, end: &DoneInfo<'_>) {
        match self.0 {
            To::Once(done) => done(end),
            To::Listener { listener, picked } => listener.done(picked, end),
        }
    }
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}

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
    /// To this end from the pick, or from when it got a stream if it had to wait for one: how long there was none says
    /// nothing of the server's work.
    pub latency: Duration,
}

/// What an attempt of an RPC is sent with.
pub(crate) struct Attempt {
    /// Told of the end once, whatever happens.
    pub(crate) done: Option<Done>,
    /// When it was picked for.
    pub(crate) begun: Instant,
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
    /// The headers of the response have come.
    responded: bool,
}

impl Call {
    pub(super) fn begin(
        subconn: Arc<Shared>,
        done: Option<Done>,
        begun: Instant,
        deadline: Option<Instant>,
    ) -> Self {
        subconn.stats.begin(begun);
        Self { open: Some(Open { subconn, stream: None, done, begun, responded: false }), deadline }
    }

    /// It is on a connection, for which it may have waited.
    pub(super) fn on(&mut self, stream: InFlight, waited: bool) {
        if let Some(open) = &mut self.open {
            open.stream = Some(stream);
            if waited {
                open.begun = Instant::now();
            }
        }
    }

    /// It has not left, and is on none.
    pub(super) fn off(&mut self) {
        if let Some(open) = &mut self.open {
            open.stream = None;
        }
    }

    /// The response begins.
    pub(super) fn responded(&mut self) {
        if let Some(open) = &mut self.open {
            open.responded = true;
            open.subconn.stats.responded(open.begun, Instant::now());
        }
    }

    /// It never left, or the peer has not looked at it.
    pub(super) fn not_sent(&mut self) {
        if let Some(open) = self.open.take() {
            open.subconn.stats.unsend(open.responded);
            open.finish(End { code: None, client_ended: false, trailers: None }, Instant::now());
        }
    }

    /// The RPC ended with this code, and these trailers if it came so far.
    pub(crate) fn end(&mut self, code: Code, trailers: Option<&http::HeaderMap>) {
        self.ended(End { code: Some(code), client_ended: false, trailers });
    }

    /// The client gave up, for this reason.
    pub(crate) fn give_up(&mut self, code: Code) {
        self.ended(End { code: Some(code), client_ended: true, trailers: None });
    }

    fn ended(&mut self, end: End<'_>) {
        if let Some(open) = self.open.take() {
            let now = Instant::now();
            let code = end.code.unwrap_or(Code::Unknown);
            open.subconn.stats.end(code, end.client_ended, open.responded, open.begun, now);
            open.finish(end, now);
        }
    }
}

/// How it ended.
struct End<'a> {
    code: Option<Code>,
    client_ended: bool,
    trailers: Option<&'a http::HeaderMap>,
}

impl Open {
    fn finish(self, end: End<'_>, now: Instant) {
        let Self { stream, done, begun, .. } = self;
        drop(stream);
        if let Some(done) = done {
            let End { code, client_ended, trailers } = end;
            let latency = now.saturating_duration_since(begun);
            done.tell(&DoneInfo { code, client_ended, trailers, latency });
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
