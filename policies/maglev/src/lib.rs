//! `maglev`: consistent hashing by a table. All endpoints have the same share of the keys, to within one entry, and a
//! pick takes one lookup. When an endpoint is added or removed, a few keys in addition to its own move.
//!
//! Follows Maglev (Eisenbud et al., NSDI 2016) and Envoy's balancer of that name, with the same table as Envoy: clients
//! of both send a key to the same endpoint. The table contains all endpoints. The entries of an endpoint that is not
//! ready are served by the owners of the following entries until it is back, so that a flap moves only the keys of one
//! endpoint.

#[cfg(test)]
mod model;
mod table;

use hotpick_guest::config::Config as _;
use hotpick_guest::key::{HashOn, Key};
use hotpick_guest::ring::Places;
use hotpick_guest::{
    About, Description, Endpoint, Nanos, PickInfo, PickResult, Placement, Plan, Plans, Policy, SubConn,
    SubConnMap, SubConnSet, below, call,
};

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
    /// The entries with ready endpoints only. Empty if no owner of an entry is ready.
    ready: Vec<SubConn>,
    /// Ready endpoints, with or without an entry.
    now: SubConnSet,
    /// The same as a list.
    others: Vec<SubConn>,
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
            ready: Vec::new(),
            now: SubConnSet::default(),
            others: Vec::new(),
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        let ready = std::mem::take(&mut self.now);
        for gone in self.places.update(added, removed) {
            self.hashes.remove(gone.id);
        }
        for endpoint in added {
            self.hashes.get_or_insert_with(endpoint.id, || Hashes::of(endpoint.hash_key()));
        }
        self.table = Table::new(&self.places, &self.hashes, self.config.table_size);
        self.fill(ready);
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.others = ready.to_vec();
        self.fill(ready.into());
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        // A table that is too small has no entries for some endpoints. They are used when no owner of an entry is
        // ready.
        let among = if self.ready.is_empty() { &self.others } else { &self.ready };
        let size = among.len();
        if size == 0 {
            return PickResult::Queue;
        }
        #[expect(clippy::cast_possible_truncation, reason = "less than the size")]
        let at =
            self.key.of(info).map_or_else(|| below(size, info.random), |hash| (hash % size as u64) as usize);
        if info.attempt == 0 || !call::tried(among[at]) {
            return PickResult::Pick(among[at]);
        }
        // A retry goes to the next entry of an endpoint that the RPC has not tried.
        let mut entries = (at..size).chain(0..at).map(|at| among[at]).take(LOOKED_AT);
        let mut tried = among[at];
        let untried = entries.find(|id| {
            let is_new = *id != tried && !call::tried(*id);
            tried = *id;
            is_new
        });
        PickResult::Pick(untried.unwrap_or(among[at]))
    }
}

impl Plans for Maglev {
    fn plan(&mut self, budget: usize, _random: u64, _now: Nanos) -> Plan {
        let by_affinity = matches!(self.config.hash_on, HashOn::Metadata(_));
        if by_affinity && !self.ready.is_empty() && self.ready.len() <= budget {
            Plan::ByAffinity(self.ready.clone())
        } else {
            Plan::None
        }
    }
}

impl Maglev {
    /// Fills `ready` for these ready endpoints.
    fn fill(&mut self, now: SubConnSet) {
        let Table { owners, entries } = &self.table;
        let is_ready: Vec<_> = owners.iter().map(|id| now.has(*id)).collect();
        self.now = now;
        self.ready.clear();
        let ready = |owner: &&u32| is_ready[**owner as usize];
        let Some(mut taker) = entries.iter().find(ready) else { return };
        self.ready.resize(entries.len(), 0);
        // From the end: the entry after the last is the first.
        for (entry, owner) in self.ready.iter_mut().zip(entries).rev() {
            if ready(&owner) {
                taker = owner;
            }
            *entry = owners[*taker as usize];
        }
    }
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
