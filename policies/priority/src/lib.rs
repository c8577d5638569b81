//! `priority`: endpoints in tiers. RPCs go to the first tier that has a ready endpoint; the next one is connected
//! when that fails, or takes too long, and is left when the first is back.
//!
//! After the priority policy of gRFC A56, with its failover timer (10 s) and its retention of what is not used any more
//! (15 min); over tiers that an attribute names, and with a delay before failing back, so that a tier that comes and
//! goes does not take the RPCs with it.

use hotpick_guest::config::Config as _;
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Alarms, Connectivity, ConnectivityState, Description, Duration, Endpoint, FailCode, Nanos,
    PickInfo, PickResult, Placement, Policy, SubConn, SubConnMap, call, connections, env, nanos, timers,
};

hotpick_guest::config! {
    /// Tiers of endpoints, each used when those before it fail.
    struct Config {
        /// The attribute with the number of an endpoint's tier: 0, or no attribute, is the first, 255 the last.
        attribute: String = "priority".to_owned(),
        /// How long a tier may take to connect before the next one is used.
        #[range(0.0..=3600.0)]
        failover_delay: Duration = Duration::from_secs(10),
        /// How long a better tier must have been ready before RPCs go back to it.
        #[range(0.0..=3600.0)]
        failback_delay: Duration = Duration::from_secs(0),
        /// How long the connections of a tier that is not used any more are kept.
        #[range(0.0..=86_400.0)]
        retention: Duration = Duration::from_secs(900),
        /// How RPCs are spread in a tier.
        balance: Balance = Balance::RoundRobin,
    }
}

/// The last tier: what is beyond, or is no number, is in it.
const LAST: u32 = 255;
/// The one timer: to look at the tiers.
const REVIEW: u32 = 0;

#[derive(Debug)]
struct Priority {
    config: Config,
    tier_of: SubConnMap<u32>,
    /// By number.
    tiers: Vec<(u32, Tier)>,
    states: States,
    /// In the resolver's order.
    ready: Vec<SubConn>,
    /// The tier that RPCs go to, and its ready endpoints.
    current: Option<u32>,
    group: Group,
    error: String,
}

/// Endpoints of the same priority.
#[derive(Debug, Default)]
struct Tier {
    members: Vec<SubConn>,
    /// How many of them are ready, and have failed.
    ready: usize,
    failed: usize,
    /// Its endpoints are to be connected.
    is_active: bool,
    /// When it was activated, or lost its last ready endpoint: it has `failover_delay` from then on.
    connecting_since: Nanos,
    /// When it had a ready endpoint again.
    ready_since: Option<Nanos>,
    /// Since when a better one is in use.
    unused_since: Option<Nanos>,
}

impl Tier {
    /// One more, or one less, in this state.
    fn count(&mut self, state: ConnectivityState, more: bool) {
        let count = match state {
            ConnectivityState::Ready => &mut self.ready,
            ConnectivityState::TransientFailure => &mut self.failed,
            _ => return,
        };
        *count = if more { *count + 1 } else { count.saturating_sub(1) };
    }

    fn has_failed(&self) -> bool {
        self.failed == self.members.len()
    }

    fn activate(&mut self, now: Nanos) {
        self.unused_since = None;
        if !self.is_active {
            self.is_active = true;
            self.connecting_since = now;
            self.members.iter().copied().for_each(connections::connect);
        }
    }

    fn deactivate(&mut self, states: &mut States) {
        (self.is_active, self.failed) = (false, 0);
        for id in &self.members {
            // When it is wanted again it is tried anew.
            if states.has_failed(*id) {
                states.remove(*id);
            }
            connections::disconnect(*id);
        }
    }
}

impl Policy for Priority {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        connections::declare_lazy();
        Ok(Self {
            tier_of: SubConnMap::default(),
            tiers: Vec::new(),
            states: States::default(),
            ready: Vec::new(),
            current: None,
            group: Group::new(config.balance, Vec::new()),
            error: String::new(),
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        for id in removed {
            self.tier_of.remove(*id);
            self.states.remove(*id);
        }
        for endpoint in added {
            self.tier_of.insert(endpoint.id, self.number(endpoint));
        }
        for (_, tier) in &mut self.tiers {
            tier.members.clear();
            (tier.ready, tier.failed) = (0, 0);
        }
        for (id, number) in self.tier_of.iter() {
            let at = self.tiers.partition_point(|(known, _)| known < number);
            if self.tiers.get(at).is_none_or(|(known, _)| known != number) {
                self.tiers.insert(at, (*number, Tier::default()));
            }
            let tier = &mut self.tiers[at].1;
            tier.members.push(id);
            tier.count(self.states.of(id), true);
        }
        self.tiers.retain(|(_, tier)| !tier.members.is_empty());
        // What came to a tier that is in use is connected with the others.
        for endpoint in added {
            if self.tier_mut(endpoint.id).is_some_and(|tier| tier.is_active) {
                connections::connect(endpoint.id);
            }
        }
        self.review(now);
    }

    fn ready(&mut self, ready: &[SubConn], now: Nanos) {
        self.ready = ready.to_vec();
        self.review(now);
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        if let Some(picked) = self.group.pick(info.random) {
            return PickResult::Pick(picked);
        }
        if self.tiers.is_empty() || !self.tiers.iter().all(|(_, tier)| tier.has_failed()) {
            return PickResult::Queue;
        }
        call::explain(&self.error);
        PickResult::Fail(FailCode::Unavailable)
    }
}

impl Priority {
    fn tier_mut(&mut self, id: SubConn) -> Option<&mut Tier> {
        let number = self.tier_of.get(id)?;
        self.tiers.iter_mut().find(|(known, _)| known == number).map(|(_, tier)| tier)
    }

    /// The tier that an endpoint says it is in; the last one if that is no number.
    fn number(&self, endpoint: &Endpoint) -> u32 {
        let Some(text) = endpoint.attribute(&self.config.attribute) else { return 0 };
        if let Ok(number) = text.parse::<u32>() {
            return number.min(LAST);
        }
        let (attribute, name) = (&self.config.attribute, endpoint.hash_key());
        let warning = format!("{attribute}={text} of {name} is no number: it is in the last tier");
        env::log(env::Level::Warn, &warning);
        LAST
    }

    /// Finds the tier to use, activates and deactivates others, and sets the timer for the next time.
    fn review(&mut self, now: Nanos) {
        let Self { config, tiers, states, current, .. } = self;
        let (failover, failback) = (nanos(config.failover_delay), nanos(config.failback_delay));
        let (mut chosen, mut waiting_for, mut next_look) = (None, None, Nanos::MAX);
        // RPCs that have a place to be wait before they come back.
        let held =
            current.filter(|current| tiers.iter().any(|(number, tier)| number == current && tier.ready > 0));
        for (number, tier) in tiers.iter_mut() {
            if chosen.is_some() {
                break;
            }
            tier.activate(now);
            match (tier.ready > 0, tier.ready_since) {
                (true, None) => tier.ready_since = Some(now),
                (false, Some(_)) => (tier.ready_since, tier.connecting_since) = (None, now),
                _ => {}
            }
            if let Some(since) = tier.ready_since {
                let comes_back = held.is_some_and(|current| current > *number);
                if !comes_back || now >= since.saturating_add(failback) {
                    chosen = Some(*number);
                } else {
                    next_look = next_look.min(since.saturating_add(failback));
                }
            } else if !tier.has_failed() && now < tier.connecting_since.saturating_add(failover) {
                next_look = next_look.min(tier.connecting_since.saturating_add(failover));
                // It may still become ready: RPCs wait, if there is no other place where they are already.
                waiting_for = waiting_for.or(Some(*number));
                if current.is_none_or(|current| current <= *number) {
                    break;
                }
            }
        }
        // While it waits to go back, the one in use goes on.
        let chosen = chosen.or(held);
        let retention = nanos(config.retention);
        let last = chosen.or(waiting_for).unwrap_or(u32::MAX);
        for (_, tier) in tiers.iter_mut().filter(|(number, _)| *number > last) {
            // One that is not active may have connections of the policy before: kept for a while, too.
            if (tier.is_active || tier.ready > 0) && chosen.is_some() {
                let until = tier.unused_since.get_or_insert(now).saturating_add(retention);
                if now >= until {
                    tier.deactivate(states);
                } else {
                    next_look = next_look.min(until);
                }
            }
        }
        self.use_tier(chosen);
        match next_look {
            Nanos::MAX => timers::cancel(REVIEW),
            at => drop(timers::schedule(REVIEW, at.saturating_sub(now))),
        }
    }

    fn use_tier(&mut self, chosen: Option<u32>) {
        let is_member = |id: &&SubConn| self.tier_of.get(**id).copied() == chosen && chosen.is_some();
        let members = self.ready.iter().filter(is_member).copied().collect();
        if let Some(number) = chosen.filter(|_| chosen != self.current && self.current.is_some()) {
            env::log(env::Level::Info, &format!("RPCs go to the endpoints of priority {number} now"));
        }
        self.group.update(members);
        // Where RPCs were last, if they are nowhere: so that it is known what to come back from.
        self.current = chosen.or(self.current);
    }
}

impl Connectivity for Priority {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, now: Nanos) {
        let before = self.states.note(id, state);
        let after = self.states.of(id);
        let Some(tier) = self.tier_mut(id) else { return };
        let was_down = tier.has_failed();
        tier.count(before, false);
        tier.count(after, true);
        let goes_down = tier.has_failed() && !was_down;
        // It is tried on: what has failed, and what has lost its connection.
        if tier.is_active && state == ConnectivityState::Idle {
            connections::connect(id);
        }
        if state == ConnectivityState::TransientFailure {
            self.error = format!("no endpoint of any priority can be reached; the last error: {message}");
            // What else changes is told by `ready`.
            if goes_down {
                self.review(now);
            }
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
        Description::of::<Config>("Tiers of endpoints, each used when those before it fail.")
    }
}

hotpick_guest::export!(Priority: Connectivity, Alarms, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    use hotpick_guest::testing::{FakeHost, Rpc, endpoint};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// 0 and 1 in the first tier, 2 in the second, 3 in the third.
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

    /// These are ready from now on, and no others.
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
        // The first is tried on, and it does not take the RPCs before it is ready.
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
        // It comes and goes: its time begins anew.
        ready(&mut host, &[2]);
        ready(&mut host, &[0, 2]);
        host.run(29 * SECOND);
        assert_eq!(host.counts(&[2], 5), [5]);
        host.run(2 * SECOND);
        assert_eq!(host.counts(&[0], 5), [5]);
        // But not if there is no other.
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
        let text = "no endpoint of any priority can be reached; the last error: connection refused";
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
        assert!(host.log().iter().any(|(_, line)| line.contains("is no number")));
        host.ready(&[1]);
        // 1 is in the last tier now; the second, at the top, is connected.
        assert!(connected(&mut host).contains(&2));
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

    /// The policy before has left a connection to one of them.
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
