//! Checks a policy: reports its interfaces, its declarations and its cost.

use std::time::{Duration, Instant};

use http::HeaderMap;

use super::scenarios;
use super::test_bed::TestBed;
use crate::lifecycle::{Placement, StartError};
use crate::picker::PickInfo;
use crate::policy::compile::Seal;
use crate::policy::instance::InstanceError;
use crate::policy::serve::preflight;
use crate::policy::wasm_policy::WasmPolicy;
use crate::subconn::{FakeSubConns, SubConn};

/// Report about a policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
    /// Bytes of the file.
    pub size: usize,
    /// The file's seal, which has been verified. `None`: the file has no seal.
    pub seal: Option<Seal>,
    /// Whether the policy is enabled. `false`: its settings say `enabled = false`.
    pub enabled: bool,
    /// The imported capabilities.
    pub imports: Vec<String>,
    /// The exported optional interfaces.
    pub optional_parts: Vec<String>,
    /// Exports that are not in the contract.
    pub ignored_exports: Vec<String>,
    /// The metadata keys that the policy reads.
    pub metadata: Vec<String>,
    /// The metadata key whose hash the picks receive. `None`: none is declared.
    pub affinity: Option<String>,
    /// Whether the policy decides when to connect.
    pub lazy: bool,
    /// The policy's summary of itself.
    pub summary: Option<String>,
    /// The JSON Schema of the policy's configuration.
    pub config_schema: Option<String>,
    /// Bytes of memory after some thousand picks.
    pub memory: usize,
    /// Number of endpoints in the check.
    pub endpoints: u32,
    /// Duration of a notification of the policy of all endpoints.
    pub notification: Duration,
    /// Time per pick without metadata: the median of many short runs.
    pub pick: Duration,
}

/// Number of runs, enough for a median, and of picks in each run.
const RUNS: usize = 64;
const PICKS: u32 = 128;

impl WasmPolicy {
    /// Starts the policy with a configuration (JSON; `{}` for none) and this number of endpoints without connections,
    /// and makes trial picks as a channel would.
    ///
    /// Needs the context of a Tokio runtime. Blocks, so do not call it on a worker thread of the runtime.
    ///
    /// # Errors
    ///
    /// If a channel would refuse the policy.
    pub fn check(&self, config: &str, endpoints: u32) -> Result<Report, StartError> {
        let (program, placement) = (self.program(), self.placement(&Placement::new("check:///", config)));
        drop(preflight(program, &placement, &FakeSubConns::default().ready(endpoints), &[])?);
        let mut rehearsal = TestBed::start(program, &placement, &[])?;
        let ready = rehearsal.set_ready(endpoints).map_err(InstanceError::from)?;
        let notification = rehearsal.notified_in;
        let instance = &mut rehearsal.instance;
        let (metadata, mut runs) = (HeaderMap::new(), Vec::with_capacity(RUNS));
        for _ in 0..RUNS {
            let begin = Instant::now();
            for _ in 0..PICKS {
                let pick = instance.pick(&PickInfo::new("/hotpick.Check/Pick", &metadata));
                pick.map_err(InstanceError::Trial)?;
            }
            runs.push(begin.elapsed() / PICKS);
        }
        runs.sort_unstable();
        // Calls that a channel makes later than the picks.
        let subconn = ready.ready().first().map_or(0, SubConn::id);
        instance.done(&[scenarios::ended_ok(subconn)]).map_err(InstanceError::Trial)?;
        let saved = instance.save().map_err(InstanceError::Trial)?;
        if let Some(saved) = saved {
            drop(TestBed::start(program, &placement, &[saved])?);
        }
        let memory = instance.memory();
        let name = |key: &http::HeaderName| key.as_str().to_owned();
        let state = instance.state();
        let (metadata, affinity) =
            (state.keys().iter().map(name).collect(), state.affinity_key().map(|(key, _)| name(key)));
        let lazy = state.lazy();
        let said = instance.describe().map_err(InstanceError::from)?;
        let filled = |text: &String| !text.is_empty();
        let (summary, config_schema) = said.unzip();
        let code = &program.linked.code;
        Ok(Report {
            digest: code.digest.clone(),
            size: code.size,
            seal: code.seal.clone(),
            enabled: program.spec.enabled,
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
            notification,
            pick: runs[RUNS / 2],
        })
    }
}
