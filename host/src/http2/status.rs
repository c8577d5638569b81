//! Mapping of HTTP/2 errors and HTTP statuses to gRPC statuses.

use h2::Reason;
use http::{HeaderMap, HeaderName, StatusCode};
use tonic::{Code, Status};

/// Returns the status of an RPC whose connection or stream failed with `error`.
///
/// For a stream that was reset, by either side, the reason of the reset determines the code (`doc/PROTOCOL-HTTP2.md`,
/// "Errors"). Any other error is a lost connection and therefore UNAVAILABLE, even if h2 on this side ended the
/// connection because of another RPC.
pub(crate) fn status_of(error: &h2::Error) -> Status {
    let code = match error.reason() {
        _ if !error.is_reset() => Code::Unavailable,
        Some(Reason::REFUSED_STREAM) | None => Code::Unavailable,
        Some(Reason::CANCEL) => Code::Cancelled,
        Some(Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(_) => Code::Internal,
    };
    Status::new(code, format!("connection: {}", describe(error)))
}

/// A constant: the name of a string is parsed for each lookup.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Returns the status code of the RPC, if these headers contain it.
pub(crate) fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers.get(&GRPC_STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

/// Returns the code of a response without a gRPC status (`doc/http-grpc-status-mapping.md`).
pub(crate) fn code_of_http(status: StatusCode) -> Code {
    match status {
        StatusCode::BAD_REQUEST => Code::Internal,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::Unimplemented,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// Describes an error and its causes in one line. An error that h2 detected on this side is attributed to the peer.
pub(crate) fn describe(error: &h2::Error) -> String {
    let mut text = if error.is_library() && error.reason().is_some() {
        format!("the peer violated the HTTP/2 protocol: {error}")
    } else {
        error.to_string()
    };
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    for cause in causes {
        let cause = cause.to_string();
        // Some errors repeat their cause's text.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_connection_is_unavailable() {
        // The reason of a reset stream, but not an error of the stream.
        let reset = h2::Error::from(Reason::PROTOCOL_ERROR);
        assert!(!reset.is_reset(), "a bare reason is not a reset");
        assert_eq!(status_of(&reset).code(), Code::Unavailable);
    }

    #[test]
    fn http_statuses_are_mapped_as_specified() {
        for (status, code) in [
            (200, Code::Unknown),
            (400, Code::Internal),
            (401, Code::Unauthenticated),
            (403, Code::PermissionDenied),
            (404, Code::Unimplemented),
            (413, Code::Unknown),
            (429, Code::Unavailable),
            (502, Code::Unavailable),
            (503, Code::Unavailable),
            (504, Code::Unavailable),
        ] {
            assert_eq!(StatusCode::from_u16(status).map(code_of_http).ok(), Some(code), "{status}");
        }
    }
}
