//! What the demo puts into the policies directory, and when.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hotpick::policy::componentize;

/// The policy that the demo's channel uses.
pub(super) const NAME: &str = "active";

pub(super) const ROUND_ROBIN: &[u8] = include_bytes!("../../dist/round_robin.wasm");
pub(super) const RANDOM: &[u8] = include_bytes!("../../dist/random.wasm");
pub(super) const COLOR: &[u8] = include_bytes!("../../dist/color.wasm");
const TRAPS: &str = include_str!("traps.wat");

/// A file that is copied over `active.wasm`.
#[derive(Debug)]
pub(super) struct Step {
    /// When, as a part of the demo's time.
    pub(super) at: f64,
    pub(super) what: &'static str,
    pub(super) why_nothing_fails: &'static str,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn steps() -> anyhow::Result<Vec<Step>> {
    let traps = componentize(&wat::parse_str(TRAPS)?)?;
    Ok(vec![
        Step {
            at: 0.2,
            what: "color.wasm copied over active.wasm: RPCs go to the backends of their colour",
            why_nothing_fails: "the connections are the host's: RPCs under way stay on theirs, the next ones are picked anew",
            bytes: COLOR.to_vec(),
        },
        Step {
            at: 0.4,
            what: "half of a file copied over active.wasm, as by a full disk",
            why_nothing_fails: "it is checked before anything changes: the version in force stays",
            bytes: COLOR[..COLOR.len() / 2].to_vec(),
        },
        Step {
            at: 0.55,
            what: "a policy copied over active.wasm that traps at every 800th pick",
            why_nothing_fails: "the RPC in hand gets a native round robin's pick; the version before it is back",
            bytes: traps,
        },
        Step {
            at: 0.8,
            what: "round_robin.wasm copied over active.wasm",
            why_nothing_fails: "a swap is one pointer store",
            bytes: ROUND_ROBIN.to_vec(),
        },
    ])
}

/// Copies over the policy's file, in place, as `cp` does.
pub(super) fn put(directory: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = directory.join(format!("{NAME}.wasm"));
    fs::write(&file, bytes).with_context(|| format!("write {file:?}"))
}
