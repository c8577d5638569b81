//! Begins and ends the recording of a slot's instances.
//!
//! A trace begins with an instance, because what a policy picks depends on all that it has been told before. To record
//! a policy, its instance is therefore replaced as one is that has used up its memory: the next one begins with what it
//! has saved.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::recording::Recording;
use super::slot::{Contents, Slot};
use crate::policy::instance::{Instance, Outcome, outcome, record_end};
use crate::subconn::{DoneInfo, OutcomeSink, PickId};
use crate::trace::{Finish, Recorder};

/// Interval at which a trace is passed on, however short it is.
const FLUSH: Duration = Duration::from_secs(1);
/// Time after which a trace is tried again that could not be written.
const BROKEN: Duration = Duration::from_secs(60);
/// Time after which an instance is replaced that could not be replaced now.
const AGAIN: Duration = Duration::from_millis(100);

/// Records the ends of RPCs, and reports them to the slot.
struct RecordingSink {
    slot: Weak<Slot>,
    recorder: Arc<Recorder>,
    is_reporting: bool,
}

impl OutcomeSink for RecordingSink {
    fn done(&self, pick: PickId, info: &DoneInfo<'_>) {
        let outcome = outcome(pick, info);
        match self.is_reporting.then(|| self.slot.upgrade()).flatten() {
            Some(slot) => slot.report_recorded(&self.recorder, pick.serial, outcome),
            None => record_end(&self.recorder, &outcome, false),
        }
    }
}

impl Slot {
    /// Takes note that an instance has been installed, which may be recorded.
    pub(super) fn installed(&self, instance: &mut Instance, serial: u64) {
        let recording = instance.recorder().map(|recorder| {
            recorder.started(&self.wake);
            let keys = instance.state().keys().to_vec();
            let (slot, is_reporting) = (self.weak(), self.wants_outcomes);
            let sink = Arc::new(RecordingSink { slot, recorder: Arc::clone(recorder), is_reporting });
            Arc::new(Recording { serial, recorder: Arc::clone(recorder), keys, sink })
        });
        if let Some(recording) = &recording {
            instance.record_ends(recording.sink());
        }
        self.is_recorded.store(recording.is_some(), Ordering::Relaxed);
        self.recording.store(recording);
    }

    /// Returns the recording of the instance with this serial number, if it is recorded.
    pub(super) fn recording(&self, serial: u64) -> Option<Arc<Recording>> {
        if !self.is_recorded.load(Ordering::Relaxed) {
            return None;
        }
        self.recording.load_full().filter(|recording| recording.serial == serial)
    }

    /// Ends a recording that is complete, and has the instance replaced by one that is recorded if that is wanted.
    /// Returns when there is something to do.
    pub(super) fn tend_recording(&self, contents: &mut Contents) -> Option<Instant> {
        let now = Instant::now();
        let is_requested = self.program.metrics.recordings.is_requested(&self.placement.target);
        if let Some(recording) = self.recording.load_full() {
            let recorder = &recording.recorder;
            let is_wanted = recorder.is_wanted();
            // What is recorded all the time makes room for a request.
            let makes_room = is_requested && !recorder.is_requested();
            if !recorder.is_over() && now < recorder.until() && is_wanted && !makes_room {
                recorder.flush();
                return Some(recorder.until().min(now + FLUSH));
            }
            if let Some(instance) = contents.machine.instance() {
                instance.stop_recording(Finish::Ended);
            }
            self.is_recorded.store(false, Ordering::Relaxed);
            self.recording.store(None);
            let settings = self.program.spec.record.as_ref();
            let pause = settings.map(|settings| pause(recorder.began().elapsed(), settings.share));
            let pause = pause.map(|pause| if is_wanted { pause } else { pause.max(BROKEN) });
            contents.record_at = pause.and_then(|pause| now.checked_add(pause));
        }
        let is_due = contents.record_at.is_some_and(|at| at <= now);
        if is_due || is_requested {
            // Not at once if the instance is young, or just being replaced.
            contents.record_at = if self.wear_out(contents) { None } else { Some(now + AGAIN) };
        }
        contents.record_at
    }

    /// Queues the outcome of an RPC that an instance has picked for.
    pub(super) fn report(&self, serial: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.push(serial, outcome) {
            self.wake.notify_one();
        }
    }

    fn report_recorded(&self, recorder: &Recorder, serial: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: they are recorded in the order in which they are reported.
        record_end(recorder, &outcome, !outcomes.is_full());
        if outcomes.push(serial, outcome) {
            self.wake.notify_one();
        }
    }
}

/// Returns how long nothing is recorded after a recording that took this long.
fn pause(took: Duration, share: f64) -> Duration {
    // A trace that could not be written is not tried again at once.
    const SHORTEST: Duration = Duration::from_secs(1);
    let pause = took.as_secs_f64() * (1.0 / share - 1.0);
    Duration::try_from_secs_f64(pause).unwrap_or(Duration::MAX).max(if share < 1.0 {
        SHORTEST
    } else {
        Duration::ZERO
    })
}
