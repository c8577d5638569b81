//! `pick_first`: one connection, to the first endpoint that can be reached.
//!
//! Follows grpc-go's `pick_first` and gRFCs A61 and A62. The endpoints are tried in the resolver's order, or in random
//! order. The next one is tried when one fails, or in parallel after 250 ms (happy eyeballs). When all have failed,
//! RPCs fail until one is reached; each endpoint is retried after its backoff. The first connection is kept, even if a
//! better one becomes possible. When it is lost, the next RPC starts again with the first endpoint.

#[cfg(test)]
mod model;

use hotpick_guest::config::Config as _;
use hotpick_guest::random::Random;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Alarms, Connectivity, ConnectivityState, Description, Duration, Endpoint, FailCode, Nanos,
    PickInfo, PickResult, Placement, Policy, SubConn, SubConnSet, call, connections, env, nanos, timers,
};

hotpick_guest::config! {
    /// One connection, to the first endpoint that can be reached.
    struct Config {
        /// Whether the endpoints are tried in random order, so that many clients do not all choose the same (gRFC A62).
        shuffle_address_list: bool = false,
        /// How long a connection attempt may take before the next endpoint is tried in parallel.
        #[range(0.1..=60.0)]
        connection_attempt_delay: Duration = Duration::from_millis(250),
    }
}

/// Number of the timer that tries the next endpoint in parallel.
const NEXT: u32 = 0;

#[derive(Debug)]
struct PickFirst {
    config: Config,
    /// In the order of attempts.
    list: Vec<SubConn>,
    states: States,
    /// Number of endpoints in the list that have failed.
    failed: usize,
    ready: SubConnSet,
    /// Endpoints that have failed and whose backoff is over. The next pass over the list may try them.
    rested: Vec<SubConn>,
    phase: Phase,
    /// Whether all have failed and none was ready since. RPCs fail, even while a changed list is tried (gRFC A61).
    is_failing: bool,
    error: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Not connected. The next RPC starts a pass.
    Idle,
    /// A pass is running; this many of the list have been tried.
    Trying(usize),
    Ready(SubConn),
    /// All attempts have failed.
    Failed,
}

impl Policy for PickFirst {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement.must_be_alone("each of several would give up the connections of the others")?;
        connections::declare_lazy();
        Ok(Self {
            config,
            list: Vec::new(),
            states: States::default(),
            failed: 0,
            ready: SubConnSet::default(),
            rested: Vec::new(),
            phase: Phase::Idle,
            is_failing: false,
            error: String::new(),
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        removed.iter().for_each(|id| self.states.remove(*id));
        let gone = SubConnSet::from(removed);
        let is_first = self.list.is_empty();
        self.list.retain(|id| !gone.has(*id));
        self.rested.retain(|id| !gone.has(*id));
        // An endpoint that is reported again because it changed keeps its place.
        let known = SubConnSet::from(&self.list[..]);
        self.list.extend(added.iter().map(|endpoint| endpoint.id).filter(|id| !known.has(*id)));
        if self.config.shuffle_address_list {
            Random::new(env::random()).shuffle(&mut self.list);
        }
        self.failed = self.list.iter().filter(|id| self.states.has_failed(**id)).count();
        match self.phase {
            // The connection stays if its endpoint does.
            Phase::Ready(id) if self.list.contains(&id) => {}
            // After the first list, only an RPC starts a pass.
            Phase::Idle if !is_first => {}
            _ => self.begin(),
        }
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.into();
    }

    fn pick(&mut self, _info: &PickInfo) -> PickResult {
        if self.phase == Phase::Idle {
            self.begin();
        }
        match self.phase {
            Phase::Ready(id) => PickResult::Pick(id),
            _ if self.is_failing => {
                call::explain(&self.error);
                PickResult::Fail(FailCode::Unavailable)
            }
            _ => PickResult::Queue,
        }
    }
}

impl PickFirst {
    /// Starts a pass with the first endpoint.
    fn begin(&mut self) {
        self.phase = if self.list.is_empty() { Phase::Idle } else { Phase::Trying(0) };
        // With an empty list, RPCs are queued.
        self.is_failing &= !self.list.is_empty();
        // A new pass may retry these.
        for id in std::mem::take(&mut self.rested) {
            self.failed = self.failed.saturating_sub(usize::from(self.states.has_failed(id)));
            self.states.remove(id);
        }
        self.try_next();
    }

    /// Connects the next endpoint that may be reachable.
    fn try_next(&mut self) {
        while let Phase::Trying(tried) = self.phase {
            if self.failed == self.list.len() {
                break;
            }
            let Some(id) = self.list.get(tried).copied() else { break };
            self.phase = Phase::Trying(tried + 1);
            match self.states.of(id) {
                // A subconn that was disconnected and is connected again may be ready without a report of it.
                _ if self.ready.has(id) => return self.take(id),
                ConnectivityState::Ready => return self.take(id),
                // In backoff, or in an attempt after it.
                ConnectivityState::TransientFailure => {}
                _ => {
                    connections::connect(id);
                    self.look_again();
                    return;
                }
            }
        }
        self.give_up_if_all_have_failed();
    }

    fn look_again(&self) {
        drop(timers::schedule(NEXT, nanos(self.config.connection_attempt_delay)));
    }

    fn give_up_if_all_have_failed(&mut self) {
        if matches!(self.phase, Phase::Trying(_)) && self.failed == self.list.len() {
            self.phase = Phase::Failed;
            self.is_failing = true;
            timers::cancel(NEXT);
            connections::resolve_now();
            // The others follow when their backoff is over.
            self.rested.iter().copied().for_each(connections::connect);
        }
    }

    /// Keeps this connection, and closes the others.
    fn take(&mut self, id: SubConn) {
        self.phase = Phase::Ready(id);
        self.is_failing = false;
        timers::cancel(NEXT);
        for other in self.list.iter().copied().filter(|other| *other != id) {
            // A subconn in backoff stays there, and counts as failed until then.
            if !self.states.has_failed(other) {
                self.states.remove(other);
                connections::disconnect(other);
            }
        }
    }
}

impl Connectivity for PickFirst {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, _now: Nanos) {
        let before = self.states.note(id, state);
        if state != ConnectivityState::Connecting {
            self.rested.retain(|rested| *rested != id);
        }
        self.failed += usize::from(self.states.has_failed(id));
        self.failed = self.failed.saturating_sub(usize::from(before == ConnectivityState::TransientFailure));
        match (self.phase, state) {
            (Phase::Ready(selected), ConnectivityState::Ready) if selected != id => {
                self.states.remove(id);
                connections::disconnect(id);
            }
            // The connection is lost: resolve again, because the list may be outdated.
            (Phase::Ready(selected), ConnectivityState::Idle | ConnectivityState::TransientFailure)
                if selected == id =>
            {
                self.phase = Phase::Idle;
                connections::resolve_now();
            }
            (Phase::Trying(_) | Phase::Failed | Phase::Idle, ConnectivityState::Ready) => self.take(id),
            (Phase::Trying(_), ConnectivityState::TransientFailure) => {
                self.error = format!("no endpoint can be reached; last error: {message}");
                self.try_next();
            }
            (Phase::Failed, ConnectivityState::TransientFailure) => {
                self.error = format!("no endpoint can be reached; last error: {message}");
            }
            (phase, ConnectivityState::Idle) if before == ConnectivityState::TransientFailure => {
                self.rested.push(id);
                if phase == Phase::Failed {
                    connections::connect(id);
                }
            }
            _ => {}
        }
    }
}

impl Alarms for PickFirst {
    fn fired(&mut self, _id: u32, _now: Nanos) {
        let Phase::Trying(tried) = self.phase else { return };
        // An attempt may have ended without a failure, or a connection was lost before it was reported as ready.
        for id in self.list.iter().take(tried).copied().filter(|id| !self.states.has_failed(*id)) {
            connections::connect(id);
        }
        self.try_next();
        if self.phase == Phase::Trying(self.list.len()) {
            self.look_again();
        }
    }
}

impl About for PickFirst {
    fn describe() -> Description {
        Description::of::<Config>("One connection, to the first endpoint that can be reached.")
    }
}

hotpick_guest::export!(PickFirst: Connectivity, Alarms, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn start(config: &str) -> FakeHost<PickFirst> {
        let mut host = FakeHost::start(config).expect("started");
        assert!(host.is_lazy());
        host.change(&(0..3).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
        host
    }

    fn connected(host: &mut FakeHost<PickFirst>) -> Vec<SubConn> {
        host.take_connects().into_iter().filter(|(_, connect)| *connect).map(|(id, _)| id).collect()
    }

    fn given_up(host: &mut FakeHost<PickFirst>) -> Vec<SubConn> {
        host.take_connects().into_iter().filter(|(_, connect)| !*connect).map(|(id, _)| id).collect()
    }

    #[test]
    fn the_first_one_is_connected_and_no_other() {
        let mut host = start("{}");
        assert_eq!(connected(&mut host), [0]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        host.connectivity(0, Connecting, "");
        host.connectivity(0, Ready, "");
        host.run(10_000 * MS);
        assert!(connected(&mut host).is_empty());
        assert_eq!(host.counts(&[0], 10), [10]);
    }

    #[test]
    fn the_next_one_is_tried_when_one_fails_or_takes_long() {
        let mut host = start("{}");
        connected(&mut host);
        host.connectivity(0, TransientFailure, "refused");
        assert_eq!(connected(&mut host), [1]);
        host.run(249 * MS);
        assert!(connected(&mut host).is_empty());
        host.run(MS);
        assert_eq!(connected(&mut host), [1, 2]);
        // The first one to become ready is kept, and the others are disconnected.
        host.connectivity(2, Ready, "");
        assert_eq!(given_up(&mut host), [1], "0 is in its backoff");
        host.connectivity(1, Ready, "");
        assert_eq!(given_up(&mut host), [1]);
        assert_eq!(host.counts(&[2], 5), [5]);
    }

    #[test]
    fn a_failure_is_sticky_until_one_is_ready() {
        let mut host = start("{}");
        for id in 0..3 {
            host.connectivity(id, TransientFailure, "connection refused");
        }
        assert_eq!((host.resolves(), connected(&mut host)), (1, vec![0, 1, 2]));
        for state in [Idle, Connecting] {
            host.connectivity(1, state, "");
            assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
            let text = "no endpoint can be reached; last error: connection refused";
            assert_eq!(host.explanation().as_deref(), Some(text));
        }
        assert_eq!(connected(&mut host), [1]);
        host.connectivity(1, Ready, "");
        assert_eq!(host.counts(&[1], 5), [5]);
    }

    #[test]
    fn one_that_rests_before_all_have_failed_is_tried_again_when_they_have() {
        let mut host = start("{}");
        host.connectivity(0, TransientFailure, "refused");
        host.connectivity(0, Idle, "");
        host.connectivity(1, TransientFailure, "refused");
        connected(&mut host);
        host.connectivity(2, TransientFailure, "refused");
        assert_eq!(connected(&mut host), [0]);
        host.connectivity(1, Idle, "");
        assert_eq!(connected(&mut host), [1]);
    }

    #[test]
    fn one_in_backoff_while_another_served_is_tried_when_that_is_lost() {
        let mut host = start("{}");
        host.change(&[], &[2]);
        host.connectivity(0, TransientFailure, "refused");
        host.connectivity(1, Ready, "");
        host.connectivity(1, Idle, "");
        connected(&mut host);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        assert_eq!(connected(&mut host), [1]);
        host.connectivity(1, TransientFailure, "refused");
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
        host.connectivity(0, Idle, "");
        assert_eq!(connected(&mut host), [0]);
        host.connectivity(0, Ready, "");
        assert_eq!(host.counts(&[0], 5), [5]);
    }

    #[test]
    fn an_attempt_that_ends_without_a_failure_is_made_again() {
        let mut host = start("{}");
        host.change(&[], &[1, 2]);
        connected(&mut host);
        host.connectivity(0, Connecting, "");
        host.connectivity(0, Idle, "");
        host.run(250 * MS);
        assert_eq!(connected(&mut host), [0]);
        host.run(250 * MS);
        assert_eq!(connected(&mut host), [0]);
    }

    #[test]
    fn when_the_connection_is_lost_the_next_rpc_begins_with_the_first() {
        let mut host = start("{}");
        host.connectivity(0, TransientFailure, "refused");
        host.connectivity(1, Ready, "");
        host.connectivity(0, Idle, "");
        connected(&mut host);
        host.connectivity(1, Idle, "");
        assert_eq!((host.resolves(), connected(&mut host)), (1, Vec::new()));
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        assert_eq!(connected(&mut host), [0]);
    }

    #[test]
    fn the_connection_stays_while_its_endpoint_is_in_the_list() {
        let mut host = start("{}");
        host.connectivity(0, TransientFailure, "refused");
        host.connectivity(1, Ready, "");
        connected(&mut host);
        host.change(&[endpoint(7, &[])], &[0]);
        assert_eq!((host.counts(&[1], 5), connected(&mut host)), (vec![5], Vec::new()));
        host.change(&[], &[1]);
        assert_eq!(connected(&mut host), [2]);
        host.change(&[], &[2, 7]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        host.change(&[endpoint(9, &[])], &[]);
        assert_eq!(connected(&mut host), [9]);
    }

    #[test]
    fn of_a_policy_that_connected_all_one_connection_is_left() {
        let mut host = start("{}");
        for id in 0..3 {
            host.connectivity(id, Ready, "");
        }
        host.ready(&[0, 1, 2]);
        assert_eq!(host.counts(&[0], 5), [5]);
        let mut left = given_up(&mut host);
        left.sort_unstable();
        left.dedup();
        assert_eq!(left, [1, 2]);
    }

    #[test]
    fn the_order_can_be_random() {
        let mut firsts = vec![0; 3];
        for seed in 0..600 {
            let mut host = FakeHost::<PickFirst>::start_with_seed(r#"{"shuffleAddressList":true}"#, seed)
                .expect("started");
            host.change(&(0..3).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
            firsts[connected(&mut host)[0] as usize] += 1;
        }
        assert!(chi_square(&firsts, &[1.0; 3]).is_likely(), "{firsts:?}");
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"shuffleAddressList":1}"#, "shuffleAddressList: must be true or false, not a number"),
            (r#"{"connectionAttemptDelay":"0s"}"#, "connectionAttemptDelay: "),
            (r#"{"connectionAttemptDelay":250}"#, "connectionAttemptDelay: must be a duration"),
            (r#"{"shuffle":true}"#, "shuffle: no such field"),
        ] {
            let error = FakeHost::<PickFirst>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
