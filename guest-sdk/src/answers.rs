//! Response latency and failures of endpoints, for policies that prefer the endpoints that answer well.

use std::cmp::Ordering;

use crate::stats::ResponseCounts;
use crate::{Duration, Nanos, PickInfo, SubConn, SubConnMap, call, nanos, stats};

/// What to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the cases are complete")]
pub enum Cost {
    /// Number of RPCs in flight.
    Rpcs,
    /// Number of RPCs in flight, multiplied by the latency.
    Latency,
}

/// Latency and failure rate of each endpoint, and a choice of the better endpoint.
///
/// The data comes from the host's counters ([`stats::responses`]). They cover all RPCs of the channel, and a policy
/// pays nothing when an RPC ends. The counters of an endpoint are read at most every 10 ms; the number of RPCs in
/// flight is always current. For each endpoint there are two averages:
///
/// - Latency: the time until a response begins, as a moving average that follows a rise at once and a fall slowly
///   (Finagle's peak EWMA). A rise must be confirmed by the next answer. Until then, a single long poll counts as at
///   most twice the average. RPCs that the client gave up before an answer count as a rise if they had waited longer
///   than the average; otherwise they are ignored. The current wait counts as well: an endpoint that has been silent
///   for a second is as slow as one that takes a second.
/// - Failure rate: the share of the latest RPCs (about 20) that failed. A share of up to 10 % changes nothing, because
///   one outlier among many RPCs says little. Above 10 % the endpoint's load is multiplied by up to 10. Above 50 % the
///   endpoint gets only probes. So an endpoint that fails fast does not look like the fastest one. RPCs that the client
///   gave up count as failed if the endpoint answered nothing in the meantime.
///
/// Both averages decay with time. They are refreshed only by picks, so an endpoint that always loses is probed from
/// time to time, with one RPC. The interval grows while the probes show no improvement. The answer to a probe counts
/// for half of the average: a few probes are enough, however bad the average was.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Time after which an average has lost two thirds of its weight [ns].
    memory: Nanos,
    /// How long an endpoint must have lost before it is probed [ns]. Grows to 2, 4, 8 and 16 times this without
    /// improvement.
    try_after: Nanos,
    known: SubConnMap<Answering>,
    /// Picks since the last probe.
    since_try: u32,
    /// Typical latency of the picked endpoints [ns]; 0 if unknown.
    typical: f64,
}

/// At most one pick in this many is a probe.
const TRIES: u32 = 50;
/// Longest interval between probes, as a multiple of [`Answers::try_after`].
const SELDOM: u64 = 16;
/// The same for an endpoint that owes a response.
const PATIENCE: u64 = 20;
/// Failures are remembered this many times longer than latencies: as soon as they are forgotten, an endpoint that fails
/// fast looks like the fastest one.
const FORGIVING: f64 = 16.0;
/// Number of RPCs that the failure rate covers.
const LATEST: f64 = 20.0;
/// Failure rate up to which the load is not changed.
const TOLERATED: f64 = 0.1;
/// Failure rate above which an endpoint is only probed.
const FAILS: f64 = 0.5;
/// Factor for the load of such an endpoint.
const SHUNNED: f64 = 1e12;
/// An endpoint this many times slower than the typical one is treated like a failing one.
const FAR_SLOWER: f64 = 8.0;

/// Counters of a subconn that does not exist.
const NOTHING: ResponseCounts = ResponseCounts {
    in_flight: 0,
    max_streams: u32::MAX,
    silence: 0,
    begun: 0,
    waited: 0,
    abandoned: 0,
    abandoned_after: 0,
    ended: 0,
    faulty: 0,
};

/// How long the counters of an endpoint are used before they are read again [ns].
const FRESH: Nanos = 10_000_000;

/// Averages of one endpoint.
#[derive(Clone, Debug)]
struct Answering {
    /// The counters when they were last read.
    counts: ResponseCounts,
    looked: Nanos,
    /// Average time until a response begins [ns]; 0 if unknown.
    latency: f64,
    /// When the latency was last updated.
    heard: Nanos,
    /// The latest sample of the latency.
    latest: f64,
    /// Failure rate, 0 to 1.
    failing: f64,
    /// When the failure rate was last updated.
    judged: Nanos,
    picked: Nanos,
    /// How long the endpoint must lose before it is probed [ns].
    try_after: Nanos,
    /// Whether its last pick was a probe.
    on_trial: bool,
}

/// Current view of an endpoint.
#[derive(Clone, Copy)]
struct Seen {
    rpcs: f64,
    /// 0 if unknown.
    latency: f64,
    silence: f64,
    /// Factor for the load because of failures.
    factor: f64,
    /// Whether it has a free stream.
    has_room: bool,
    is_due: bool,
}

/// e to the power of `-x`, within 1 %, for `x >= 0`. The exact function is more code than the rest of this module.
fn exp_minus(x: f64) -> f64 {
    if x < 0.01 {
        return 1.0 - x;
    }
    // (1 + x/256)^-256.
    let mut power = 1.0 / (1.0 + x / 256.0);
    for _ in 0..8 {
        power *= power;
    }
    power
}

/// Factor for the load at a failure rate: 1 up to [`TOLERATED`], then inversely proportional to the fourth power of the
/// success rate, up to [`FAILS`].
fn factor(failing: f64) -> f64 {
    if failing > FAILS {
        return SHUNNED;
    }
    let ratio = (1.0 - TOLERATED) / (1.0 - failing);
    if ratio <= 1.0 { 1.0 } else { ratio * ratio * ratio * ratio }
}

impl Answering {
    fn new(counts: ResponseCounts, now: Nanos, try_after: Nanos) -> Self {
        Self {
            counts,
            looked: now,
            latency: 0.0,
            heard: now,
            latest: 0.0,
            failing: 0.0,
            judged: now,
            picked: now,
            try_after,
            on_trial: false,
        }
    }

    /// Adds what has happened since the counters were last read.
    fn update(&mut self, counts: ResponseCounts, now: Nanos, memory: f64, try_after: Nanos) {
        let before = std::mem::replace(&mut self.counts, counts);
        let more = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let (begun, abandoned) = (more(counts.begun, before.begun), more(counts.abandoned, before.abandoned));
        let ended = more(counts.ended, before.ended);
        let mut faulty = more(counts.faulty, before.faulty);
        let mut judged = ended;
        if begun == 0.0 {
            // None of these RPCs was answered.
            (faulty, judged) = (faulty + abandoned, judged + abandoned);
        }
        if begun + judged + abandoned == 0.0 {
            return;
        }
        let on_trial = std::mem::take(&mut self.on_trial);
        let kept = exp_minus(now.saturating_sub(self.heard) as f64 / memory);
        let latency = self.latency * kept;
        if begun > 0.0 {
            // `clamp` would add 25 KB of code, for the message of its panic.
            let seen = (more(counts.waited, before.waited) / begun).max(1.0).min(memory);
            let weight = 1.0 - if on_trial { kept.min(0.5) } else { kept };
            self.rise_or_fall(seen, latency, weight, now);
            if on_trial && seen <= latency && faulty == 0.0 {
                self.try_after = try_after;
            }
        }
        if abandoned > 0.0 {
            let waited = (more(counts.abandoned_after, before.abandoned_after) / abandoned).min(memory);
            let kept = exp_minus(now.saturating_sub(self.heard) as f64 / memory);
            if waited > self.latency * kept {
                self.rise_or_fall(waited, self.latency * kept, 1.0 - kept, now);
            }
        }
        if judged > 0.0 {
            let kept = exp_minus(now.saturating_sub(self.judged) as f64 / (memory * FORGIVING));
            let weight = judged / (judged + LATEST);
            let weight = if on_trial { weight.max(0.5) } else { weight };
            let failing = self.failing * kept;
            self.failing = failing + weight * (faulty / judged - failing);
            self.judged = now;
        }
    }

    /// Adds a sample to the decayed average `latency`.
    fn rise_or_fall(&mut self, seen: f64, latency: f64, weight: f64, now: Nanos) {
        let before = std::mem::replace(&mut self.latest, seen);
        let confirmed = seen.min(before);
        self.latency = match () {
            () if latency == 0.0 => seen,
            () if confirmed > latency => confirmed,
            // A single sample raises the average to at most twice its value.
            () => latency + weight * (seen.min(2.0 * latency) - latency),
        };
        self.heard = now;
    }

    /// Returns the current view. An endpoint that owes a response is not due for a probe until `patience` has passed.
    fn seen(&self, in_flight: u32, now: Nanos, memory: f64, patience: Nanos) -> Seen {
        let unpicked = now.saturating_sub(self.picked);
        let since = |at: Nanos, memory: f64| exp_minus(now.saturating_sub(at) as f64 / memory);
        let failing = if self.failing > TOLERATED {
            self.failing * since(self.judged, memory * FORGIVING)
        } else {
            0.0
        };
        let silence = self.counts.silence as f64;
        Seen {
            rpcs: f64::from(in_flight) + 1.0,
            latency: if self.latency > 0.0 {
                (self.latency * since(self.heard, memory)).max(1.0)
            } else {
                0.0
            },
            silence: silence.min(memory),
            factor: if failing > TOLERATED { factor(failing) } else { 1.0 },
            has_room: in_flight < self.counts.max_streams,
            is_due: unpicked > if self.counts.silence == 0 { self.try_after } else { patience },
        }
    }
}

impl Default for Answers {
    /// Averages lose two thirds of their weight in 10 s. An endpoint that has lost for a second is probed.
    fn default() -> Self {
        Self::new(Duration::from_secs(10), Duration::from_secs(1))
    }
}

impl Answers {
    /// Averages lose two thirds of their weight in `memory`. An endpoint not picked for `try_after` is probed.
    #[must_use]
    pub fn new(memory: Duration, try_after: Duration) -> Self {
        let (memory, try_after) = (nanos(memory).max(1), nanos(try_after));
        Self { memory, try_after, known: SubConnMap::default(), since_try: 0, typical: 0.0 }
    }

    /// Removes an endpoint.
    pub fn forget(&mut self, id: SubConn) {
        self.known.remove(id);
    }

    /// Returns the best of some endpoints with their weights, and counts it as picked: the one with the lowest cost for
    /// its weight, chosen at random among equals, or another one that is due for a probe. Endpoints without a free
    /// stream are skipped. `None` if no endpoint has a free stream. A retry goes to an endpoint that the RPC has not
    /// tried, if there is one.
    ///
    /// Compares `enough` endpoints, and more as long as the best one is bad: the RPC has tried it, it fails, or is far
    /// slower than the endpoints that are usually picked.
    pub fn pick(
        &mut self,
        among: impl Iterator<Item = (SubConn, f64)>,
        enough: usize,
        by: Cost,
        info: &PickInfo,
    ) -> Option<SubConn> {
        let (mut best, mut to_try, may_try) = (None::<Candidate>, None, self.since_try >= TRIES);
        // Number of endpoints equal to the best one, and the random state that decides among them.
        let (mut equal, mut random) = (1u64, info.random);
        for ((id, weight), looked) in among.zip(0..) {
            if looked >= enough && best.is_some_and(|best| !best.tried && !self.is_bad(&best, by)) {
                break;
            }
            let seen = self.look(id, info.now);
            if !seen.has_room {
                continue;
            }
            let tried = info.attempt > 0 && call::tried(id);
            let candidate = Candidate { id, weight, seen, tried };
            let Some(before) = best else {
                best = Some(candidate);
                continue;
            };
            let loser = match candidate.compare(&before, by) {
                Ordering::Less => {
                    equal = 1;
                    best = Some(candidate);
                    before
                }
                Ordering::Greater => candidate,
                Ordering::Equal => {
                    equal += 1;
                    // Knuth's generator. `mix` and `below` are better, but cost a tenth of a pick.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if (random >> 33) * equal < 1 << 31 {
                        best = Some(candidate);
                    }
                    continue;
                }
            };
            // Where RPCs are rare, all endpoints are due.
            if may_try && loser.seen.is_due && !loser.tried {
                to_try = Some(loser.id);
            }
        }
        let best = best?;
        let picked = to_try.unwrap_or(best.id);
        if best.seen.latency > 0.0 {
            let step = (best.seen.latency - self.typical) / if self.typical > 0.0 { 64.0 } else { 1.0 };
            self.typical += step;
        }
        let known = self.known.get_mut(picked)?;
        known.picked = info.now;
        if to_try.is_some() {
            self.since_try = 0;
            known.on_trial = true;
            known.try_after = (known.try_after * 2).min(self.try_after * SELDOM);
        } else {
            self.since_try = self.since_try.saturating_add(1);
            known.try_after = self.try_after;
        }
        Some(picked)
    }

    fn is_bad(&self, of: &Candidate, by: Cost) -> bool {
        let latency = of.seen.latency.max(of.seen.silence);
        let is_slow = by == Cost::Latency && self.typical > 0.0 && latency > FAR_SLOWER * self.typical;
        of.seen.factor >= SHUNNED || is_slow || of.tried
    }

    /// Returns the current view of an endpoint, after reading the host's counters.
    fn look(&mut self, id: SubConn, now: Nanos) -> Seen {
        let (memory, try_after) = (self.memory as f64, self.try_after);
        let counts = || stats::responses(id).unwrap_or(NOTHING);
        let known = self.known.get_or_insert_with(id, || Answering::new(counts(), now, try_after));
        if now.saturating_sub(known.looked) >= FRESH {
            known.looked = now;
            known.update(counts(), now, memory, try_after);
        }
        known.seen(stats::in_flight(id), now, memory, try_after.saturating_mul(PATIENCE))
    }
}

/// An endpoint that may be picked.
#[derive(Clone, Copy)]
struct Candidate {
    id: SubConn,
    weight: f64,
    seen: Seen,
    /// The RPC has already tried it.
    tried: bool,
}

impl Candidate {
    /// Less is better.
    fn compare(&self, other: &Self, by: Cost) -> Ordering {
        let (own, others) = match by {
            Cost::Rpcs => (1.0, 1.0),
            Cost::Latency => latencies(self.seen, other.seen),
        };
        let load = |of: &Self, latency: f64| latency * of.seen.rpcs * of.seen.factor / of.weight;
        self.tried.cmp(&other.tried).then(load(self, own).total_cmp(&load(other, others)))
    }
}

/// Returns the latencies to compare. An endpoint with unknown latency is assumed to be like the other one, so that it
/// gets its share of RPCs.
fn latencies(one: Seen, other: Seen) -> (f64, f64) {
    let (mut first, mut second) = (one.latency, other.latency);
    if first == 0.0 || second == 0.0 {
        first = first.max(second).max(1.0);
        second = first;
    }
    (first.max(one.silence), second.max(other.silence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use crate::group::{Balance, Group};
    use crate::random::Random;
    use crate::stats::Summary;
    use crate::testing::{BAD, FakeHost, Rpc, Server, World, histories, summary};
    use crate::{PickResult, Placement, Policy, Weights};

    const SECOND: f64 = 1e9;

    /// One endpoint, as described in the documentation of [`Answers`].
    #[derive(Clone, Default)]
    struct Model {
        counts: Option<ResponseCounts>,
        looked: f64,
        in_flight: u32,
        latency: f64,
        latest: f64,
        heard: f64,
        failing: f64,
        judged: f64,
        picked: f64,
        lost_for: f64,
        on_trial: bool,
    }

    impl Model {
        fn look(&mut self, counts: ResponseCounts, now: f64) {
            self.in_flight = counts.in_flight;
            if self.counts.is_some() && now - self.looked < SECOND / 100.0 {
                return;
            }
            self.looked = now;
            let Some(before) = self.counts.replace(counts) else {
                (self.heard, self.judged, self.picked, self.lost_for) = (now, now, now, SECOND);
                return;
            };
            let begun = (counts.begun - before.begun) as f64;
            let abandoned = (counts.abandoned - before.abandoned) as f64;
            let none_answered = if begun == 0.0 { abandoned } else { 0.0 };
            let ended = (counts.ended - before.ended) as f64 + none_answered;
            let failed = (counts.faulty - before.faulty) as f64 + none_answered;
            if begun + ended + abandoned == 0.0 {
                return;
            }
            let tried = std::mem::take(&mut self.on_trial);
            let decayed = self.latency * exp_minus((now - self.heard) / (10.0 * SECOND));
            if begun > 0.0 {
                let mean = ((counts.waited - before.waited) as f64 / begun).clamp(1.0, 10.0 * SECOND);
                let kept = exp_minus((now - self.heard) / (10.0 * SECOND));
                let kept = if tried { f64::min(kept, 0.5) } else { kept };
                self.takes(mean, decayed, kept);
                self.heard = now;
                if tried && mean <= decayed && failed == 0.0 {
                    self.lost_for = SECOND;
                }
            }
            if abandoned > 0.0 {
                let mean = (counts.abandoned_after - before.abandoned_after) as f64 / abandoned;
                let mean = f64::min(mean, 10.0 * SECOND);
                let kept = exp_minus((now - self.heard) / (10.0 * SECOND));
                if mean > self.latency * kept {
                    self.takes(mean, self.latency * kept, kept);
                    self.heard = now;
                }
            }
            if ended > 0.0 {
                let weight = ended / (ended + 20.0);
                let weight = if tried { f64::max(weight, 0.5) } else { weight };
                let before = self.failing * exp_minus((now - self.judged) / (160.0 * SECOND));
                self.failing = before * (1.0 - weight) + failed / ended * weight;
                self.judged = now;
            }
        }

        fn takes(&mut self, mean: f64, decayed: f64, kept: f64) {
            let twice_in_a_row = f64::min(mean, self.latest);
            self.latest = mean;
            self.latency = if decayed == 0.0 {
                mean
            } else if twice_in_a_row > decayed {
                twice_in_a_row
            } else {
                decayed * kept + f64::min(mean, 2.0 * decayed) * (1.0 - kept)
            };
        }

        fn latency(&self, now: f64) -> f64 {
            self.latency * exp_minus((now - self.heard) / (10.0 * SECOND))
        }

        fn factor(&self, now: f64) -> f64 {
            if self.failing <= 0.1 {
                return 1.0;
            }
            let failing = self.failing * exp_minus((now - self.judged) / (160.0 * SECOND));
            if failing > 0.5 { 1e12 } else { f64::max(1.0, (0.9 / (1.0 - failing)).powi(4)) }
        }

        fn is_due(&self, now: f64) -> bool {
            let silent = self.counts.is_some_and(|counts| counts.silence > 0);
            now - self.picked > if silent { 20.0 * SECOND } else { self.lost_for }
        }
    }

    fn load(model: &Model, other: &Model, weight: f64, by: Cost, now: f64) -> f64 {
        let counts = model.counts.expect("looked at");
        let latency = match by {
            Cost::Rpcs => 1.0,
            Cost::Latency => {
                let own = model.latency(now);
                let both = own > 0.0 && other.latency(now) > 0.0;
                let known = if both { own.max(1.0) } else { own.max(other.latency(now)).max(1.0) };
                known.max((counts.silence as f64).min(10.0 * SECOND))
            }
        };
        latency * f64::from(model.in_flight + 1) * model.factor(now) / weight
    }

    fn history(mut random: Random) {
        let by = [Cost::Rpcs, Cost::Latency][random.below(2)];
        let mut answers = Answers::default();
        let mut models = [Model::default(), Model::default()];
        let mut counts = [ResponseCounts { max_streams: 50, ..NOTHING }; 2];
        let weights = [1.0, [1.0, 3.0][random.below(2)]];
        let (mut now, mut since_try) = (0, 0);
        for _ in 0..200 {
            now += [0, 1_000_000, 30_000_000, 900_000_000, 5_000_000_000][random.below(5)];
            for counts in &mut counts {
                counts.in_flight = u32::try_from(random.below(52)).expect("small");
                counts.silence = [0, 0, 0, 2_000_000, 3_000_000_000][random.below(5)];
                let mut some = |of: &mut u64, most: usize| {
                    let more = if random.below(2) == 0 { random.below(most) as u64 } else { 0 };
                    *of += more;
                    more
                };
                let begun = some(&mut counts.begun, 4);
                let abandoned = some(&mut counts.abandoned, 2);
                let ended = some(&mut counts.ended, 4);
                counts.waited += begun * (1_000_000 << random.below(12));
                counts.abandoned_after += abandoned * (1_000_000 << random.below(12));
                counts.faulty += random.below(usize::try_from(ended).expect("small") + 1) as u64;
            }
            fake::with(|host| {
                for (counts, id) in counts.into_iter().zip(0..) {
                    host.responses.insert(id, counts);
                    host.stats.insert(id, Summary { in_flight: counts.in_flight, ..summary() });
                }
            });
            let info = PickInfo { now, random: random.next(), ..PickInfo::default() };
            let picked = answers.pick([(0, weights[0]), (1, weights[1])].into_iter(), 2, by, &info);
            let at = now as f64;
            for (model, counts) in models.iter_mut().zip(counts) {
                model.look(counts, at);
            }
            let has_room = counts.map(|counts| counts.in_flight < 50);
            let Some(picked) = picked else {
                assert_eq!(has_room, [false, false]);
                continue;
            };
            let picked = picked as usize;
            assert!(has_room[picked]);
            let other = 1 - picked;
            let loads = [0, 1].map(|id| load(&models[id], &models[1 - id], weights[id], by, at));
            let is_try = has_room[other] && loads[picked] > loads[other] * 1.05;
            if is_try {
                assert!(models[picked].is_due(at) && since_try >= TRIES, "{loads:?}");
            }
            // Where the loads do not show whether this was a probe, ask the policy.
            let was_try = answers.since_try == 0;
            assert!(was_try || !is_try, "{loads:?}");
            since_try = if was_try { 0 } else { since_try + 1 };
            let model = &mut models[picked];
            model.picked = at;
            model.on_trial |= was_try;
            model.lost_for = if was_try { (model.lost_for * 2.0).min(16.0 * SECOND) } else { SECOND };
        }
    }

    #[test]
    fn it_is_as_its_documentation_says_in_random_histories() {
        histories(&[], history);
    }

    #[test]
    fn the_exponential_is_good_enough() {
        for x in [0.0, 0.005, 0.1, 1.0, 3.0, 1_000.0] {
            assert!((exp_minus(x) - f64::exp(-x)).abs() < 0.01, "{x}");
        }
    }

    /// A policy that consists of one group, like many policies.
    struct Grouped(Group, Answers);

    impl Policy for Grouped {
        fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
            let by = if config == "p2c" { Balance::P2c } else { Balance::LeastRequest };
            Ok(Self(Group::new(by), Answers::default()))
        }

        fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
            self.0.update(ready.to_vec(), &Weights::default());
        }

        fn pick(&mut self, info: &PickInfo) -> PickResult {
            self.0.pick(info, &mut self.1).map_or(PickResult::Queue, PickResult::Pick)
        }
    }

    #[test]
    fn a_bad_one_of_five_gets_under_2_percent_of_a_group_and_its_share_again() {
        for (balance, per_second) in [("p2c", 50), ("least_request", 200)] {
            for (what, bad, deadline) in BAD {
                let mut host = FakeHost::<Grouped>::start(balance).expect("started");
                host.ready(&[0, 1, 2, 3, 4]);
                let servers = [Server::well(Duration::from_millis(5)); 5];
                let (share, after) =
                    World::new(host, &servers, per_second).with_deadline(deadline).bad_hour(bad);
                assert!(share < 0.02, "{balance}, {what}: {share}");
                assert!(after > 0.15, "{balance}, {what}: {after}");
            }
        }
    }

    fn grouped(balance: &str, per_second: u32) -> World<Grouped> {
        let mut host = FakeHost::<Grouped>::start(balance).expect("started");
        host.ready(&[0, 1, 2, 3, 4]);
        World::new(host, &[Server::well(Duration::from_millis(5)); 5], per_second)
    }

    /// Such as an idle watch, a long poll, or an RPC that a handler has lost.
    #[test]
    fn an_rpc_without_an_answer_does_not_take_its_endpoints_traffic_away() {
        for (balance, per_second) in [("p2c", 20), ("p2c", 200), ("least_request", 200)] {
            let mut world = grouped(balance, per_second);
            world.run(Duration::from_secs(10));
            world.watch(0);
            for minute in 0..5 {
                let share = world.run(Duration::from_secs(60))[0];
                // It has one more RPC in flight than the others. Where these have none, that is much.
                assert!(share > 0.04, "{balance}, {per_second}/s, minute {minute}: {share}");
            }
        }
    }

    #[test]
    fn some_long_rpcs_are_no_reason_to_leave_their_endpoints_alone() {
        let mut world = grouped("p2c", 50).with_long(500, Duration::from_secs(30));
        world.run(Duration::from_secs(10));
        for minute in 0..10 {
            let shares = world.run(Duration::from_secs(60));
            assert!(shares.iter().all(|share| *share > 0.05), "minute {minute}: {shares:?}");
        }
    }

    #[test]
    fn two_bad_ones_of_five_get_little_together() {
        for bad in
            [Server::HANGS, Server::fails(Duration::from_micros(200)), Server::well(Duration::from_secs(1))]
        {
            let mut world = grouped("p2c", 100).with_deadline(Duration::from_secs(2));
            world.becomes(0, bad);
            world.becomes(1, bad);
            world.run(Duration::from_secs(60));
            let shares = world.run(Duration::from_secs(600));
            assert!(shares[0] + shares[1] < 0.03, "{bad:?}: {shares:?}");
        }
    }

    #[test]
    fn one_that_fails_at_once_gets_little_however_slow_the_others_are() {
        for (per_second, millis) in [(5, 5), (5, 50), (20, 500)] {
            let mut host = FakeHost::<Grouped>::start("p2c").expect("started");
            host.ready(&[0, 1, 2, 3, 4]);
            let mut world = World::new(host, &[Server::well(Duration::from_millis(millis)); 5], per_second);
            let (share, after) = world.bad_hour(Server::fails(Duration::from_micros(200)));
            assert!(share < 0.025 && after > 0.12, "{per_second}/s, {millis} ms: {share}, {after}");
        }
    }

    #[test]
    fn tries_become_rare_and_their_pace_is_what_was_asked_for() {
        // Within 3,600 s at 50 RPC/s: a probe each 16 s, or each 32 s.
        for (try_after, expected) in [(1, 180.0..260.0), (2, 90.0..140.0)] {
            let mut host = FakeHost::<Grouped>::start("p2c").expect("started");
            host.ready(&[0, 1, 2, 3, 4]);
            let mut world = World::new(host, &[Server::well(Duration::from_millis(5)); 5], 50);
            world.host().policy_mut().1 =
                Answers::new(Duration::from_secs(10), Duration::from_secs(try_after));
            world.becomes(0, Server::fails(Duration::from_millis(5)));
            world.run(Duration::from_secs(600));
            let share = world.run(Duration::from_secs(3_600))[0];
            let tries = share * 180_000.0;
            assert!(expected.contains(&tries), "{tries} for {try_after} s");
        }
    }

    #[test]
    fn one_that_was_slow_once_is_not_left_alone_for_ever() {
        let mut host = FakeHost::<Grouped>::start("p2c").expect("started");
        host.ready(&[0, 1]);
        let counts = |begun, waited| ResponseCounts { begun, waited, ended: begun, ..NOTHING };
        host.pick(&Rpc::default());
        fake::with(|host| host.responses.extend([(0, counts(1, 2_000_000)), (1, counts(1, 500_000_000))]));
        let mut picked = [0; 2];
        for _ in 0..86_400 {
            host.advance(Duration::from_secs(1));
            picked[host.picks(1)[0] as usize] += 1;
        }
        assert!(picked[1] > 30_000, "{picked:?}");
    }
}
