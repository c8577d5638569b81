//! `GET /policies`: the status of policies and channels as JSON.

use hotpick::directory::PolicyStatus;
use hotpick::{Channel, PolicyDir};
use serde_json::{Map, Value, json};

/// The policy directory and the channels that the admin listener reports.
pub(super) struct Subjects {
    pub(super) policies: Option<PolicyDir>,
    pub(super) channels: Vec<Channel>,
}

/// Returns the status of all policies of the directory, and the active policy of each channel.
pub(super) fn json(subjects: &Subjects) -> Value {
    let policies = subjects.policies.iter().flat_map(PolicyDir::status);
    let channels = subjects.channels.iter().map(|channel| {
        let status = channel.status();
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

fn policy_json(policy: &PolicyStatus) -> Value {
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
    })
}
