//! What errors of HTTP/2 and statuses of HTTP are in gRPC's terms.

use h2::Reason;
use http::StatusCode;
use tonic::{Code, Status};

/// The status of an RPC whose connection or stream failed with `error`.
///
/// A stream that was reset has the code that gRPC gives to the reason of the reset
/// (`doc/PROTOCOL-HTTP2.md`, "Errors"), whoever reset it. All else is a lost connection and so UNAVAILABLE: also if it
/// was h2 on this side that ended it, because of what the peer had sent for another RPC.
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

/// The code of a response that does not say one (`doc/http-grpc-status-mapping.md`).
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

/// An error with its causes, in one line. If it is we who found it, it says whose it is.
pub(crate) fn describe(error: &h2::Error) -> String {
    let mut text = if error.is_library() && error.reason().is_some() {
        format!("the peer broke the rules of HTTP/2: {error}")
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
    fn what_ends_a_connection_is_no_error_of_a_stream() {
        // Of a stream that was reset.
        let reset = h2::Error::from(Reason::PROTOCOL_ERROR);
        assert!(!reset.is_reset(), "a bare reason is none");
        assert_eq!(status_of(&reset).code(), Code::Unavailable);
    }

    #[test]
    fn statuses_of_http_are_mapped_as_the_specification_says() {
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
