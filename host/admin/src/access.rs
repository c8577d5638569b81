//! Who a request comes from, as far as its headers say it.

use http::{HeaderMap, HeaderValue, header};

/// Returns whether the request is for `localhost` or an IP address, and from no page of another site.
pub(crate) fn is_local(headers: &HeaderMap) -> bool {
    let is_local = |authority: &str| {
        let host = authority.parse::<http::uri::Authority>().ok();
        host.is_some_and(|authority| {
            let host = authority.host().trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok()
        })
    };
    let says = |name, is_so: &dyn Fn(&str) -> bool| {
        headers.get(name).is_none_or(|value| value.to_str().is_ok_and(is_so))
    };
    let of_origin = |origin: &str| origin.split_once("://").is_some_and(|(_, authority)| is_local(authority));
    says(header::HOST, &is_local) && says(header::ORIGIN, &of_origin)
}

/// Compares in a time that does not depend on where the tokens differ.
pub(crate) fn is_bearer(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
    // The name of the scheme has no case (RFC 9110, 11.1).
    let (scheme, given) = given.split_at_checked(7).unwrap_or_default();
    let given = if scheme.eq_ignore_ascii_case(b"Bearer ") { given } else { &[] };
    let differs = given.iter().zip(token.as_bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
    differs == 0 && given.len() == token.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_the_token() {
        let given = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            is_bearer(&headers, "secret")
        };
        assert!(given("Bearer secret") && given("bearer secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert!(!given(wrong), "{wrong}");
        }
        assert!(!is_bearer(&HeaderMap::new(), "secret"));
    }

    #[test]
    fn pages_of_other_sites_are_not_local() {
        let with = |name, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            is_local(&headers)
        };
        for local in ["localhost", "localhost:9901", "127.0.0.1:9901", "[::1]:9901"] {
            assert!(with(header::HOST, local), "{local}");
        }
        for other in ["evil.example", "localhost.evil.example:9901", "", "127.0.0.1.evil.example"] {
            assert!(!with(header::HOST, other), "{other}");
        }
        assert!(with(header::ORIGIN, "http://127.0.0.1:9901") && is_local(&HeaderMap::new()));
        assert!(!with(header::ORIGIN, "http://evil.example") && !with(header::ORIGIN, "null"));
    }
}
