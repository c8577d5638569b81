//! Which of the policies that a service config lists is to balance: the first that is known (gRFC A24).

use std::sync::Arc;

use tokio_stream::{StreamExt as _, StreamMap};

use super::PolicyStream;
use crate::picker::{Policy, Refuses, RoundRobin};
use crate::policy::OnFault;
use crate::policy_dir::{PolicyDir, PolicyUpdate};
use crate::service_config::PolicyConfig;

/// Where policies are known from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) directory: Option<PolicyDir>,
    /// One in Rust. It goes by its version's name; one of that name in the directory comes first.
    pub(crate) native: Option<Arc<dyn Policy>>,
}

/// The news of a list of policies.
pub(super) struct Choice {
    known: Known,
    candidates: Vec<Candidate>,
    updates: StreamMap<usize, PolicyStream>,
    /// There may be something to tell.
    news: bool,
}

struct Candidate {
    config: PolicyConfig,
    state: State,
}

enum State {
    /// The directory has not been read.
    NotYet,
    Unknown,
    /// It is known, and not to be used.
    Disabled,
    Known(Arc<dyn Policy>),
}

/// What a list of policies comes to.
#[derive(Debug)]
pub(super) enum Chosen {
    /// This one is to balance, with this configuration. It may be the one that does already.
    Policy { policy: Arc<dyn Policy>, config: String },
    /// None of these is known.
    Nothing { names: String },
}

impl Known {
    fn native(&self, name: &str) -> State {
        let round_robin: Arc<dyn Policy> = Arc::new(RoundRobin::default());
        let native = self.native.iter().cloned().chain([round_robin]);
        native.into_iter().find(|policy| policy.version().name == name).map_or(State::Unknown, State::Known)
    }
}

impl Choice {
    pub(super) fn new(known: &Known, list: &[PolicyConfig]) -> Self {
        let mut updates = StreamMap::new();
        let mut candidates = Vec::new();
        for (index, config) in list.iter().enumerate() {
            let state = match &known.directory {
                Some(directory) => {
                    updates.insert(index, directory.watch(&config.name));
                    State::NotYet
                }
                None => known.native(&config.name),
            };
            candidates.push(Candidate { config: config.clone(), state });
        }
        Self { known: known.clone(), candidates, updates, news: true }
    }

    /// Waits for news; for ever when there is none to come. Cancel-safe.
    pub(super) async fn next(&mut self) -> Chosen {
        loop {
            if std::mem::take(&mut self.news)
                && let Some(chosen) = self.chosen()
            {
                return chosen;
            }
            match self.updates.next().await {
                Some((index, update)) => self.take(index, update),
                None => std::future::pending().await,
            }
        }
    }

    fn take(&mut self, index: usize, update: PolicyUpdate) {
        let candidate = &mut self.candidates[index];
        candidate.state = match (update, &candidate.state) {
            (PolicyUpdate::Loaded(policy), _) => State::Known(policy),
            (PolicyUpdate::Disabled, _) => State::Disabled,
            (PolicyUpdate::Quarantined(quarantine), _) => match quarantine.on_fault {
                OnFault::RoundRobin => State::Disabled,
                OnFault::Fail => State::Known(Arc::new(Refuses::new(format!(
                    "policy {} is quarantined, and its settings say on-fault = \"fail\": {}",
                    quarantine.version, quarantine.reason
                )))),
            },
            // The directory has said why. The version in force stays: removal is not disabling.
            (PolicyUpdate::Rejected(_) | PolicyUpdate::Withdrawn, State::Known(_)) => return,
            _ => self.known.native(&candidate.config.name),
        };
        self.news = true;
    }

    /// The first that is known, once that is certain. None of an empty list.
    fn chosen(&self) -> Option<Chosen> {
        for Candidate { config, state } in &self.candidates {
            match state {
                State::NotYet => return None,
                State::Unknown | State::Disabled => {}
                State::Known(policy) => {
                    let (policy, config) = (Arc::clone(policy), config.config.clone());
                    return Some(Chosen::Policy { policy, config });
                }
            }
        }
        if self.candidates.iter().any(|candidate| matches!(candidate.state, State::Disabled)) {
            // Who disables a policy wants it gone, now.
            return Some(Chosen::Policy { policy: Arc::new(RoundRobin::default()), config: "{}".to_owned() });
        }
        let names: Vec<_> = self.candidates.iter().map(|candidate| candidate.config.name.as_str()).collect();
        (!names.is_empty()).then(|| Chosen::Nothing { names: names.join(", ") })
    }
}
