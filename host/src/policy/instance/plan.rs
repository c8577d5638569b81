//! Plans: picks that a policy makes ahead, so that it is not called for each RPC.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use crossbeam_utils::CachePadded;
use tokio::time::Instant;

use super::fault::Fault;
use super::imports::Methods;
use crate::policy::limits::LONGEST_PLAN;
use crate::subconn::{ReadySet, SubConn};

/// An active plan. A plan is valid for the endpoints that its policy was last notified of, until the next notification.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Number of the plan, unique in the process.
    id: u64,
    /// Number of the plan that this one continues. 0: none.
    before: u64,
    order: Order,
    picks: Picks,
    ready: ReadySet,
    /// Serial number of the instance that made the plan.
    pub(crate) serial: u64,
    /// Number of the first pick's RPC, by which its outcome is reported.
    first_call: u64,
    /// Numbers of methods, by which outcomes are reported.
    pub(crate) methods: Arc<Mutex<Methods>>,
    /// Index of the next pick of a sequence that no thread has taken, or the number of picks made from a table. The
    /// counter has a cache line of its own, because all threads read the fields beside it at each pick.
    next: CachePadded<AtomicUsize>,
    /// Plan that continues this sequence, made before the sequence is used up.
    successor: OnceLock<Arc<Self>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other.
    Sequence,
    /// By the hash of the affinity key.
    ByAffinity,
}

/// Numbers of subconns, in a byte or two each if they are close together, as those of one time are: a table can have 65,537
/// entries in each of hundreds of channels.
#[derive(Debug)]
enum Picks {
    /// The least number, and the distances from it.
    Bytes(u32, Box<[u8]>),
    Shorts(u32, Box<[u16]>),
    Words(Box<[u32]>),
}

/// A pick from a plan.
pub(crate) struct Planned<'a> {
    pub(crate) subconn: &'a SubConn,
    pub(crate) call: u64,
    /// Number of picks taken from the plan together with this one, for the next RPCs of the same thread. 0: this pick
    /// had been taken before.
    pub(crate) taken: usize,
    /// Whether it is time for a successor, which this thread has to request.
    pub(crate) runs_low: bool,
}

/// The plan in force, if there is one.
#[derive(Debug, Default)]
pub(crate) struct PlanCell {
    plan: ArcSwapOption<Plan>,
    /// Numbers of a sequence and of the one that it continues, or 0. They are read without a guard of the plan, whose two
    /// atomic operations are a fifth of a pick.
    id: AtomicU64,
    before: AtomicU64,
}

/// Picks that a thread has taken from a sequence, and not used yet.
struct Share {
    /// Number of the plan. 0: none.
    plan: Cell<u64>,
    /// Numbers of the RPCs of the next pick, and of the one after the last.
    next: Cell<u64>,
    end: Cell<u64>,
    /// Numbers of the subconns, at the index of the RPC's number modulo the length.
    subconns: [Cell<u32>; AT_ONCE],
    /// Time of the last take.
    at: Cell<Option<Instant>>,
}

/// Number of picks taken at once by a thread that took its last ones less than [`IN_A_ROW`] ago. Fewer takes mean less
/// contention: each take writes to a cache line that the other threads write to as well.
const AT_ONCE: usize = 16;
/// Time between takes below which a thread takes several picks at once. Programs that send RPCs are far slower, so they
/// use the sequence strictly in its order.
const IN_A_ROW: Duration = Duration::from_micros(3);
/// Age at which the unused picks of a thread are assumed to be from a discarded plan.
const FORGOTTEN: Duration = Duration::from_millis(10);

thread_local! {
    static SHARE: Share = const {
        Share {
            plan: Cell::new(0),
            next: Cell::new(0),
            end: Cell::new(0),
            subconns: [const { Cell::new(0) }; AT_ONCE],
            at: Cell::new(None),
        }
    };
}

impl PlanCell {
    pub(crate) fn set(&self, plan: Option<Arc<Plan>>) {
        let sequence = plan.as_ref().filter(|plan| plan.order == Order::Sequence);
        let (id, before) = sequence.map_or((0, 0), |plan| (plan.id, plan.before));
        self.before.store(before, Ordering::Release);
        self.id.store(id, Ordering::Release);
        self.plan.store(plan);
    }

    pub(crate) fn get(&self) -> Guard<Option<Arc<Plan>>> {
        self.plan.load()
    }

    /// Returns the next of the picks that this thread has taken from the sequence in force, or from the one that it
    /// continues. `None`: there is none, or its subconn is not in this snapshot.
    #[inline]
    pub(crate) fn next_taken<'a>(&self, ready: &'a ReadySet) -> Option<&'a SubConn> {
        SHARE.with(|share| {
            let is_valid =
                |plan| plan == self.id.load(Ordering::Acquire) || plan == self.before.load(Ordering::Acquire);
            share.next(is_valid, ready).map(|(subconn, _)| subconn)
        })
    }
}

impl Share {
    /// Returns the next pick and the number of its RPC, if the plan that it is of is valid.
    #[inline]
    fn next<'a>(
        &self,
        is_valid: impl FnOnce(u64) -> bool,
        ready: &'a ReadySet,
    ) -> Option<(&'a SubConn, u64)> {
        let call = self.next.get();
        if call >= self.end.get() || !is_valid(self.plan.get()) {
            return None;
        }
        let subconn = ready.find(self.subconns[index(call)].get())?;
        self.next.set(call + 1);
        Some((subconn, call))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "less than the length")]
const fn index(call: u64) -> usize {
    (call % AT_ONCE as u64) as usize
}

impl Plan {
    /// Returns a plan of these picks, for endpoints that the policy knows. `None`: there are no picks.
    pub(crate) fn new(
        order: Order,
        picks: Vec<u32>,
        ready: &ReadySet,
        serial: u64,
        first_call: u64,
        methods: &Arc<Mutex<Methods>>,
    ) -> Result<Option<Self>, Fault> {
        static PLANS: AtomicU64 = AtomicU64::new(1);
        if picks.len() > LONGEST_PLAN as usize {
            return Err(Fault::LongPlan(picks.len()));
        }
        if let Some(unknown) = unknown(&picks, ready) {
            return Err(Fault::UnknownSubConn(unknown));
        }
        let picks = Picks::new(picks);
        let id = PLANS.fetch_add(1, Ordering::Relaxed);
        let (ready, methods, next) = (ready.clone(), Arc::clone(methods), CachePadded::default());
        Ok((picks.len() > 0).then_some(Self {
            id,
            before: 0,
            order,
            picks,
            ready,
            serial,
            first_call,
            methods,
            next,
            successor: OnceLock::new(),
        }))
    }

    /// Returns how many RPC numbers the plan may use.
    pub(crate) fn calls(&self) -> u64 {
        match self.order {
            Order::Sequence => self.picks.len() as u64,
            Order::ByAffinity => 1 << 32,
        }
    }

    /// Returns whether all picks are taken.
    pub(crate) fn is_spent(&self) -> bool {
        self.order == Order::Sequence && self.next.load(Ordering::Relaxed) >= self.picks.len()
    }

    /// Returns the plan that continues this one.
    pub(crate) fn successor(&self) -> Option<&Arc<Self>> {
        self.successor.get()
    }

    /// Sets the plan that continues this one, unless one is set.
    pub(crate) fn succeed(&self, successor: Self) {
        let _ = self.successor.set(Arc::new(successor.after(self)));
    }

    /// Returns the plan as one that continues another: threads use what they have taken from that first.
    pub(crate) fn after(mut self, other: &Self) -> Self {
        if self.serial == other.serial {
            self.before = other.id;
        }
        self
    }

    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// Returns the next pick at this time, or the pick for an affinity. `None`: the plan has none.
    pub(crate) fn pick(&self, now: Instant, affinity: Option<u64>) -> Option<Planned<'_>> {
        match self.order {
            Order::ByAffinity => {
                let count = self.next.fetch_add(1, Ordering::Relaxed);
                let length = self.picks.len() as u64;
                let at = usize::try_from(affinity? % length).ok()?;
                Some(Planned {
                    subconn: self.subconn(at)?,
                    call: self.call(count),
                    taken: 1,
                    runs_low: false,
                })
            }
            Order::Sequence => SHARE.with(|share| match share.next(|plan| self.goes_on(plan), &self.ready) {
                Some((subconn, call)) => Some(Planned { subconn, call, taken: 0, runs_low: false }),
                None => self.take(share, now),
            }),
        }
    }

    /// Takes picks of the sequence that no thread has taken, and returns the first.
    #[inline(never)]
    fn take(&self, share: &Share, now: Instant) -> Option<Planned<'_>> {
        let is_own = self.goes_on(share.plan.get());
        let since = share.at.get().map(|at| now.saturating_duration_since(at));
        let count = if is_own && since.is_some_and(|since| since < IN_A_ROW) { AT_ONCE } else { 1 };
        let at = self.next.fetch_add(count, Ordering::Relaxed);
        let end = (at + count).min(self.picks.len());
        if at >= end {
            return None;
        }
        // Unused picks of another channel's plan are kept.
        if is_own || share.next.get() >= share.end.get() || since.is_none_or(|since| since > FORGOTTEN) {
            share.plan.set(self.id);
            share.next.set(self.call(at + 1));
            share.end.set(self.call(end));
            share.at.set(Some(now));
            for at in at + 1..end {
                share.subconns[index(self.call(at))].set(self.picks.get(at).unwrap_or_default());
            }
        }
        let low = self.picks.len() - self.picks.len() / 4;
        let runs_low = at < low && end >= low;
        Some(Planned { subconn: self.subconn(at)?, call: self.call(at), taken: end - at, runs_low })
    }

    /// Returns whether a plan is this one, or the one that it continues.
    const fn goes_on(&self, plan: u64) -> bool {
        plan == self.id || plan == self.before
    }

    fn subconn(&self, at: usize) -> Option<&SubConn> {
        self.ready.find(self.picks.get(at)?)
    }

    /// Returns the number of a pick's RPC.
    const fn call(&self, at: usize) -> u64 {
        self.first_call + at as u64
    }
}

#[expect(clippy::cast_possible_truncation, reason = "no distance is greater than the greatest")]
impl Picks {
    fn new(picks: Vec<u32>) -> Self {
        let least = picks.iter().copied().min().unwrap_or_default();
        let greatest = picks.iter().copied().max().unwrap_or_default() - least;
        let distances = picks.iter().map(|id| id - least);
        match greatest {
            0..=0xff => Self::Bytes(least, distances.map(|distance| distance as u8).collect()),
            0x100..=0xffff => Self::Shorts(least, distances.map(|distance| distance as u16).collect()),
            _ => Self::Words(picks.into_boxed_slice()),
        }
    }

    const fn len(&self) -> usize {
        match self {
            Self::Bytes(_, all) => all.len(),
            Self::Shorts(_, all) => all.len(),
            Self::Words(all) => all.len(),
        }
    }

    #[inline]
    fn get(&self, at: usize) -> Option<u32> {
        match self {
            Self::Bytes(least, all) => all.get(at).map(|distance| least + u32::from(*distance)),
            Self::Shorts(least, all) => all.get(at).map(|distance| least + u32::from(*distance)),
            Self::Words(all) => all.get(at).copied(),
        }
    }
}

/// Returns the first pick that is not in the snapshot. A table repeats its picks, and each is looked up once if the
/// numbers are close enough together to remember which.
fn unknown(picks: &[u32], ready: &ReadySet) -> Option<u32> {
    let (least, most) = (*picks.iter().min()?, *picks.iter().max()?);
    let span = (most - least) as usize / 64 + 1;
    if span > picks.len() {
        return picks.iter().copied().find(|id| ready.find(*id).is_none());
    }
    let mut known = vec![0u64; span];
    picks.iter().copied().find(|id| {
        let at = id - least;
        let (word, bit) = (&mut known[at as usize / 64], 1 << (at % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        ready.find(*id).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subconn::FakeSubConns;

    fn plan(order: Order, picks: &[u32]) -> Plan {
        let ready = FakeSubConns::default().ready(3);
        Plan::new(order, picks.to_vec(), &ready, 1, 100, &Arc::default()).expect("known").expect("not empty")
    }

    fn next(plan: &Plan, now: Instant) -> Option<(u32, u64)> {
        plan.pick(now, None).map(|planned| (planned.subconn.id(), planned.call))
    }

    #[tokio::test]
    async fn a_sequence_is_used_once_in_its_order() {
        let plan = plan(Order::Sequence, &[2, 0, 1]);
        let now = Instant::now();
        let picks: Vec<_> = std::iter::from_fn(|| next(&plan, now)).collect();
        assert_eq!(picks, [(2, 100), (0, 101), (1, 102)]);
        assert!(plan.is_spent());
    }

    #[tokio::test]
    async fn a_table_goes_by_the_affinity_for_ever() {
        let plan = plan(Order::ByAffinity, &[2, 0]);
        let pick = |affinity| plan.pick(Instant::now(), affinity).map(|planned| planned.subconn.id());
        assert_eq!(
            [pick(Some(0)), pick(Some(1)), pick(Some(4)), pick(None)],
            [Some(2), Some(0), Some(2), None]
        );
        assert!(!plan.is_spent());
    }

    /// However threads share a sequence, each pick is used exactly once, so the shares are those of the sequence.
    #[tokio::test]
    async fn threads_share_a_sequence() {
        let picks: Vec<u32> = (0..3).cycle().take(9_000).collect();
        let plan = plan(Order::Sequence, &picks);
        let turn = || {
            let now = Instant::now();
            std::iter::from_fn(|| next(&plan, now)).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(turn)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        all.sort_unstable_by_key(|(_, call)| *call);
        let expected: Vec<_> = picks.into_iter().zip(100..).collect();
        assert!(all == expected);
    }

    /// A thread that picks in a row takes several at once. It uses them without the plan, also when others have come to the
    /// plan's successor, but not after a plan that is void.
    #[tokio::test]
    async fn picks_that_a_thread_has_taken_are_used_while_the_sequence_goes_on() {
        let ready = FakeSubConns::default().ready(3);
        let picks: Vec<u32> = (0..3).cycle().take(20).collect();
        let plan = |first_call, serial| {
            let plan = Plan::new(Order::Sequence, picks.clone(), &ready, serial, first_call, &Arc::default());
            plan.expect("known").expect("not empty")
        };
        let cell = PlanCell::default();
        let taken = |ready: &ReadySet| cell.next_taken(ready).map(SubConn::id);
        let first = Arc::new(plan(100, 1));
        cell.set(Some(Arc::clone(&first)));
        let now = Instant::now();
        // The first is taken by itself, the second with all that a thread takes at once.
        assert_eq!([next(&first, now), next(&first, now)], [Some((0, 100)), Some((1, 101))]);
        assert_eq!([taken(&ready), taken(&ReadySet::default()), taken(&ready)], [Some(2), None, Some(0)]);
        first.succeed(plan(120, 1));
        let second = Arc::clone(first.successor().expect("set"));
        cell.set(Some(Arc::clone(&second)));
        assert_eq!((taken(&ready), next(&second, now)), (Some(1), Some((2, 105))));
        assert_eq!(std::iter::from_fn(|| taken(&ready)).count(), AT_ONCE - 5);
        assert_eq!([next(&second, now), next(&second, now)], [Some((0, 120)), Some((1, 121))]);
        // Another plan, not by the same instance, or none.
        for other in [Some(plan(140, 1)), Some(plan(140, 2).after(&second)), None] {
            cell.set(other.map(Arc::new));
            assert_eq!(taken(&ready), None);
        }
        cell.set(Some(second));
        assert!(taken(&ready).is_some());
    }

    /// Two channels on one thread: neither loses picks that it has taken.
    #[tokio::test]
    async fn two_plans_in_turns_lose_nothing() {
        let picks: Vec<u32> = (0..3).cycle().take(300).collect();
        let plans = [plan(Order::Sequence, &picks), plan(Order::Sequence, &picks)];
        let now = Instant::now();
        let mut used = [0, 0];
        for at in (0..2_000).map(|at| usize::from(at % 7 < 3)) {
            used[at] += usize::from(next(&plans[at], now).is_some());
        }
        assert_eq!(used, [300, 300]);
    }

    #[test]
    fn numbers_are_returned_as_they_were_up_to_the_greatest() {
        for greatest in [0, 0xff, 0x100, 0xffff, 0x1_0000] {
            for least in [0, 7, u32::MAX - greatest] {
                let numbers = [least + greatest, least, least + greatest / 2];
                let picks = Picks::new(numbers.to_vec());
                assert_eq!([0, 1, 2].map(|at| picks.get(at)), numbers.map(Some));
                assert_eq!((picks.len(), picks.get(3)), (3, None));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_plan_is_refused() {
        let ready = FakeSubConns::default().ready(1);
        let plan = |picks: &[u32]| Plan::new(Order::Sequence, picks.to_vec(), &ready, 1, 1, &Arc::default());
        assert!(plan(&[]).expect("no fault").is_none());
        for (picks, first) in [(vec![0, 7], 7), (vec![0, 0, 0, 5, 7, 0], 5), (vec![0, u32::MAX, 1], u32::MAX)]
        {
            assert_eq!(plan(&picks).expect_err("not there"), Fault::UnknownSubConn(first));
        }
        let long = vec![0; LONGEST_PLAN as usize + 1];
        assert_eq!(plan(&long).expect_err("too long"), Fault::LongPlan(long.len()));
    }
}
