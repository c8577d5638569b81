//! The plan in force, from which all threads take picks without the instance.
//!
//! Picks of a sequence are in a [ring](super::ring), each under its ticket: the number of the pick among all that the slot has
//! planned. A thread takes the next ticket by incrementing one counter, and has the pick if the ring has it under that ticket.
//! Sequences follow each other in the ring. The entries of a sequence that has become void stay where they are, but the
//! counter is moved past them.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};

use super::ring::{LENGTH, Open, Ring};
use crate::policy::instance::{Order, Plan};
use crate::policy::judge::Tickets;
use crate::subconn::SubConn;

/// The plan in force, if there is one. What changes it is called under the lock of the slot, the rest without.
#[derive(Debug)]
pub(super) struct Plans {
    current: ArcSwapOption<InForce>,
    ring: Ring,
    tickets: Arc<Tickets>,
}

/// A plan, and which tickets are its picks.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) plan: Arc<Plan>,
    run: Run,
    /// The run before this one, some of whose tickets may not have been taken yet.
    before: Option<Run>,
}

/// Consecutive tickets of consecutive picks of one plan.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// The first ticket, and the number of its RPC.
    from: u64,
    call: u64,
}

/// A pick that this thread has taken from a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) ticket: u64,
    pub(super) subconn: u32,
    /// Whether it is time for more picks, which this thread has to request.
    pub(super) runs_low: bool,
}

impl Plans {
    pub(super) fn new(tickets: Arc<Tickets>) -> Self {
        Self { current: ArcSwapOption::empty(), ring: Ring::default(), tickets }
    }

    /// Returns the plan in force.
    pub(super) fn current(&self) -> Guard<Option<Arc<InForce>>> {
        self.current.load()
    }

    /// Takes the next pick of a sequence. `None`: no sequence is in force, or it is used up.
    #[inline]
    pub(super) fn take(&self) -> Option<Taken> {
        let open = self.ring.open()?;
        let ticket = self.tickets.take();
        match self.ring.get(ticket) {
            Some(subconn) => Some(Taken { ticket, subconn, runs_low: open.runs_low(ticket) }),
            None => self.used_up(open),
        }
    }

    #[cold]
    fn used_up(&self, open: Open) -> Option<Taken> {
        self.ring.close(open);
        self.taken_in_vain()
    }

    /// Takes a pick of a table in force by the hash of an RPC's affinity key.
    pub(super) fn take_by(&self, affinity: u64, table: &InForce) -> Option<Taken> {
        let picks = &table.plan.picks;
        let subconn = picks.get(usize::try_from(affinity % picks.len() as u64).ok()?)?;
        Some(Taken { ticket: self.tickets.take(), subconn, runs_low: false })
    }

    /// Takes note that there is no pick for a ticket.
    #[cold]
    pub(super) fn taken_in_vain<T>(&self) -> Option<T> {
        self.tickets.taken_in_vain();
        None
    }

    /// Puts a plan into force, or none. The plan that was in force is void.
    pub(super) fn set(&self, plan: Option<Plan>) {
        self.ring.shut();
        self.tickets.skip_to(self.ring.end());
        self.begin(plan, None);
    }

    /// Puts a plan into force that continues the sequence in force: what is left of that comes first.
    pub(super) fn go_on(&self, plan: Plan) {
        match &*self.current.load() {
            Some(before) if plan.order == Order::Sequence && plan.serial == before.plan.serial => {
                self.begin(Some(plan), Some(before.run));
            }
            _ => self.set(Some(plan)),
        }
    }

    fn begin(&self, plan: Option<Plan>, before: Option<Run>) {
        self.current.store(plan.map(|plan| {
            let run = Run { from: self.ring.end().max(self.tickets.next()), call: plan.first_call };
            Arc::new(InForce { plan: Arc::new(plan), run, before })
        }));
        self.fill();
    }

    /// Fills the ring with more picks of the sequence in force. Returns whether there are more.
    pub(super) fn fill(&self) -> bool {
        let Some(current) = self.current.load_full() else { return false };
        let (InForce { plan, run, .. }, next) = (&*current, self.tickets.next());
        let end = self.ring.end().max(run.from);
        let index = current.index(end);
        if plan.order != Order::Sequence || index >= plan.picks.len() {
            return false;
        }
        if next > end {
            // The ring was used up before the sequence was, and threads have taken tickets in vain.
            let resumed = Run { from: next, call: run.call(end) };
            let before = Some(*run);
            self.current.store(Some(Arc::new(InForce { plan: Arc::clone(plan), run: resumed, before })));
        }
        // Not over those that have not been taken.
        let (from, mut picks) = (end.max(next), [0; LENGTH]);
        let waiting = usize::try_from(from - next).unwrap_or(LENGTH).min(LENGTH);
        let count = plan.picks.read(index, &mut picks[waiting..]);
        self.ring.write(from, &picks[waiting..waiting + count], plan.picks.len());
        true
    }

    /// Returns whether a sequence is in force of which few picks are left in the ring, or none.
    pub(super) fn runs_low(&self) -> bool {
        let left = self.ring.end().saturating_sub(self.tickets.next());
        self.current().as_ref().is_some_and(|current| {
            let plan = &current.plan;
            plan.order == Order::Sequence && left <= Open::low(plan.picks.len())
        })
    }

    /// Returns whether a sequence is in force that is used up, as far as the ring has it.
    pub(super) fn is_used_up(&self) -> bool {
        self.runs_low() && self.ring.end() <= self.tickets.next()
    }
}

impl InForce {
    /// Returns the number of the RPC of a pick, and its subconn. `None`: it was taken from a plan that is void now.
    pub(super) fn find(&self, taken: &Taken) -> Option<(u64, &SubConn)> {
        Some((self.call(taken.ticket)?, self.plan.ready.find(taken.subconn)?))
    }

    fn call(&self, ticket: u64) -> Option<u64> {
        let of = |run: Run| (ticket >= run.from).then(|| run.call(ticket));
        of(self.run).or_else(|| self.before.and_then(of))
    }

    /// Returns the place in the plan of a ticket of the run.
    fn index(&self, ticket: u64) -> usize {
        usize::try_from(self.run.call(ticket) - self.plan.first_call).unwrap_or(usize::MAX)
    }
}

impl Run {
    const fn call(self, ticket: u64) -> u64 {
        self.call + (ticket - self.from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

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

    /// What a slot does when a sequence runs low or is used up, with plans of this length. Returns whether it made one.
    fn go_on(plans: &Plans, length: usize, ready: &ReadySet, call: &mut u64) -> bool {
        let is_due = plans.runs_low() && !plans.fill();
        if is_due {
            plans.go_on(sequence(length, ready, 1, *call));
            *call += length as u64;
        }
        is_due
    }

    #[test]
    fn a_table_goes_by_the_affinity_and_has_no_end() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        plans.set(Some(plan(Order::ByAffinity, vec![2, 0], &ready, 1, 100)));
        assert_eq!((plans.take(), plans.runs_low(), plans.fill()), (None, false, false));
        let current = plans.current();
        let table = current.as_ref().expect("a plan");
        let picks = [0, 1, 4].map(|affinity| {
            let taken = plans.take_by(affinity, table).expect("a pick");
            table.find(&taken).map(|(call, subconn)| (subconn.id(), call))
        });
        assert_eq!(picks, [Some((2, 100)), Some((0, 101)), Some((2, 102))]);
        assert_eq!(plans.tickets.used(), 3);
    }

    #[test]
    fn a_plan_that_is_void_has_no_picks_and_none_is_counted() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        plans.set(Some(sequence(9, &ready, 1, 100)));
        let early = plans.take().expect("a pick");
        plans.set(None);
        assert_eq!((plans.take(), plans.take(), plans.tickets.used()), (None, None, 1));
        plans.set(Some(sequence(9, &ready, 2, 7)));
        assert_eq!(plans.current().as_ref().and_then(|current| current.call(early.ticket)), None);
        assert_eq!([take(&plans), take(&plans)], [Some((0, 7)), Some((1, 8))]);
        // Not continued by another instance.
        plans.go_on(sequence(9, &ready, 3, 50));
        assert_eq!((take(&plans), plans.tickets.used()), (Some((0, 50)), 4));
    }

    #[test]
    fn more_is_requested_when_few_are_left_and_again_if_that_was_in_vain() {
        let ready = FakeSubConns::default().ready(3);
        for (length, expected) in [
            (1, &[1][..]),
            (3, &[1]),
            (8, &[2, 1]),
            (251, &[64, 32, 16, 8, 4, 2, 1]),
            (100_000, &[64, 32, 16, 8, 4, 2, 1]),
        ] {
            let plans = Plans::new(Arc::default());
            plans.set(Some(sequence(length, &ready, 1, 0)));
            let mut left = length.min(LENGTH);
            let mut requests = Vec::new();
            while let Some(taken) = plans.take() {
                requests.extend(taken.runs_low.then_some(left));
                left -= 1;
            }
            assert_eq!((left, requests), (0, expected.to_vec()), "{length}");
        }
    }

    /// Threads take picks while one or another of them makes more, as it would in a slot. None is used twice, and they are
    /// those of the plans: at most a few are left out, by threads that have come to the end at the same time.
    #[test]
    fn threads_take_each_pick_once() {
        let (plans, ready) = (Plans::new(Arc::default()), FakeSubConns::default().ready(3));
        for length in [5, 251, 1_000] {
            plans.set(Some(sequence(length, &ready, 1, 0)));
            let call = Mutex::new(length as u64);
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
                            let found = current.as_ref().expect("a plan").find(&taken);
                            all.extend(found.map(|(call, subconn)| (call, subconn.id())));
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
            assert!(length < 10 || used > last / 10 * 9, "{used} of {last}");
        }
    }

    proptest! {
        /// On one thread, the picks are exactly those of the plans, whenever more are made, and however long plans are.
        #[test]
        fn picks_are_those_of_the_plans_in_their_order(
            steps in prop::collection::vec((0usize..400, 1usize..700, 0..4), 1..40),
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
                    _ => {
                        let first = call;
                        if go_on(&plans, length, &ready, &mut call) {
                            expected.extend(of(first, length));
                        }
                    }
                }
                for _ in 0..takes {
                    match take(&plans) {
                        Some(pick) => {
                            used += 1;
                            prop_assert_eq!(Some(pick), expected.pop_front());
                        }
                        // The rest of a long sequence is not in the ring yet.
                        None => prop_assert_eq!(plans.fill(), !expected.is_empty()),
                    }
                }
                prop_assert_eq!(plans.tickets.used(), used);
            }
        }
    }
}
