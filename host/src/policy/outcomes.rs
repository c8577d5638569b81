//! How RPCs ended, on the way to the policy that picked for them.

use std::time::Duration;

use tokio::time::Instant;

use super::bindings::exports::hotpick::policy::outcomes::{Load, Outcome};
use super::bindings::hotpick::policy::types::StatusCode;
use super::imports::nanos;
use super::orca;
use crate::subconn::{DoneInfo, PickId};

/// Outcomes that wait to be told.
#[derive(Default)]
pub(super) struct Outcomes {
    waiting: Vec<(u64, Outcome)>,
    /// Of the first of them.
    since: Option<Instant>,
}

/// So many are told as soon as there are; fewer after [`PATIENCE`].
const BATCH: usize = 64;
/// So many are told at once at most.
const LARGEST: usize = 256;
const PATIENCE: Duration = Duration::from_millis(5);
/// A policy that cannot be told so many, as it is being replaced, will do without.
const MOST: usize = 16 * 1024;

impl Outcomes {
    /// Takes in how an RPC ended that the instance of this serial number picked for. Gives whether there is
    /// something to do for the keeper now.
    pub(super) fn push(&mut self, serial: u64, outcome: Outcome) -> bool {
        if self.waiting.len() == MOST {
            return false;
        }
        self.waiting.push((serial, outcome));
        let first = self.since.is_none();
        self.since.get_or_insert_with(Instant::now);
        first || self.waiting.len() == BATCH
    }

    /// The first of them, if it is time; those of other instances are dropped.
    pub(super) fn take_due(&mut self, serial: u64) -> Vec<Outcome> {
        if self.due_at().is_none_or(|at| at > Instant::now()) {
            return Vec::new();
        }
        let ours = |(of, outcome): (u64, Outcome)| (of == serial).then_some(outcome);
        let count = self.waiting.len().min(LARGEST);
        let batch = self.waiting.drain(..count).filter_map(ours).collect();
        if self.waiting.is_empty() {
            self.since = None;
        }
        batch
    }

    /// When they are to be told.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let since = self.since?;
        Some(if self.waiting.len() >= BATCH { since } else { since + PATIENCE })
    }
}

/// What a policy is told of the end of an RPC.
pub(super) fn outcome(picked: PickId, end: &DoneInfo<'_>) -> Outcome {
    let PickId { serial: _, call, method, subconn } = picked;
    Outcome {
        call,
        subconn,
        method,
        code: end.code.map_or(StatusCode::Unavailable, wit_code),
        not_sent: end.code.is_none(),
        client_ended: end.client_ended,
        latency: nanos(end.latency),
        load: end.trailers.and_then(orca::per_call).map(|report| Load {
            application: report.application_utilization,
            cpu: report.cpu_utilization,
            memory: report.mem_utilization,
            rps: report.rps_fractional,
            eps: report.eps,
        }),
    }
}

const fn wit_code(code: tonic::Code) -> StatusCode {
    match code {
        tonic::Code::Ok => StatusCode::Ok,
        tonic::Code::Cancelled => StatusCode::Cancelled,
        tonic::Code::Unknown => StatusCode::Unknown,
        tonic::Code::InvalidArgument => StatusCode::InvalidArgument,
        tonic::Code::DeadlineExceeded => StatusCode::DeadlineExceeded,
        tonic::Code::NotFound => StatusCode::NotFound,
        tonic::Code::AlreadyExists => StatusCode::AlreadyExists,
        tonic::Code::PermissionDenied => StatusCode::PermissionDenied,
        tonic::Code::ResourceExhausted => StatusCode::ResourceExhausted,
        tonic::Code::FailedPrecondition => StatusCode::FailedPrecondition,
        tonic::Code::Aborted => StatusCode::Aborted,
        tonic::Code::OutOfRange => StatusCode::OutOfRange,
        tonic::Code::Unimplemented => StatusCode::Unimplemented,
        tonic::Code::Internal => StatusCode::Internal,
        tonic::Code::Unavailable => StatusCode::Unavailable,
        tonic::Code::DataLoss => StatusCode::DataLoss,
        tonic::Code::Unauthenticated => StatusCode::Unauthenticated,
    }
}
