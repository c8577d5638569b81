//! How endpoints answer, for policies that send RPCs to those that answer well.

use std::cmp::Ordering;

use crate::stats::ResponseCounts;
use crate::{Duration, Nanos, PickInfo, SubConn, SubConnMap, call, nanos, stats};

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what there is")]
pub enum Cost {
    /// RPCs under way.
    Rpcs,
    /// RPCs under way times latency.
    Latency,
}

/// What was seen of endpoints, and by it the better of two.
///
/// It reads the host's counters ([`stats::responses`]), so that it knows of all RPCs of the channel and costs nothing when
/// they end; those of an endpoint every 10 ms at most, but for the RPCs under way. Of each endpoint it keeps
///
/// - the time that responses took to begin, as a moving average that follows a rise at once and a fall slowly (Finagle's
///   peak EWMA), once it is confirmed by the next answer: one long poll is no rise, and counts as twice the average at most.
///   RPCs that the client gave up before they were answered are a rise if they had waited for longer; else they say
///   nothing. What is awaited now counts, too: one of which nothing is heard for a second is as slow as one that takes a
///   second.
/// - the part of its RPCs that failed, over the latest twenty or so. Up to a tenth changes nothing, as one outlier among
///   many RPCs says little; beyond, its load is multiplied, by up to 10; from a half on it is only tried. So one that fails
///   fast does not look like the fastest. RPCs that were given up with no answer at all in between count as failed.
///
/// Both are forgotten with time. What only picks can refresh must not decide alone who is picked: one that loses all the
/// time is tried from time to time, with one RPC, and more seldom if it does no better. The answer to such a try counts for
/// half: some of them are enough, however bad it was.
#[derive(Clone, Debug)]
pub struct Answers {
    /// After so long an average has lost two thirds of its weight.
    memory: Nanos,
    /// How long one must have lost to be tried; 2, 4, 8 and 16 times as long if it does no better.
    try_after: Nanos,
    known: SubConnMap<Answering>,
    /// Picks since one was a try.
    since_try: u32,
    /// The latency of those that are picked, in nanoseconds; 0 if nothing is known.
    typical: f64,
}

/// One pick in so many may be a try.
const TRIES: u32 = 50;
/// One is tried after up to so many times [`Answers::try_after`].
const SELDOM: u64 = 16;
/// One that owes a response is tried after so many.
const PATIENCE: u64 = 20;
/// So much longer than latencies failures are remembered: what fails fast is the fastest of all as soon as that is forgotten.
const FORGIVING: f64 = 16.0;
/// How many RPCs the part that failed is of.
const LATEST: f64 = 20.0;
/// A part up to this changes nothing.
const TOLERATED: f64 = 0.1;
/// From this part on one is only tried.
const FAILS: f64 = 0.5;
/// What that multiplies its load by.
const SHUNNED: f64 = 1e12;
/// One that is so much slower than those that are picked is as bad as one that fails.
const FAR_SLOWER: f64 = 8.0;

/// Of a subconn that is not there.
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

/// An endpoint's counters are read again after so long.
const FRESH: Nanos = 10_000_000;

/// What is known of one.
#[derive(Clone, Debug)]
struct Answering {
    /// At the last look.
    counts: ResponseCounts,
    looked: Nanos,
    /// How long a response takes to begin, in nanoseconds; 0 if nothing is known.
    latency: f64,
    /// Of the latency.
    heard: Nanos,
    /// The latest of what the latency is made of.
    latest: f64,
    /// The part that failed, 0 to 1.
    failing: f64,
    /// Of the part that failed.
    judged: Nanos,
    picked: Nanos,
    /// How long it must lose to be tried.
    try_after: Nanos,
    /// Its last pick was a try.
    on_trial: bool,
}

/// An endpoint as it is now.
#[derive(Clone, Copy)]
struct Seen {
    rpcs: f64,
    /// 0 if nothing is known.
    latency: f64,
    silence: f64,
    /// What its failures multiply its load by.
    factor: f64,
    /// It has a free stream.
    has_room: bool,
    is_due: bool,
}

/// e to the power of `-x`, to 1 %, for `x` of 0 or more: the exact one is more code than the rest of this.
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

/// What failures multiply a load by: 1 up to what is tolerated, then with the fourth power of those that succeed, to a half.
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

    /// Takes in what has happened since the last look.
    fn update(&mut self, counts: ResponseCounts, now: Nanos, memory: f64, try_after: Nanos) {
        let before = std::mem::replace(&mut self.counts, counts);
        let more = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let (begun, abandoned) = (more(counts.begun, before.begun), more(counts.abandoned, before.abandoned));
        let ended = more(counts.ended, before.ended);
        let mut faulty = more(counts.faulty, before.faulty);
        let mut judged = ended;
        if begun == 0.0 {
            // Not one of these was answered.
            (faulty, judged) = (faulty + abandoned, judged + abandoned);
        }
        if begun + judged + abandoned == 0.0 {
            return;
        }
        let on_trial = std::mem::take(&mut self.on_trial);
        let kept = exp_minus(now.saturating_sub(self.heard) as f64 / memory);
        let latency = self.latency * kept;
        if begun > 0.0 {
            // `clamp` would bring 25 KB of code along, to say which of its bounds are wrong.
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

    /// Takes in how long it took, to what is left of the average.
    fn rise_or_fall(&mut self, seen: f64, latency: f64, weight: f64, now: Nanos) {
        let before = std::mem::replace(&mut self.latest, seen);
        let confirmed = seen.min(before);
        self.latency = match () {
            () if latency == 0.0 => seen,
            () if confirmed > latency => confirmed,
            // One alone is twice the average at most.
            () => latency + weight * (seen.min(2.0 * latency) - latency),
        };
        self.heard = now;
    }

    /// What is awaited will say how it is; if it does not say so for long, another one may. That takes `patience`.
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
    /// What is older than 10 s says little, and one that has lost for a second is tried.
    fn default() -> Self {
        Self::new(Duration::from_secs(10), Duration::from_secs(1))
    }
}

impl Answers {
    /// After `memory` an average has lost two thirds of its weight; one that was not picked for `try_after` is tried.
    #[must_use]
    pub fn new(memory: Duration, try_after: Duration) -> Self {
        let (memory, try_after) = (nanos(memory).max(1), nanos(try_after));
        Self { memory, try_after, known: SubConnMap::default(), since_try: 0, typical: 0.0 }
    }

    /// Forgets one.
    pub fn forget(&mut self, id: SubConn) {
        self.known.remove(id);
    }

    /// The best of some with their weights, now to be picked: the one with the lowest cost for its weight, any of them if
    /// they are equal; or one of the others that is to be tried. None without a free stream is picked: `None` if none has
    /// any. A retry goes to one that the RPC has not tried, if there is one.
    ///
    /// It looks at `enough` of them, and at more as long as the best is bad: fails, or takes far longer than those that are
    /// picked do.
    pub fn pick(
        &mut self,
        among: impl Iterator<Item = (SubConn, f64)>,
        enough: usize,
        by: Cost,
        info: &PickInfo,
    ) -> Option<SubConn> {
        let (mut best, mut to_try, may_try) = (None::<Candidate>, None, self.since_try >= TRIES);
        // How many are equal to the best; and what says which of them it is.
        let (mut equal, mut random) = (1u64, info.random);
        for ((id, weight), looked) in among.zip(0..) {
            if looked >= enough && best.is_some_and(|best| !self.is_bad(&best, by)) {
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
                    // Knuth's generator: that of `mix` and `below` is better, and costs a tenth of a pick.
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if (random >> 33) * equal < 1 << 31 {
                        best = Some(candidate);
                    }
                    continue;
                }
            };
            // Where RPCs are rare all of them are due.
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

    /// As the host has it now.
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

/// One that may be picked.
#[derive(Clone, Copy)]
struct Candidate {
    id: SubConn,
    weight: f64,
    seen: Seen,
    /// The RPC has been there.
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

/// One of which nothing is known is taken to be like the other: it gets its share, and is known then.
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

    /// One endpoint, as the documentation of [`Answers`] has it.
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
            // Where the loads do not tell whether it was a try, the policy does.
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

    /// A policy that is nothing but a group, as many have one.
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

    /// An idle watch, a long poll, an RPC that a handler has lost.
    #[test]
    fn an_rpc_without_an_answer_does_not_take_its_endpoints_traffic_away() {
        for (balance, per_second) in [("p2c", 20), ("p2c", 200), ("least_request", 200)] {
            let mut world = grouped(balance, per_second);
            world.run(Duration::from_secs(10));
            world.watch(0);
            for minute in 0..5 {
                let share = world.run(Duration::from_secs(60))[0];
                // It has one more RPC under way than the others: where these have none, that is much.
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
        // Of 3,600 s with 50 RPC/s: each 16 s, or each 32 s.
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
