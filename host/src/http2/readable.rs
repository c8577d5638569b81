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

/// Returns whether gRPC's parsers accept this value. Names that no parser knows have no malformed values.
#[inline]
fn is_well_formed(name: &HeaderName, value: &HeaderValue) -> bool {
    let name = name.as_str();
    if name.ends_with("-bin") {
        return is_base64(value.as_bytes());
    }
    match name.strip_prefix("grpc-") {
        None => true,
        Some(name) => is_parsed(name, value.as_bytes()),
    }
}

/// Returns whether gRPC's parsers accept the value of the header `grpc-` and this name.
fn is_parsed(name: &str, value: &[u8]) -> bool {
    let is_number = |value: &[u8]| {
        let digits = value.strip_prefix(b"-").unwrap_or(value);
        (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
    };
    match name {
        "timeout" => match value {
            [digits @ .., b'H' | b'M' | b'S' | b'm' | b'u' | b'n'] => {
                (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit)
            }
            _ => false,
        },
        "status" => matches!(value, [b'0'..=b'9'] | [b'1', b'0'..=b'6']),
        "previous-rpc-attempts" | "retry-pushback-ms" => is_number(value),
        "encoding" => matches!(value, b"identity" | b"gzip" | b"deflate"),
        // Texts: any value will do.
        "message" | "accept-encoding" => true,
        _ => false,
    }
}

/// Returns whether this is one value in base64, with or without padding.
fn is_base64(value: &[u8]) -> bool {
    let digits = value.strip_suffix(b"==").or_else(|| value.strip_suffix(b"=")).unwrap_or(value);
    let is_padded = digits.len() < value.len();
    digits.len() % 4 != 1
        && (!is_padded || value.len() % 4 == 0)
        && digits.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
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
            ("grpc-previous-rpc-attempts", &[b"3"], &[b"x", b"", b"9999999999"]),
            ("grpc-retry-pushback-ms", &[b"20", b"-1"], &[b"x", b"-"]),
            ("grpc-encoding", &[b"gzip", b"identity"], &[b"bogus", b""]),
            ("grpc-message", &[b"any text %zz", b""], &[]),
            ("grpc-accept-encoding", &[b"gzip,bogus"], &[]),
            ("grpc-unknown", &[], &[b"1"]),
            (
                "x-bin",
                &[b"", b"YWI", b"YWI=", b"YWJj", b"YQ=="],
                &[b"!!!", b"A", b"YQ=", b"=", b"YW-j", b"YWJj,YWJj"],
            ),
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
