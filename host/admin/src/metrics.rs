//! `GET /metrics`: metrics for Prometheus, in the OpenMetrics text format. Those of policies and connections are here.

use std::collections::BTreeMap;
use std::fmt;

use hotpick::directory::{PolicyStatus, RolloutStatus};
use hotpick::policy::{Metric, MetricValue, Reading, RolloutPhase, SideReading};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::call_metrics::CallMetrics;
use crate::subjects::Subjects;

/// Returns all metrics as text.
pub(crate) fn text(subjects: &Subjects) -> Result<String, fmt::Error> {
    let policies = subjects.policies.iter().flat_map(hotpick::PolicyDir::status).collect();
    let channels = subjects.channels.iter().map(|watched| watched.channel.status()).collect();
    let mut registry = Registry::default();
    let counters = subjects.counters.iter().map(|one| (one.name, one.help, (one.read)())).collect();
    registry.register_collector(Box::new(Snapshot { policies, channels, counters }));
    registry.register_collector(Box::new(CallMetrics::read(subjects)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    policies: Vec<PolicyStatus>,
    channels: Vec<hotpick::channel::ChannelStatus>,
    /// Name, description and value.
    counters: Vec<(&'static str, &'static str, u64)>,
}

type Labels = Vec<(&'static str, String)>;

/// A metric family: its name, its description, and a value for each set of labels.
struct Family<T> {
    name: &'static str,
    help: &'static str,
    values: Vec<(Labels, T)>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let own = self.counters.iter();
        let own = own.map(|(name, help, value)| Family { name, help, values: vec![(Vec::new(), *value)] });
        for family in self.policy_counters().into_iter().chain(self.channel_counters()).chain(own) {
            encode(&mut encoder, family, MetricType::Counter, ConstCounter::new)?;
        }
        for family in self.gauges() {
            encode(&mut encoder, family, MetricType::Gauge, ConstGauge::new)?;
        }
        self.own_metrics(&mut encoder)
    }
}

fn encode<T, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    Family { name, help, values }: Family<T>,
    kind: MetricType,
    metric: impl Fn(T) -> M,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in values {
        metric(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Snapshot {
    /// Returns one value for each policy.
    fn each<T>(&self, value: impl Fn(&PolicyStatus) -> T) -> Vec<(Labels, T)> {
        self.policies.iter().map(|policy| (vec![("policy", policy.name.clone())], value(policy))).collect()
    }

    /// Returns several values for each policy, distinguished by a label.
    fn many<T>(
        &self,
        label: &'static str,
        values: impl Fn(&PolicyStatus) -> Vec<(String, T)>,
    ) -> Vec<(Labels, T)> {
        let of = |policy: &PolicyStatus| {
            let name = policy.name.clone();
            let labelled = move |(value, count)| (vec![("policy", name.clone()), (label, value)], count);
            values(policy).into_iter().map(labelled).collect::<Vec<_>>()
        };
        self.policies.iter().flat_map(of).collect()
    }

    fn policy_counters(&self) -> Vec<Family<u64>> {
        let family = |name, help, values| Family { name, help, values };
        vec![
            family(
                "hotpick_host_panics",
                "Panics that were caught, of the host or of code that it was given",
                vec![(Vec::new(), hotpick::panics())],
            ),
            family(
                "hotpick_policy_picks",
                "Picks of the policy, called or planned",
                self.each(|p| p.totals.picks),
            ),
            family(
                "hotpick_policy_planned_picks",
                "Picks from a plan, for which the policy was not called",
                self.each(|p| p.totals.planned_picks),
            ),
            family(
                "hotpick_policy_fallback_picks",
                "Picks of the fallback instead of the policy",
                self.each(|p| p.totals.fallback_picks),
            ),
            family(
                "hotpick_policy_renewals",
                "Instances replaced because they had used most of their memory",
                self.each(|p| p.totals.renewals),
            ),
            family(
                "hotpick_policy_loads",
                "Activations of a version, including rollbacks",
                self.each(|p| p.loads),
            ),
            family(
                "hotpick_policy_faults",
                "Faults of instances, by kind",
                self.many("kind", |p| {
                    p.faults.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect()
                }),
            ),
            family(
                "hotpick_policy_rejections",
                "Versions rejected by the directory or refused by a channel, by stage",
                self.many("stage", |p| {
                    p.rejections.iter().map(|(stage, count)| (stage.to_string(), *count)).collect()
                }),
            ),
        ]
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn gauges(&self) -> Vec<Family<f64>> {
        let family = |name, help, values| Family { name, help, values };
        let open = self.channels.iter().map(|c| (target(c), c.connections.open as f64)).collect();
        vec![
            family(
                "hotpick_policy_state",
                "1 for the current state of the policy",
                self.many("state", |p| vec![(p.state.to_string(), 1.0)]),
            ),
            family(
                "hotpick_policy_generation",
                "Generation of the active version, or 0 if there is none",
                self.each(|p| p.version.as_ref().map_or(0.0, |version| version.generation as f64)),
            ),
            family(
                "hotpick_policy_memory_bytes",
                "Memory of the instances of all channels, in bytes",
                self.each(|p| p.channels.iter().map(|one| one.memory as f64).sum()),
            ),
            family(
                "hotpick_policy_pick_seconds",
                "Time per pick in seconds (exponential moving average)",
                self.many("target", |p| {
                    let cost = |one: &hotpick::policy::ChannelUsage| {
                        one.pick_nanos.map(|nanos| (one.target.clone(), nanos as f64 / 1e9))
                    };
                    // Several channels may have the same target, but a series must not occur twice.
                    p.channels.iter().filter_map(cost).collect::<BTreeMap<_, _>>().into_iter().collect()
                }),
            ),
            family("grpc_subchannel_open_connections", "Number of open connections", merged(open)),
        ]
        .into_iter()
        .chain(self.rollouts())
        .collect()
    }

    /// Returns what both versions of each rollout did in the present interval.
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn rollouts(&self) -> Vec<Family<f64>> {
        let each = |value: &dyn Fn(&RolloutStatus) -> Vec<(Labels, f64)>| {
            let of = |policy: &PolicyStatus| {
                let values = policy.rollout.as_ref().map(value).unwrap_or_default();
                let named = values.into_iter().map(|(labels, value)| {
                    let mut all = vec![("policy", policy.name.clone())];
                    all.extend(labels);
                    (all, value)
                });
                named.collect::<Vec<_>>()
            };
            self.policies.iter().flat_map(of).collect::<Vec<_>>()
        };
        let sides = |value: fn(&SideReading) -> Vec<(Labels, f64)>| {
            each(&move |rollout| {
                let Reading { active, candidate, .. } = &rollout.reading;
                let of = |name: &'static str, side| {
                    value(side).into_iter().map(move |(mut labels, value)| {
                        labels.push(("side", name.to_owned()));
                        (labels, value)
                    })
                };
                of("active", active).chain(of("candidate", candidate)).collect()
            })
        };
        let family = |name, help, values| Family { name, help, values };
        vec![
            family(
                "hotpick_policy_rollout_generation",
                "Generation of the version that is tried beside the active one",
                each(&|rollout| vec![(Vec::new(), rollout.version.generation as f64)]),
            ),
            family(
                "hotpick_policy_rollout_share",
                "Part of the RPCs that the new version of a rollout picks for",
                each(&|rollout| vec![(Vec::new(), rollout.share / 100.0)]),
            ),
            family(
                "hotpick_policy_rollout_paused",
                "1 if an operator has paused the rollout",
                each(&|rollout| {
                    vec![(Vec::new(), f64::from(u8::from(rollout.phase == RolloutPhase::Paused)))]
                }),
            ),
            family(
                "hotpick_policy_rollout_agreement",
                "Part of a shadow's picks in the present interval that were those of the active version",
                each(&|rollout| {
                    let Reading { compared, agreed, .. } = rollout.reading;
                    let share = (compared > 0).then(|| (Vec::new(), agreed as f64 / compared as f64));
                    share.into_iter().collect()
                }),
            ),
            family(
                "hotpick_policy_rollout_interval_rpcs",
                "Attempts that a version of a rollout picked for in the present interval",
                sides(|side| vec![(Vec::new(), side.begun as f64)]),
            ),
            family(
                "hotpick_policy_rollout_interval_failures",
                "Part of these that failed or found no subconn",
                sides(|side| vec![(Vec::new(), side.failure_rate())]),
            ),
            family(
                "hotpick_policy_rollout_interval_latency_seconds",
                "Latency of these at a percentile, in seconds",
                sides(|side| {
                    let quantile = |name: &str, quantile| {
                        let latency = side.quantile(quantile)?.as_secs_f64();
                        Some((vec![("percentile", name.to_owned())], latency))
                    };
                    [quantile("50", 0.5), quantile("99", 0.99)].into_iter().flatten().collect()
                }),
            ),
        ]
    }

    /// Returns the counters of gRFC A94.
    fn channel_counters(&self) -> Vec<Family<u64>> {
        let family = |name, help, values| Family { name, help, values };
        let each = |value: fn(&hotpick::channel::ChannelStatus) -> u64| {
            merged(self.channels.iter().map(|channel| (target(channel), value(channel))).collect())
        };
        let disconnections = self.channels.iter().flat_map(|channel| {
            channel.connections.disconnections.iter().map(|(why, count)| {
                let mut labels = target(channel);
                labels.push(("grpc_disconnect_error", why.clone()));
                (labels, *count)
            })
        });
        vec![
            family(
                "grpc_subchannel_connection_attempts_succeeded",
                "Connection attempts that succeeded",
                each(|channel| channel.connections.attempts_succeeded),
            ),
            family(
                "grpc_subchannel_connection_attempts_failed",
                "Connection attempts that failed",
                each(|channel| channel.connections.attempts_failed),
            ),
            family(
                "grpc_subchannel_disconnections",
                "Connections that have ended, by reason",
                merged(disconnections.collect()),
            ),
        ]
    }

    /// Encodes the instruments that policies declare. If two policies declare a name with different types, only the
    /// type of the first is reported.
    fn own_metrics(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut families: BTreeMap<&str, Vec<(&str, &Metric)>> = BTreeMap::new();
        for policy in &self.policies {
            for metric in &policy.metrics {
                families.entry(&metric.name).or_default().push((&policy.name, metric));
            }
        }
        for (name, metrics) in families {
            let (_, first) = metrics[0];
            // What gRPC has a name for keeps it (gRFCs A78, A91).
            let is_grpcs = name.starts_with("grpc_lb_");
            let name = if is_grpcs { name.to_owned() } else { format!("hotpick_policy_{name}") };
            let mut family =
                encoder.encode_descriptor(&name, &escaped(&first.help), None, kind(&first.value))?;
            for (policy, metric) in &metrics {
                let target = if is_grpcs { "grpc_target" } else { "target" };
                let labels = vec![("policy", (*policy).to_owned()), (target, metric.target.clone())];
                match (&first.value, &metric.value) {
                    (MetricValue::Counter(_), MetricValue::Counter(value)) => {
                        ConstCounter::new(*value).encode(family.encode_family(&labels)?)?;
                    }
                    (MetricValue::Gauge(_), MetricValue::Gauge(value)) => {
                        ConstGauge::new(*value).encode(family.encode_family(&labels)?)?;
                    }
                    (MetricValue::Histogram { .. }, MetricValue::Histogram { count, sum, buckets }) => {
                        let mut all = buckets.clone();
                        let above = count.saturating_sub(buckets.iter().map(|(_, count)| count).sum());
                        all.push((f64::INFINITY, above));
                        let mut histogram = family.encode_family(&labels)?;
                        histogram.encode_histogram::<NoLabelSet>(*sum, *count, &all, None)?;
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Escapes a description as OpenMetrics requires, so that it stays in one line.
fn escaped(help: &str) -> String {
    help.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

const fn kind(value: &MetricValue) -> MetricType {
    match value {
        MetricValue::Counter(_) => MetricType::Counter,
        MetricValue::Gauge(_) => MetricType::Gauge,
        _ => MetricType::Histogram,
    }
}

fn target(channel: &hotpick::channel::ChannelStatus) -> Labels {
    vec![("grpc_target", channel.target.clone())]
}

/// Adds up the values of channels with the same target: a series must not occur twice.
fn merged<T: std::ops::AddAssign + Copy>(values: Vec<(Labels, T)>) -> Vec<(Labels, T)> {
    let mut merged = BTreeMap::new();
    for (labels, value) in values {
        merged.entry(labels).and_modify(|sum| *sum += value).or_insert(value);
    }
    merged.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn a_help_text_stays_in_its_line() {
        assert_eq!(escaped("a\n# TYPE b \"c\" \\"), "a\\n# TYPE b \\\"c\\\" \\\\");
    }
}
