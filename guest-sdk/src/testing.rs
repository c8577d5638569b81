//! A small fake host, to test policies natively.

use crate::env::Level;
pub use crate::fake::Rpc;
use crate::{Attribute, Endpoint, PickInfo, PickResult, Placement, Policy, SubConn, fake};

/// A policy and a host around it, for this thread. Deterministic: random numbers start from the same
/// seed each time, and the clock stands still until it is [moved](Self::advance).
#[derive(Debug)]
pub struct FakeHost<P> {
    policy: P,
    calls: u64,
}

/// An endpoint for [`FakeHost::endpoints`], with weight 1.
#[must_use]
pub fn endpoint(id: SubConn, attributes: &[(&str, &str)]) -> Endpoint {
    let attribute =
        |(key, value): &(&str, &str)| Attribute { key: (*key).to_owned(), value: (*value).to_owned() };
    Endpoint {
        id,
        addresses: vec![format!("10.0.0.{id}:80")],
        weight: 1,
        attributes: attributes.iter().map(attribute).collect(),
    }
}

impl<P: Policy> FakeHost<P> {
    /// Starts a policy, with seed 0.
    ///
    /// # Errors
    ///
    /// What the policy's `init` says.
    pub fn start(config: &str) -> Result<Self, String> {
        Self::start_with_seed(config, 0)
    }

    /// Starts a policy; the random numbers that it sees depend on the seed alone.
    ///
    /// # Errors
    ///
    /// What the policy's `init` says.
    pub fn start_with_seed(config: &str, seed: u64) -> Result<Self, String> {
        fake::with(|host| *host = fake::Host { in_init: true, random: seed, ..fake::Host::default() });
        let placement = Placement { target: "fake:///".to_owned(), shard: 0, shards: 1, seed, generation: 1 };
        let policy = P::init(config, &placement);
        fake::with(|host| host.in_init = false);
        Ok(Self { policy: policy?, calls: 0 })
    }

    /// Adds endpoints and makes all of them ready, in this order.
    pub fn endpoints(&mut self, endpoints: &[Endpoint]) {
        self.policy.endpoints(endpoints, &[], crate::env::now());
        self.ready(&endpoints.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>());
    }

    /// Adds and removes endpoints.
    pub fn change(&mut self, added: &[Endpoint], removed: &[SubConn]) {
        self.policy.endpoints(added, removed, crate::env::now());
    }

    /// These are ready now.
    pub fn ready(&mut self, ready: &[SubConn]) {
        self.policy.ready(ready, crate::env::now());
    }

    /// Picks for an RPC.
    pub fn pick(&mut self, rpc: &Rpc) -> PickResult {
        self.calls += 1;
        let info = fake::with(|host| {
            host.rpc = Some(rpc.clone());
            host.explanation = None;
            host.added.clear();
            let method = host.methods.iter().position(|known| *known == rpc.method).unwrap_or_else(|| {
                host.methods.push(rpc.method.clone());
                host.methods.len() - 1
            });
            let affinity =
                host.affinity.and_then(|key| host.values(key).first().map(|value| crate::hash(value)));
            PickInfo {
                call: self.calls,
                method: u32::try_from(method).unwrap_or(u32::MAX),
                affinity,
                random: host.next_random(),
                now: host.now,
                attempt: u32::try_from(rpc.tried.len()).unwrap_or(u32::MAX),
                wait_for_ready: false,
                requeued: false,
            }
        });
        let result = self.policy.pick(&info);
        fake::with(|host| host.rpc = None);
        result
    }

    /// Picks `n` times for RPCs without metadata. An answer that is no subconn is left out.
    pub fn picks(&mut self, n: usize) -> Vec<SubConn> {
        let rpc = Rpc::default();
        (0..n)
            .filter_map(|_| if let PickResult::Pick(id) = self.pick(&rpc) { Some(id) } else { None })
            .collect()
    }

    /// Moves the clock on.
    pub fn advance(&mut self, by: std::time::Duration) {
        fake::with(|host| host.now += u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
    }

    /// What the last pick explained.
    #[must_use]
    pub fn explanation(&self) -> Option<String> {
        fake::with(|host| host.explanation.clone())
    }

    /// What the last pick added to the request's metadata.
    #[must_use]
    pub fn added_metadata(&self) -> Vec<(String, Vec<u8>)> {
        fake::with(|host| host.added.clone())
    }

    /// What the policy has logged.
    #[must_use]
    pub fn log(&self) -> Vec<(Level, String)> {
        fake::with(|host| host.log.clone())
    }
}
