//! `subset`: each client connects and uses a subset of many endpoints.
//!
//! Follows gRFC A68 (random subsetting). Each client ranks the endpoints by a hash of their names and its own number
//! (rendezvous hashing, Thaler and Ravishankar, 1998), and takes the first ones. When an endpoint is added or removed,
//! a client changes at most one connection. A member that cannot be reached stays in the subset and is retried. The
//! next endpoint in rank stands in for it, and stays connected for a while after the member is back, so that a flapping
//! endpoint does not cause reconnects.

#[cfg(test)]
mod model;

use std::collections::BinaryHeap;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::Config as _;
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::random::mix;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Alarms, Connectivity, ConnectivityState, Description, Duration, Endpoint, FailCode, Handover,
    Nanos, PickInfo, PickResult, Placement, Policy, Saved, SubConn, SubConnMap, SubConnSet, Weights, call,
    connections, hash, nanos, timers,
};

hotpick_guest::config! {
    /// Each client connects and uses a subset of many endpoints.
    struct Config {
        /// Number of endpoints that a client uses.
        #[range(1..=1_000)]
        subset_size: u32 = 20,
        /// Name of this client, different for each client. The default is random, and is kept at swaps.
        client_id: Option<String>,
        /// How long a stand-in stays connected after it is no longer needed.
        #[range(0.0..=86_400.0)]
        stand_in_retention: Duration = Duration::from_secs(60),
        /// How RPCs are balanced over the subset.
        balance: Balance = Balance::RoundRobin,
    }
}

#[derive(Debug)]
struct Subset {
    config: Config,
    /// Number of this client.
    client: u64,
    /// All endpoints by rank, with the hashes of their names.
    ranked: Vec<(u64, SubConn, u64)>,
    /// How many of `ranked` are in the subset, including stand-ins.
    size: usize,
    /// How many of `ranked` are connected. Stand-ins stay connected for a while.
    connected: usize,
    /// When connections that are no longer needed are closed.
    until: Option<Nanos>,
    /// Number of members that have not failed.
    usable: usize,
    /// The rank of each endpoint.
    places: SubConnMap<usize>,
    /// Whether the group must be updated before the next pick.
    is_stale: bool,
    weights: Weights,
    answers: Answers,
    /// States of the connected endpoints.
    states: States,
    ready: SubConnSet,
    group: Group,
    error: String,
}

/// Number of the timer that disconnects stand-ins.
const GIVE_UP: u32 = 0;
/// Format of the handed-over state.
const SCHEMA: u32 = u32::from_be_bytes(*b"SUB1");

impl Policy for Subset {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        placement.must_be_alone("each of several would give up the connections of the others")?;
        connections::declare_lazy();
        let client = config.client_id.as_ref().map_or(placement.seed, |id| hash(id.as_bytes()));
        Ok(Self {
            client,
            ranked: Vec::new(),
            size: 0,
            connected: 0,
            until: None,
            usable: 0,
            places: SubConnMap::default(),
            is_stale: false,
            weights: Weights::default(),
            answers: Answers::default(),
            states: States::default(),
            ready: SubConnSet::default(),
            group: Group::new(config.balance),
            error: String::new(),
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        let before: Vec<_> = self.connected().collect();
        let gone: SubConnSet =
            removed.iter().copied().chain(added.iter().map(|endpoint| endpoint.id)).collect();
        self.ranked.retain(|(_, id, _)| !gone.has(*id));
        for endpoint in added {
            let name = hash(endpoint.hash_key().as_bytes());
            self.ranked.push((mix(name ^ mix(self.client)), endpoint.id, name));
        }
        removed.iter().for_each(|id| self.states.remove(*id));
        self.ranked = BinaryHeap::from(std::mem::take(&mut self.ranked)).into_sorted_vec();
        self.choose(&before, now);
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.into();
        self.is_stale = true;
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        // Update once, after any number of changes.
        if self.is_stale {
            self.regroup();
        }
        if let Some(picked) = self.group.pick(info, &mut self.answers) {
            return PickResult::Pick(picked);
        }
        if self.size == 0 || self.usable > 0 {
            return PickResult::Queue;
        }
        call::explain(&self.error);
        PickResult::Fail(FailCode::Unavailable)
    }
}

impl Subset {
    fn members(&self) -> impl Iterator<Item = SubConn> {
        self.first(self.size)
    }

    /// The members, and the stand-ins that are still connected.
    fn connected(&self) -> impl Iterator<Item = SubConn> {
        self.first(self.connected)
    }

    fn first(&self, count: usize) -> impl Iterator<Item = SubConn> {
        self.ranked[..count.min(self.ranked.len())].iter().map(|(_, id, _)| *id)
    }

    /// Chooses the subset after a change of the list. Connects new members, and disconnects endpoints that are no
    /// longer members.
    fn choose(&mut self, before: &[SubConn], now: Nanos) {
        self.places = self.ranked.iter().zip(0..).map(|((_, id, _), at)| (*id, at)).collect();
        // The ranks have changed, so unneeded connections are not retained.
        (self.size, self.connected, self.usable) = (0, 0, 0);
        self.until = None;
        self.size_up();
        self.connected = self.size;
        let had = SubConnSet::from(before);
        self.connected().filter(|id| !had.has(*id)).for_each(connections::connect);
        for id in before {
            if self.places.get(*id).is_none_or(|at| *at >= self.connected) {
                self.give_up(*id);
            }
        }
        self.size_up();
        self.adjust(now);
    }

    /// Sets the size of the subset: the configured size, plus one for each member that has failed, up to twice the
    /// configured size. If all of these fail, more endpoints would not help.
    fn size_up(&mut self) {
        let wanted = self.config.subset_size as usize;
        let most = self.ranked.len().min(wanted * 2);
        while self.size < most && self.usable < wanted {
            self.usable += usize::from(!self.states.has_failed(self.ranked[self.size].1));
            self.size += 1;
        }
        while self.size > 0 && {
            let last_is_usable = !self.states.has_failed(self.ranked[self.size - 1].1);
            self.usable > wanted || (self.usable == wanted && !last_is_usable)
        } {
            self.size -= 1;
            self.usable -= usize::from(!self.states.has_failed(self.ranked[self.size].1));
        }
    }

    /// Connects the endpoints that are needed, and sets the timer to disconnect those that are not.
    fn adjust(&mut self, now: Nanos) {
        self.is_stale = true;
        while self.connected < self.size {
            connections::connect(self.ranked[self.connected].1);
            self.connected += 1;
        }
        if self.connected == self.size {
            if self.until.take().is_some() {
                timers::cancel(GIVE_UP);
            }
            return;
        }
        let retention = nanos(self.config.stand_in_retention);
        let until = *self.until.get_or_insert_with(|| now.saturating_add(retention));
        if now < until {
            drop(timers::schedule(GIVE_UP, until.saturating_sub(now)));
            return;
        }
        self.until = None;
        for at in self.size..self.connected {
            self.give_up(self.ranked[at].1);
        }
        self.connected = self.size;
    }

    /// Disconnects an endpoint. Its state is forgotten: it counts as new when it is needed again.
    fn give_up(&mut self, id: SubConn) {
        self.states.remove(id);
        connections::disconnect(id);
    }

    fn regroup(&mut self) {
        self.is_stale = false;
        let ready = self.members().filter(|id| self.ready.has(*id)).collect();
        self.group.update(ready, &self.weights);
    }
}

impl Connectivity for Subset {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, now: Nanos) {
        let Some(at) = self.places.get(id).copied().filter(|at| *at < self.connected) else {
            // The previous policy had connected more.
            if state == ConnectivityState::Ready {
                connections::disconnect(id);
            }
            return;
        };
        let had_failed = self.states.has_failed(id);
        self.states.note_and_retry(id, state);
        if state == ConnectivityState::TransientFailure {
            self.error = format!("no endpoint of the subset can be reached; last error: {message}");
        }
        let has_failed = self.states.has_failed(id);
        if has_failed != had_failed {
            if at < self.size {
                self.usable = if has_failed { self.usable - 1 } else { self.usable + 1 };
            }
            self.size_up();
            self.adjust(now);
        }
    }
}

impl Alarms for Subset {
    fn fired(&mut self, _id: u32, now: Nanos) {
        self.adjust(now);
    }
}

/// Hands over a random client number. With another number, the next version would have another subset and reconnect.
impl Handover for Subset {
    fn save(&mut self) -> Saved {
        Saved { schema: SCHEMA, data: self.client.to_le_bytes().to_vec() }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        if let Some(part) = parts.first().filter(|_| self.config.client_id.is_none()) {
            let client = part.data.first_chunk().filter(|_| part.schema == SCHEMA);
            self.client =
                u64::from_le_bytes(*client.ok_or("the state is not a client number of this format")?);
        }
        Ok(())
    }
}

impl About for Subset {
    fn describe() -> Description {
        Description::of::<Config>("Each client connects and uses a subset of many endpoints.")
    }
}

hotpick_guest::export!(Subset: Connectivity, Alarms, Handover, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::ConnectivityState::{Connecting, Idle, Ready, TransientFailure};
    use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint};

    use super::*;

    fn start(client: u64, n: u32) -> FakeHost<Subset> {
        let mut host = FakeHost::start_with_seed(r#"{"subsetSize":5}"#, client).expect("started");
        assert!(host.is_lazy());
        host.change(&(0..n).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
        host
    }

    fn subset(host: &FakeHost<Subset>) -> Vec<SubConn> {
        let mut members: Vec<_> = host.policy().members().collect();
        members.sort_unstable();
        members
    }

    fn asked(host: &mut FakeHost<Subset>, connect: bool) -> Vec<SubConn> {
        let mut asked: Vec<_> = host
            .take_connects()
            .into_iter()
            .filter(|(_, asked)| *asked == connect)
            .map(|(id, _)| id)
            .collect();
        asked.sort_unstable();
        asked
    }

    #[test]
    fn only_the_subset_is_connected_and_used() {
        let mut host = start(1, 100);
        let members = subset(&host);
        assert_eq!(members.len(), 5);
        assert_eq!(asked(&mut host, true), members);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        members.iter().for_each(|id| host.connectivity(*id, Ready, ""));
        host.ready(&members);
        assert_eq!(host.counts(&members, 50), [10; 5]);
    }

    #[test]
    fn clients_spread_over_all_endpoints() {
        let mut counts = vec![0; 50];
        for client in 0..2_000 {
            subset(&start(client, 50)).iter().for_each(|id| counts[*id as usize] += 1);
        }
        assert!(chi_square(&counts, &[1.0; 50]).is_likely(), "{counts:?}");
    }

    #[test]
    fn at_most_one_connection_changes_when_an_endpoint_comes_or_goes() {
        for client in 0..50 {
            let mut host = start(client, 20);
            let before = subset(&host);
            let gone = before[2];
            host.take_connects();
            host.change(&[], &[gone]);
            let after = subset(&host);
            assert_eq!(after.len(), 5);
            assert_eq!(after.iter().filter(|id| !before.contains(id)).count(), 1);
            assert_eq!(host.take_connects().len(), 2);
            host.change(&[endpoint(gone, &[])], &[]);
            assert_eq!(subset(&host), before);
            let other = (0..20).find(|id| !before.contains(id)).expect("twenty");
            host.take_connects();
            host.change(&[], &[other]);
            assert_eq!((subset(&host), host.take_connects()), (before, Vec::new()));
        }
    }

    #[test]
    fn another_stands_in_for_one_that_cannot_be_reached() {
        let mut host = start(1, 100);
        let members = subset(&host);
        host.take_connects();
        host.connectivity(members[0], TransientFailure, "refused");
        let stand_in = asked(&mut host, true);
        assert_eq!(stand_in.len(), 1);
        host.connectivity(members[0], Idle, "");
        assert_eq!(asked(&mut host, true), [members[0]], "tried on");
        host.connectivity(members[0], Connecting, "");
        assert_eq!(subset(&host).len(), 6);
        host.connectivity(members[0], Ready, "");
        assert_eq!(subset(&host), members);
        host.run(Duration::from_secs(59));
        assert!(asked(&mut host, false).is_empty(), "not at once");
        host.run(Duration::from_secs(1));
        assert_eq!(asked(&mut host, false), stand_in);
    }

    #[test]
    fn one_that_comes_and_goes_does_not_take_connections_with_it() {
        let mut host = start(1, 100);
        let members = subset(&host);
        members.iter().for_each(|id| host.connectivity(*id, Ready, ""));
        host.take_connects();
        for _ in 0..100 {
            host.connectivity(members[0], TransientFailure, "refused");
            host.run(Duration::from_secs(1));
            host.connectivity(members[0], Ready, "");
            host.run(Duration::from_secs(1));
        }
        assert_eq!(host.take_connects().len(), 1, "the stand-in, once");
    }

    #[test]
    fn an_empty_name_is_none() {
        let subset_of = |client, attributes: &[(&str, &str)]| {
            let mut host =
                FakeHost::<Subset>::start_with_seed(r#"{"subsetSize":5}"#, client).expect("started");
            host.change(&(0..20).map(|id| endpoint(id, attributes)).collect::<Vec<_>>(), &[]);
            subset(&host)
        };
        let empty: Vec<_> = (0..50).map(|client| subset_of(client, &[("hash_key", "")])).collect();
        assert_eq!(empty, (0..50).map(|client| subset_of(client, &[])).collect::<Vec<_>>());
    }

    #[test]
    fn if_all_fail_rpcs_fail_and_not_all_endpoints_are_tried() {
        let mut host = start(1, 100);
        loop {
            let members = subset(&host);
            members.iter().for_each(|id| host.connectivity(*id, TransientFailure, "refused"));
            if subset(&host) == members {
                break;
            }
        }
        assert_eq!(subset(&host).len(), 10);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Fail(FailCode::Unavailable));
        let text = "no endpoint of the subset can be reached; last error: refused";
        assert_eq!(host.explanation().as_deref(), Some(text));
    }

    #[test]
    fn a_policy_before_that_connected_all_leaves_no_connection() {
        let mut host = start(1, 20);
        let members = subset(&host);
        host.take_connects();
        (0..20).for_each(|id| host.connectivity(id, Ready, ""));
        assert_eq!(asked(&mut host, false), (0..20).filter(|id| !members.contains(id)).collect::<Vec<_>>());
    }

    #[test]
    fn the_subset_is_kept_at_a_swap_and_can_be_by_name() {
        let mut host = start(7, 100);
        let members = subset(&host);
        let saved = host.save();
        let mut next = FakeHost::<Subset>::start_with_seed(r#"{"subsetSize":5}"#, 8).expect("started");
        next.restore(vec![saved]).expect("taken over");
        next.change(&(0..100).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
        assert_eq!(subset(&next), members);
        assert!(next.restore(vec![Saved { schema: 9, data: vec![0; 8] }]).is_err());
        let named = |seed| {
            let config = r#"{"subsetSize":5,"clientId":"pod-1"}"#;
            let mut host = FakeHost::<Subset>::start_with_seed(config, seed).expect("started");
            host.change(&(0..100).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
            subset(&host)
        };
        assert_eq!(named(1), named(2));
    }

    #[test]
    fn fewer_endpoints_than_wanted_are_all_used() {
        assert_eq!(subset(&start(1, 3)), [0, 1, 2]);
        let mut none = start(1, 0);
        assert_eq!(none.pick(&Rpc::default()), PickResult::Queue);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"subsetSize":0}"#, "subsetSize: must be a whole number, 1 to 1000, not 0"),
            (r#"{"subsetSize":-3}"#, "subsetSize: "),
            (r#"{"subsetSize":1e18}"#, "subsetSize: "),
            (r#"{"clientId":""}"#, "clientId: "),
            (r#"{"clientId":7}"#, "clientId: "),
            (r#"{"balance":"ring_hash"}"#, "balance: "),
            (r#"{"size":3}"#, "size: no such field"),
        ] {
            let error = FakeHost::<Subset>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
