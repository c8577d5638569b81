//! `probe`: a policy that uses every part of the contract, and counts its notifications in instruments.

use std::collections::BTreeMap;

use hotpick_guest::config::Config as _;
use hotpick_guest::stats::Measure;
use hotpick_guest::{
    About, Alarms, Connectivity, ConnectivityState, Description, FailCode, Handover, Nanos, Outcome,
    Outcomes, PickInfo, PickResult, Placement, Policy, Saved, StatusCode, SubConn, call, connections,
    metrics, stats, timers,
};

/// Time between two alarms (20 ms).
const PERIOD: Nanos = 20_000_000;

struct Probe {
    mode: Mode,
    leak: u32,
    trap_at: Option<u32>,
    /// State of each subconn, in the order in which the subconns were added.
    states: BTreeMap<SubConn, ConnectivityState>,
    ready: Vec<SubConn>,
    /// Number of picks, including those of earlier instances and versions whose state was restored.
    picks: u64,
    leaked: Vec<Vec<u8>>,
    done: metrics::Counter,
    failed: metrics::Counter,
    not_sent: metrics::Counter,
    alarms: metrics::Counter,
    saves: metrics::Counter,
    restored: metrics::Gauge,
    cpu: metrics::Gauge,
    latency: metrics::Histogram,
}

hotpick_guest::config! {
    /// How the policy picks.
    enum Mode {
        /// Picks the ready subconn with the fewest RPCs in flight.
        Least,
        /// Connects lazily: picks the first subconn, and the next one when it fails.
        PickFirst,
        /// Picks another subconn for each attempt of an RPC, and sends the host's data about the attempt as metadata.
        Tell,
    }
}

hotpick_guest::config! {
    /// How the policy picks, and its deliberate faults.
    struct Config {
        /// How the policy picks.
        mode: Mode = Mode::Least,
        /// Bytes leaked at each pick.
        leak: u32 = 0,
        /// Number of the pick that traps, counting the picks of earlier instances whose state was restored.
        trap_at: Option<u32>,
    }
}

impl Policy for Probe {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let Config { mode, leak, trap_at } = Config::parse(config)?;
        if mode == Mode::PickFirst {
            connections::declare_lazy();
        }
        timers::schedule(1, PERIOD)?;
        Ok(Self {
            mode,
            leak,
            trap_at,
            states: BTreeMap::new(),
            ready: Vec::new(),
            picks: 0,
            leaked: Vec::new(),
            done: metrics::Counter::new("probe_done", "RPCs that have ended")?,
            failed: metrics::Counter::new("probe_failed", "RPCs that have failed")?,
            not_sent: metrics::Counter::new("probe_not_sent", "RPCs that were not sent")?,
            alarms: metrics::Counter::new("probe_alarms", "timers that fired")?,
            saves: metrics::Counter::new("probe_saves", "times that the state was saved")?,
            restored: metrics::Gauge::new("probe_restored", "picks of earlier instances and versions")?,
            cpu: metrics::Gauge::new("probe_cpu", "CPU utilization of the last load report")?,
            latency: metrics::Histogram::new(
                "probe_latency",
                "latency of RPCs in seconds",
                &[0.001, 0.01, 0.1, 1.0],
            )?,
        })
    }

    fn endpoints(&mut self, added: &[hotpick_guest::Endpoint], removed: &[SubConn], _now: Nanos) {
        for endpoint in added {
            self.states.entry(endpoint.id).or_insert(ConnectivityState::Idle);
        }
        for id in removed {
            self.states.remove(id);
        }
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        self.picks += 1;
        assert!(Some(self.picks) != self.trap_at.map(u64::from), "`trapAt` is reached");
        if self.leak > 0 {
            self.leaked.push(vec![1; self.leak as usize]);
        }
        let picked = match self.mode {
            Mode::Least => stats::least(&self.ready, Measure::InFlight),
            Mode::PickFirst => return self.pick_first(),
            Mode::Tell => {
                let value = format!(
                    "attempt={} deadline={} in-flight={:?}",
                    info.attempt,
                    call::time_left().is_some(),
                    self.ready.iter().map(|id| stats::in_flight(*id)).collect::<Vec<_>>(),
                );
                if let Err(error) = call::set_metadata("x-probe", value.as_bytes()) {
                    call::explain(&error);
                    return PickResult::Fail(FailCode::Internal);
                }
                self.ready.iter().copied().find(|id| !call::tried(*id))
            }
        };
        picked.map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Probe {
    fn pick_first(&self) -> PickResult {
        let usable = |state: &ConnectivityState| *state != ConnectivityState::TransientFailure;
        let best = self.ready.first().copied();
        let next = || self.states.iter().find(|(_, state)| usable(state)).map(|(id, _)| *id);
        match best.or_else(next) {
            Some(id) => PickResult::Pick(id),
            None => {
                call::explain("every endpoint has failed");
                PickResult::Fail(FailCode::Unavailable)
            }
        }
    }
}

impl Outcomes for Probe {
    fn done(&mut self, batch: &[Outcome], _now: Nanos) {
        for outcome in batch {
            self.done.add(1);
            self.failed.add(u64::from(outcome.code != StatusCode::Ok && !outcome.not_sent));
            self.not_sent.add(u64::from(outcome.not_sent));
            if let Some(load) = outcome.load {
                self.cpu.set(load.cpu);
            }
            #[expect(clippy::cast_precision_loss, reason = "seconds")]
            self.latency.observe(outcome.latency as f64 / 1e9);
        }
    }
}

impl Connectivity for Probe {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, _message: &str, _now: Nanos) {
        self.states.insert(id, state);
        if state == ConnectivityState::TransientFailure {
            connections::resolve_now();
        }
    }
}

impl Alarms for Probe {
    fn fired(&mut self, id: u32, _now: Nanos) {
        self.alarms.add(1);
        // Cannot fail: the timer that has just fired no longer counts towards the limit.
        let _ = timers::schedule(id, PERIOD);
    }
}

impl Handover for Probe {
    fn save(&mut self) -> Saved {
        self.saves.add(1);
        Saved { schema: 1, data: self.picks.to_le_bytes().to_vec() }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        let part = parts.iter().find(|part| part.schema == 1).ok_or("no part of schema 1")?;
        let bytes = part.data.first_chunk().ok_or("the part of schema 1 is too short")?;
        self.picks = u64::from_le_bytes(*bytes);
        #[expect(clippy::cast_precision_loss, reason = "tests make few picks")]
        self.restored.set(self.picks as f64);
        Ok(())
    }
}

impl About for Probe {
    fn describe() -> Description {
        Description::of::<Config>("Uses every part of the contract.")
    }
}

hotpick_guest::export!(Probe: Outcomes, Connectivity, Alarms, Handover, About);
