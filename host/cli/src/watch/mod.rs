//! `hotpick top`, `tap`, `record` and `rollout`: what the admin listener of a sidecar says, in a terminal or a file.

mod app;
mod client;
mod events;
mod model;
mod record;
mod rollout;
mod tap;
mod top;
mod view;

pub(crate) use self::app::{App, Ask};
pub(crate) use self::client::Listener;
pub(crate) use self::events::Events;
pub(crate) use self::record::{RecordArguments, record};
pub(crate) use self::rollout::{RolloutArguments, rollout};
pub(crate) use self::tap::{TapArguments, tap};
pub(crate) use self::top::{Terminal, TopArguments, top};
