//! Load reports of servers, for each call (ORCA, gRFC A51).

use base64::Engine as _;
use http::HeaderName;
use prost::Message as _;

use crate::headers::BASE64;

/// Trailer in which a server sends its report for an RPC.
const KEY: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// A server's report of its load, in the trailers of an RPC (gRFC A51). A field that the server left out is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Utilization by the application's own measure (`application_utilization`).
    pub application: f64,
    /// CPU utilization (`cpu_utilization`).
    pub cpu: f64,
    /// Memory utilization (`mem_utilization`).
    pub memory: f64,
    /// Requests per second (`rps_fractional`).
    pub rps: f64,
    /// Errors per second (`eps`).
    pub eps: f64,
}

/// The fields of `xds.data.orca.v3.OrcaLoadReport` that are read.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Orca {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "2")]
    mem_utilization: f64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

impl LoadReport {
    /// Returns the report in these trailers. A report that cannot be read is treated as absent.
    pub(crate) fn of_trailers(trailers: &http::HeaderMap) -> Option<Self> {
        // Most responses have their status alone.
        if trailers.len() <= 1 {
            return None;
        }
        // There are few trailers, and comparing their names costs less than a hash.
        let (_, value) = trailers.iter().find(|(name, _)| **name == KEY)?;
        let bytes = BASE64.decode(value.as_bytes()).ok()?;
        let orca = Orca::decode(bytes.as_slice()).ok()?;
        Some(Self {
            application: orca.application_utilization,
            cpu: orca.cpu_utilization,
            memory: orca.mem_utilization,
            rps: orca.rps_fractional,
            eps: orca.eps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_whatever_else_is_in_it() {
        let orca = Orca {
            cpu_utilization: 0.5,
            mem_utilization: 0.25,
            rps_fractional: 100.0,
            eps: 2.0,
            application_utilization: 0.75,
        };
        let mut bytes = orca.encode_to_vec();
        // The map `utilization`, which is not read.
        bytes.extend([0x2a, 0x02, 0x0a, 0x00]);
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let encoded = BASE64.encode(&bytes);
        trailers.insert(KEY, http::HeaderValue::from_str(&encoded).expect("a value"));
        let report = LoadReport { application: 0.75, cpu: 0.5, memory: 0.25, rps: 100.0, eps: 2.0 };
        assert_eq!(LoadReport::of_trailers(&trailers), Some(report));
        for bad in ["%%%", "AQ"] {
            trailers.insert(KEY, http::HeaderValue::from_static(bad));
            assert_eq!(LoadReport::of_trailers(&trailers), None);
        }
        assert_eq!(LoadReport::of_trailers(&http::HeaderMap::new()), None);
    }
}
