//! Keeps values that a peer cannot read out of the table of its HPACK decoder.
//!
//! A proxy sends the headers of many clients on one connection, and an entry of HPACK's table stands for a header in later
//! messages, of other clients. grpc-core's decoder parses a value when it gets into the table, and fails each message that
//! refers to an entry whose value it could not parse, and some in which only the name is taken from it. So a malformed
//! `grpc-timeout` of one client would fail the RPCs of others, and a malformed `grpc-status` of one server the RPCs to
//! others. As a literal that is never indexed (RFC 7541, 6.2.3) it fails only its own RPC, as it would without a proxy.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Has the values never indexed that gRPC's parsers may refuse. Others are left as they are.
pub(crate) fn never_index_malformed(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if !is_well_formed(name, value) {
            value.set_sensitive(true);
        }
    }
}

/// Returns whether gRPC's parsers accept this value. Those of `-bin` keys are many, and check more than base64: such values
/// count as malformed. Names that no parser knows have no malformed values.
#[inline]
fn is_well_formed(name: &HeaderName, value: &HeaderValue) -> bool {
    let name = name.as_str();
    match name.strip_prefix("grpc") {
        _ if name.ends_with("-bin") => false,
        None => true,
        Some(name) => is_parsed(name, value.as_bytes()),
    }
}

/// Returns whether gRPC's parsers accept the value of the header `grpc` and the rest of this name.
fn is_parsed(name: &str, value: &[u8]) -> bool {
    let is_number = |digits: &[u8], most: usize| {
        (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    match name {
        "-timeout" => match value {
            [digits @ .., b'H' | b'M' | b'S' | b'm' | b'u' | b'n'] => is_number(digits, 8),
            _ => false,
        },
        "-status" => matches!(value, [b'0'..=b'9'] | [b'1', b'0'..=b'6']),
        "-previous-rpc-attempts" => is_number(value, 9),
        "-retry-pushback-ms" => is_number(value.strip_prefix(b"-").unwrap_or(value), 9),
        "-encoding" => matches!(value, b"identity" | b"gzip" | b"deflate"),
        // Texts: any value will do.
        "-message" | "-accept-encoding" => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_indexed(name: &'static str, value: &'static [u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).expect("a value"));
        never_index_malformed(&mut headers);
        !headers[name].is_sensitive()
    }

    #[test]
    fn only_what_grpc_parses_may_be_malformed() {
        for (name, well, malformed) in [
            (
                "grpc-timeout",
                &[&b"1H"[..], b"99999999n", b"20m"][..],
                &[&b"abc"[..], b"", b"1", b"1H ", b"-1S"][..],
            ),
            ("grpc-status", &[b"0", b"16"], &[b"abc", b"", b"-1", b"17", b"00"]),
            ("grpc-previous-rpc-attempts", &[b"3"], &[b"x", b"", b"9999999999", b"-1", b"-0"]),
            ("grpc-retry-pushback-ms", &[b"20", b"-1"], &[b"x", b"-"]),
            ("grpc-encoding", &[b"gzip", b"identity"], &[b"bogus", b""]),
            ("grpc-message", &[b"any text %zz", b""], &[]),
            ("grpc-accept-encoding", &[b"gzip,bogus"], &[]),
            ("grpc-unknown", &[], &[b"1"]),
            ("grpclb_client_stats", &[], &[b"1"]),
            ("x-bin", &[], &[b"YWI", b"AB", b"!!!", b""]),
            ("lb-cost-bin", &[], &[b"AAAA"]),
            ("x-other", &[b"!!!", b"\xff"], &[]),
        ] {
            for value in well {
                assert!(is_indexed(name, value), "{name}: {value:?}");
            }
            for value in malformed {
                assert!(!is_indexed(name, value), "{name}: {value:?}");
            }
        }
    }
}
