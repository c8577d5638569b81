//! `subset`: of many endpoints a client uses some, and connects only those.
//!
//! After gRFC A68 (random subsetting): each client ranks the endpoints by a hash of their names and its own number
//! (rendezvous hashing, Thaler and Ravishankar, 1998) and takes the first ones. When an endpoint comes or goes, a
//! client has at most one connection to change. A member of the subset that cannot be reached stays in it, and is
//! tried on; the next in rank stands in for it meanwhile.

use std::collections::BinaryHeap;

use hotpick_guest::config::Config as _;
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::random::mix;
use hotpick_guest::states::States;
use hotpick_guest::{
    About, Connectivity, ConnectivityState, Description, Endpoint, FailCode, Handover, Nanos, PickInfo,
    PickResult, Placement, Policy, Saved, SubConn, SubConnSet, call, connections, hash,
};

hotpick_guest::config! {
    /// A client uses some of many endpoints.
    struct Config {
        /// How many endpoints it uses.
        #[range(1..=1_000)]
        subset_size: u32 = 20,
        /// The name of this client, different for each; by default a random one, that is kept at swaps.
        client_id: Option<String>,
        /// How RPCs are spread over the subset.
        balance: Balance = Balance::RoundRobin,
    }
}

#[derive(Debug)]
struct Subset {
    config: Config,
    /// This client's number.
    client: u64,
    /// All endpoints, by rank; with the hashes of their names.
    ranked: Vec<(u64, SubConn, u64)>,
    /// How many of them are the subset, stand-ins included.
    size: usize,
    is_member: SubConnSet,
    /// Whether they have failed.
    states: States,
    ready: SubConnSet,
    group: Group,
    error: String,
}

/// The format of what is handed over.
const SCHEMA: u32 = u32::from_be_bytes(*b"SUB1");

impl Policy for Subset {
    fn init(config: &str, placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        connections::declare_lazy();
        let client = config.client_id.as_ref().map_or(placement.seed, |id| hash(id.as_bytes()));
        Ok(Self {
            client,
            ranked: Vec::new(),
            size: 0,
            is_member: SubConnSet::default(),
            states: States::default(),
            ready: SubConnSet::default(),
            group: Group::new(config.balance, Vec::new()),
            error: String::new(),
            config,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        let before: Vec<_> = self.members().collect();
        let gone: SubConnSet =
            removed.iter().copied().chain(added.iter().map(|endpoint| endpoint.id)).collect();
        self.ranked.retain(|(_, id, _)| !gone.has(*id));
        for endpoint in added {
            let name = hash(endpoint.hash_key().as_bytes());
            self.ranked.push((mix(name ^ mix(self.client)), endpoint.id, name));
        }
        removed.iter().for_each(|id| self.states.remove(*id));
        self.ranked = BinaryHeap::from(std::mem::take(&mut self.ranked)).into_sorted_vec();
        self.choose(&before);
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.into();
        self.regroup();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        if let Some(picked) = self.group.pick(info.random) {
            return PickResult::Pick(picked);
        }
        if self.size == 0 || !self.members().all(|id| self.states.has_failed(id)) {
            return PickResult::Queue;
        }
        call::explain(&self.error);
        PickResult::Fail(FailCode::Unavailable)
    }
}

impl Subset {
    fn members(&self) -> impl Iterator<Item = SubConn> {
        self.ranked[..self.size.min(self.ranked.len())].iter().map(|(_, id, _)| *id)
    }

    /// Takes as many as are wanted, and one more for each that has failed; connects those that were not members
    /// before, and gives up those that are not any more.
    fn choose(&mut self, before: &[SubConn]) {
        let wanted = self.config.subset_size as usize;
        // If all fail it is not this client that will find the one that does not.
        let most = self.ranked.len().min(wanted * 2);
        let (mut size, mut usable) = (0, 0);
        while size < most && usable < wanted {
            usable += usize::from(!self.states.has_failed(self.ranked[size].1));
            size += 1;
        }
        self.size = size;
        let had = SubConnSet::from(before);
        let has: SubConnSet = self.members().collect();
        self.members().filter(|id| !had.has(*id)).for_each(connections::connect);
        for id in before.iter().copied().filter(|id| !has.has(*id)) {
            // When it is wanted again it is tried anew.
            self.states.remove(id);
            connections::disconnect(id);
        }
        self.is_member = has;
        self.regroup();
    }

    fn regroup(&mut self) {
        let ready = self.members().filter(|id| self.ready.has(*id)).collect();
        self.group.update(ready);
    }
}

impl Connectivity for Subset {
    fn connectivity(&mut self, id: SubConn, state: ConnectivityState, message: &str, _now: Nanos) {
        if !self.is_member.has(id) {
            // From a policy before this one that connected more.
            if state == ConnectivityState::Ready {
                connections::disconnect(id);
            }
            return;
        }
        let had_failed = self.states.has_failed(id);
        self.states.note_and_retry(id, state);
        if state == ConnectivityState::TransientFailure {
            self.error = format!("no endpoint of the subset can be reached; the last error: {message}");
        }
        if self.states.has_failed(id) != had_failed {
            let before: Vec<_> = self.members().collect();
            self.choose(&before);
        }
    }
}

/// Which client this is, if it was not told: the next version would have another subset, and connect anew.
impl Handover for Subset {
    fn save(&mut self) -> Saved {
        Saved { schema: SCHEMA, data: self.client.to_le_bytes().to_vec() }
    }

    fn restore(&mut self, parts: Vec<Saved>) -> Result<(), String> {
        if let Some(part) = parts.first().filter(|_| self.config.client_id.is_none()) {
            let client = part.data.first_chunk().filter(|_| part.schema == SCHEMA);
            self.client = u64::from_le_bytes(*client.ok_or("a client in another format")?);
        }
        Ok(())
    }
}

impl About for Subset {
    fn describe() -> Description {
        Description::of::<Config>("Of many endpoints a client uses some, and connects only those.")
    }
}

hotpick_guest::export!(Subset: Connectivity, Handover, About);

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
        assert_eq!(asked(&mut host, false), stand_in);
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
        let text = "no endpoint of the subset can be reached; the last error: refused";
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
