//! The standard policies without network: any number of endpoints, and picks that are reproducible.

use std::fmt::Write as _;

use hotpick::connectivity::ConnectivityState;
use hotpick::picker::{PickInfo, PickResult};
use hotpick::policy::Placement;
use hotpick::policy::{Limits, TestChannel, WasmPolicy};
use hotpick::resolver::Endpoint;
use hotpick_guest::testing::chi_square;
use hotpick_tests::{STANDARD, metadata, standard};
use http::{HeaderMap, HeaderValue};

fn compiled(name: &str) -> WasmPolicy {
    WasmPolicy::compile(name, 1, &standard(name), Limits::default()).expect("a policy")
}

fn started(policy: &WasmPolicy, config: &str) -> TestChannel {
    let placement = Placement::new("static:///trial", config).with_seed(7);
    TestChannel::start(policy, &placement).unwrap_or_else(|error| panic!("{policy:?}: {error}"))
}

/// Returns endpoint `number`, with the attribute that the policy reads.
fn endpoint(policy: &str, number: u32) -> Endpoint {
    let address = format!("10.0.{}.{}:80", number / 250, number % 250).parse().expect("an address");
    let endpoint = Endpoint::new(address);
    let (attribute, values): (&str, &[&str]) = match policy {
        "color" => ("color", &["red", "blue"]),
        "zone" => ("zone", &["a", "b", "c"]),
        "canary" => ("version", &["v1", "v1", "v1", "v2"]),
        "priority" => ("priority", &["0", "1"]),
        _ => return endpoint,
    };
    endpoint.with_attribute(attribute, values[number as usize % values.len()])
}

fn ready(policy: &str, count: u32) -> impl Iterator<Item = (Endpoint, ConnectivityState)> {
    (0..count).map(move |number| (endpoint(policy, number), ConnectivityState::Ready))
}

fn pick(trial: &mut TestChannel, metadata: &HeaderMap) -> Option<u32> {
    match trial
        .pick(&PickInfo::new("/trial.TestChannel/Pick", metadata))
        .unwrap_or_else(|error| panic!("{trial:?}: {error}"))
    {
        PickResult::Pick(pick) => Some(pick.subconn.id()),
        _ => None,
    }
}

/// The number of endpoints grows from 0 to 10,000 and shrinks again. No call exceeds its limits of time and memory, and
/// no pick returns a subconn that does not exist.
#[tokio::test]
async fn any_number_of_endpoints_is_no_fault() {
    for name in STANDARD {
        let policy = compiled(name);
        // With a single red endpoint, RPCs for blue would otherwise fail.
        let config = if name == "color" { r#"{"unmatched":"any"}"# } else { "{}" };
        let mut trial = started(&policy, config);
        for count in [0, 1, 10_000, 9_990, 10_000, 1, 0] {
            trial.update(ready(name, count)).unwrap_or_else(|error| panic!("{name}: {error}"));
            for key in 0..200 {
                let picked = pick(&mut trial, &metadata(key));
                assert_eq!(picked.is_some(), count > 0, "{name}, {count} endpoints");
            }
            assert!(pick(&mut trial, &HeaderMap::new()).is_some() == (count > 0), "{name}");
        }
    }
}

/// Each of 10,000 endpoints has its own attributes, and each RPC has new metadata values.
#[tokio::test]
async fn the_worst_of_configurations_causes_no_fault_with_10_000_endpoints() {
    let keys = ["a", "b", "c", "d"];
    let by = |matching: &str| {
        let keys =
            keys.map(|key| format!(r#"{{"metadata":"{key}","attribute":"{key}","matching":"{matching}"}}"#));
        format!(r#"{{"keys":[{}],"unmatched":"any","balance":"p2c"}}"#, keys.join(","))
    };
    let cases = [
        ("color", by("regex"), "(x|y)*[a-z]{{1,40}}-{}.*"),
        ("color", by("regex"), "tenant-{}-.*"),
        ("color", by("prefix"), "tenant-{}"),
        ("color", by("exact"), "tenant-{}"),
        ("zone", r#"{"zone":"x-0","attribute":"a","balance":"p2c"}"#.to_owned(), "x-{}"),
        ("priority", r#"{"attribute":"a","spillBelow":100,"balance":"p2c"}"#.to_owned(), "{}"),
        ("subset", r#"{"subsetSize":1000,"balance":"p2c"}"#.to_owned(), "{}"),
        ("outlier", r#"{"consecutiveFailures":1,"balance":"p2c"}"#.to_owned(), "{}"),
        ("ring_hash", r#"{"minRingSize":32768,"maxRingSize":32768}"#.to_owned(), "{}"),
        ("bounded_hash", r#"{"minRingSize":32768,"epsilon":0.01}"#.to_owned(), "{}"),
        ("maglev", r#"{"tableSize":199999}"#.to_owned(), "{}"),
        ("sticky", r#"{"maxSessions":100000}"#.to_owned(), "{}"),
    ];
    for (name, config, label) in cases {
        let policy = compiled(name);
        let mut trial = started(&policy, &config);
        let labelled = |number: u32| {
            let label = label.replace("{{", "{").replace("}}", "}").replacen("{}", &number.to_string(), 1);
            let endpoint = endpoint("", number);
            keys.iter().fold(endpoint.with_weight(1 + number % 3), |endpoint, key| {
                endpoint.with_attribute(*key, &label)
            })
        };
        let all: Vec<_> = (0..10_000).map(|number| (labelled(number), ConnectivityState::Ready)).collect();
        for count in [10_000, 9_999, 10_000] {
            let updated = trial.update(all[..count].to_vec());
            updated.unwrap_or_else(|error| panic!("{name} {config}: {error}"));
            for number in 0..100 {
                let mut metadata = HeaderMap::new();
                for key in keys.into_iter().chain(["hash-key", "session-id"]) {
                    let value = format!("tenant-{}-{}", count + number, "x".repeat(200));
                    metadata.insert(key, HeaderValue::from_str(&value).expect("a value"));
                }
                let picked = trial.pick(&PickInfo::new("/a.B/C", &metadata));
                let picked = picked.unwrap_or_else(|error| panic!("{name} {config} {label}: {error}"));
                // A regex that is too expensive for a pick is left to a timer, and no timer runs here.
                let may_queue = label.starts_with('(');
                let is_picked = matches!(picked, PickResult::Pick(_));
                assert!(
                    is_picked || may_queue && matches!(picked, PickResult::Queue),
                    "{name} {config}: {picked:?}"
                );
            }
        }
    }
}

/// 10,000 endpoints are in the same state, which is often not READY.
#[tokio::test]
async fn endpoints_that_are_not_ready_cause_no_fault() {
    for name in STANDARD {
        let policy = compiled(name);
        let mut trial = started(&policy, "{}");
        for state in [
            ConnectivityState::Idle,
            ConnectivityState::Connecting,
            ConnectivityState::TransientFailure,
            ConnectivityState::Ready,
            ConnectivityState::TransientFailure,
            ConnectivityState::Idle,
        ] {
            let updated = trial.update((0..10_000).map(|number| (endpoint(name, number), state)));
            updated.unwrap_or_else(|error| panic!("{name}: {error}"));
            for key in 0..50 {
                pick(&mut trial, &metadata(key));
            }
        }
    }
}

/// Memory stops growing although endpoints and metadata values keep changing.
#[tokio::test]
async fn memory_is_flat() {
    for name in STANDARD {
        let policy = compiled(name);
        let config = if name == "sticky" { r#"{"maxSessions":1000}"# } else { "{}" };
        let mut trial = started(&policy, config);
        let mut used = Vec::new();
        for round in 0..20u32 {
            // Each round replaces 10 of 100 endpoints.
            let numbers = round * 10..round * 10 + 100;
            let endpoints = numbers.map(|number| (endpoint(name, number), ConnectivityState::Ready));
            trial.update(endpoints).expect("no fault");
            for key in 0..2_000 {
                let mut metadata = metadata(round * 2_000 + key);
                if name == "color" {
                    let color = HeaderValue::from_str(&format!("c{round}-{key}")).expect("a value");
                    metadata.insert("color", color);
                }
                pick(&mut trial, &metadata);
            }
            used.push(trial.memory());
        }
        assert_eq!(used[9], used[19], "{name}: {used:?}");
    }
}

#[tokio::test]
async fn the_shares_are_even_also_with_flaps_in_between() {
    // Policies that pick at random. The exact ones have their own tests.
    for name in ["random", "least_request", "p2c_ewma", "maglev", "sticky"] {
        let policy = compiled(name);
        for count in [3u32, 10, 100, 1_000] {
            let config = if name == "p2c_ewma" { r#"{"probeAfter":"3600s"}"# } else { "{}" };
            let mut trial = started(&policy, config);
            let mut counts = vec![0; count as usize];
            for round in 0..5 {
                // One more endpoint is present every other round.
                trial.update(ready(name, count + round % 2)).expect("no fault");
                for _ in 0..20 * count {
                    let picked = pick(&mut trial, &HeaderMap::new()).expect("picked");
                    if picked < count {
                        counts[picked as usize] += 1;
                    }
                }
            }
            let result = chi_square(&counts, &vec![1.0; count as usize]);
            // The better of two random choices is more even than chance, which passes too.
            assert!(result.is_likely(), "{name}, {count}: {result:?}");
        }
    }
}

/// Every build of the same sources must make the picks recorded in `picks.txt`.
#[tokio::test]
async fn the_same_seed_gives_the_same_picks() {
    let mut recorded = String::new();
    for name in STANDARD {
        let policy = compiled(name);
        let config = match name {
            "p2c_ewma" => r#"{"probeAfter":"3600s"}"#,
            "canary" => r#"{"split":{"version=v2":300}}"#,
            "zone" => r#"{"zone":"a"}"#,
            "subset" => r#"{"subsetSize":4}"#,
            _ => "{}",
        };
        let mut trial = started(&policy, config);
        let mut picks = Vec::new();
        for count in [7, 10, 8] {
            trial.update(ready(name, count)).expect("no fault");
            for key in 0..10 {
                picks.extend(pick(&mut trial, &metadata(key)));
                picks.extend(pick(&mut trial, &HeaderMap::new()));
            }
        }
        let picks: Vec<_> = picks.iter().map(u32::to_string).collect();
        writeln!(recorded, "{name} {}", picks.join(" ")).expect("written");
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/standard/picks.txt");
    if std::env::var_os("HOTPICK_WRITE_PICKS").is_some() {
        std::fs::write(file, &recorded).expect("written");
    }
    let expected = std::fs::read_to_string(file).expect("a file");
    assert_eq!(
        recorded, expected,
        "if the algorithms have changed, regenerate picks.txt with HOTPICK_WRITE_PICKS=1"
    );
}

/// Every policy rejects an invalid configuration with an error that names the field.
#[tokio::test]
async fn bad_configuration_is_refused_by_the_name_of_its_field() {
    for name in STANDARD {
        let policy = compiled(name);
        let refused = |config: &str| {
            let placement = Placement::new("static:///trial", config);
            let error = TestChannel::start(&policy, &placement).expect_err(config).to_string();
            assert!(error.contains("refused its configuration"), "{name} {config}: {error}");
            error
        };
        assert!(refused(r#"{"noSuchField":1}"#).contains("noSuchField: no such field"), "{name}");
        assert!(refused("[]").contains("configuration: must be an object"), "{name}");
        assert!(refused("{").contains("configuration: invalid JSON"), "{name}");
        // Invalid values for every field.
        let report = policy.check("{}", 3).expect("a policy");
        let schema = report.config_schema.expect("a schema");
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
        for (field, of) in schema["properties"].as_object().expect("fields") {
            let mut bad =
                vec!["{\"x\":{\"y\":[]}}".to_owned(), "-1".to_owned(), "1e300".to_owned(), "[[]]".to_owned()];
            for (bound, beyond) in [("minimum", -1.0), ("maximum", 1.0)] {
                bad.extend(of[bound].as_f64().map(|bound| (bound + beyond).to_string()));
            }
            if of["type"] == "string" {
                bad.extend(["\"\"".to_owned(), format!("\"{}\"", "x".repeat(300))]);
            }
            for value in bad {
                let error = refused(&format!("{{\"{field}\":{value}}}"));
                assert!(error.contains(field), "{name} {field} {value}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn standard_policies_import_only_hotpick_interfaces_and_are_small() {
    let known = ["call", "connections", "env", "metrics", "stats", "timers"];
    for name in STANDARD {
        let policy = compiled(name);
        assert!(policy.imports().iter().all(|import| known.contains(&import.as_str())), "{name}: {policy:?}");
        assert!(policy.ignored_exports().is_empty(), "{name}");
        assert!(standard(name).len() < 130_000, "{name}: {} bytes", standard(name).len());
    }
}
