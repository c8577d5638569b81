//! The record of an RPC while it runs, and who is told of it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;
use tonic::Code;

use super::observer::{CallEvent, CallObserver, CallWatcher};
use super::record::{AttemptRecord, Call, CallRecord, DelayRecord, Messages};
use crate::load_report::LoadReport;
use crate::picker::DelayType;

/// The observers of a channel.
#[derive(Clone)]
pub(crate) struct Observers(pub(super) Arc<[Arc<dyn CallObserver>]>);

pub(super) struct Recording {
    pub(super) observers: Observers,
    pub(super) call: Call,
    /// Whether there are watchers.
    pub(super) is_watched: bool,
    pub(super) state: Mutex<State>,
}

/// Shorter times from the end of the last attempt to that of the RPC are the host's own work.
const SHORTEST_RETRY_DELAY: Duration = Duration::from_millis(1);

/// How an attempt ended.
pub(super) struct End {
    pub(super) code: Code,
    pub(super) client_ended: bool,
    pub(super) load: Option<LoadReport>,
    /// Messages of the response. `None`: not known.
    pub(super) received: Option<Messages>,
}

#[derive(Default)]
pub(super) struct State {
    /// Decides what a drop means.
    pub(super) deadline: Option<Instant>,
    pub(super) resolving: Duration,
    /// Rarely more than one, which needs no allocation of its own.
    pub(super) attempts: SmallVec<[AttemptRecord; 1]>,
    /// What each attempt waits for now, by the number of the attempt.
    pub(super) delays: Vec<(usize, DelayType, String, Instant)>,
    pub(super) active: usize,
    /// When the last attempt in flight ended.
    pub(super) idle_since: Option<Instant>,
    pub(super) retry_delay: Duration,
    pub(super) watchers: Vec<Box<dyn CallWatcher>>,
    pub(super) has_ended: bool,
}

impl Default for Observers {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl Observers {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, observer: Arc<dyn CallObserver>) {
        self.0 = self.0.iter().cloned().chain([observer]).collect();
    }
}

impl Recording {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the code of an RPC that its caller has given up.
    pub(super) fn given_up(&self) -> Code {
        let deadline = self.state().deadline;
        if deadline.is_some_and(|at| at <= Instant::now()) { Code::DeadlineExceeded } else { Code::Cancelled }
    }

    pub(super) fn end(
        &self,
        state: &mut State,
        code: Code,
        message: Option<&str>,
        client_ended: bool,
        now: Instant,
    ) {
        if std::mem::replace(&mut state.has_ended, true) {
            return;
        }
        // An attempt is held by whoever reads the response, who may drop it after the RPC.
        for number in 0..state.attempts.len() {
            self.end_attempt(state, number, End { code, client_ended, load: None, received: None }, now);
        }
        // The RPC may have ended while it waited for its next attempt.
        if let Some(since) = state.idle_since
            && since != now
        {
            let waited = now.saturating_duration_since(since);
            state.retry_delay += if waited >= SHORTEST_RETRY_DELAY { waited } else { Duration::ZERO };
        }
        let watchers = std::mem::take(&mut state.watchers);
        let State { attempts, resolving, retry_delay, .. } = state;
        let record = CallRecord {
            call: &self.call,
            attempts,
            code,
            message,
            client_ended,
            duration: now.saturating_duration_since(self.call.started),
            resolving: *resolving,
            retry_delay: *retry_delay,
        };
        if self.is_watched {
            watchers.into_iter().for_each(|mut watcher| watcher.on(CallEvent::Ended(&record)));
        }
        self.observers.0.iter().for_each(|observer| observer.call_ended(&record));
    }

    pub(super) fn end_attempt(&self, state: &mut State, number: usize, end: End, now: Instant) {
        if state.attempts[number].ended.is_some() {
            return;
        }
        let End { code, client_ended, load, received } = end;
        state.end_delay(number, now);
        let State { attempts, watchers, .. } = state;
        let attempt = &mut attempts[number];
        attempt.ended = Some(now);
        attempt.code = Some(code);
        attempt.client_ended = client_ended;
        attempt.load = load;
        attempt.response = received.unwrap_or(attempt.response);
        self.observers.0.iter().for_each(|observer| observer.attempt_ended(&self.call, attempt));
        watchers
            .iter_mut()
            .for_each(|watcher| watcher.on(CallEvent::AttemptEnded { attempt: number, record: attempt }));
        state.active -= 1;
        if state.active == 0 {
            state.idle_since = Some(now);
        }
    }
}

impl State {
    pub(super) fn tell(&mut self, event: impl Fn() -> CallEvent<'static>) {
        self.watchers.iter_mut().for_each(|watcher| watcher.on(event()));
    }

    #[inline]
    pub(super) fn end_delay(&mut self, number: usize, now: Instant) {
        if !self.delays.is_empty() {
            self.end_delay_of(number, now);
        }
    }

    fn end_delay_of(&mut self, number: usize, now: Instant) {
        let Some(at) = self.delays.iter().position(|(of, ..)| *of == number) else { return };
        let (_, delay, reason, since) = self.delays.swap_remove(at);
        let duration = now.saturating_duration_since(since);
        self.attempts[number].delays.push(DelayRecord { delay, reason, duration });
        self.tell(|| CallEvent::DelayEnded { attempt: number });
    }

    pub(super) fn delay(&mut self, number: usize, delay: DelayType, reason: String, since: Instant) {
        let current = self.delays.iter().find(|(of, ..)| *of == number);
        if current.is_none_or(|(_, current, ..)| *current != delay) {
            self.end_delay(number, since);
            self.delays.push((number, delay, reason.clone(), since));
        }
        for watcher in &mut self.watchers {
            watcher.on(CallEvent::Delayed { attempt: number, delay, reason: &reason });
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Observers({})", self.0.len())
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recording({})", self.call.method())
    }
}
