//! In place of `otlp` in a build without the feature.

use std::sync::Arc;

use hotpick::call::{CallObserver, MethodNames};
use hotpick::{Channel, PolicyDir};
use serde::Deserialize;

/// `[otlp]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Settings {
    endpoint: String,
}

impl Settings {
    pub(super) fn with_endpoint(self, endpoint: String) -> Self {
        Self { endpoint }
    }

    pub(super) const fn to(endpoint: String) -> Self {
        Self { endpoint }
    }
}

/// There is none.
pub(super) enum Otlp {}

impl Otlp {
    pub(super) fn start(settings: &Settings, _methods: MethodNames) -> anyhow::Result<Self> {
        anyhow::bail!(
            "otlp: this hotpick was built without the feature otlp, and cannot send to {}",
            settings.endpoint
        )
    }

    pub(super) fn observers(&self) -> Vec<Arc<dyn CallObserver>> {
        match *self {}
    }

    pub(super) fn follow_policies(&self, _policies: &PolicyDir) {
        match *self {}
    }

    pub(super) fn follow(&self, _channel: &Channel) {
        match *self {}
    }

    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        || 0
    }

    #[expect(clippy::unused_async, reason = "as with the feature")]
    pub(super) async fn finish(self) {
        match self {}
    }
}
