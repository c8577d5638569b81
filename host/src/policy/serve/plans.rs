//! The plan in force, from which all threads take picks without the instance.
//!
//! Picks of a sequence are in a [ring](super::ring), each under its ticket: the number of the pick among all that the slot has
//! had from sequences. A thread takes the next ticket by incrementing one counter, and has the pick if the ring has it under that
//! ticket. Sequences follow each other in the ring. The entries of a sequence that has become void stay where they are, but
//! the counter is moved past them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;

use super::ring::{MOST, Open, Ring};
use crate::policy::instance::{Order, Plan};
use crate::policy::judge::Tickets;
use crate::subconn::SubConn;

/// The plan in force, if there is one. Plans are put into force under the lock of the slot; picks are taken without, also
/// while the instance is busy.
#[derive(Debug)]
pub(super) struct Plans {
    current: ArcSwapOption<InForce>,
    ring: Ring,
    tickets: Arc<Tickets>,
    feed: Mutex<Feed>,
}

/// A plan, and which tickets are its picks and those of the sequences that it continues.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) plan: Arc<Plan>,
    runs: Runs,
}

/// The latest first.
type Runs = SmallVec<[Run; RUNS]>;
/// Number of runs that are known. A pick of an earlier one is void, by a thread that lost its processor after it had taken its
/// ticket.
const RUNS: usize = 8;

/// Consecutive tickets of consecutive picks of one plan.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first ticket, and the number of its RPC.
    from: u64,
    call: u64,
}

/// What has been put into the ring, and what will be.
#[derive(Debug, Default)]
struct Feed {
    /// The ticket after the last one in the ring.
    end: u64,
    /// The sequence in force, and the index of its first pick that is not in the ring.
    sequence: Option<(Arc<Plan>, usize)>,
    successor: Option<Arc<Plan>>,
    /// Whether the policy was asked for a successor and had none. It is asked again when the sequence is used up.
    has_refused: bool,
    runs: Runs,
}

/// A pick that this thread has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Tables have tickets of their own.
    order: Order,
    ticket: u64,
    pub(super) subconn: u32,
    /// Whether few are left in the ring, and this thread has to see to it.
    pub(super) runs_low: bool,
}

impl Plans {
    pub(super) fn new(tickets: Arc<Tickets>) -> Self {
        Self { current: ArcSwapOption::empty(), ring: Ring::default(), tickets, feed: Mutex::default() }
    }

    /// Returns the plan in force.
    pub(super) fn current(&self) -> Guard<Option<Arc<InForce>>> {
        self.current.load()
    }

    /// Takes the next pick of a sequence. `None`: no sequence is in force, or it is used up.
    #[inline]
    pub(super) fn take(&self) -> Option<Taken> {
        let open = self.ring.open()?;
        if open.is_closed() { self.take_more() } else { self.take_next(open).or_else(|| self.take_more()) }
    }

    #[inline]
    fn take_next(&self, open: Open) -> Option<Taken> {
        let ticket = self.tickets.take();
        match self.ring.get(ticket) {
            Some(subconn) => {
                Some(Taken { order: Order::Sequence, ticket, subconn, runs_low: open.runs_low(ticket) })
            }
            None => {
                self.ring.close(open);
                self.taken_in_vain()
            }
        }
    }

    /// Takes the next pick of a sequence that the ring has no more picks of.
    #[cold]
    #[inline(never)]
    fn take_more(&self) -> Option<Taken> {
        self.fill(&mut self.feed());
        let open = self.ring.open().filter(|open| !open.is_closed())?;
        self.take_next(open)
    }

    /// Takes a pick of a table by the hash of an RPC's affinity key.
    pub(super) fn take_by(&self, affinity: u64, table: &InForce) -> Option<Taken> {
        let picks = &table.plan.picks;
        let subconn = picks.get(usize::try_from(affinity % picks.len() as u64).ok()?)?;
        let ticket = self.tickets.take_of_tables();
        Some(Taken { order: Order::ByAffinity, ticket, subconn, runs_low: false })
    }

    /// Records that a ticket has no pick.
    #[cold]
    #[inline(never)]
    pub(super) fn taken_in_vain<T>(&self) -> Option<T> {
        self.tickets.taken_in_vain();
        None
    }

    /// Puts a plan into force, or none. The plan that was in force is void.
    pub(super) fn set(&self, plan: Option<Plan>) {
        let mut feed = self.feed();
        self.ring.shut();
        self.tickets.skip_to(feed.end);
        *feed = Feed { end: feed.end, ..Feed::default() };
        match plan.map(Arc::new) {
            Some(plan) if plan.order == Order::Sequence => {
                feed.sequence = Some((plan, 0));
                self.fill(&mut feed);
            }
            Some(table) => self.begin_table(table),
            None => self.current.store(None),
        }
    }

    fn begin_table(&self, plan: Arc<Plan>) {
        let run = Run { from: self.tickets.next_of_tables(), call: plan.first_call };
        self.current.store(Some(Arc::new(InForce { plan, runs: Runs::from_slice(&[run]) })));
    }

    /// Puts a plan into force that continues the sequence in force: what is left of that comes first. `None`: the policy has
    /// made no plan.
    pub(super) fn go_on(&self, plan: Option<Plan>) {
        let mut feed = self.feed();
        let Some(plan) = plan else {
            feed.has_refused = true;
            return;
        };
        let is_next = |(before, _): &(Arc<Plan>, usize)| before.serial == plan.serial;
        if feed.sequence.as_ref().is_some_and(is_next) {
            feed.successor = Some(Arc::new(plan));
            self.fill(&mut feed);
        } else {
            drop(feed);
            self.set(Some(plan));
        }
    }

    /// Fills the ring, as far as there are picks for it. Returns whether the policy should be asked for more.
    pub(super) fn refill(&self) -> bool {
        let mut feed = self.feed();
        self.fill(&mut feed);
        let left = feed.end.saturating_sub(self.tickets.next());
        let Feed { sequence: Some((plan, index)), successor: None, has_refused: false, .. } = &*feed else {
            return false;
        };
        let length = plan.picks.len();
        (length - index) as u64 + left <= Open::low(length).max(length as u64 / 4)
    }

    /// Returns whether a sequence is in force that is used up.
    pub(super) fn is_used_up(&self) -> bool {
        if !self.ring.is_in_use() {
            return false;
        }
        let mut feed = self.feed();
        self.fill(&mut feed);
        feed.sequence.is_some() && feed.end <= self.tickets.next()
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts picks of the sequence in force into the ring, then those of its successor.
    fn fill(&self, feed: &mut Feed) {
        // Others may take picks as fast as this puts them there.
        for _ in 0..2 {
            let Some((plan, index)) = &mut feed.sequence else { return };
            let next = self.tickets.next();
            if *index == plan.picks.len() {
                match feed.successor.take() {
                    None => return self.ring.use_up(),
                    Some(successor) if successor.order == Order::Sequence => {
                        (*plan, *index, feed.has_refused) = (successor, 0, false);
                    }
                    Some(table) if feed.end <= next => {
                        self.ring.shut();
                        feed.sequence = None;
                        return self.begin_table(table);
                    }
                    table => {
                        feed.successor = table;
                        return;
                    }
                }
            }
            let from = feed.end.max(next);
            let mut picks = [0; MOST];
            // Not over those that have not been taken.
            let waiting = usize::try_from(from - next).unwrap_or(MOST).min(MOST);
            let count = plan.picks.read(*index, &mut picks[waiting..]);
            if count == 0 {
                return;
            }
            if *index == 0 || from > feed.end {
                // A new sequence, or threads have taken tickets in vain.
                feed.runs.truncate(RUNS - 1);
                feed.runs.insert(0, Run { from, call: plan.first_call + *index as u64 });
                let current = InForce { plan: Arc::clone(plan), runs: feed.runs.clone() };
                self.current.store(Some(Arc::new(current)));
            }
            self.ring.write(from, &picks[waiting..waiting + count], plan.picks.len());
            *index += count;
            feed.end = from + count as u64;
        }
    }
}

impl InForce {
    /// Returns the number of the RPC of a pick, and its subconn. `None`: it was taken from a plan that is void now.
    pub(super) fn find(&self, taken: &Taken) -> Option<(u64, &SubConn)> {
        let is_run = |run: &&Run| taken.order == self.plan.order && taken.ticket >= run.from;
        let run = self.runs.iter().find(is_run)?;
        Some((run.call + (taken.ticket - run.from), self.plan.ready.find(taken.subconn)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::subconn::{FakeSubConns, ReadySet};

    fn plan(order: Order, picks: Vec<u32>, ready: &ReadySet, serial: u64, first_call: u64) -> Plan {
        Plan::new(order, picks, ready, serial, first_call, &Arc::default())
            .expect("known")
            .expect("not empty")
    }

    fn sequence(length: usize, ready: &ReadySet, serial: u64, first_call: u64) -> Plan {
        let picks = (0..3).cycle().take(length).collect();
        plan(Order::Sequence, picks, ready, serial, first_call)
    }

    /// Takes a pick, and returns its subconn and the number of its RPC.
    fn take(plans: &Plans) -> Option<(u32, u64)> {
        let taken = plans.take()?;
        let current = plans.current();
        let (call, subconn) = current.as_ref().expect("a plan").find(&taken).expect("a pick of it");
        Some((subconn.id(), call))
    }

    /// What a slot does when picks run low or are used up, with plans of this length. Returns whether it made one.
    fn go_on(plans: &Plans, length: usize, ready: &ReadySet, call: &mut u64) -> bool {
        let is_due = plans.refill() || plans.is_used_up();
        if is_due {
            plans.go_on(Some(sequence(length, ready, 1, *call)));
            *call += length as u64;
        }
        is_due
    }

    #[test]
    fn a_table_goes_by_the_affinity_and_has_no_end() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        plans.set(Some(plan(Order::ByAffinity, vec![2, 0], &ready, 1, 100)));
        assert_eq!((plans.take(), plans.refill(), plans.is_used_up()), (None, false, false));
        let current = plans.current();
        let table = current.as_ref().expect("a plan");
        let pick = |affinity| {
            let taken = plans.take_by(affinity, table).expect("a pick");
            table.find(&taken).map(|(call, subconn)| (subconn.id(), call))
        };
        assert_eq!([0, 1, 4].map(pick), [Some((2, 100)), Some((0, 101)), Some((2, 102))]);
        // A thread that has the table still, when a sequence has come into force.
        plans.set(Some(sequence(9, &ready, 1, 200)));
        assert_eq!(pick(0), Some((2, 103)));
        assert_eq!((take(&plans), plans.tickets.used()), (Some((0, 200)), 5));
    }

    #[test]
    fn a_plan_that_is_void_has_no_picks_and_none_is_counted() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        plans.set(Some(sequence(9, &ready, 1, 100)));
        let early = plans.take().expect("a pick");
        plans.set(None);
        assert_eq!((plans.take(), plans.take(), plans.tickets.used()), (None, None, 1));
        plans.set(Some(sequence(9, &ready, 2, 7)));
        assert!(plans.current().as_ref().is_some_and(|current| current.find(&early).is_none()));
        assert_eq!([take(&plans), take(&plans)], [Some((0, 7)), Some((1, 8))]);
        // A table comes when the sequence is used up.
        plans.go_on(Some(plan(Order::ByAffinity, vec![2], &ready, 2, 70)));
        for call in 9..16 {
            assert_eq!(take(&plans).map(|(_, call)| call), Some(call));
        }
        assert_eq!((plans.take(), plans.is_used_up()), (None, false));
        let order = plans.current().as_ref().map(|current| current.plan.order);
        assert_eq!((order, plans.tickets.used()), (Some(Order::ByAffinity), 10));
        plans.set(Some(sequence(9, &ready, 2, 30)));
        // Not continued by another instance.
        plans.go_on(Some(sequence(9, &ready, 3, 50)));
        assert_eq!((take(&plans), plans.tickets.used()), (Some((0, 50)), 11));
    }

    /// A thread that has taken a ticket finds its pick when plans of one pick have followed.
    #[test]
    fn picks_of_the_last_few_sequences_are_found() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        plans.set(Some(sequence(1, &ready, 1, 0)));
        let early = plans.take().expect("a pick");
        for call in 1..RUNS as u64 {
            assert_eq!((plans.take(), plans.is_used_up()), (None, true));
            plans.go_on(Some(sequence(1, &ready, 1, call)));
            assert_eq!(take(&plans), Some((0, call)));
        }
        let found = plans.current().as_ref().and_then(|current| current.find(&early).map(|(call, _)| call));
        assert_eq!(found, Some(0));
    }

    /// Without a successor, a sequence is used to its end. A policy that has refused is not asked again before.
    #[test]
    fn a_successor_is_wanted_before_the_end() {
        let ready = FakeSubConns::default().ready(3);
        let expected = [(1, 1), (3, 1), (8, 2), (100, 32), (251, 64), (1_000, 116), (100_000, 24_953)];
        for (length, first) in expected {
            for refuses in [true, false] {
                let plans = Plans::new(Arc::default());
                plans.set(Some(sequence(length, &ready, 1, 0)));
                let (mut left, mut requests) = (length, Vec::new());
                while let Some(taken) = plans.take() {
                    if taken.runs_low && plans.refill() {
                        requests.push(left);
                        if refuses {
                            plans.go_on(None);
                        }
                    }
                    left -= 1;
                }
                assert_eq!((left, plans.is_used_up(), requests[0]), (0, true, first), "{length}");
                assert_eq!(requests.len() == 1, refuses || length < 8, "{requests:?}");
            }
        }
    }

    /// Threads take picks while one or another of them makes more, as it would in a slot. None is used twice, and they are
    /// those of the plans: a few are left out, by threads that have come to the end at the same time or lost their processor.
    #[test]
    fn threads_take_each_pick_once() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        for length in [5, 251, 1_000] {
            plans.set(Some(sequence(length, &ready, 1, 0)));
            let (call, before) = (Mutex::new(length as u64), plans.tickets.used());
            let turn = || {
                let mut all = Vec::new();
                for _ in 0..20_000 {
                    match plans.take() {
                        None => _ = go_on(&plans, length, &ready, &mut call.lock().expect("no panic")),
                        Some(taken) => {
                            if taken.runs_low
                                && let Ok(mut call) = call.try_lock()
                            {
                                go_on(&plans, length, &ready, &mut call);
                            }
                            let current = plans.current();
                            match current.as_ref().and_then(|current| current.find(&taken)) {
                                Some((call, subconn)) => all.push((call, subconn.id())),
                                None => plans.taken_in_vain().unwrap_or_default(),
                            }
                        }
                    }
                }
                all
            };
            let mut all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(turn)).collect();
                threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
            });
            all.sort_unstable();
            assert!(all.windows(2).all(|two| two[0].0 < two[1].0), "none twice");
            assert!(all.iter().all(|(call, id)| u64::from(*id) == call % length as u64 % 3), "as planned");
            let (used, last) = (all.len() as u64, all.last().expect("one").0);
            assert_eq!(plans.tickets.used() - before, used);
            // Each time that the ring is used up, each thread may leave one out.
            assert!(used > if length < 10 { last / 4 } else { last / 10 * 9 }, "{used} of {last}");
        }
    }

    /// Threads take picks while plans become void. No pick is of a plan that had been void when the thread began to take it.
    #[test]
    fn no_pick_is_of_a_plan_that_is_void() {
        const LAST: u32 = 20_000;
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        let epoch = AtomicU64::new(0);
        let turn = || {
            let mut picks = 0;
            loop {
                let begun = epoch.load(Ordering::SeqCst);
                if begun == u64::from(LAST) {
                    return picks;
                }
                let Some(taken) = plans.take() else { continue };
                if epoch.load(Ordering::SeqCst) == begun {
                    let (own, next) = (begun % 3, (begun + 1) % 3);
                    assert!([own, next].contains(&taken.subconn.into()), "of an earlier plan");
                }
                if taken.runs_low {
                    plans.refill();
                }
                let current = plans.current();
                match current.as_ref().and_then(|current| current.find(&taken)) {
                    Some((call, subconn)) => {
                        assert!(call >> 32 >= begun && u64::from(subconn.id()) == (call >> 32) % 3);
                        picks += 1;
                    }
                    None => plans.taken_in_vain().unwrap_or_default(),
                }
            }
        };
        let all: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(turn)).collect();
            for number in 1u32..=LAST {
                let of = |order, length| {
                    let serial = u64::from(number);
                    plan(order, vec![number % 3; length], &ready, serial, serial << 32)
                };
                plans.set(match number % 4 {
                    0 => None,
                    1 => Some(of(Order::ByAffinity, 5)),
                    _ => Some(of(Order::Sequence, 300)),
                });
                epoch.store(number.into(), Ordering::SeqCst);
            }
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(plans.tickets.used(), all);
    }

    proptest! {
        /// On one thread, the picks are exactly those of the plans, whenever more are made, and however long plans are.
        #[test]
        fn picks_are_those_of_the_plans_in_their_order(
            steps in prop::collection::vec((0usize..400, 1usize..700, 0..6), 1..40),
        ) {
            let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
            let (mut expected, mut call, mut used) = (VecDeque::new(), 0, 0);
            let of = |call: u64, length: usize| (0u32..3).cycle().zip(call..).take(length);
            for (takes, length, what) in steps {
                match what {
                    0 => {
                        plans.set(Some(sequence(length, &ready, 1, call)));
                        expected = of(call, length).collect();
                        call += length as u64;
                    }
                    1 => {
                        plans.set(None);
                        expected.clear();
                    }
                    2 => plans.go_on(None),
                    _ => {
                        let first = call;
                        if go_on(&plans, length, &ready, &mut call) {
                            expected.extend(of(first, length));
                        }
                    }
                }
                for _ in 0..takes {
                    let pick = take(&plans);
                    used += u64::from(pick.is_some());
                    prop_assert_eq!(pick, expected.pop_front());
                }
                prop_assert_eq!(plans.tickets.used(), used);
            }
        }
    }
}
