//! Metrics of policies: those of the host, and the instruments that policies declare.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use hotpick::PolicyDir;
use hotpick::directory::PolicyStatus;
use hotpick::policy::MetricValue;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

/// Instruments of policies that are exported at most. They cannot be given back to the meter.
const MOST_INSTRUMENTS: usize = 256;

/// A value of a policy, and what it is of.
type Observe<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// Creates the instruments, which are read when metrics are collected. Holds the directory open.
pub(crate) fn observe(meter: &Meter, policies: &PolicyDir) {
    let counter = |name: &'static str, help: &'static str, read: fn(&PolicyStatus, Observe<'_, u64>)| {
        let callback = each(policies, read);
        meter.u64_observable_counter(name).with_description(help).with_callback(callback).build();
    };
    let gauge = |name: &'static str,
                 unit: &'static str,
                 help: &'static str,
                 read: fn(&PolicyStatus, Observe<'_, f64>)| {
        let callback = each(policies, read);
        let gauge = meter.f64_observable_gauge(name).with_unit(unit).with_description(help);
        gauge.with_callback(callback).build();
    };
    counter("hotpick.policy.picks", "Picks of the policy, called or planned", |policy, observe| {
        observe(policy.totals.picks, &[]);
    });
    counter(
        "hotpick.policy.planned_picks",
        "Picks from a plan, for which the policy was not called",
        |policy, observe| observe(policy.totals.planned_picks, &[]),
    );
    counter(
        "hotpick.policy.fallback_picks",
        "Picks of the fallback instead of the policy",
        |policy, observe| observe(policy.totals.fallback_picks, &[]),
    );
    counter(
        "hotpick.policy.renewals",
        "Instances replaced because they had used most of their memory",
        |policy, observe| observe(policy.totals.renewals, &[]),
    );
    counter("hotpick.policy.loads", "Activations of a version, including rollbacks", |policy, observe| {
        observe(policy.loads, &[]);
    });
    counter("hotpick.policy.faults", "Faults of instances, by kind", |policy, observe| {
        for (kind, count) in &policy.faults {
            observe(*count, &[KeyValue::new("kind", kind.name())]);
        }
    });
    counter(
        "hotpick.policy.rejections",
        "Versions rejected by the directory or refused by a channel, by stage",
        |policy, observe| {
            for (stage, count) in &policy.rejections {
                observe(*count, &[KeyValue::new("stage", stage.to_string())]);
            }
        },
    );
    gauge("hotpick.policy.state", "", "1 for the current state of the policy", |policy, observe| {
        observe(1.0, &[KeyValue::new("state", policy.state.to_string())]);
    });
    gauge(
        "hotpick.policy.generation",
        "",
        "Generation of the active version, or 0 if there is none",
        |policy, observe| {
            observe(policy.version.as_ref().map_or(0.0, |version| float(version.generation)), &[]);
        },
    );
    gauge("hotpick.policy.memory", "By", "Memory of the instances of all channels", |policy, observe| {
        observe(policy.channels.iter().map(|one| float(one.memory)).sum(), &[]);
    });
    gauge("hotpick.policy.pick", "s", "Time per pick (exponential moving average)", |policy, observe| {
        for one in &policy.channels {
            if let Some(nanos) = one.pick_nanos {
                observe(float(nanos) / 1e9, &[KeyValue::new("target", one.target.clone())]);
            }
        }
    });
    declare_when_seen(meter, policies);
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn float(number: impl TryInto<u64>) -> f64 {
    number.try_into().unwrap_or(u64::MAX) as f64
}

/// Returns a callback that observes what `read` says of each policy, with the policy's name.
fn each<T: 'static>(
    policies: &PolicyDir,
    read: fn(&PolicyStatus, Observe<'_, T>),
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let policies = policies.clone();
    move |instrument| {
        for policy in policies.status() {
            let name = KeyValue::new("policy", policy.name.clone());
            read(&policy, &mut |value, labels| {
                instrument.observe(value, &[std::slice::from_ref(&name), labels].concat());
            });
        }
    }
}

/// Exports the counters and gauges that policies declare, from the second collection after they are declared. A histogram
/// cannot be exported: this interface takes single values only.
fn declare_when_seen(meter: &Meter, policies: &PolicyDir) {
    let known = Arc::<Mutex<HashSet<String>>>::default();
    let (of_callback, policies) = (meter.clone(), policies.clone());
    let declared = move |instrument: &dyn AsyncInstrument<u64>| {
        let mut seen = known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = Vec::new();
        for metric in policies.status().into_iter().flat_map(|policy| policy.metrics) {
            let is_one = matches!(metric.value, MetricValue::Counter(_) | MetricValue::Gauge(_));
            if is_one && seen.len() < MOST_INSTRUMENTS && seen.insert(metric.name.clone()) {
                new.push((metric.name, metric.help, matches!(metric.value, MetricValue::Counter(_))));
            }
        }
        instrument.observe(seen.len() as u64, &[]);
        if new.is_empty() {
            return;
        }
        let (meter, policies) = (of_callback.clone(), policies.clone());
        // On another thread: the meter is locked while callbacks run.
        let declare = move || {
            for (name, help, is_counter) in new {
                declare(&meter, &policies, name, help, is_counter);
            }
        };
        // Without the thread, these instruments are not exported.
        drop(std::thread::Builder::new().name("declare-metrics".to_owned()).spawn(declare));
    };
    meter
        .u64_observable_gauge("hotpick.policy.instruments")
        .with_description("Instruments that policies have declared")
        .with_callback(declared)
        .build();
}

/// Creates an instrument for what policies declare by this name.
fn declare(meter: &Meter, policies: &PolicyDir, name: String, help: String, is_counter: bool) {
    // What gRPC has a name for keeps it (gRFCs A78, A91). A target is then what gRPC calls it.
    let grpcs = name.strip_prefix("grpc_lb_");
    let exported = match grpcs {
        Some(rest) => {
            let known = ["wrr_", "outlier_detection_"].iter().find(|known| rest.starts_with(**known));
            let (of, rest) = rest.split_at(known.map_or(0, |known| known.len()));
            format!("grpc.lb.{}{rest}", of.strip_suffix('_').map(|of| format!("{of}.")).unwrap_or_default())
        }
        None => format!("hotpick.policy.{name}"),
    };
    let target = if grpcs.is_some() { "grpc.target" } else { "target" };
    let policies = policies.clone();
    let each = move |observe: &mut dyn FnMut(&MetricValue, &[KeyValue])| {
        for policy in policies.status() {
            for metric in policy.metrics.iter().filter(|metric| metric.name == name) {
                let labels = [
                    KeyValue::new("policy", policy.name.clone()),
                    KeyValue::new(target, metric.target.clone()),
                ];
                observe(&metric.value, &labels);
            }
        }
    };
    if is_counter {
        let read = move |instrument: &dyn AsyncInstrument<u64>| {
            each(&mut |value, labels| {
                if let MetricValue::Counter(count) = value {
                    instrument.observe(*count, labels);
                }
            });
        };
        meter.u64_observable_counter(exported).with_description(help).with_callback(read).build();
    } else {
        let read = move |instrument: &dyn AsyncInstrument<f64>| {
            each(&mut |value, labels| {
                if let MetricValue::Gauge(value) = value {
                    instrument.observe(*value, labels);
                }
            });
        };
        meter.f64_observable_gauge(exported).with_description(help).with_callback(read).build();
    }
}
