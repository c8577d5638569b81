//! What a server says about retries, and what it is told.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

/// Number of earlier attempts of the RPC, in a request; absent at the first attempt.
pub(crate) const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

/// What a server says about retries of an RPC that it has failed (gRFC A6, "Pushback").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing.
    None,
    /// Attempt again after exactly this time.
    After(Duration),
    /// Do not attempt again.
    Stop,
}

impl Pushback {
    /// Reads the pushback from the trailers of an RPC. A value that is negative, cannot be read or is given twice means
    /// [`Stop`](Self::Stop).
    pub(crate) fn of(trailers: &HeaderMap) -> Self {
        let mut values = trailers.get_all("grpc-retry-pushback-ms").iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(value), None) => {
                let millis = value.to_str().ok().and_then(|text| text.parse::<i32>().ok());
                let millis = millis.and_then(|millis| u64::try_from(millis).ok());
                millis.map_or(Self::Stop, |millis| Self::After(Duration::from_millis(millis)))
            }
            (Some(_), Some(_)) => Self::Stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_stops_retries() {
        let of = |values: &[&'static str]| {
            let mut trailers = HeaderMap::new();
            for value in values {
                trailers.append("grpc-retry-pushback-ms", http::HeaderValue::from_static(value));
            }
            Pushback::of(&trailers)
        };
        assert_eq!(of(&[]), Pushback::None);
        assert_eq!(of(&["0"]), Pushback::After(Duration::ZERO));
        assert_eq!(of(&["1500"]), Pushback::After(Duration::from_millis(1500)));
        for stop in [&["-1"][..], &["x"], &[""], &["2147483648"], &["1", "1"]] {
            assert_eq!(of(stop), Pushback::Stop, "{stop:?}");
        }
    }
}
