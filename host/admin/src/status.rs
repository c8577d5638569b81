//! The status of policies and channels as JSON: `GET /policies` and `GET /channels`.

use std::time::{Duration, SystemTime};

use hotpick::PolicyDir;
use hotpick::channel::ChannelStatus;
use hotpick::directory::{PolicyStatus, RolloutStatus};
use hotpick::policy::{RolloutPhase, SideReading};
use hotpick::subconn::SubConn;
use serde_json::{Map, Value, json};

use crate::subjects::{Subjects, Watched};

/// Returns the status of all policies of the directory, and the active policy of each channel.
pub(crate) fn policies(subjects: &Subjects) -> Value {
    let policies = subjects.policies.iter().flat_map(PolicyDir::status);
    let channels = subjects.channels.iter().map(|watched| {
        let status = watched.channel.status();
        json!({
            "target": status.target,
            "state": status.state.to_string(),
            "policy": status.policy.name,
            "generation": status.policy.generation,
            "digest": status.policy.digest,
            "swaps": status.swaps,
            "refused": status.refused.map(|error| json!({
                "stage": error.stage().to_string(),
                "reason": error.to_string(),
            })),
        })
    });
    json!({
        "directory": subjects.policies.as_ref().map(|directory| directory.path().to_string_lossy().into_owned()),
        "panics": hotpick::panics(),
        "stray_settings": subjects.policies.as_ref().map(PolicyDir::stray_settings).unwrap_or_default(),
        "policies": policies.map(|policy| policy_json(&policy)).collect::<Vec<_>>(),
        "channels": channels.collect::<Vec<_>>(),
    })
}

pub(crate) fn policy_json(policy: &PolicyStatus) -> Value {
    let counts = |counts: Vec<(String, u64)>| -> Map<String, Value> {
        counts.into_iter().map(|(name, count)| (name, json!(count))).collect()
    };
    let faults = policy.faults.iter().map(|(kind, count)| (kind.name().to_owned(), *count)).collect();
    let rejections = policy.rejections.iter().map(|(stage, count)| (stage.to_string(), *count)).collect();
    let channels = policy.channels.iter().map(|one| {
        json!({
            "target": one.target,
            "generation": one.generation,
            "memory": one.memory,
            "pick_ns": one.pick_nanos,
        })
    });
    let refusals = policy.refusals.iter().map(|(target, refusal)| {
        json!({
            "target": target,
            "generation": refusal.generation,
            "stage": refusal.error.stage().to_string(),
            "reason": refusal.error.to_string(),
        })
    });
    json!({
        "name": policy.name,
        "state": policy.state.to_string(),
        "generation": policy.version.as_ref().map(|version| version.generation),
        "digest": policy.version.as_ref().map(|version| &version.digest),
        "last_good": policy.last_good,
        "present": policy.present,
        "enabled": policy.enabled,
        "rejected": policy.rejected.as_ref().map(|error| json!({
            "stage": error.stage().to_string(),
            "reason": error.to_string(),
        })),
        "quarantined": policy.quarantined.as_ref().map(|quarantine| json!({
            "generation": quarantine.version.generation,
            "digest": quarantine.version.digest,
            "reason": quarantine.reason,
        })),
        "picks": policy.totals.picks,
        "planned_picks": policy.totals.planned_picks,
        "fallback_picks": policy.totals.fallback_picks,
        "renewals": policy.totals.renewals,
        "faults": counts(faults),
        "last_fault": policy.last_fault,
        "loads": policy.loads,
        "rejections": counts(rejections),
        "channels": channels.collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
        "rollout": policy.rollout.as_ref().map(rollout_json),
        "last_rollout": policy.last_rollout.as_ref().map(rollout_json),
    })
}

/// Returns a rollout, with what both versions did in the present interval.
pub(crate) fn rollout_json(rollout: &RolloutStatus) -> Value {
    let side = |side: &SideReading| {
        let ms = |quantile| side.quantile(quantile).map(millis);
        json!({
            "rpcs": side.begun,
            "ended": side.ended,
            "failed": side.failed,
            "unserved": side.unserved,
            "fallback": side.fallback,
            "failure_rate": side.failure_rate(),
            "p50_ms": ms(0.5),
            "p99_ms": ms(0.99),
        })
    };
    let reading = &rollout.reading;
    json!({
        "mode": rollout.mode.to_string(),
        "generation": rollout.version.generation,
        "digest": rollout.version.digest,
        "paused": rollout.phase == RolloutPhase::Paused,
        "step": rollout.step + 1,
        "steps": rollout.steps,
        "share": rollout.share,
        "since": unix_millis(Some(rollout.since)),
        "verdict": rollout.verdict.as_ref().map(|verdict| json!({
            "name": verdict.name(),
            "text": verdict.to_string(),
        })),
        "active": side(&reading.active),
        "candidate": side(&reading.candidate),
        "compared": reading.compared,
        "agreed": reading.agreed,
        "events": rollout.events.iter().map(|event| json!({
            "at": unix_millis(Some(event.at)),
            "text": event.text,
        })).collect::<Vec<_>>(),
    })
}

/// Returns the status of all channels, with their endpoints.
pub(crate) fn channels(subjects: &Subjects) -> Value {
    let channels = subjects.channels.iter().enumerate().map(|(id, watched)| {
        let Watched { channel, calls } = watched;
        let status = channel.status();
        let totals = calls.totals();
        let mut json = channel_json(id, &status);
        json["calls"] = json!({
            "started": totals.started,
            "failed": totals.failed,
            "cancelled": totals.cancelled,
            "in_flight": totals.started.saturating_sub(totals.ended),
        });
        for (endpoint, subconn) in
            json["endpoints"].as_array_mut().into_iter().flatten().zip(&status.subconns)
        {
            let stats = subconn.stats();
            endpoint["in_flight"] = stats.in_flight.into();
            endpoint["picked"] = stats.picked.into();
            endpoint["succeeded"] = stats.succeeded.into();
            endpoint["failed"] = stats.failed.into();
            endpoint["cancelled"] = stats.cancelled.into();
            endpoint["latency_ms"] = millis(stats.latency).into();
            endpoint["failure_rate"] = stats.failure_rate.into();
            endpoint["dials"] = stats.dials.into();
        }
        json
    });
    json!({ "channels": channels.collect::<Vec<_>>() })
}

/// Returns what changes rarely of a channel.
pub(crate) fn channel_json(id: usize, status: &ChannelStatus) -> Value {
    let connections = &status.connections;
    json!({
        "id": id,
        "target": status.target,
        "state": status.state.to_string(),
        "policy": {
            "name": status.policy.name,
            "generation": status.policy.generation,
            "digest": status.policy.digest,
            "text": status.policy.to_string(),
        },
        "swaps": status.swaps,
        "refused": status.refused.as_ref().map(|error| json!({
            "stage": error.stage().to_string(),
            "reason": error.to_string(),
        })),
        "faults": {
            "count": status.faults.count,
            "fallback_picks": status.faults.fallback_picks,
            "last": status.faults.last,
        },
        "connections": {
            "open": connections.open,
            "attempts_succeeded": connections.attempts_succeeded,
            "attempts_failed": connections.attempts_failed,
            "disconnections": connections.disconnections,
        },
        "endpoints": status.subconns.iter().map(endpoint_json).collect::<Vec<_>>(),
    })
}

fn endpoint_json(subconn: &SubConn) -> Value {
    let (endpoint, stats) = (subconn.endpoint(), subconn.stats());
    let attributes = endpoint.attributes().iter().map(|(key, value)| (key.to_string(), json!(value)));
    json!({
        "id": subconn.id(),
        "addresses": endpoint.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "weight": endpoint.weight(),
        "attributes": attributes.collect::<Map<_, _>>(),
        "state": subconn.state().to_string(),
        "since": unix_millis(SystemTime::now().checked_sub(subconn.time_in_state())),
        "last_error": subconn.last_error(),
        "connections": stats.connections,
        "max_streams": stats.max_streams,
    })
}

/// Milliseconds since 1970.
pub(crate) fn unix_millis(time: Option<SystemTime>) -> u64 {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds with three decimals.
#[expect(clippy::cast_precision_loss, reason = "exact up to 285 years")]
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
