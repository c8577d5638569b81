//! `maglev`: consistent hashing by a table. All endpoints have the same share of the keys, to within one entry, and a
//! pick takes one lookup. When an endpoint is added or removed, a few keys in addition to its own move.
//!
//! Follows Maglev (Eisenbud et al., NSDI 2016) and Envoy's balancer of that name, with the same table as Envoy: clients
//! of both send a key to the same endpoint. The table contains all endpoints. The entries of an endpoint that is not
//! ready are served by the owners of the following entries until it is back, so that a flap moves only the keys of one
//! endpoint.

#[cfg(test)]
mod model;
mod packed;
mod table;

use std::ops::Range;

use hotpick_guest::config::Config as _;
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::ring::Places;
use hotpick_guest::{
    About, Description, Endpoint, Nanos, PickInfo, PickResult, Placement, Plan, Plans, Policy, SubConn,
    SubConnMap, below, call,
};

use self::packed::Packed;
use self::table::{Hashes, Table, is_prime};

hotpick_guest::config! {
    /// Consistent hashing by a table.
    struct Config {
        /// What is hashed: "metadata:" and a key, "method", or "random".
        hash_on: HashOn = HashOn::hash_key(),
        /// Number of entries of the table: a prime number, some hundred times the number of endpoints.
        #[range(2..=200_000)]
        table_size: u32 = 65_537,
    }
}

/// Most entries that a retry looks at.
const LOOKED_AT: usize = 1_000;

#[derive(Debug)]
struct Maglev {
    config: Config,
    key: Key,
    places: Places,
    hashes: SubConnMap<Hashes>,
    /// The table of all endpoints.
    table: Table,
    /// The index of each endpoint in the table.
    index: SubConnMap<usize>,
    /// Ready endpoints, with or without an entry.
    ready: Vec<SubConn>,
    /// Whether an endpoint is ready, by its index in the table.
    is_ready: Vec<bool>,
    /// Who serves each entry.
    servers: Servers,
}

/// Who serves each entry of the table.
#[derive(Debug)]
enum Servers {
    /// No owner of an entry is ready.
    None,
    /// All owners are ready. The table says who serves: another list would take as much memory as the table.
    Owners,
    /// The index of each entry's ready owner.
    Takers(Packed),
}

impl Policy for Maglev {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        if !is_prime(config.table_size) {
            return Err(format!("tableSize: must be a prime number, not {}", config.table_size));
        }
        let key = Key::declare(config.hash_on.clone(), "hashOn")?;
        Ok(Self {
            config,
            key,
            places: Places::default(),
            hashes: SubConnMap::default(),
            table: Table::default(),
            index: SubConnMap::default(),
            ready: Vec::new(),
            is_ready: Vec::new(),
            servers: Servers::None,
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        for (gone, _) in self.places.update(added, removed) {
            self.hashes.remove(gone);
            self.index.remove(gone);
        }
        for endpoint in added {
            self.hashes.get_or_insert_with(endpoint.id, || Hashes::of(endpoint.hash_key()));
        }
        // The memory of the former table is free for the new one.
        (self.table, self.servers) = (Table::default(), Servers::None);
        self.table = Table::new(&self.places, &self.hashes, self.config.table_size);
        for (index, owner) in self.table.owners.iter().enumerate() {
            self.index.insert(owner.id, index);
        }
        self.is_ready = vec![false; self.table.owners.len()];
        self.set_ready(0..self.ready.len(), true);
        self.fill();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        // Usually one endpoint comes or goes.
        let first = self.ready.iter().zip(ready).take_while(|(old, new)| old == new).count();
        let last = self.ready[first..].iter().rev().zip(ready[first..].iter().rev());
        let last = last.take_while(|(old, new)| old == new).count();
        let mut changed = self.set_ready(first..self.ready.len() - last, false);
        self.ready = ready.to_vec();
        changed.extend(self.set_ready(first..ready.len() - last, true));
        // Of an endpoint's walk, only the part to its last entry is looked at, and the entries before its own whose
        // owners are not ready.
        let are_few = changed.len() * 16 < self.is_ready.len() && self.ready.len() * 2 > self.is_ready.len();
        let is_known = !matches!(self.servers, Servers::None);
        if are_few && is_known && !self.is_ready.iter().all(|is_ready| *is_ready) {
            changed.into_iter().for_each(|index| self.refill(index));
        } else {
            self.fill();
        }
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        // A table that is too small has no entries for some endpoints. They are used when no owner of an entry is
        // ready.
        let size = if self.servers().is_some() { self.table.entries.len() } else { self.ready.len() };
        if size == 0 {
            return PickResult::Queue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than the size")]
        let at =
            self.key.of(info).map_or_else(|| below(size, info.random), |hash| (hash % size as u64) as usize);
        let first = self.entry(at);
        if info.attempt == 0 || !call::tried(first) {
            return PickResult::Pick(first);
        }
        // A retry goes to the next entry of an endpoint that the RPC has not tried.
        let mut entries = (at..size).chain(0..at).map(|at| self.entry(at)).take(LOOKED_AT);
        let mut tried = first;
        let untried = entries.find(|id| {
            let is_new = *id != tried && !call::tried(*id);
            tried = *id;
            is_new
        });
        PickResult::Pick(untried.unwrap_or(first))
    }
}

impl Plans for Maglev {
    fn plan(&mut self, budget: usize, _random: u64, _now: Nanos) -> Plan {
        let by_affinity = matches!(self.config.hash_on, HashOn::Metadata(_));
        match self.servers() {
            Some(servers) if by_affinity && servers.len() <= budget => {
                let ids: Vec<_> = self.table.owners.iter().map(|owner| owner.id).collect();
                Plan::ByAffinity(servers.look_up(&ids))
            }
            _ => Plan::None,
        }
    }
}

impl Maglev {
    /// Returns the index of each entry's ready owner. `None`: no owner of an entry is ready.
    #[inline(always)]
    const fn servers(&self) -> Option<&Packed> {
        match &self.servers {
            Servers::None => None,
            Servers::Owners => Some(&self.table.entries),
            Servers::Takers(takers) => Some(takers),
        }
    }

    /// Returns the ready endpoint of an entry or, if no owner of an entry is ready, any ready one.
    #[inline(always)]
    fn entry(&self, at: usize) -> SubConn {
        self.servers().map_or_else(|| self.ready[at], |servers| self.table.owners[servers.get(at)].id)
    }

    /// Records whether these of the ready endpoints are. Returns their indices in the table.
    fn set_ready(&mut self, ready: Range<usize>, is_ready: bool) -> Vec<usize> {
        let indices: Vec<_> =
            self.ready[ready].iter().filter_map(|id| self.index.get(*id).copied()).collect();
        indices.iter().for_each(|index| self.is_ready[*index] = is_ready);
        indices
    }

    /// Finds out who serves the entries.
    fn fill(&mut self) {
        let entries = &self.table.entries;
        if entries.len() == 0 || self.is_ready.iter().all(|is_ready| *is_ready) {
            self.servers = if entries.len() == 0 { Servers::None } else { Servers::Owners };
            return;
        }
        // The memory of the former list is free for the new one.
        self.servers = Servers::None;
        let mut takers = Packed::new(entries.len(), self.table.owners.len());
        let has_one = match (entries, &mut takers) {
            (Packed::Bytes(entries), Packed::Bytes(takers)) => fill(entries, takers, &self.is_ready),
            (Packed::Shorts(entries), Packed::Shorts(takers)) => fill(entries, takers, &self.is_ready),
            (Packed::Words(entries), Packed::Words(takers)) => fill(entries, takers, &self.is_ready),
            _ => false,
        };
        if has_one {
            self.servers = Servers::Takers(takers);
        }
    }

    /// Finds out who serves the entries for which it makes a difference that an endpoint is ready now, or is not any
    /// more.
    fn refill(&mut self, index: usize) {
        let entries = &self.table.entries;
        if matches!(self.servers, Servers::Owners) {
            self.servers = Servers::Takers(entries.clone());
        }
        let Servers::Takers(takers) = &mut self.servers else { return };
        let is_served = |at: &usize| self.is_ready[entries.get(*at)];
        let size = entries.len();
        let has_one = self.table.entries_of(index).all(|at| {
            let Some(served) = (at..size).chain(0..at).find(is_served) else { return false };
            let taker = entries.get(served);
            takers.set(at, taker);
            let before = (0..at).rev().chain((at + 1..size).rev());
            before.take_while(|at| !is_served(at)).for_each(|at| takers.set(at, taker));
            true
        });
        if !has_one {
            self.servers = Servers::None;
        }
    }
}

/// Fills the takers of all entries. Returns whether there is one.
fn fill<I: Copy + Into<usize>>(entries: &[I], takers: &mut [I], is_ready: &[bool]) -> bool {
    let Some(mut taker) = entries.iter().copied().find(|owner| is_ready[(*owner).into()]) else {
        return false;
    };
    // From the end: the entry after the last is the first.
    for (owner, entry) in entries.iter().zip(takers).rev() {
        if is_ready[(*owner).into()] {
            taker = *owner;
        }
        *entry = taker;
    }
    true
}

impl About for Maglev {
    fn describe() -> Description {
        Description::of::<Config>("Consistent hashing by a table: the same key goes to the same endpoint.")
    }
}

hotpick_guest::export!(Maglev: Plans, About);

#[cfg(test)]
mod tests {
    use hotpick_guest::hash;
    use hotpick_guest::random::Random;
    use hotpick_guest::testing::{FakeHost, Rpc, chi_square, endpoint};

    use super::*;

    fn start(n: u32) -> FakeHost<Maglev> {
        let mut host = FakeHost::start(r#"{"tableSize":8009}"#).expect("started");
        host.endpoints(&(0..n).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        host
    }

    fn owners(host: &mut FakeHost<Maglev>) -> Vec<SubConn> {
        let rpc = |key| Rpc::with_metadata("hash-key", &format!("user-{key}"));
        (0..2_000).flat_map(|key| host.picks_for(&rpc(key), 1)).collect()
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint_and_the_shares_are_even() {
        let mut host = start(10);
        let owners_before = owners(&mut host);
        assert_eq!(owners(&mut host), owners_before);
        let mut counts = vec![0; 10];
        owners_before.iter().for_each(|id| counts[*id as usize] += 1);
        assert!(chi_square(&counts, &[1.0; 10]).is_likely(), "{counts:?}");
    }

    #[test]
    fn a_flap_moves_the_keys_of_one_endpoint_and_to_all_others() {
        let mut host = start(10);
        let before = owners(&mut host);
        host.ready(&[0, 1, 2, 3, 4, 5, 6, 8, 9]);
        let after = owners(&mut host);
        let mut takers = vec![0; 10];
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 7);
            takers[*after as usize] += usize::from(*before == 7);
        }
        let shares: Vec<f64> = (0..10).map(|id| if id == 7 { 0.0 } else { 1.0 }).collect();
        assert!(chi_square(&takers, &shares).is_likely(), "{takers:?}");
        host.ready(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(owners(&mut host), before);
    }

    #[test]
    fn a_plan_has_the_same_owners() {
        let mut host = start(10);
        let Plan::ByAffinity(table) = host.plan(10_000) else { panic!("no plan") };
        let entry = |key| hash(format!("user-{key}").as_bytes()) % table.len() as u64;
        let owner = |key| table[usize::try_from(entry(key)).expect("an entry")];
        assert_eq!((0..2_000).map(owner).collect::<Vec<_>>(), owners(&mut host));
        assert_eq!(host.plan(100), Plan::None);
        host.ready(&[]);
        assert_eq!(host.plan(10_000), Plan::None);
    }

    #[test]
    fn rpcs_without_the_key_go_anywhere() {
        let mut host = start(4);
        let counts = host.counts(&[0, 1, 2, 3], 4_000);
        assert!(chi_square(&counts, &[1.0; 4]).is_likely(), "{counts:?}");
    }

    #[test]
    fn with_nothing_ready_rpcs_are_queued() {
        let mut host = start(4);
        host.ready(&[]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
        host.change(&[], &[0, 1, 2, 3]);
        assert_eq!(host.pick(&Rpc::default()), PickResult::Queue);
    }

    #[test]
    fn after_any_flaps_the_owners_are_those_of_what_is_ready() {
        for size in [2, 61, 8_009] {
            let config = format!(r#"{{"tableSize":{size}}}"#);
            let fresh = || {
                let mut host = FakeHost::<Maglev>::start(&config).expect("started");
                host.change(&(0..100).map(|id| endpoint(id, &[])).collect::<Vec<_>>(), &[]);
                host
            };
            let (mut host, mut random) = (fresh(), Random::new(size));
            let mut ready: Vec<SubConn> = (0..100).collect();
            for round in 0..60 {
                // Mostly one or two come or go, sometimes most of them.
                for _ in 0..if round % 20 == 19 { 90 } else { 1 + random.below(2) } {
                    let id = u32::try_from(random.below(100)).expect("small");
                    match ready.iter().position(|other| *other == id) {
                        Some(at) => drop(ready.remove(at)),
                        None => ready.insert(random.below(ready.len() + 1), id),
                    }
                }
                if round % 7 == 6 {
                    ready = (0..100).collect();
                }
                host.ready(&ready);
                let mut other = fresh();
                other.ready(&ready);
                let plan = host.plan(10_000);
                assert_eq!(plan, other.plan(10_000), "{size}, {round}");
                // Whoever has no entry is picked only while nobody else is ready.
                assert_eq!(host.policy().servers().is_some(), other.policy().servers().is_some());
            }
        }
    }

    #[test]
    fn one_without_an_entry_is_better_than_none() {
        let mut host = FakeHost::<Maglev>::start(r#"{"tableSize":2}"#).expect("started");
        host.endpoints(&(0..5).map(|id| endpoint(id, &[])).collect::<Vec<_>>());
        for id in 0..5 {
            host.ready(&[id]);
            assert_eq!(host.picks(3), [id; 3]);
        }
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"tableSize":65536}"#, "tableSize: must be a prime number, not 65536"),
            (r#"{"tableSize":0}"#, "tableSize: must be a whole number, 2 to 200000, not 0"),
            (r#"{"tableSize":-7}"#, "tableSize: "),
            (r#"{"tableSize":1e15}"#, "tableSize: "),
            (r#"{"hashOn":"metadata:UPPER"}"#, "hashOn: "),
            (r#"{"size":7}"#, "size: no such field"),
        ] {
            let error = FakeHost::<Maglev>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
