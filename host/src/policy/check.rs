//! A look at a policy without a channel: what it is, what it may do, what it costs.

use std::time::{Duration, Instant};

use super::WasmPolicy;
use super::bindings::exports::hotpick::policy::outcomes::Outcome;
use super::instance::{InitError, Instance, Role};
use super::outcomes::outcome;
use super::preflight::preflight;
use super::seal::Seal;
use super::trial::failed;
use crate::picker::{PickInfo, Placement, StartError};
use crate::subconn::{DoneInfo, FakeSubConns, PickId, ReadySet, SubConn};
use http::HeaderMap;

/// What is to be known of a policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// Bytes of the file.
    pub size: usize,
    /// What its builder says of the file, if it does. It fits.
    pub seal: Option<Seal>,
    /// Its settings do not say `enabled = false`.
    pub enabled: bool,
    /// The capabilities that it imports.
    pub imports: Vec<String>,
    /// The optional interfaces that it exports.
    pub optional_parts: Vec<String>,
    /// What it exports beside.
    pub ignored_exports: Vec<String>,
    /// The metadata keys that it reads.
    pub metadata: Vec<String>,
    /// The one whose hash its picks are given.
    pub affinity: Option<String>,
    /// It decides when to connect.
    pub lazy: bool,
    /// What it says of itself.
    pub summary: Option<String>,
    /// The JSON Schema of its configuration.
    pub config_schema: Option<String>,
    /// Bytes of memory after some thousand picks.
    pub memory: usize,
    /// Among so many endpoints.
    pub endpoints: u32,
    /// What it costs to tell the policy of all of them.
    pub told: Duration,
    /// What a pick costs, among them, without metadata: the median of many short runs.
    pub pick: Duration,
}

/// Enough picks for a median, and so many in each run.
const RUNS: usize = 64;
const PICKS: u32 = 128;

impl WasmPolicy {
    /// Starts the policy with a configuration (JSON; `{}` for none), on so many endpoints that are not there,
    /// and tries it out as a channel would. Within a tokio runtime, and off its workers: it blocks.
    ///
    /// # Errors
    ///
    /// A channel would not take the policy.
    pub fn check(&self, config: &str, endpoints: u32) -> Result<Report, StartError> {
        let placement = self.placement(&Placement::new("check:///", config));
        let mut stand_ins = FakeSubConns::default();
        let ready = &stand_ins.ready(endpoints);
        drop(preflight(self, &placement, ready, &[]).map_err(failed)?);
        let mut instance = Instance::new(self, &placement, Role::Trial, &[]).map_err(failed)?;
        let begin = Instant::now();
        instance.tell(ready).map_err(|fault| failed(fault.into()))?;
        let told = begin.elapsed();
        let (metadata, mut runs) = (HeaderMap::new(), Vec::with_capacity(RUNS));
        for _ in 0..RUNS {
            let begin = Instant::now();
            for _ in 0..PICKS {
                let pick = instance.pick(&PickInfo::new("/hotpick.Check/Pick", &metadata));
                pick.map_err(|fault| failed(InitError::Trial(fault)))?;
            }
            runs.push(begin.elapsed() / PICKS);
        }
        runs.sort_unstable();
        // What is not asked for a pick, but will be.
        let ended = stand_in_outcome(ready);
        instance.done(&[ended]).map_err(|fault| failed(InitError::Trial(fault)))?;
        let saved = instance.save().map_err(|fault| failed(InitError::Trial(fault)))?;
        if let Some(saved) = saved {
            drop(Instance::new(self, &placement, Role::Trial, &[saved]).map_err(failed)?);
        }
        let memory = instance.memory();
        let name = |key: &http::HeaderName| key.as_str().to_owned();
        let state = instance.state();
        let (metadata, affinity) =
            (state.keys().iter().map(name).collect(), state.affinity_key().map(|(key, _)| name(key)));
        let lazy = state.lazy;
        let said = instance.describe().map_err(|fault| failed(fault.into()))?;
        let filled = |text: &String| !text.is_empty();
        let (summary, config_schema) = said.unzip();
        Ok(Report {
            digest: self.compiled.digest.clone(),
            size: self.compiled.size,
            seal: self.compiled.seal.clone(),
            enabled: self.terms.enabled,
            imports: self.imports().to_vec(),
            optional_parts: self.optional_parts().to_vec(),
            ignored_exports: self.ignored_exports().to_vec(),
            metadata,
            affinity,
            lazy,
            summary: summary.filter(filled),
            config_schema: config_schema.filter(filled),
            memory,
            endpoints,
            told,
            pick: runs[RUNS / 2],
        })
    }
}

/// An RPC that ended well.
fn stand_in_outcome(ready: &ReadySet) -> Outcome {
    let subconn = ready.ready().first().map_or(0, SubConn::id);
    let end = DoneInfo {
        code: Some(tonic::Code::Ok),
        client_ended: false,
        trailers: None,
        latency: Duration::ZERO,
    };
    outcome(PickId { serial: 1, call: 1, method: 0, subconn }, &end)
}
