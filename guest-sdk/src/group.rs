//! Groups of endpoints that RPCs are balanced over.

use crate::answers::{Answers, Cost};
use crate::random::{Random, two_below};
use crate::stride::Stride;
use crate::{PLANNED, PickInfo, Plan, SubConn, SubConnSet, Weights, below, call, env};

crate::config! {
    /// How RPCs are balanced over the endpoints of a group.
    pub enum Balance {
        /// One after the other, in proportion to their weights.
        RoundRobin,
        /// Of two random endpoints, the one with fewer RPCs in flight. Avoids endpoints that fail.
        LeastRequest,
        /// Of two random endpoints, the one with the lower load (RPCs in flight times latency). Avoids endpoints that
        /// fail.
        P2c,
    }
}

/// Round robin from a random start.
///
/// The turn stays with its endpoint when the members change. Adding or removing a member does not cause others to be
/// picked twice or skipped.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    members: Vec<SubConn>,
    /// Index of the next pick.
    next: usize,
}

impl Rotation {
    /// Creates a rotation of these members, from a random one on.
    #[must_use]
    pub fn new(members: Vec<SubConn>) -> Self {
        let next = below(members.len(), env::random());
        Self { members, next }
    }

    /// Replaces the members.
    pub fn update(&mut self, members: Vec<SubConn>) {
        let (done, to_come) = self.members.split_at(self.next.min(self.members.len()));
        let mut to_come = to_come.iter().chain(done);
        let Some(turn) = to_come.next() else {
            *self = Self::new(members);
            return;
        };
        // Usually the endpoint is still a member.
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

    /// Returns the next member. `None` if there are no members.
    // By force: policies are compiled for size, and a call takes as many instructions as the rest of a round robin's pick.
    #[inline(always)]
    pub fn pick(&mut self) -> Option<SubConn> {
        let picked = *self.members.get(self.next)?;
        self.next += 1;
        if self.next == self.members.len() {
            self.next = 0;
        }
        Some(picked)
    }

    /// Returns a plan of the next picks, as [`Plan::sequence`] with [`pick`](Self::pick) does, but faster: at most 251.
    /// [`Plan::None`] if there are no members.
    #[must_use]
    pub fn plan(&mut self, budget: usize) -> Plan {
        let length = budget.min(PLANNED);
        let mut picks = Vec::with_capacity(length);
        while picks.len() < length
            && let Some(rest @ [_, ..]) = self.members.get(self.next..)
        {
            let count = rest.len().min(length - picks.len());
            picks.extend_from_slice(&rest[..count]);
            self.next = if count == rest.len() { 0 } else { self.next + count };
        }
        if picks.is_empty() { Plan::None } else { Plan::Sequence(picks) }
    }

    /// Returns the members.
    #[must_use]
    pub fn members(&self) -> &[SubConn] {
        &self.members
    }
}

/// Ready subconns over which RPCs are balanced by one of the usual algorithms and by weight. A retry goes to a subconn
/// that the RPC has not tried, if there is one.
///
/// ```
/// use hotpick_guest::answers::Answers;
/// use hotpick_guest::group::{Balance, Group};
/// use hotpick_guest::{PickInfo, Weights};
///
/// let mut group = Group::new(Balance::RoundRobin);
/// group.update(vec![3, 5], &Weights::default());
/// let (info, mut answers) = (PickInfo::default(), Answers::default());
/// let [one, other, again] = [(); 3].map(|()| group.pick(&info, &mut answers));
/// assert!(one != other && again == one);
/// ```
#[derive(Clone, Debug)]
pub struct Group {
    balance: Balance,
    members: Rotation,
    /// Weights of the members. Empty if all are equal.
    weights: Vec<f64>,
    /// Schedule of a round robin by weight.
    stride: Option<Stride>,
}

/// Returns the indexes of two random endpoints, and of up to seven more pairs, for a caller that takes as many as
/// needed.
pub fn random_pairs(bound: usize, random: u64) -> impl Iterator<Item = usize> {
    let mut random = Random::new(random);
    (0..8).flat_map(move |_| <[usize; 2]>::from(two_below(bound, random.next())))
}

impl Group {
    /// Creates a group without members.
    #[must_use]
    pub fn new(balance: Balance) -> Self {
        Self { balance, members: Rotation::default(), weights: Vec::new(), stride: None }
    }

    /// Replaces the members and their weights.
    pub fn update(&mut self, members: Vec<SubConn>, weights: &Weights) {
        self.weights.clear();
        if !weights.are_all_1() && members.windows(2).any(|pair| weights.of(pair[0]) != weights.of(pair[1])) {
            self.weights.extend(members.iter().map(|id| f64::from(weights.of(*id))));
        }
        let position = || self.stride.as_ref().map_or_else(|| env::random() >> 32, Stride::position);
        self.stride = match self.balance {
            Balance::RoundRobin => Stride::new(&self.weights, position()),
            _ => None,
        };
        self.members.update(members);
    }

    /// Returns one of the members. `None` if there are none. `answers` are those of the policy, because its groups may
    /// share members.
    ///
    /// The random number is derived from that of the pick, so that the choice of a group and the choice of its member
    /// are independent.
    pub fn pick(&mut self, info: &PickInfo, answers: &mut Answers) -> Option<SubConn> {
        let by = match self.balance {
            Balance::RoundRobin => return call::untried(info, || self.next()),
            Balance::LeastRequest => Cost::Rpcs,
            Balance::P2c => Cost::Latency,
        };
        let members = self.members.members();
        if members.len() < 2 {
            return members.first().copied();
        }
        let weight = |at: usize| self.weights.get(at).copied().unwrap_or(1.0);
        let pairs = random_pairs(members.len(), info.random).map(|at| (members[at], weight(at)));
        // Without a free stream the RPC waits for one.
        answers.pick(pairs, 2, by, info).or_else(|| members.first().copied())
    }

    /// Returns the members.
    #[must_use]
    pub fn members(&self) -> &[SubConn] {
        self.members.members()
    }

    fn next(&mut self) -> Option<SubConn> {
        match &mut self.stride {
            Some(stride) => self.members.members().get(stride.next()).copied(),
            None => self.members.pick(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::mix;
    use crate::stats::Summary;
    use crate::testing::{endpoint, summary};
    use crate::{Endpoint, fake};

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
        /// Whatever is added or removed: between two picks of a member that stays, each other one that stays is picked
        /// once.
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

        #[test]
        fn a_plan_has_the_picks_that_would_follow(
            members in 0u32..600, next in any::<prop::sample::Index>(), budget in 0usize..400,
        ) {
            let members: Vec<u32> = (0..members).collect();
            let next = if members.is_empty() { 0 } else { next.index(members.len()) };
            let mut rotation = Rotation { members, next };
            let mut called = rotation.clone();
            prop_assert_eq!(rotation.plan(budget), Plan::sequence(budget, || called.pick()));
            prop_assert_eq!(rotation.pick(), called.pick());
        }
    }

    fn group(balance: Balance, members: &[SubConn], weights: &[(SubConn, u32)]) -> Group {
        let weighted = |(id, weight): &(SubConn, u32)| Endpoint { weight: *weight, ..endpoint(*id, &[]) };
        let mut of = Weights::default();
        of.update(&weights.iter().map(weighted).collect::<Vec<_>>(), &[]);
        let mut group = Group::new(balance);
        group.update(members.to_vec(), &of);
        group
    }

    fn counts(group: &mut Group, ids: &[SubConn], n: u64) -> Vec<usize> {
        let mut random = Random::new(5);
        let mut picks = || {
            group.pick(&PickInfo { random: random.next(), ..PickInfo::default() }, &mut Answers::default())
        };
        let picks: Vec<_> = (0..n).filter_map(|_| picks()).collect();
        ids.iter().map(|id| picks.iter().filter(|picked| *picked == id).count()).collect()
    }

    #[test]
    fn of_two_the_one_with_fewer_rpcs_for_its_weight() {
        fake::with(|host| {
            let with = |in_flight| Summary { in_flight, ..summary() };
            host.stats.extend([(1, with(3)), (2, with(1))]);
        });
        assert_eq!(counts(&mut group(Balance::LeastRequest, &[1, 2], &[]), &[1, 2], 20), [0, 20]);
        let mut weighted = group(Balance::LeastRequest, &[1, 2], &[(1, 3)]);
        assert_eq!(counts(&mut weighted, &[1, 2], 20), [20, 0]);
    }

    #[test]
    fn turns_are_as_the_weights_also_when_others_come_and_go() {
        let mut group = group(Balance::RoundRobin, &[1, 2, 3], &[(1, 4), (2, 1), (3, 1)]);
        assert_eq!(counts(&mut group, &[1, 2, 3], 60), [40, 10, 10]);
        let mut weights = Weights::default();
        weights.update(&[Endpoint { weight: 4, ..endpoint(1, &[]) }], &[]);
        let mut seen = [0; 4];
        for round in 0..100 {
            group.update(if round % 2 == 0 { vec![1, 2] } else { vec![1, 2, 3] }, &weights);
            (0..30)
                .filter_map(|_| group.pick(&PickInfo::default(), &mut Answers::default()))
                .for_each(|id| seen[id as usize] += 1);
        }
        // Of 30 picks: 24 and 6 with two members; 20, 5 and 5 with three.
        let expected = [0, 2_200, 550, 250];
        assert!(seen.iter().zip(expected).all(|(seen, expected)| i32::abs(seen - expected) < 60), "{seen:?}");
    }

    #[test]
    fn a_retry_goes_to_one_that_was_not_tried() {
        fake::with(|host| {
            host.stats.clear();
            host.rpc = Some(fake::Rpc { tried: vec![1, 3], ..fake::Rpc::default() });
        });
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::P2c] {
            let mut group = group(balance, &[1, 2, 3], &[]);
            for random in 0..50 {
                let info = PickInfo { attempt: 2, random: mix(random), ..PickInfo::default() };
                assert_eq!(group.pick(&info, &mut Answers::default()), Some(2), "{balance:?}");
            }
            group.update(vec![1, 3], &Weights::default());
            assert!(
                group
                    .pick(&PickInfo { attempt: 2, ..PickInfo::default() }, &mut Answers::default())
                    .is_some()
            );
        }
        fake::with(|host| host.rpc = None);
    }
}
