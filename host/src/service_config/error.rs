//! The error of parsing a service config.

/// Error of parsing a [`ServiceConfig`](super::ServiceConfig). Its text is one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service config: {0}")]
pub struct ServiceConfigError(String);

impl ServiceConfigError {
    pub(super) fn new(sentence: String) -> Self {
        Self(sentence)
    }
}
