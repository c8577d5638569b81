//! The headers of a request that are not the caller's to choose.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// They are about a connection, and HTTP/2 has none of them (RFC 9113, 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// They make a request one of gRPC.
const OF_GRPC: [HeaderName; 4] = [header::TE, header::CONTENT_TYPE, header::CONTENT_LENGTH, header::HOST];

/// Makes the headers of an RPC such as go on the wire: without those of the connection that it came by, and with `te`
/// and `user-agent`.
pub(crate) fn prepare(headers: &mut HeaderMap) {
    // Hardly ever: and to compare a few names costs less than to look five up.
    if headers.keys().any(|name| OF_CONNECTIONS.contains(name)) {
        for name in &OF_CONNECTIONS {
            headers.remove(name);
        }
    }
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    name_ourselves(headers);
}

/// Whether a policy must not add it.
pub(crate) fn is_reserved(name: &HeaderName) -> bool {
    name.as_str().starts_with("grpc-") || OF_GRPC.contains(name) || OF_CONNECTIONS.contains(name)
}

/// `user-agent`: the caller's own name, then ours, as gRPC's other implementations do.
fn name_ourselves(headers: &mut HeaderMap) {
    const NAME: &str = concat!("hotpick/", env!("CARGO_PKG_VERSION"));
    let value = match headers.get(header::USER_AGENT).and_then(|own| own.to_str().ok()) {
        None => HeaderValue::from_static(NAME),
        Some(own) => match HeaderValue::from_str(&format!("{own} {NAME}")) {
            Ok(both) => both,
            Err(_) => return,
        },
    };
    headers.insert(header::USER_AGENT, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_connection_goes_no_further() {
        let mut headers = HeaderMap::new();
        for name in &OF_CONNECTIONS {
            headers.append(name, HeaderValue::from_static("close"));
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append(header::TE, HeaderValue::from_static("gzip"));
        headers.append("x-color", HeaderValue::from_static("red"));
        headers.append(header::USER_AGENT, HeaderValue::from_static("mine"));
        prepare(&mut headers);
        let name = concat!("mine hotpick/", env!("CARGO_PKG_VERSION"));
        let mut left: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        left.sort_unstable();
        assert_eq!(left, [("te", "trailers"), ("user-agent", name), ("x-color", "red")]);
    }
}
