//! gRFC A48, implemented independently, and compared with the policy in random histories without failures. The effect
//! of failures is tested in `hotpick_guest::answers`.

use std::collections::BTreeMap;

use hotpick_guest::random::Random;
use hotpick_guest::stats::Summary;
use hotpick_guest::testing::{FakeHost, Rpc, endpoint, histories, summary};
use hotpick_guest::{Endpoint, PickResult, SubConn};

use super::LeastRequest;

struct Server {
    weight: u32,
    in_flight: u32,
    max_streams: u32,
}

/// Returns the RPCs in flight, including this one, divided by the weight. `None`: there is no free stream.
fn load(server: &Server) -> Option<f64> {
    let load = f64::from(server.in_flight + 1) / f64::from(server.weight);
    (server.in_flight < server.max_streams).then_some(load)
}

fn history(mut random: Random) {
    let full = random.below(2) == 0;
    let config = if full { r#"{"selectionMethod":"full_scan"}"# } else { r#"{"choiceCount":2}"# };
    let mut host = FakeHost::<LeastRequest>::start_with_seed(config, random.next()).expect("started");
    let mut servers = BTreeMap::<SubConn, Server>::new();
    for _ in 0..40 {
        let id = SubConn::try_from(random.below(6)).expect("small");
        if random.below(5) == 0 {
            host.change(&[], &[id]);
            servers.remove(&id);
        } else {
            let weight = u32::try_from(1 + random.below(3)).expect("small");
            host.change(&[Endpoint { weight, ..endpoint(id, &[]) }], &[]);
            servers.insert(id, Server { weight, in_flight: 0, max_streams: 100 });
        }
        // Free streams are looked for every 10 ms.
        host.advance(hotpick_guest::Duration::from_millis(10));
        for (id, server) in &mut servers {
            server.in_flight = u32::try_from(random.below(5)).expect("small");
            server.max_streams = [100, 3][random.below(2)];
            let (in_flight, max_streams) = (server.in_flight, server.max_streams);
            host.set_stats(*id, Summary { in_flight, max_streams, ..summary() });
        }
        let ready: Vec<_> = servers.keys().copied().collect();
        host.ready(&ready);
        let loads: Vec<_> = ready.iter().filter_map(|id| Some((*id, load(&servers[id])?))).collect();
        let least = loads.iter().map(|(_, load)| *load).fold(f64::INFINITY, f64::min);
        match host.pick(&Rpc::default()) {
            PickResult::Pick(picked) => {
                let picked = loads.iter().find(|(id, _)| *id == picked).expect("one with a free stream").1;
                // Of two random endpoints, it is better than at least one other one with a free stream, if there is
                // one.
                let worse = loads.iter().filter(|(_, load)| *load >= picked).count();
                let others_are_full = loads.len() < ready.len();
                let holds =
                    if full || ready.len() <= 2 { picked == least } else { worse > 1 || others_are_full };
                assert!(holds, "{picked} of {loads:?}, {config}");
            }
            answer => assert_eq!((answer, loads.len()), (PickResult::Queue, 0)),
        }
    }
}

#[test]
fn it_is_as_grfc_a48_in_random_histories() {
    histories(&[], history);
}
