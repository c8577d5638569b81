//! Plans: picks that a policy makes ahead, so that it is not called for each RPC.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::time::Instant;

use super::fault::Fault;
use super::imports::Methods;
use crate::policy::limits::LONGEST_PLAN;
use crate::subconn::{ReadySet, SubConn};

/// An active plan. A plan is valid for the endpoints that its policy was last notified of, until the next notification.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Unique number of the plan in the process.
    id: u64,
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

/// Numbers of subconns, as distances from the least of them. The numbers of one time are close together, and a table can
/// have 65,537 entries in each of hundreds of channels.
#[derive(Debug)]
enum Picks {
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

/// Picks that a thread has taken from a sequence, and not used yet.
struct Share {
    /// Number of the plan. 0: none.
    plan: Cell<u64>,
    next: Cell<usize>,
    end: Cell<usize>,
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
        Share { plan: Cell::new(0), next: Cell::new(0), end: Cell::new(0), at: Cell::new(None) }
    };
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
        let _ = self.successor.set(Arc::new(successor));
    }

    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// Returns the next pick at this time, or the pick for an affinity. `None`: the plan has none.
    pub(crate) fn pick(&self, now: Instant, affinity: Option<u64>) -> Option<Planned<'_>> {
        let (at, call, taken) = match self.order {
            Order::ByAffinity => {
                let count = self.next.fetch_add(1, Ordering::Relaxed);
                let length = self.picks.len() as u64;
                (usize::try_from(affinity? % length).ok()?, count, 1)
            }
            Order::Sequence => {
                let (at, taken) = self.take(now)?;
                (at, at, taken)
            }
        };
        let subconn = self.ready.find(self.picks.get(at)?)?;
        let low = self.picks.len() - self.picks.len() / 4;
        let runs_low = taken > 0 && self.order == Order::Sequence && at < low && at + taken >= low;
        Some(Planned { subconn, call: self.first_call + call as u64, taken, runs_low })
    }

    /// Takes the next pick of the sequence, from the thread's unused picks if it has any. Returns the index of the
    /// pick, and the number of picks taken.
    #[inline]
    fn take(&self, now: Instant) -> Option<(usize, usize)> {
        SHARE.with(|share| {
            let next = share.next.get();
            if share.plan.get() == self.id && next < share.end.get() {
                share.next.set(next + 1);
                return Some((next, 0));
            }
            self.take_more(share, now)
        })
    }

    /// Takes picks that no thread has taken, and returns the first: see [`take`](Self::take).
    #[inline(never)]
    fn take_more(&self, share: &Share, now: Instant) -> Option<(usize, usize)> {
        let is_own = share.plan.get() == self.id;
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
            share.next.set(at + 1);
            share.end.set(end);
            share.at.set(Some(now));
        }
        Some((at, end - at))
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
