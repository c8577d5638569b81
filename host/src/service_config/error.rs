//! The error of parsing a service config.

/// Error of parsing a [`ServiceConfig`](super::ServiceConfig). Its text is one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {sentence}")]
pub struct ServiceConfigError {
    subject: &'static str,
    sentence: String,
}

impl ServiceConfigError {
    pub(super) fn new(sentence: String) -> Self {
        Self { subject: "service config", sentence }
    }

    /// Says where in the config it is.
    pub(super) fn within(self, place: &str) -> Self {
        Self { sentence: format!("{place}: {}", self.sentence), ..self }
    }

    /// Says that it is about something else than a whole config.
    pub(super) fn about(self, subject: &'static str) -> Self {
        Self { subject, ..self }
    }
}
