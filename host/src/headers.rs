//! Request headers that the caller cannot choose.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers of an HTTP/1 connection, which HTTP/2 does not allow (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers that the gRPC protocol sets.
const OF_GRPC: [HeaderName; 4] = [header::TE, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::HOST];

/// Prepares the headers of an RPC for the wire: removes those of the connection on which it arrived, sets `te`, and
/// completes `user-agent`. `default_agent` is used for an RPC that has none of its own.
pub(crate) fn prepare(headers: &mut HeaderMap, default_agent: &HeaderValue) {
    // Rarely true, and comparing a few names costs less than five lookups.
    if headers.keys().any(|name| OF_CONNECTIONS.contains(name)) {
        for name in &OF_CONNECTIONS {
            headers.remove(name);
        }
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let own = headers.get(header::USER_AGENT);
    let value = own.and_then(|own| user_agent(own.as_bytes())).unwrap_or_else(|| default_agent.clone());
    headers.insert(header::USER_AGENT, value);
}

const AGENT: &str = concat!("hotpick/", env!("CARGO_PKG_VERSION"));

/// The `user-agent` of channels and RPCs that have none of their own.
pub(crate) const fn default_user_agent() -> HeaderValue {
    HeaderValue::from_static(AGENT)
}

/// Returns a `user-agent` of the user's own and then ours, as gRPC's other implementations do. `None`: the user's own is
/// empty or has characters other than visible ASCII.
pub(crate) fn user_agent(own: &[u8]) -> Option<HeaderValue> {
    let own = own.trim_ascii();
    if own.is_empty() || !own.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~')) {
        return None;
    }
    // A sidecar does this for each RPC: formatting takes four times as long.
    let mut value = BytesMut::with_capacity(own.len() + 1 + AGENT.len());
    [own, b" ", AGENT.as_bytes()].into_iter().for_each(|part| value.extend_from_slice(part));
    HeaderValue::from_maybe_shared(value.freeze()).ok()
}

/// Returns whether policies may not add this header.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-") || OF_GRPC.contains(name) || OF_CONNECTIONS.contains(name)
}

/// Codec of `-bin` values. As gRPC requires, it accepts values with and without padding.
pub(crate) const BASE64: base64::engine::GeneralPurpose = base64::engine::GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    base64::engine::GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_agent_is_the_callers_and_then_ours() {
        let prepared = |own: Option<&[u8]>| {
            let mut headers = HeaderMap::new();
            if let Some(own) = own {
                headers.insert(header::USER_AGENT, HeaderValue::from_bytes(own).expect("a header value"));
            }
            prepare(&mut headers, &default_user_agent());
            headers[header::USER_AGENT].to_str().expect("text").to_owned()
        };
        assert_eq!(prepared(Some(b"shop/2\tx")), format!("shop/2\tx {AGENT}"));
        // Without a name, or with one that is not text: ours alone.
        for own in [None, Some(&b""[..]), Some(b"shop \xe9")] {
            assert_eq!(prepared(own), AGENT);
        }
    }

    #[test]
    fn headers_of_a_connection_are_removed() {
        let mut headers = HeaderMap::new();
        for name in &OF_CONNECTIONS {
            headers.append(name, HeaderValue::from_static("close"));
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append(header::TE, HeaderValue::from_static("gzip"));
        headers.append("x-color", HeaderValue::from_static("red"));
        headers.append(header::USER_AGENT, HeaderValue::from_static("mine"));
        prepare(&mut headers, &HeaderValue::from_static("default"));
        let name = concat!("mine hotpick/", env!("CARGO_PKG_VERSION"));
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        left.sort_unstable();
        assert_eq!(left, [("te", "trailers"), ("user-agent", name), ("x-color", "red")]);
    }
}
