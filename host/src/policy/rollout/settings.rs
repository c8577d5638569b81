//! The settings of a rollout: `[rollout]` in a policy's settings.

use serde::Deserialize;

/// How a new version of a policy replaces the active one: `[rollout]` in `NAME.toml`. Without it, a new version is
/// active at once.
///
/// ```toml
/// [rollout]
/// mode = "canary"
/// steps = [1, 5, 25, 100]
/// interval = 30
/// min-rpcs = 200
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct RolloutSettings {
    /// What the new version does.
    pub mode: RolloutMode,
    /// Shares of the RPCs that a canary picks for, one step after the other (per cent).
    pub steps: Vec<f64>,
    /// Length of an interval, after which both versions are compared (s).
    pub interval: f64,
    /// RPCs of the new version that a verdict needs. An interval with fewer goes on.
    pub min_rpcs: u64,
    /// By how much more the share of failed RPCs may be than with the active version (0.01: by one per cent of the RPCs).
    pub max_error_increase: f64,
    /// By how much longer the latency may be than with the active version, at the median and at p99 (0.25: by a quarter).
    pub max_latency_increase: f64,
    /// Share of its RPCs that the fallback may pick for.
    pub max_fallback: f64,
}

/// What a new version does in its rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RolloutMode {
    /// Its picks are compared with those of the active version, and never used.
    Shadow,
    /// It picks for a share of the RPCs.
    #[default]
    Canary,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            mode: RolloutMode::default(),
            steps: vec![1.0, 5.0, 25.0, 100.0],
            interval: 30.0,
            min_rpcs: 200,
            max_error_increase: 0.01,
            max_latency_increase: 0.25,
            max_fallback: 0.001,
        }
    }
}

impl RolloutSettings {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If they cannot be used: a sentence that names the field.
    pub fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: f64, least: f64, most: f64| {
            let is_within = (least..=most).contains(&value);
            if is_within {
                Ok(())
            } else {
                Err(format!("rollout.{key} is {value}: use a number from {least} to {most}"))
            }
        };
        let rises = self.steps.windows(2).all(|two| two[0] < two[1]);
        if self.steps.is_empty() || self.steps.len() > 100 || !rises {
            let steps = &self.steps;
            return Err(format!(
                "rollout.steps is {steps:?}: use 1 to 100 numbers, each greater than the one before"
            ));
        }
        for step in &self.steps {
            within("steps", *step, 0.001, 100.0)?;
        }
        within("interval", self.interval, 0.1, 86_400.0)?;
        within("min-rpcs", self.min_rpcs as f64, 1.0, 1e9)?;
        within("max-error-increase", self.max_error_increase, 0.0, 1.0)?;
        within("max-latency-increase", self.max_latency_increase, 0.0, 1000.0)?;
        within("max-fallback", self.max_fallback, 0.0, 1.0)
    }
}

impl std::fmt::Display for RolloutMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shadow => "shadow",
            Self::Canary => "canary",
        })
    }
}
