//! `zone`: keeps RPCs in the client's own zone, as far as its endpoints can take them.
//!
//! Follows Envoy's zone-aware routing, for the localities of gRFC A52. If the zone's share of the endpoints is at least
//! its share of the clients, all RPCs stay there. Otherwise the zone takes what its endpoints can take, and the rest
//! goes to the zones with spare endpoints, in proportion to what they have to spare. When all clients do this, each
//! endpoint gets the same load, in whatever zone it is.

#[cfg(test)]
mod model;

use hotpick_guest::answers::Answers;
use hotpick_guest::config::{Config as _, Range, Refused, Setting, Value};
use hotpick_guest::group::{Balance, Group};
use hotpick_guest::random::Alias;
use hotpick_guest::{
    About, Description, Endpoint, Map, Nanos, PickInfo, PickResult, Placement, Policy, SubConn, SubConnMap,
    Weights, call,
};

hotpick_guest::config! {
    /// Keeps RPCs in the client's own zone, as far as its endpoints can take them.
    struct Config {
        /// The zone of this client. Without it, all endpoints are treated alike.
        zone: Option<String>,
        /// The attribute that names an endpoint's zone.
        attribute: String = "zone".to_owned(),
        /// Number of clients in each zone, or their proportions, as {"a": 3, "b": 1}. The default is the same number in
        /// each zone that has endpoints.
        clients: Clients = Clients(Vec::new()),
        /// With fewer ready endpoints than this, zones are ignored.
        #[range(0..=1_000_000)]
        min_endpoints: u32 = 0,
        /// How RPCs are balanced within a zone.
        balance: Balance = Balance::RoundRobin,
    }
}

/// Number of clients by zone.
#[derive(Clone, Debug)]
struct Clients(Vec<(String, f64)>);

impl Setting for Clients {
    fn read(value: &Value, _range: Range) -> Result<Self, Refused> {
        let Value::Object(fields) = value else {
            return Err(Refused::kind("an object like {\"a\": 3, \"b\": 1}", value));
        };
        let number = |(zone, number): &(String, Value)| {
            let number = f64::read(number, Range::from(0.0..=1e9)).map_err(|refused| refused.within(zone))?;
            Ok((zone.clone(), number))
        };
        let clients = fields.iter().map(number).collect::<Result<Vec<_>, Refused>>()?;
        if !clients.is_empty() && clients.iter().all(|(_, number)| *number == 0.0) {
            return Err(Refused::because("must have a client in at least one zone"));
        }
        Ok(Self(clients))
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str("\"type\":\"object\",\"additionalProperties\":{");
        f64::schema(Range::from(0.0..=1e9), out);
        out.push('}');
    }

    fn write(&self, out: &mut String) {
        out.push('{');
        for (at, (zone, number)) in self.0.iter().enumerate() {
            out.push_str(if at > 0 { ",\"" } else { "\"" });
            out.push_str(zone);
            out.push_str("\":");
            number.write(out);
        }
        out.push('}');
    }
}

/// Most zones in which a retry looks for an endpoint that it has not tried.
const MOST_ASKED: usize = 20;
/// Number of zones without endpoints that are kept before they are cleaned up.
const SPARE: usize = 64;

#[derive(Debug)]
struct Zone {
    config: Config,
    /// Number of clients by zone.
    clients: Map<String, f64>,
    /// Names of the zones, by number. They include zones whose endpoints are gone.
    names: Vec<String>,
    numbers: Map<String, u32>,
    zone_of: SubConnMap<u32>,
    weights: Weights,
    answers: Answers,
    ready: Vec<SubConn>,
    zones: Vec<Group>,
    /// Shares of the zones.
    shares: Alias,
}

impl Policy for Zone {
    fn init(config: &str, _placement: &Placement) -> Result<Self, String> {
        let config = Config::parse(config)?;
        let clients: Map<_, _> = config.clients.0.iter().cloned().collect();
        if let Some(zone) = &config.zone
            && !clients.is_empty()
            && clients.get(zone).is_none_or(|number| *number <= 0.0)
        {
            return Err(format!("clients: must have clients in the client's own zone, \"{zone}\""));
        }
        Ok(Self {
            config,
            clients,
            names: Vec::new(),
            numbers: Map::default(),
            zone_of: SubConnMap::default(),
            weights: Weights::default(),
            answers: Answers::default(),
            ready: Vec::new(),
            zones: Vec::new(),
            shares: Alias::default(),
        })
    }

    fn endpoints(&mut self, added: &[Endpoint], removed: &[SubConn], _now: Nanos) {
        self.weights.update(added, removed);
        removed.iter().for_each(|id| self.answers.forget(*id));
        for id in removed {
            self.zone_of.remove(*id);
        }
        for endpoint in added {
            let zone = self.number(endpoint);
            self.zone_of.insert(endpoint.id, zone);
        }
        if self.names.len() > 2 * self.zone_of.len() + SPARE {
            self.drop_unused();
        }
        self.share();
    }

    fn ready(&mut self, ready: &[SubConn], _now: Nanos) {
        self.ready = ready.to_vec();
        self.share();
    }

    fn pick(&mut self, info: &PickInfo) -> PickResult {
        let Self { zones, shares, answers, .. } = self;
        let zone = zones.get_mut(shares.choose(info.random));
        let Some(picked) = zone.and_then(|zone| zone.pick(info, answers)) else { return PickResult::Queue };
        if info.attempt == 0 || !call::tried(picked) {
            return PickResult::Pick(picked);
        }
        // The zone's pick found only endpoints that were tried, so the retry may leave the zone.
        let elsewhere = zones.iter_mut().filter_map(|zone| zone.pick(info, answers));
        PickResult::Pick(elsewhere.take(MOST_ASKED).find(|id| !call::tried(*id)).unwrap_or(picked))
    }
}

impl Zone {
    /// Returns the number of an endpoint's zone.
    fn number(&mut self, endpoint: &Endpoint) -> u32 {
        let zone = endpoint.attribute(&self.config.attribute).unwrap_or_default();
        if let Some(known) = self.numbers.get(zone) {
            return *known;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.numbers.insert(zone.to_owned(), number);
        self.names.push(zone.to_owned());
        number
    }

    /// Removes the zones that no endpoint is in.
    fn drop_unused(&mut self) {
        let names = std::mem::take(&mut self.names);
        self.numbers.clear();
        for zone in self.zone_of.values_mut() {
            let name = &names[*zone as usize];
            *zone = self.numbers.get(name).copied().unwrap_or_else(|| {
                let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
                self.numbers.insert(name.clone(), number);
                self.names.push(name.clone());
                number
            });
        }
    }

    /// Divides the ready endpoints by zone, and the RPCs among the zones.
    fn share(&mut self) {
        let own =
            self.config.zone.as_deref().filter(|_| self.ready.len() >= self.config.min_endpoints as usize);
        let mut places = vec![None; self.names.len().max(1)];
        let mut zones: Vec<(&str, f64)> = Vec::new();
        let mut members: Vec<Vec<SubConn>> = Vec::new();
        for id in &self.ready {
            let number = self.zone_of.get(*id).filter(|_| own.is_some()).map_or(0, |zone| *zone as usize);
            let at = *places[number].get_or_insert_with(|| {
                let name = if own.is_some() { self.names.get(number) } else { None };
                zones.push((name.map_or("", String::as_str), 0.0));
                members.push(Vec::new());
                zones.len() - 1
            });
            zones[at].1 += f64::from(self.weights.of(*id));
            members[at].push(*id);
        }
        self.shares = Alias::new(&own.map_or(vec![1.0], |own| shares(own, &zones, &self.clients)));
        self.zones.resize(members.len(), Group::new(self.config.balance));
        for (zone, members) in self.zones.iter_mut().zip(members) {
            zone.update(members, &self.weights);
        }
    }
}

/// Returns the share of this client's RPCs for each zone.
#[expect(clippy::cast_precision_loss, reason = "a number of zones")]
fn shares(own: &str, capacities: &[(&str, f64)], clients: &Map<String, f64>) -> Vec<f64> {
    let capacity: f64 = capacities.iter().map(|(_, capacity)| capacity).sum();
    let of_capacity: Vec<f64> = capacities.iter().map(|(_, of_zone)| of_zone / capacity).collect();
    let all_clients: f64 = clients.values().sum();
    // This client counts for its own zone even if the zone has no endpoint.
    let zones = capacities.len() + usize::from(!capacities.iter().any(|(zone, _)| *zone == own));
    let of_clients = |zone: &str| match clients.get(zone) {
        Some(number) => number / all_clients,
        None if clients.is_empty() => 1.0 / zones as f64,
        None => 0.0,
    };
    let Some(at) = capacities.iter().position(|(zone, _)| *zone == own) else {
        // Nothing is ready in the own zone: use the zones with spare capacity.
        return spill(capacities, &of_capacity, of_clients);
    };
    let due = of_clients(own);
    let stays = if due > 0.0 { (of_capacity[at] / due).min(1.0) } else { 1.0 };
    let mut shares = spill(capacities, &of_capacity, of_clients);
    shares[at] = 0.0;
    let left_over: f64 = shares.iter().sum();
    if left_over > 0.0 {
        shares.iter_mut().for_each(|share| *share *= (1.0 - stays) / left_over);
        shares[at] = stays;
    } else {
        shares[at] = 1.0;
    }
    shares
}

/// Returns the spare capacity of each zone. If no zone has any, returns the whole capacity.
fn spill(capacities: &[(&str, f64)], of_capacity: &[f64], of_clients: impl Fn(&str) -> f64) -> Vec<f64> {
    let more =
        capacities.iter().zip(of_capacity).map(|((zone, _), share)| (share - of_clients(zone)).max(0.0));
    let more: Vec<f64> = more.collect();
    if more.iter().any(|share| *share > 1e-9) { more } else { of_capacity.to_vec() }
}

impl About for Zone {
    fn describe() -> Description {
        Description::of::<Config>(
            "Keeps RPCs in the client's own zone, as far as its endpoints can take them.",
        )
    }
}

hotpick_guest::export!(Zone: About);

#[cfg(test)]
mod tests {
    use hotpick_guest::testing::{FakeHost, chi_square, endpoint};

    use super::*;

    /// Starts the policy with these numbers of endpoints in zones a, b and c, numbered consecutively.
    fn start(config: &str, zones: [u32; 3]) -> (FakeHost<Zone>, Vec<String>) {
        let mut host = FakeHost::start(config).expect("started");
        let names: Vec<_> = zones
            .iter()
            .zip(["a", "b", "c"])
            .flat_map(|(n, name)| vec![name.to_owned(); *n as usize])
            .collect();
        let endpoints: Vec<_> =
            names.iter().zip(0..).map(|(zone, id)| endpoint(id, &[("zone", zone)])).collect();
        host.endpoints(&endpoints);
        (host, names)
    }

    fn is_shared((mut host, names): (FakeHost<Zone>, Vec<String>), shares: [f64; 3]) {
        let mut counts = vec![0; 3];
        for picked in host.picks(20_000) {
            counts[usize::from(names[picked as usize].as_bytes()[0] - b'a')] += 1;
        }
        assert!(chi_square(&counts, &shares).is_likely(), "{counts:?} for {shares:?}");
    }

    #[test]
    fn rpcs_stay_if_the_zone_can_take_them() {
        is_shared(start(r#"{"zone":"a"}"#, [2, 2, 2]), [1.0, 0.0, 0.0]);
        is_shared(start(r#"{"zone":"a"}"#, [4, 1, 1]), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn what_it_cannot_take_goes_where_there_is_more_than_needed() {
        // A third of the clients, a sixth of the endpoints: half stays. The rest goes to c, as b has just enough.
        is_shared(start(r#"{"zone":"a"}"#, [1, 2, 3]), [0.5, 0.0, 0.5]);
        is_shared(start(r#"{"zone":"a"}"#, [1, 4, 4]), [1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
        // b has 1/9 more than it needs, c 2/9.
        is_shared(start(r#"{"zone":"a"}"#, [0, 4, 5]), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn the_number_of_clients_can_be_given() {
        let config = r#"{"zone":"a","clients":{"a":1,"b":1}}"#;
        is_shared(start(config, [1, 1, 2]), [0.5, 0.0, 0.5]);
        // Three quarters of the clients are in a, with half of the endpoints.
        is_shared(start(r#"{"zone":"a","clients":{"a":3,"b":1}}"#, [2, 2, 0]), [2.0 / 3.0, 1.0 / 3.0, 0.0]);
    }

    #[test]
    fn each_endpoint_has_the_same_load_when_all_clients_do_this() {
        let mut loads = [0.0; 3];
        let capacities = [("a", 1.0), ("b", 5.0), ("c", 2.0)];
        for own in ["a", "b", "c"] {
            for (load, share) in loads.iter_mut().zip(shares(own, &capacities, &Map::default())) {
                *load += share;
            }
        }
        for (load, (zone, capacity)) in loads.iter().zip(capacities) {
            assert!((load / capacity - 3.0 / 8.0).abs() < 1e-9, "{zone}: {loads:?}");
        }
    }

    #[test]
    fn without_a_zone_or_with_few_endpoints_all_are_alike() {
        is_shared(start("{}", [1, 1, 2]), [1.0, 1.0, 2.0]);
        is_shared(start(r#"{"zone":"a","minEndpoints":6}"#, [1, 1, 2]), [1.0, 1.0, 2.0]);
        let (mut host, _) = start("{}", [1, 1, 2]);
        assert_eq!(host.counts(&[0, 1, 2, 3], 8), [2, 2, 2, 2]);
    }

    #[test]
    fn many_zones_are_told_apart_and_the_own_one_is_among_them() {
        let mut host = FakeHost::<Zone>::start(r#"{"zone":"z299"}"#).expect("started");
        let zone = |id: u32| endpoint(id, &[("zone", format!("z{}", id % 300).as_str())]);
        host.endpoints(&(0..600).map(zone).collect::<Vec<_>>());
        assert_eq!(host.counts(&[299, 599], 100), [50, 50]);
    }

    #[test]
    fn zones_of_endpoints_that_are_gone_are_forgotten() {
        let mut host = FakeHost::<Zone>::start(r#"{"zone":"own"}"#).expect("started");
        for id in 1..2_000 {
            let (own, other) = (endpoint(0, &[("zone", "own")]), format!("z{id}"));
            host.change(&[own, endpoint(id, &[("zone", other.as_str())])], &[]);
            host.change(&[], &[id]);
            assert!(host.policy().names.len() <= 2 * 2 + SPARE);
            host.ready(&[0]);
            assert_eq!(host.picks(1), [0]);
        }
    }

    #[test]
    fn weights_count_within_a_zone_too() {
        let mut host = FakeHost::<Zone>::start(r#"{"zone":"a"}"#).expect("started");
        let weighted = |id, weight| Endpoint { weight, ..endpoint(id, &[("zone", "a")]) };
        host.endpoints(&[weighted(0, 1), weighted(1, 4)]);
        assert_eq!(host.counts(&[0, 1], 100), [20, 80]);
    }

    #[test]
    fn it_counts_what_is_ready() {
        let (mut host, names) = start(r#"{"zone":"a"}"#, [2, 2, 0]);
        host.ready(&[0, 2, 3]);
        // Half of the clients, a third of the endpoints.
        is_shared((host, names), [2.0 / 3.0, 1.0 / 3.0, 0.0]);
        let (mut host, _) = start(r#"{"zone":"a"}"#, [2, 2, 0]);
        host.ready(&[]);
        assert_eq!(host.pick(&Default::default()), PickResult::Queue);
    }

    #[test]
    fn bad_configuration_is_refused_by_the_name_of_its_field() {
        for (config, field) in [
            (r#"{"zone":""}"#, "zone: must be a string, 1 to 256 bytes long"),
            (r#"{"zone":7}"#, "zone: must be a string, not a number"),
            (
                r#"{"zone":"a","clients":{"b":1}}"#,
                "clients: must have clients in the client's own zone, \"a\"",
            ),
            (r#"{"zone":"a","clients":{"a":0}}"#, "clients: must have a client in at least one zone"),
            (r#"{"clients":{"a":-1}}"#, "clients.a: must be a number, 0 to 1000000000, not -1"),
            (r#"{"clients":3}"#, "clients: must be an object"),
            (r#"{"minEndpoints":-1}"#, "minEndpoints: "),
            (r#"{"balance":1}"#, "balance: "),
            (r#"{"locality":"a"}"#, "locality: no such field"),
        ] {
            let error = FakeHost::<Zone>::start(config).expect_err(config);
            assert!(error.starts_with(field), "{config}: {error}");
        }
    }
}
