//! The clients of a simulation: programs with a channel each.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use hotpick::connectivity::ConnectivityState;
use hotpick::policy::{Placement, Policy, SimulatedChannel};
use hotpick::resolver::Endpoint;

use super::scenario::Scenario;

/// A client, and what it knows of the endpoints.
pub(super) struct Client {
    pub(super) channel: SimulatedChannel,
    /// State of each endpoint.
    pub(super) states: Vec<ConnectivityState>,
    /// Whether the client knows each endpoint. `None`: all of them.
    view: Option<Vec<bool>>,
    /// Endpoints by the numbers of their subconns, as far as asked.
    numbers: Vec<Option<usize>>,
}

/// Attribute with the number of an endpoint.
const NUMBER: &str = "number";

impl Client {
    /// Starts the policy in the channel of the client with this number.
    pub(super) fn start(
        policy: &dyn Policy,
        config: &str,
        scenario: &Scenario,
        (number, seed): (u64, u64),
        present: &[bool],
    ) -> anyhow::Result<Self> {
        let own_seed = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let placement = Placement::new("sim:///servers", config).with_seed(own_seed);
        let states = vec![ConnectivityState::Ready; present.len()];
        let view = scenario.view.map(|size| view(present.len(), size as usize, own_seed));
        let all = endpoints(present, &states, view.as_deref());
        let channel =
            SimulatedChannel::start(policy, &placement, all).context("the policy does not start")?;
        Ok(Self { channel, states, view, numbers: Vec::new() })
    }

    /// Notifies the channel of the endpoints.
    pub(super) fn notify(&mut self, present: &[bool]) {
        self.numbers.clear();
        let all: Vec<_> = endpoints(present, &self.states, self.view.as_deref()).collect();
        self.channel.update(all);
    }

    /// Returns the endpoint of a subconn.
    pub(super) fn endpoint_of(&mut self, subconn: u32) -> Option<usize> {
        let place = subconn as usize;
        if self.numbers.len() <= place {
            self.numbers.resize(place + 1, None);
        }
        if self.numbers[place].is_none() {
            let endpoint = self.channel.endpoint(subconn)?;
            self.numbers[place] = Some(endpoint.attributes().get(NUMBER)?.parse().ok()?);
        }
        self.numbers[place]
    }
}

/// Chooses this number of endpoints at random.
fn view(count: usize, size: usize, seed: u64) -> Vec<bool> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut all: Vec<usize> = (0..count).collect();
    random.shuffle(&mut all);
    let mut view = vec![false; count];
    all.iter().take(size).for_each(|endpoint| view[*endpoint] = true);
    view
}

/// Returns the endpoints that are present and in the view, and their states.
fn endpoints<'a>(
    present: &'a [bool],
    states: &'a [ConnectivityState],
    view: Option<&'a [bool]>,
) -> impl Iterator<Item = (Endpoint, ConnectivityState)> + use<'a> {
    let is_known = move |number: usize| view.is_none_or(|view| view[number]);
    let there = present.iter().zip(states).enumerate();
    let there = there.filter(move |(number, (present, _))| **present && is_known(*number));
    there.map(|(number, (_, state))| {
        let address = Ipv4Addr::from_bits(0x0a00_0000 + u32::try_from(number).unwrap_or(u32::MAX));
        let endpoint =
            Endpoint::new(SocketAddr::from((address, 80)).into()).with_attribute(NUMBER, number.to_string());
        (endpoint, *state)
    })
}
