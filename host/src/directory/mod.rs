//! A directory of policies, followed as its files change.
//!
//! Events are hints; a scan of the whole directory is the truth. The `follower`'s thread lists the directory (`listing`),
//! reads files that have `settled` and their `settings`, and offers them to the `catalog`, which decides what is
//! compiled and which version is active, with a `history` of earlier versions. Another thread compiles, in the
//! order of the `queue`. `judgement` takes versions back that fail too often. A `rollout` tries a new version beside the
//! active one. A bad file changes nothing but the
//! status and the log: the active version stays.
//!
//! Beside `color.wasm` there may be `color.toml`, with the operator's settings:
//!
//! ```toml
//! enabled = true            # false: no channel uses it any more
//! wasm-sha256 = "9f86d0..." # the file must have this digest
//!
//! [config]                  # for channels that give the policy no configuration of their own
//! unmatched = "any"
//! ```
//!
//! Code and settings are one unit: a change of either is a new version. `docs/operating.md` lists all
//! settings.

mod catalog;
mod dir;
mod entry;
mod follower;
mod history;
mod judgement;
mod listing;
mod options;
mod quarantine;
mod queue;
mod rollout;
mod settings;
mod settled;
mod shared;
mod source;
mod status;
mod steering;
mod update;
mod watch;

pub use self::dir::{PolicyDir, PolicyDirError, load};
pub use self::options::PolicyDirOptions;
pub use self::quarantine::Quarantine;
pub use self::rollout::{RolloutError, RolloutStatus};
pub use self::status::{PolicyState, PolicyStatus};
pub use self::update::PolicyUpdate;
