//! Conversion between the contract's types and the host's.

use super::bindings::exports::hotpick::policy::endpoints::Endpoint as WitEndpoint;
use super::bindings::exports::hotpick::policy::outcomes::{Load, Outcome};
use super::bindings::hotpick::policy::types::{
    Attribute, ConnectivityState as WitState, FailCode, StatusCode,
};
use super::time::nanos;
use crate::connectivity::ConnectivityState;
use crate::load_report::LoadReport;
use crate::resolver::Endpoint;
use crate::subconn::{DoneInfo, PickId};

pub(super) fn wit_endpoint(id: u32, endpoint: &Endpoint) -> WitEndpoint {
    let attribute = |(key, value): (&String, &String)| Attribute { key: key.clone(), value: value.clone() };
    WitEndpoint {
        id,
        addresses: endpoint.addresses().iter().map(ToString::to_string).collect(),
        weight: endpoint.weight(),
        attributes: endpoint.attributes().iter().map(attribute).collect(),
    }
}

pub(super) const fn wit_state(state: ConnectivityState) -> WitState {
    match state {
        ConnectivityState::Idle => WitState::Idle,
        ConnectivityState::Connecting => WitState::Connecting,
        ConnectivityState::Ready => WitState::Ready,
        ConnectivityState::TransientFailure => WitState::TransientFailure,
        ConnectivityState::Shutdown => WitState::Shutdown,
    }
}

pub(super) const fn grpc_code(code: FailCode) -> tonic::Code {
    match code {
        FailCode::Cancelled => tonic::Code::Cancelled,
        FailCode::Unknown => tonic::Code::Unknown,
        FailCode::DeadlineExceeded => tonic::Code::DeadlineExceeded,
        FailCode::PermissionDenied => tonic::Code::PermissionDenied,
        FailCode::ResourceExhausted => tonic::Code::ResourceExhausted,
        FailCode::Unimplemented => tonic::Code::Unimplemented,
        FailCode::Internal => tonic::Code::Internal,
        FailCode::Unavailable => tonic::Code::Unavailable,
        FailCode::Unauthenticated => tonic::Code::Unauthenticated,
    }
}

/// Converts the end of an RPC to an outcome.
pub(crate) fn outcome(pick: PickId, info: &DoneInfo<'_>) -> Outcome {
    let PickId { serial: _, call, method, subconn } = pick;
    Outcome {
        call,
        subconn,
        method,
        code: info.code.map_or(StatusCode::Unavailable, wit_code),
        not_sent: info.code.is_none(),
        client_ended: info.client_ended,
        latency: nanos(info.latency),
        load: info.trailers.and_then(LoadReport::of_trailers).map(|report| Load {
            application: report.application,
            cpu: report.cpu,
            memory: report.memory,
            rps: report.rps,
            eps: report.eps,
        }),
    }
}

pub(super) const fn wit_code(code: tonic::Code) -> StatusCode {
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
