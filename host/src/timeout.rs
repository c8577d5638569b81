//! The `grpc-timeout` header.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Returns the timeout of an RPC from its header (`doc/PROTOCOL-HTTP2.md`: at most 8 digits and a unit). Returns `None`
/// if the header is absent or malformed; a malformed header is left for the server to refuse.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Sets the header to the time that is left, for an RPC that has waited on this side.
pub(crate) fn set_grpc_timeout(headers: &mut HeaderMap, left: Duration) {
    // At most 8 digits: microseconds of what is short, milliseconds up to a day, seconds up to three years.
    let (value, unit) = match left.as_millis() {
        ..=99 => (left.as_micros(), 'u'),
        millis @ ..=99_999_999 => (millis, 'm'),
        millis => ((millis / 1000).min(99_999_999), 'S'),
    };
    if let Ok(value) = HeaderValue::try_from(format!("{value}{unit}")) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().ok()?);
        grpc_timeout(&headers)
    }

    #[test]
    fn the_units_are_those_of_the_protocol() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parse("3S"), Some(Duration::from_secs(3)));
        assert_eq!(parse("4m"), Some(Duration::from_millis(4)));
        assert_eq!(parse("99999999u"), Some(Duration::from_micros(99_999_999)));
        assert_eq!(parse("5n"), Some(Duration::from_nanos(5)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "999999999S", "1.5S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_time_left_is_written_as_it_is_read() {
        let mut headers = HeaderMap::new();
        for left in [
            Duration::ZERO,
            Duration::from_micros(30),
            Duration::from_millis(99_999_999),
            Duration::from_secs(100_000),
        ] {
            set_grpc_timeout(&mut headers, left);
            assert_eq!(grpc_timeout(&headers), Some(left));
        }
        set_grpc_timeout(&mut headers, Duration::MAX);
        assert_eq!(grpc_timeout(&headers), Some(Duration::from_secs(99_999_999)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
