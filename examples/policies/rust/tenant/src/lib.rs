//! tenant: sends each tenant to its pool of endpoints, pauses endpoints that fail, and picks the least loaded.
//!
//!     {"metadata": "tenant", "attribute": "pool", "routes": [{"prefix": "gold-", "pool": "fast"}],
//!      "failures": 3, "pauseSeconds": 10, "strict": false}
//!
//! An RPC whose metadata begins with a route's prefix goes to the ready endpoints whose attribute is the route's pool;
//! the first such route counts. Other RPCs go to all. If a pool is empty, its RPCs go to all as well, or fail if
//! `strict`. An endpoint that has failed `failures` RPCs in a row is paused for `pauseSeconds`. A retry goes to an
//! endpoint that the RPC has not tried. The next version of the policy takes over the pauses.

use std::fmt::Write as _;

use hotpick_guest::config::Config as _;
use hotpick_guest::metrics::{Counter, Gauge};
use hotpick_guest::stats::Measure;
use hotpick_guest::{
    Alarms, Endpoint, FailCode, Handover, Nanos, Outcome, Outcomes, PickInfo, PickResult, Placement, Policy, Saved,
    StatusCode, SubConn, SubConnMap, call, stats, timers,
};

hotpick_guest::config! {
    /// Sends each tenant to its pool of endpoints.
    struct Config {
        /// The metadata key of RPCs.
        metadata: String = "tenant".to_owned(),
        /// The attribute of endpoints.
        attribute: String = "pool".to_owned(),
        /// Pools by the beginning of the metadata. The first that matches counts.
        routes: Vec<Route> = Vec::new(),
        /// Failures in a row after which an endpoint is paused.
        #[range(1..=1_000_000)]
        failures: u32 = 3,
        /// How long it is paused (s).
        #[range(0.001..=3600.0)]
        pause_seconds: f64 = 10.0,
        /// Whether an RPC fails whose pool is empty. Otherwise it goes to any endpoint.
        strict: bool = false,
    }
}

hotpick_guest::config! {
    /// A pool.
    struct Route {
        /// Beginning of the metadata.
        #[range(1..=1000)]
        prefix: String,
        /// Attribute of the endpoints.
        #[range(1..=1000)]
        pool: String,
    }
}

/// The only timer.
const END_OF_PAUSE: u32 = 1;
/// Format of the state: a line for each paused endpoint, its number and the end of its pause.
const FORMAT: u32 = 1;

#[derive(Default)]
struct Known {
    pool: String,
    /// In a row.
    failures: u32,
    /// End of the pause. 0 if it is not paused.
    until: Nanos,
}

struct Tenant {
    config: Config,
    key: call::Key,
    pauses: Counter,
    paused: Gauge,
    known: SubConnMap<Known>,
    ready: Vec<SubConn>,
    candidates: Vec<SubConn>,
    turn: usize,
}

impl Policy for Tenant {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        Ok(Self {
            key: call::declare(&config.metadata, "metadata")?,
            pauses: Counter::new("tenant_pauses", "Pauses of endpoints.")?,
            paused: Gauge::new("tenant_paused", "Endpoints that are paused.")?,
            config,
            known: SubConnMap::default(),
            ready: Vec::new(),
            candidates: Vec::new(),
            turn: placement.seed as usize,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        for id in removed {
            self.known.remove(*id);
        }
        for endpoint in added {
            let known = self.known.get_or_insert_with(endpoint.id, Known::default);
            known.pool = endpoint.attribute(&self.config.attribute).unwrap_or_default().to_owned();
        }
        self.check_pauses(now);
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        if self.ready.is_empty() {
            return PickResult::Queue;
        }
        let mut pool = self.pool_of_rpc();
        if pool.is_some() && !self.collect(pool, true, true) {
            if self.config.strict {
                call::explain("no endpoint is in the pool of this tenant");
                return PickResult::Fail(FailCode::Unavailable);
            }
            pool = None;
        }
        let found = (info.attempt > 0 && self.collect(pool, false, false))
            || self.collect(pool, false, true)
            || self.collect(pool, true, true);
        if !found {
            return PickResult::Queue;
        }
        // Begins at another one in each pick, because the least loaded may be several.
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % self.candidates.len();
        self.candidates.rotate_left(first);
        stats::least(&self.candidates, Measure::InFlight).map_or(PickResult::Queue, PickResult::Pick)
    }
}

impl Outcomes for Tenant {
    fn done(&mut self, batch: &[Outcome], now: Nanos) {
        let pause = self.pause();
        let mut is_new = false;
        for outcome in batch.iter().filter(|outcome| !outcome.client_ended) {
            let Some(known) = self.known.get_mut(outcome.subconn) else { continue };
            if known.until != 0 {
                continue; // sent before the pause
            }
            known.failures = if is_fault(outcome.code) { known.failures + 1 } else { 0 };
            if known.failures >= self.config.failures {
                (known.failures, known.until) = (0, now + pause);
                self.pauses.add(1);
                is_new = true;
            }
        }
        if is_new {
            self.check_pauses(now);
        }
    }
}

impl Alarms for Tenant {
    fn fired(&mut self, _id: u32, now: Nanos) {
        self.check_pauses(now);
    }
}

impl Handover for Tenant {
    fn save(&mut self) -> Saved {
        let mut state = String::new();
        for (id, known) in self.known.iter().filter(|(_, known)| known.until != 0) {
            let _ = writeln!(state, "{id} {}", known.until);
        }
        Saved { schema: FORMAT, data: state.into_bytes() }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        for part in parts {
            if part.schema != FORMAT {
                return Err("the state is of another version".to_owned());
            }
            let state = String::from_utf8(part.data).unwrap_or_else(|_| "?".to_owned());
            for line in state.lines() {
                let fields = line.split_once(' ').and_then(|(id, until)| Some((id.parse().ok()?, until.parse().ok()?)));
                let (id, until): (SubConn, Nanos) = fields.ok_or("the state cannot be read")?;
                let known = self.known.get_or_insert_with(id, Known::default);
                known.until = known.until.max(until);
            }
        }
        Ok(())
    }
}

/// Returns whether a status says that the server is at fault, rather than the request.
const fn is_fault(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::Unknown
            | StatusCode::DeadlineExceeded
            | StatusCode::ResourceExhausted
            | StatusCode::Internal
            | StatusCode::Unavailable
            | StatusCode::DataLoss
    )
}

impl Tenant {
    fn pause(&self) -> Nanos {
        (self.config.pause_seconds * 1e9) as Nanos
    }

    /// Ends the pauses that are over, and sets the timer for the next one.
    fn check_pauses(&mut self, now: Nanos) {
        let latest = now + self.pause();
        for known in self.known.values_mut() {
            // The version before may have paused for longer.
            known.until = if known.until <= now { 0 } else { known.until.min(latest) };
        }
        let paused = || self.known.values().map(|known| known.until).filter(|until| *until != 0);
        self.paused.set(paused().count() as f64);
        match paused().min() {
            Some(next) => drop(timers::schedule(END_OF_PAUSE, next - now)),
            None => timers::cancel(END_OF_PAUSE),
        }
    }

    /// Returns the index of the RPC's route. `None`: all endpoints.
    fn pool_of_rpc(&self) -> Option<usize> {
        let value = call::metadata(self.key)?;
        self.config.routes.iter().position(|route| value.starts_with(&route.prefix))
    }

    /// Collects the ready endpoints of a route's pool, or of all, that are suitable.
    fn collect(&mut self, route: Option<usize>, with_paused: bool, with_tried: bool) -> bool {
        let pool = route.map(|route| self.config.routes[route].pool.as_str());
        self.candidates.clear();
        for id in &self.ready {
            let Some(known) = self.known.get(*id) else { continue };
            if pool.is_none_or(|pool| known.pool == pool)
                && (with_paused || known.until == 0)
                && (with_tried || !call::tried(*id))
            {
                self.candidates.push(*id);
            }
        }
        !self.candidates.is_empty()
    }
}

hotpick_guest::export!(Tenant: Outcomes, Alarms, Handover);
