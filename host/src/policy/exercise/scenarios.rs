//! Endpoints and ends of RPCs for the scripts.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::policy::instance::{Load, Outcome, outcome};
use crate::resolver::{Address, Endpoint};
use crate::subconn::{DoneInfo, PickId};

/// Values of an attribute of endpoints, and of metadata.
pub(super) const COLORS: [&str; 2] = ["red", "blue"];

/// Returns an endpoint of the block for benchmarks (RFC 2544).
pub(super) fn endpoint(number: u32) -> Endpoint {
    let address = Ipv4Addr::from_bits(0xc612_0000 + number);
    Endpoint::new(Address::from(SocketAddr::from((address, 80))))
}

/// Returns the end of an RPC. Consecutive numbers cycle through all kinds of outcomes.
pub(super) fn ended(call: u64, subconn: u32) -> Outcome {
    let (client_ended, code) = match call % 8 {
        0..4 => (false, Some(tonic::Code::Ok)),
        4 => (false, Some(tonic::Code::Unavailable)),
        5 => (false, Some(tonic::Code::NotFound)),
        6 => (true, Some(tonic::Code::Cancelled)),
        _ => (false, None),
    };
    let latency = Duration::from_millis(call % 100);
    let info = DoneInfo { code, client_ended, trailers: None, latency };
    let mut ended = outcome(PickId { serial: 1, call, method: 0, subconn }, &info);
    let load = Load { application: 0.5, cpu: 0.7, memory: 0.2, rps: 100.0, eps: 1.0 };
    ended.load = call.is_multiple_of(2).then_some(load);
    ended
}

/// Returns the end of an RPC that failed.
pub(super) fn ended_unavailable(call: u64, subconn: u32) -> Outcome {
    let latency = Duration::from_millis(1);
    let info =
        DoneInfo { code: Some(tonic::Code::Unavailable), client_ended: false, trailers: None, latency };
    outcome(PickId { serial: 1, call, method: 0, subconn }, &info)
}

/// Returns the end of an RPC that succeeded.
pub(super) fn ended_ok(subconn: u32) -> Outcome {
    let info = DoneInfo {
        code: Some(tonic::Code::Ok),
        client_ended: false,
        trailers: None,
        latency: Duration::ZERO,
    };
    outcome(PickId { serial: 1, call: 1, method: 0, subconn }, &info)
}
