//! Groups of endpoints that RPCs are spread over.

use crate::random::two_below;
use crate::{SubConn, SubConnSet, below, env, stats};

crate::config! {
    /// How RPCs are spread over the endpoints of a group.
    pub enum Balance {
        /// One after the other.
        RoundRobin,
        /// Of two at random, the one with fewer RPCs under way.
        LeastRequest,
        /// Of two at random, the one with the lower load: RPCs under way times latency.
        P2c,
    }
}

/// One after the other, from a random start.
///
/// When the members change the turn stays with who has it: a member that comes or goes does not have the
/// others picked twice or left out.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    members: Vec<SubConn>,
    /// Of the next pick.
    next: usize,
}

impl Rotation {
    /// These, from a random one on.
    #[must_use]
    pub fn new(members: Vec<SubConn>) -> Self {
        let next = below(members.len(), env::random());
        Self { members, next }
    }

    /// These are its members from now on.
    pub fn update(&mut self, members: Vec<SubConn>) {
        let (done, to_come) = self.members.split_at(self.next.min(self.members.len()));
        let mut to_come = to_come.iter().chain(done);
        let Some(turn) = to_come.next() else {
            *self = Self::new(members);
            return;
        };
        // Most often it is still there.
        let next = members.iter().position(|id| id == turn).or_else(|| {
            let now = SubConnSet::from(&members[..]);
            let turn = to_come.find(|id| now.has(**id))?;
            members.iter().position(|id| id == turn)
        });
        match next {
            Some(next) => *self = Self { members, next },
            None => *self = Self::new(members),
        }
    }

    /// The next one.
    pub fn pick(&mut self) -> Option<SubConn> {
        let picked = *self.members.get(self.next)?;
        self.next += 1;
        if self.next == self.members.len() {
            self.next = 0;
        }
        Some(picked)
    }

    /// Those that are picked.
    #[must_use]
    pub fn members(&self) -> &[SubConn] {
        &self.members
    }
}

/// Ready subconns that RPCs are spread over in one of the usual ways.
///
/// ```
/// use hotpick_guest::group::{Balance, Group};
///
/// let mut group = Group::new(Balance::RoundRobin, vec![3, 5]);
/// let (one, other) = (group.pick(0), group.pick(0));
/// assert!(one != other && group.pick(0) == one);
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    balance: Balance,
    members: Rotation,
}

impl Group {
    /// These members.
    #[must_use]
    pub fn new(balance: Balance, members: Vec<SubConn>) -> Self {
        Self { balance, members: Rotation::new(members) }
    }

    /// These are its members from now on.
    pub fn update(&mut self, members: Vec<SubConn>) {
        self.members.update(members);
    }

    /// One of the members, by a uniform `random`; none if there are none.
    pub fn pick(&mut self, random: u64) -> Option<SubConn> {
        let members = self.members.members();
        if self.balance == Balance::RoundRobin || members.len() < 2 {
            return self.members.pick();
        }
        let (first, second) = two_below(members.len(), random);
        let (first, second) = (members[first], members[second]);
        let other_is_better = match self.balance {
            Balance::P2c => is_less_loaded(second, first),
            _ => stats::in_flight(second) < stats::in_flight(first),
        };
        Some(if other_is_better { second } else { first })
    }

    /// Those that are picked.
    #[must_use]
    pub fn members(&self) -> &[SubConn] {
        self.members.members()
    }
}

/// Whether one would be done sooner than another: the RPCs under way and the one to come, times the latency that
/// the host has seen; by the RPCs alone as long as one latency is not known.
fn is_less_loaded(one: SubConn, other: SubConn) -> bool {
    let (Some(one), Some(other)) = (stats::read(one), stats::read(other)) else { return false };
    if one.latency_ewma == 0 || other.latency_ewma == 0 {
        return one.in_flight < other.in_flight;
    }
    let load = |of: stats::Summary| (u128::from(of.in_flight) + 1) * u128::from(of.latency_ewma);
    load(one) < load(other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake;
    use crate::stats::Summary;
    use crate::testing::summary;

    #[test]
    fn the_turn_stays_when_others_come_and_go() {
        let mut rotation = Rotation { members: vec![1, 2, 3, 4], next: 2 };
        rotation.update(vec![1, 2, 3, 4, 5]);
        assert_eq!(rotation.pick(), Some(3));
        rotation.update(vec![1, 3, 5]);
        assert_eq!(rotation.pick(), Some(5));
        assert_eq!(rotation.pick(), Some(1));
        rotation.update(Vec::new());
        assert_eq!(rotation.pick(), None);
        rotation.update(vec![7]);
        assert_eq!(rotation.pick(), Some(7));
    }

    proptest! {
        /// Whatever comes and goes: between two picks of one that stays, each other that stays is picked once.
        #[test]
        fn those_that_stay_take_turns(flaps in prop::collection::vec((0u32..8, 0usize..5), 1..60)) {
            let stay = [100, 101, 102];
            let mut present = [false; 8];
            let mut rotation = Rotation::default();
            let mut turns = Vec::new();
            for (flap, picks) in flaps {
                present[flap as usize] ^= true;
                let around = (0..8).filter(|at| present[*at as usize]);
                // In the resolver's order, which does not change.
                let mut members: Vec<u32> = around.chain(stay).collect();
                members.sort_by_key(|id| id % 5);
                rotation.update(members);
                turns.extend((0..picks).filter_map(|_| rotation.pick()).filter(|id| stay.contains(id)));
            }
            for window in turns.windows(3) {
                let mut window = window.to_vec();
                window.sort_unstable();
                prop_assert_eq!(window, stay);
            }
        }
    }

    #[test]
    fn of_two_the_one_with_fewer_rpcs_or_the_lower_load() {
        let with = |in_flight, latency_ewma| Summary { in_flight, latency_ewma, ..summary() };
        fake::with(|host| host.stats.extend([(1, with(3, 1_000)), (2, with(1, 10_000))]));
        let mut least = Group::new(Balance::LeastRequest, vec![1, 2]);
        let mut p2c = Group::new(Balance::P2c, vec![1, 2]);
        for random in [0, u64::MAX / 3, u64::MAX] {
            assert_eq!(least.pick(random), Some(2));
            assert_eq!(p2c.pick(random), Some(1));
        }
    }
}
