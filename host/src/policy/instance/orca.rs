//! Load reports of servers, for each call (ORCA, gRFC A51).

use base64::Engine as _;
use prost::Message as _;

/// Trailer in which a server sends its report for an RPC.
const KEY: &str = "endpoint-load-metrics-bin";

/// The fields of `xds.data.orca.v3.OrcaLoadReport` that are reported to policies.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct LoadReport {
    #[prost(double, tag = "1")]
    pub(crate) cpu_utilization: f64,
    #[prost(double, tag = "2")]
    pub(crate) mem_utilization: f64,
    #[prost(double, tag = "6")]
    pub(crate) rps_fractional: f64,
    #[prost(double, tag = "7")]
    pub(crate) eps: f64,
    #[prost(double, tag = "9")]
    pub(crate) application_utilization: f64,
}

/// Returns the report in these trailers. A report that cannot be read is treated as absent.
pub(crate) fn per_call(trailers: &http::HeaderMap) -> Option<LoadReport> {
    let value = trailers.get(KEY)?;
    let bytes = super::imports::BASE64.decode(value.as_bytes()).ok()?;
    LoadReport::decode(bytes.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_whatever_else_is_in_it() {
        let report = LoadReport {
            cpu_utilization: 0.5,
            mem_utilization: 0.25,
            rps_fractional: 100.0,
            eps: 2.0,
            application_utilization: 0.75,
        };
        let mut bytes = report.encode_to_vec();
        // The map `utilization`, which `LoadReport` does not have.
        bytes.extend([0x2a, 0x02, 0x0a, 0x00]);
        let mut trailers = http::HeaderMap::new();
        let encoded = crate::policy::instance::imports::BASE64.encode(&bytes);
        trailers.insert(KEY, http::HeaderValue::from_str(&encoded).expect("a value"));
        assert_eq!(per_call(&trailers), Some(report));
        for bad in ["%%%", "AQ"] {
            trailers.insert(KEY, http::HeaderValue::from_static(bad));
            assert_eq!(per_call(&trailers), None);
        }
        assert_eq!(per_call(&http::HeaderMap::new()), None);
    }
}
