//! What an admin service reports on.

use std::fmt;

use hotpick::connectivity::ConnectivityState;
use hotpick::{Channel, PolicyDir};

use crate::calls::Calls;

/// The policy directory and the channels that are reported.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    pub(crate) policies: Option<PolicyDir>,
    pub(crate) channels: Vec<Watched>,
    pub(crate) counters: Vec<OwnCounter>,
}

/// A counter of the program.
pub(crate) struct OwnCounter {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) read: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl fmt::Debug for OwnCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A channel, and the counters of its RPCs.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) channel: Channel,
    pub(crate) calls: Calls,
}

impl Subjects {
    /// Returns why RPCs cannot be picked for, in one sentence for each channel. Empty: every channel has resolved and can
    /// pick, or is idle and will when an RPC comes.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let why = |watched: &Watched| {
            let status = watched.channel.status();
            let serves = matches!(status.state, ConnectivityState::Ready | ConnectivityState::Idle);
            let reason = match status.subconns.len() {
                0 => "it has no endpoints".to_owned(),
                _ if serves => "the first version of its policy is not loaded yet".to_owned(),
                count => format!("none of its {count} endpoints is ready"),
            };
            let can_pick = status.can_pick && serves;
            (!can_pick).then(|| format!("{} is {}: {reason}", status.target, status.state))
        };
        self.channels.iter().filter_map(why).collect()
    }
}
