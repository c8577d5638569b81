//! Chooses among the policies that a service config lists: the first known one is used (gRFC A24).

use std::sync::Arc;

use tokio_stream::{StreamExt as _, StreamMap};

use super::starter::StartRequest;
use crate::lifecycle::{Candidate, Candidates, Policy, PolicySource, RoundRobin};
use crate::service_config::PolicyConfig;

/// Sources of a channel's policies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    pub(crate) source: Option<Arc<dyn PolicySource>>,
    /// A policy in Rust, under the name of its version. A policy of that name in the source takes precedence.
    pub(crate) native: Option<Arc<dyn Policy>>,
}

/// Follows a list of policies.
pub(super) struct Chooser {
    sources: Sources,
    entries: Vec<Entry>,
    updates: StreamMap<usize, Candidates>,
    /// Whether the result may have changed.
    is_changed: bool,
}

struct Entry {
    config: PolicyConfig,
    state: State,
}

enum State {
    /// The source has not been read.
    NotYet,
    Unknown,
    /// The policy is known, but must not be used.
    Disabled,
    Known(Arc<dyn Policy>),
}

/// The result of a list of policies.
#[derive(Debug)]
pub(super) enum Chosen {
    /// Use this policy. It may be the active one.
    Policy(StartRequest),
    /// No policy of the list is known.
    Nothing { names: String },
}

impl Sources {
    fn native(&self, name: &str) -> State {
        let round_robin: Arc<dyn Policy> = Arc::new(RoundRobin::default());
        let native = self.native.iter().cloned().chain([round_robin]);
        native.into_iter().find(|policy| policy.version().name == name).map_or(State::Unknown, State::Known)
    }
}

impl Chooser {
    pub(super) fn new(sources: &Sources, list: &[PolicyConfig]) -> Self {
        let mut updates = StreamMap::new();
        let mut entries = Vec::new();
        for (index, config) in list.iter().enumerate() {
            let state = match &sources.source {
                Some(source) => {
                    updates.insert(index, source.candidates(&config.name));
                    State::NotYet
                }
                None => sources.native(&config.name),
            };
            entries.push(Entry { config: config.clone(), state });
        }
        Self { sources: sources.clone(), entries, updates, is_changed: true }
    }

    /// Waits for a result; forever if none can come. Cancel-safe.
    pub(super) async fn next(&mut self) -> Chosen {
        loop {
            if std::mem::take(&mut self.is_changed)
                && let Some(chosen) = self.chosen()
            {
                return chosen;
            }
            match self.updates.next().await {
                Some((index, candidate)) => self.take(index, candidate),
                None => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, index: usize, candidate: Candidate) {
        let entry = &mut self.entries[index];
        entry.state = match (candidate, &entry.state) {
            (Candidate::Use(policy), _) => State::Known(policy),
            (Candidate::Disabled, _) => State::Disabled,
            (Candidate::Unavailable, State::Known(_)) => return,
            (Candidate::Unavailable | Candidate::Unknown, _) => self.sources.native(&entry.config.name),
        };
        self.is_changed = true;
    }

    /// Returns the first known policy, once that is certain. `None` for an empty list.
    fn chosen(&self) -> Option<Chosen> {
        for Entry { config, state } in &self.entries {
            match state {
                State::NotYet => return None,
                State::Unknown | State::Disabled => {}
                State::Known(policy) => {
                    let (policy, config) = (Arc::clone(policy), config.config.clone());
                    return Some(Chosen::Policy(StartRequest { policy, config }));
                }
            }
        }
        if self.entries.iter().any(|entry| matches!(entry.state, State::Disabled)) {
            // An operator who disables a policy wants it gone now.
            let (policy, config) = (Arc::new(RoundRobin::default()), "{}".to_owned());
            return Some(Chosen::Policy(StartRequest { policy, config }));
        }
        let names: Vec<_> = self.entries.iter().map(|entry| entry.config.name.as_str()).collect();
        (!names.is_empty()).then(|| Chosen::Nothing { names: names.join(", ") })
    }
}
