//! `priority`: endpoints in tiers. RPCs go to the first tier that has a ready endpoint. The next tier is connected
//! when that one fails or takes too long, and is left when the first one is back.
//!
//! Follows the priority policy of gRFC A56, with its failover timer (10 s) and its retention of unused tiers (15 min).
//! Differences: an attribute names the tier, and failing back can be delayed, so that a flapping tier does not move
//! the RPCs back and forth.

#[cfg(test)]
mod model;
mod tier;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::Config as _;
use hotpick_guest::group::Balance;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Alarms, Connectivity, ConnectivityState, Description, Duration, Endpoint, FailCode, Nanos,
    PickInfo, PickResult, Placement, Policy, SubConn, SubConnMap, Weights, call, connections, env, nanos,
    timers,
};

use self::tier::{State, Tier, give_up};

hotpick_guest::config! {
    /// Tiers of endpoints; each is used when the previous ones fail.
    struct Config {
        /// Attribute with the number of an endpoint's tier: 0 is the first, 255 the last. Endpoints without it are in
        /// tier 0.
        attribute: String = "priority".to_owned(),
        /// How long a tier may take to connect before the next one is used.
        #[range(0.0..=3600.0)]
        failover_delay: Duration = Duration::from_secs(10),
        /// How long a better tier must be ready before RPCs go back to it.
        #[range(0.0..=3600.0)]
        failback_delay: Duration = Duration::from_secs(0),
        /// How long the connections of an unused tier are kept.
        #[range(0.0..=86_400.0)]
        retention: Duration = Duration::from_secs(900),
        /// Percentage of a tier's endpoints that must be ready for it to take all RPCs. With fewer, the tier takes a
        /// proportional share, and the rest goes to the next tier. 0: one ready endpoint takes all, as in gRPC.
        #[range(0..=100)]
        spill_below: u32 = 0,
        /// How RPCs are balanced within a tier.
        balance: Balance = Balance::RoundRobin,
    }
}

/// The last tier. A greater number, or an attribute that is not a number, counts as this one.
const LAST: u32 = 255;
/// Number of the timer for [`Priority::review`].
const REVIEW: u32 = 0;

#[derive(Debug)]
struct Priority {
    config: Config,
    tier_of: SubConnMap<u32>,
    /// Sorted by number.
    tiers: Vec<(u32, Tier)>,
    states: States,
    weights: Weights,
    answers: Answers,
    /// In the resolver's order.
    ready: Vec<SubConn>,
    /// The tiers in use, each with the upper end of its share of 2^64.
    uses: Vec<(u32, u64)>,
    /// The last tier in use. If none is in use, the one that was last used.
    current: Option<u32>,
    /// Whether RPCs are queued while no tier is in use.
    waits: bool,
    error: String,
}

impl Policy for Priority {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement.must_be_alone("each of several would decide for itself what is connected")?;
        connections::declare_lazy();
        Ok(Self {
            tier_of: SubConnMap::default(),
            tiers: Vec::new(),
            states: States::default(),
            weights: Weights::default(),
            answers: Answers::default(),
            ready: Vec::new(),
            uses: Vec::new(),
            current: None,
            waits: true,
            error: String::new(),
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        for id in removed {
            self.tier_of.remove(*id);
            self.states.remove(*id);
        }
        let mut moved = Vec::new();
        for endpoint in added {
            let number = self.number(endpoint);
            if self.tier_of.insert(endpoint.id, number).is_some_and(|before| before != number) {
                moved.push(endpoint.id);
            }
        }
        self.tiers.iter_mut().for_each(|(_, tier)| tier.clear());
        for (id, number) in self.tier_of.iter() {
            let at = self.tiers.partition_point(|(known, _)| known < number);
            if self.tiers.get(at).is_none_or(|(known, _)| known != number) {
                self.tiers.insert(at, (*number, Tier::new(self.config.balance)));
            }
            let tier = &mut self.tiers[at].1;
            tier.add(id, self.states.of(id));
        }
        self.tiers.retain(|(_, tier)| !tier.members.is_empty());
        // A new member of a connected tier is connected as well.
        for endpoint in added {
            if self.tier_mut(endpoint.id).is_some_and(|tier| tier.child.is_some()) {
                connections::connect(endpoint.id);
            }
        }
        self.review(now);
        // A new member of an unconnected tier is disconnected.
        for id in moved {
            let state = self.states.of(id);
            if let Some(tier) = self.tier_mut(id).filter(|tier| tier.child.is_none()) {
                if state == ConnectivityState::TransientFailure {
                    tier.count(state, false);
                }
                give_up(id, &mut self.states);
            }
        }
    }

    fn ready(&mut self, ready: &[SubConn], now: Nanos) {
        self.ready = ready.to_vec();
        self.review(now);
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let tier = self.uses.iter().find(|(_, up_to)| info.random <= *up_to);
        let tier = tier.and_then(|(number, _)| self.tiers.iter_mut().find(|(known, _)| known == number));
        if let Some(picked) = tier.and_then(|(_, tier)| tier.group.pick(info, &mut self.answers)) {
            return PickResult::Pick(picked);
        }
        if self.waits {
            return PickResult::Queue;
        }
        call::explain(&self.error);
        PickResult::Fail(FailCode::Unavailable)
    }
}

impl Priority {
    fn tier_mut(&mut self, id: SubConn) -> Option<&mut Tier> {
        let number = self.tier_of.get(id)?;
        let at = self.tiers.binary_search_by_key(number, |(known, _)| *known).ok()?;
        Some(&mut self.tiers[at].1)
    }

    /// Returns the tier of an endpoint. The last one if the attribute is not a number.
    fn number(&self, endpoint: &Endpoint) -> u32 {
        let Some(text) = endpoint.attribute(&self.config.attribute) else { return 0 };
        if let Ok(number) = text.parse::<u32>() {
            return number.min(LAST);
        }
        let (attribute, name) = (&self.config.attribute, endpoint.hash_key());
        let warning = format!("endpoint {name}: {attribute}={text} is not a number; using the last tier");
        env::log(env::Level::Warn, &warning);
        LAST
    }

    /// Finds the tiers to use, connects and disconnects the others, and sets the timer for the next review.
    fn review(&mut self, now: Nanos) {
        let (failover, retention) = (nanos(self.config.failover_delay), nanos(self.config.retention));
        for (_, tier) in &mut self.tiers {
            tier.note(now, failover);
        }
        let (shares, mut next_look) = self.choose(now, failover);
        // Tiers below those in use are not needed now.
        if let Some((last, _)) = shares.last().filter(|_| self.needs_no_more(&shares)) {
            for (_, tier) in self.tiers.iter_mut().filter(|(number, _)| number > last) {
                let until = tier.rest(now, retention, &mut self.states);
                next_look = next_look.min(until.unwrap_or(Nanos::MAX));
            }
        }
        self.use_tiers(&shares);
        match next_look {
            Nanos::MAX => timers::cancel(REVIEW),
            at => drop(timers::schedule(REVIEW, at.saturating_sub(now))),
        }
    }

    /// Chooses tiers as gRFC A56 does, from the first one down: a ready tier is used, and a tier whose failover timer
    /// runs is waited for. Returns the share of RPCs for each tier in use, and the time of the next review.
    fn choose(&mut self, now: Nanos, failover: Nanos) -> (Vec<(u32, f64)>, Nanos) {
        let Self { config, tiers, current, .. } = self;
        let failback = nanos(config.failback_delay);
        // RPCs stay on a tier that is still ready until its failback delay has passed.
        let is_ready = |tier: &Tier| tier.child.as_ref().is_some_and(|child| child.state == State::Ready);
        let held =
            current.filter(|number| tiers.iter().any(|(known, tier)| known == number && is_ready(tier)));
        let (mut shares, mut left, mut next_look) = (Vec::new(), 1.0, Nanos::MAX);
        self.waits = tiers.is_empty();
        for (number, tier) in tiers.iter_mut() {
            tier.need(now, failover);
            let Some(child) = &tier.child else { continue };
            let is_better = held.is_some_and(|held| held > *number);
            match (child.state, child.patience) {
                (State::Ready, _) if is_better && now < child.ready_since.saturating_add(failback) => {
                    next_look = next_look.min(child.ready_since.saturating_add(failback));
                }
                (State::Ready, _) => {
                    let part = tier.part(config.spill_below);
                    shares.push((*number, left * part));
                    left *= 1.0 - part;
                    if left <= 0.0 {
                        break;
                    }
                }
                (_, Some(until)) if until > now => {
                    next_look = next_look.min(until);
                    if !is_better {
                        self.waits = true;
                        break;
                    }
                }
                (state, _) => self.waits |= state == State::Connecting,
            }
        }
        (shares, next_look)
    }

    /// Whether these tiers take all RPCs.
    fn needs_no_more(&self, shares: &[(u32, f64)]) -> bool {
        self.config.spill_below == 0 || shares.iter().map(|(_, share)| share).sum::<f64>() > 1.0 - 1e-9
    }

    /// Routes RPCs to these tiers.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
    fn use_tiers(&mut self, shares: &[(u32, f64)]) {
        let sum: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut up_to = 0.0;
        self.uses.clear();
        for (number, share) in shares {
            up_to += share / sum;
            self.uses.push((*number, (up_to * 2f64.powi(64)) as u64));
            let is_member = |id: &&SubConn| self.tier_of.get(**id) == Some(number);
            let members = self.ready.iter().filter(is_member).copied().collect();
            if let Some((_, tier)) = self.tiers.iter_mut().find(|(known, _)| known == number) {
                tier.group.update(members, &self.weights);
            }
        }
        let Some(last) = self.uses.last_mut() else { return };
        last.1 = u64::MAX;
        let last = last.0;
        if self.current.is_some_and(|current| current != last) {
            env::log(env::Level::Info, &format!("now using the endpoints of priority {last}"));
        }
        self.current = Some(last);
    }
}

impl Connectivity for Priority {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, now: Nanos) {
        let before = self.states.note(id, state);
        let after = self.states.of(id);
        let Some(tier) = self.tier_mut(id) else { return };
        let was = tier.state();
        tier.count(before, false);
        tier.count(after, true);
        let has_changed = tier.state() != was;
        // Members of a connected tier reconnect after a failure or a lost connection.
        if tier.child.is_some() && state == ConnectivityState::Idle {
            connections::connect(id);
        }
        if state == ConnectivityState::TransientFailure {
            self.error = format!("no endpoint of any priority can be reached; last error: {message}");
        }
        // `ready` handles subconns that become ready.
        if has_changed && after != ConnectivityState::Ready {
            self.review(now);
        }
    }
}

impl Alarms for Priority {
    fn fired(&mut self, _id: u32, now: Nanos) {
        self.review(now);
    }
}

impl About for Priority {
    fn describe() -> Description {
        Description::of::<Config>("Tiers of endpoints; each is used when the previous ones fail.")
    }
}

hotpick_guest::export!(Priority: Connectivity, Alarms, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Endpoints 0 and 1 are in the first tier, 2 in the second, 3 in the third.
    fn start(config: &str) -> FakeHost<Priority> {
        let mut host = FakeHost::start(config).expect("started");
        assert!(host.is_lazy());
        host.change(
            &[
                endpoint(0, &[]),
                endpoint(1, &[("priority", "0")]),
                endpoint(2, &[("priority", "1")]),
                endpoint(3, &[("priority", "7")]),
            ],
            &[],
        );
        host
    }

    /// Makes exactly these ready.
    fn ready(host: &mut FakeHost<Priority>, ids: &[SubConn]) {
        for id in 0..4 {
            let is_ready = host.policy().states.is_ready(id);
            if ids.contains(&id) && !is_ready {
                host.connectivity(id, Ready, "");
            } else if !ids.contains(&id) && is_ready {
                host.connectivity(id, Idle, "");
            }
        }
        host.ready(ids);
    }

    fn connected(host: &mut FakeHost<Priority>) -> Vec<SubConn> {
        let asked = host.take_connects();
        assert!(asked.iter().all(|(_, connect)| *connect), "{asked:?}");
        asked.into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn only_the_first_tier_is_connected_and_used() {
        let mut host = start("{}");
        assert_eq!(connected(&mut host), [0, 1]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        ready(&mut host, &[0, 1]);
        host.run(60 * SECOND);
        assert_eq!(host.counts(&[0, 1], 10), [5, 5]);
        assert!(connected(&mut host).is_empty());
    }

    #[test]
    fn the_next_tier_is_used_at_once_when_all_of_one_fail() {
        let mut host = start("{}");
        connected(&mut host);
        host.connectivity(0, TransientFailure, "refused");
        assert!(connected(&mut host).is_empty(), "1 may still be reached");
        host.connectivity(1, TransientFailure, "refused");
        assert_eq!(connected(&mut host), [2]);
        ready(&mut host, &[2]);
        assert_eq!(host.counts(&[2], 5), [5]);
        // The first tier is retried, and takes no RPCs before it is ready.
        host.connectivity(0, Idle, "");
        assert_eq!(connected(&mut host), [0]);
        host.connectivity(0, Connecting, "");
        assert_eq!(host.counts(&[2], 5), [5]);
        ready(&mut host, &[0, 2]);
        assert_eq!(host.counts(&[0], 5), [5]);
    }

    #[test]
    fn the_next_tier_is_used_when_one_takes_too_long() {
        let mut host = start("{}");
        connected(&mut host);
        host.run(9 * SECOND);
        assert!(connected(&mut host).is_empty());
        host.run(2 * SECOND);
        assert_eq!(connected(&mut host), [2]);
        host.run(11 * SECOND);
        assert_eq!(connected(&mut host), [3]);
        ready(&mut host, &[3]);
        assert_eq!(host.counts(&[3], 5), [5]);
        ready(&mut host, &[2, 3]);
        assert_eq!(host.counts(&[2], 5), [5]);
    }

    #[test]
    fn a_tier_that_loses_its_last_connection_has_its_time_to_come_back() {
        let mut host = start("{}");
        ready(&mut host, &[0]);
        connected(&mut host);
        ready(&mut host, &[]);
        assert_eq!(connected(&mut host), [0]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        host.run(11 * SECOND);
        assert_eq!(connected(&mut host), [2]);
    }

    #[test]
    fn going_back_can_wait() {
        let mut host = start(r#"{"failbackDelay":"30s","failoverDelay":"1s"}"#);
        host.run(2 * SECOND);
        ready(&mut host, &[2]);
        assert_eq!(host.counts(&[2], 5), [5]);
        ready(&mut host, &[0, 2]);
        host.run(29 * SECOND);
        assert_eq!(host.counts(&[2], 5), [5]);
        // The tier flaps: its failback delay starts again.
        ready(&mut host, &[2]);
        ready(&mut host, &[0, 2]);
        host.run(29 * SECOND);
        assert_eq!(host.counts(&[2], 5), [5]);
        host.run(2 * SECOND);
        assert_eq!(host.counts(&[0], 5), [5]);
        // Without an alternative there is no delay.
        ready(&mut host, &[2]);
        host.run(2 * SECOND);
        assert_eq!(host.counts(&[2], 5), [5]);
        ready(&mut host, &[0, 2]);
        assert_eq!(host.counts(&[2], 5), [5]);
        ready(&mut host, &[0]);
        assert_eq!(host.counts(&[0], 5), [5]);
    }

    #[test]
    fn a_tier_that_failed_long_ago_is_tried_anew() {
        let mut host = start(r#"{"retention":"1s"}"#);
        host.connectivity(0, TransientFailure, "refused");
        host.connectivity(1, TransientFailure, "refused");
        host.connectivity(2, TransientFailure, "refused");
        ready(&mut host, &[0]);
        host.run(2 * SECOND);
        host.take_connects();
        host.connectivity(0, TransientFailure, "refused");
        host.ready(&[]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue, "the second may be reached now");
        assert!(connected(&mut host).contains(&2));
    }

    #[test]
    fn what_a_policy_before_has_connected_is_given_up_later() {
        let mut host = start(r#"{"retention":"60s"}"#);
        ready(&mut host, &[0, 1, 2, 3]);
        assert_eq!(host.counts(&[0, 1], 10), [5, 5]);
        host.take_connects();
        host.run(61 * SECOND);
        assert_eq!(host.take_connects(), [(2, false), (3, false)]);
    }

    #[test]
    fn what_is_not_used_any_more_is_disconnected_later() {
        let mut host = start(r#"{"retention":"60s","failoverDelay":"0s"}"#);
        ready(&mut host, &[2]);
        ready(&mut host, &[0, 2]);
        host.take_connects();
        host.run(59 * SECOND);
        assert!(host.take_connects().is_empty());
        host.run(2 * SECOND);
        let gone = host.take_connects();
        assert!(gone.contains(&(2, false)) && !gone.contains(&(0, false)), "{gone:?}");
        host.connectivity(2, Idle, "");
        assert!(host.take_connects().is_empty(), "it stays so");
    }

    #[test]
    fn if_all_have_failed_rpcs_fail_with_the_reason() {
        let mut host = start("{}");
        for id in 0..4 {
            host.connectivity(id, TransientFailure, "connection refused");
        }
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
        let text = "no endpoint of any priority can be reached; last error: connection refused";
        assert_eq!(host.explanation().as_deref(), Some(text));
    }

    #[test]
    fn tiers_follow_the_list() {
        let mut host = start("{}");
        ready(&mut host, &[0, 1]);
        connected(&mut host);
        host.change(&[endpoint(9, &[])], &[]);
        assert_eq!(connected(&mut host), [9]);
        host.change(&[endpoint(1, &[("priority", "high")])], &[0, 9]);
        assert!(host.log().iter().any(|(_, line)| line.contains("is not a number")));
        host.ready(&[1]);
        // 1 is in the last tier now, and not needed there. The second tier is the best one now, and is connected.
        assert_eq!(host.take_connects(), [(2, true), (1, false)]);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"attribute":""}"#, "attribute: "),
            (r#"{"failoverDelay":"-1s"}"#, "failoverDelay: must be a duration"),
            (r#"{"failoverDelay":10}"#, "failoverDelay: "),
            (r#"{"failbackDelay":"1e5s"}"#, "failbackDelay: "),
            (r#"{"retention":"forever"}"#, "retention: "),
            (r#"{"balance":"maglev"}"#, "balance: "),
            (r#"{"tiers":[]}"#, "tiers: no such field"),
        ] {
            let error = FakeHost::<Priority>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }

    #[test]
    fn a_tier_with_few_ready_ones_can_share_with_the_next() {
        let mut host = FakeHost::<Priority>::start(r#"{"spillBelow":80}"#).expect("started");
        let tier = |id: u32| endpoint(id, &[("priority", if id < 10 { "0" } else { "1" })]);
        host.change(&(0..20).map(tier).collect::<Vec<_>>(), &[]);
        let mut ready = Vec::new();
        let mut shares = |host: &mut FakeHost<Priority>, more: std::ops::Range<u32>| {
            for id in more {
                host.connectivity(id, Ready, "");
                ready.push(id);
            }
            host.ready(&ready);
            let picks = host.picks(1_000);
            picks.iter().filter(|id| **id < 10).count()
        };
        // Half of what it needs, but the next tier has no ready endpoint yet.
        assert_eq!(shares(&mut host, 0..4), 1_000);
        assert!(connected(&mut host).contains(&10));
        assert!((450..550).contains(&shares(&mut host, 10..20)));
        assert!((700..800).contains(&shares(&mut host, 4..6)));
        assert_eq!(shares(&mut host, 6..8), 1_000);
    }

    #[test]
    fn what_a_tier_leaves_over_is_shared_by_the_next_ones() {
        let mut host = FakeHost::<Priority>::start(r#"{"spillBelow":100}"#).expect("started");
        let tier = |id: u32| endpoint(id, &[("priority", ["0", "1", "2"][id as usize / 4])]);
        host.change(&(0..12).map(tier).collect::<Vec<_>>(), &[]);
        // Half of each tier, and all of the last one.
        let ready = [0, 1, 4, 5, 8, 9, 10, 11];
        ready.iter().for_each(|id| host.connectivity(*id, Ready, ""));
        host.ready(&ready);
        let mut counts = [0; 3];
        host.picks(8_000).into_iter().for_each(|id| counts[id as usize / 4] += 1);
        assert!(hotpick_guest::testing::chi_square(&counts, &[0.5, 0.25, 0.25]).is_likely(), "{counts:?}");
    }

    #[test]
    fn it_is_one_alone() {
        let error = FakeHost::<Priority>::start_as_one_of_two("{}").expect_err("refused");
        assert!(error.starts_with("shards: must be 1"), "{error}");
    }

    /// The previous policy has left a connection to one member of the tier.
    #[test]
    fn a_tier_that_is_inherited_in_part_is_connected_whole_when_it_is_needed() {
        let mut host = FakeHost::<Priority>::start("{}").expect("started");
        let tier = |id: u32, tier: &str| endpoint(id, &[("priority", tier)]);
        host.change(&[tier(0, "0"), tier(1, "1"), tier(2, "1"), tier(3, "1")], &[]);
        host.connectivity(0, Ready, "");
        host.connectivity(1, Ready, "");
        host.ready(&[0, 1]);
        host.take_connects();
        host.connectivity(0, Idle, "");
        host.ready(&[1]);
        host.connectivity(0, TransientFailure, "refused");
        let connected: Vec<_> = host.take_connects().into_iter().filter(|(id, _)| *id > 0).collect();
        assert_eq!(connected, [(1, true), (2, true), (3, true)]);
        assert_eq!(host.counts(&[1], 10), [10]);
    }
}
