//! The script of the demo: which files are copied into the policy directory, and when.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hotpick::policy::componentize;

/// Name of the policy that the demo's channel uses.
pub(super) const NAME: &str = "active";

const TRAPS: &str = include_str!("traps.wat");

/// A file that is copied over `active.wasm`.
#[derive(Debug)]
pub(super) struct Step {
    /// Time of the step, as a fraction of the demo's duration.
    pub(super) at: f64,
    /// Message that announces the step.
    pub(super) what: &'static str,
    /// Message that explains why no RPC fails.
    pub(super) why_nothing_fails: &'static str,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn steps() -> anyhow::Result<Vec<Step>> {
    let traps = componentize(&wat::parse_str(TRAPS)?)?;
    let color = standard("color")?;
    Ok(vec![
        Step {
            at: 0.2,
            what: "color.wasm copied over active.wasm: RPCs go to the backends of their colour",
            why_nothing_fails: "the host owns the connections: RPCs in flight continue, the policy picks for new RPCs",
            bytes: color.to_vec(),
        },
        Step {
            at: 0.4,
            what: "half of color.wasm copied over active.wasm, as if the disk were full",
            why_nothing_fails: "a file is checked before anything changes: the active version stays",
            bytes: color[..color.len() / 2].to_vec(),
        },
        Step {
            at: 0.55,
            what: "a policy that traps at every 800th pick copied over active.wasm",
            why_nothing_fails: "the native round robin picks for the affected RPC, and the previous version returns",
            bytes: traps,
        },
        Step {
            at: 0.8,
            what: "round_robin.wasm copied over active.wasm",
            why_nothing_fails: "a swap is one pointer store",
            bytes: standard("round_robin")?.to_vec(),
        },
    ])
}

/// Overwrites the policy's file in place, as `cp` does.
pub(super) fn put(directory: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = directory.join(format!("{NAME}.wasm"));
    fs::write(&file, bytes).with_context(|| format!("write {file:?}"))
}

/// Returns the file of a standard policy.
pub(super) fn standard(name: &str) -> anyhow::Result<&'static [u8]> {
    hotpick_policies::get(name).with_context(|| format!("{name:?} is not a standard policy"))
}
