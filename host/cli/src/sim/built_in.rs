//! The scenarios that are built in.

use super::scenario::{Action, Event, Keys, Scenario, Servers};

/// Names of the scenarios that are built in, each with a sentence.
pub(super) const BUILT_IN: [(&str, &str); 14] = [
    ("steady", "ten endpoints at half of their capacity"),
    ("one-slow", "one of ten takes five times as long, from 10 s to 20 s"),
    ("half-slow", "five of ten take three times as long, from 10 s to 20 s"),
    ("antagonist", "another program on three of ten servers: twice as long, for 2 s out of 4 s"),
    ("gc-pause", "every second another endpoint does nothing for 0.2 s"),
    ("rolling-restart", "one endpoint after the other leaves, and joins 2 s later"),
    ("cold-join", "an endpoint joins at 10 s, and takes five times as long for its first 5 s"),
    ("hot-key", "1,000 keys by Zipf's law"),
    ("zone-loss", "four of ten fail all RPCs from 10 s to 20 s; three attempts"),
    ("retry-storm", "a short slowness at 90 % of the capacity, with deadlines and three attempts"),
    ("flapping", "two of ten lose their connections every 2 s, for 0.5 s"),
    ("low-qps", "20 RPCs per second"),
    ("herd", "50 clients that know only their own RPCs, and eight of ten endpoints each"),
    ("10k-endpoints", "10,000 endpoints with one slot each, at half of their capacity, for a second"),
];

/// Returns a scenario that is built in.
pub(super) fn built_in(name: &str) -> Option<Scenario> {
    let event = |at: f64, action: Action, from: u32, count: u32, factor: f64, seconds: f64| Event {
        at,
        action,
        from,
        count,
        factor,
        seconds,
        every: 0.0,
        times: 1,
    };
    let during = |count: u32, factor: f64| {
        vec![event(10.0, Action::Slow, 0, count, factor, 1.0), event(20.0, Action::Heal, 0, count, 1.0, 1.0)]
    };
    let usual = Scenario::default();
    Some(match name {
        "steady" => usual,
        "one-slow" => Scenario { events: during(1, 5.0), ..usual },
        "half-slow" => Scenario { events: during(5, 3.0), ..usual },
        "antagonist" => {
            let turn = |turn: u32| {
                let at = 4.0 * f64::from(turn);
                [event(at, Action::Slow, 0, 3, 2.0, 1.0), event(at + 2.0, Action::Heal, 0, 3, 1.0, 1.0)]
            };
            Scenario { events: (0..7).flat_map(turn).collect(), ..usual }
        }
        "gc-pause" => {
            let pause = |second: u32| event(f64::from(second), Action::Pause, second % 10, 1, 1.0, 0.2);
            Scenario { events: (1..30).map(pause).collect(), ..usual }
        }
        "rolling-restart" => {
            let restart = |one: u32| {
                let at = 2.0 + 2.5 * f64::from(one);
                [event(at, Action::Leave, one, 1, 1.0, 1.0), event(at + 2.0, Action::Join, one, 1, 1.0, 1.0)]
            };
            Scenario { events: (0..10).flat_map(restart).collect(), ..usual }
        }
        "cold-join" => Scenario {
            events: vec![
                event(-5.0, Action::Leave, 9, 1, 1.0, 1.0),
                event(10.0, Action::Slow, 9, 1, 5.0, 1.0),
                event(10.0, Action::Join, 9, 1, 1.0, 1.0),
                event(15.0, Action::Heal, 9, 1, 1.0, 1.0),
            ],
            ..usual
        },
        "hot-key" => Scenario { keys: Some(Keys { count: 1000, skew: 1.0 }), ..usual },
        "zone-loss" => Scenario {
            attempts: 3,
            events: vec![
                event(10.0, Action::Fail, 0, 4, 1.0, 1.0),
                event(20.0, Action::Heal, 0, 4, 1.0, 1.0),
            ],
            ..usual
        },
        "retry-storm" => Scenario {
            rate: 7200.0,
            deadline_ms: Some(60.0),
            attempts: 3,
            events: vec![
                event(10.0, Action::Slow, 0, 10, 2.0, 1.0),
                event(12.0, Action::Heal, 0, 10, 1.0, 1.0),
            ],
            ..usual
        },
        "flapping" => Scenario {
            events: vec![Event { every: 2.0, times: 15, ..event(0.0, Action::Disconnect, 0, 2, 1.0, 0.5) }],
            ..usual
        },
        "low-qps" => Scenario { rate: 20.0, seconds: 300.0, ..usual },
        "10k-endpoints" => Scenario {
            endpoints: 10_000,
            rate: 1_000_000.0,
            seconds: 1.0,
            warmup: 0.25,
            servers: Servers { slots: 1, ..usual.servers },
            ..usual
        },
        "herd" => Scenario { clients: 50, view: Some(8), rate: 6000.0, ..usual },
        _ => return None,
    })
}
