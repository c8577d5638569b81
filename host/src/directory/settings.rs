//! The settings of a policy: `color.toml` beside `color.wasm`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::options::PolicyDirOptions;
use crate::files::from_toml;
use crate::lifecycle::PolicyVersion;
use crate::policy::{Grants, Limits, OnFault, PolicyError, PolicySpec, RolloutSettings};
use crate::trace::RecordSettings;

/// Maximum number of instances of a policy in a channel.
const MOST_SHARDS: u32 = 64;

/// The settings of a policy. Unknown keys are errors: a misspelled restriction must not be ignored.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    /// Required digest of the file, in hexadecimal. `None`: any.
    pub(super) wasm_sha256: Option<String>,
    /// Configuration for channels that pass none of their own.
    pub(super) config: Option<serde_json::Map<String, serde_json::Value>>,
    grants: GrantSettings,
    limits: LimitSettings,
    on_fault: FaultSetting,
    /// Number of instances in each channel.
    shards: u32,
    /// Whether the policy may plan picks ahead.
    plans: bool,
    /// How the policy is recorded. `None`: as the options of the directory say.
    record: Option<RecordSettings>,
    /// How this version replaces the one before. `None`: at once.
    pub(super) rollout: Option<RolloutSettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct GrantSettings {
    capabilities: Option<BTreeSet<String>>,
    metadata: Option<BTreeSet<String>>,
    set_metadata: Option<BTreeSet<String>>,
}

/// Limits in the settings. The names of the keys contain the units.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct LimitSettings {
    pick_ms: Option<u64>,
    update_ms: Option<u64>,
    init_ms: Option<u64>,
    save_ms: Option<u64>,
    memory_mib: Option<u64>,
    table_elements: Option<u64>,
    metadata_keys: Option<u64>,
    metadata_value_bytes: Option<u64>,
    log_line_bytes: Option<u64>,
    log_lines_per_second: Option<u64>,
    saved_kib: Option<u64>,
    instruments: Option<u64>,
    timers: Option<u64>,
    faults_per_minute: Option<u64>,
    timer_ms: Option<u64>,
    result_kib: Option<u64>,
    config_kib: Option<u64>,
    compile_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FaultSetting {
    #[default]
    RoundRobin,
    Fail,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            wasm_sha256: None,
            config: None,
            grants: GrantSettings::default(),
            limits: LimitSettings::default(),
            on_fault: FaultSetting::default(),
            shards: 1,
            plans: true,
            record: None,
            rollout: None,
        }
    }
}

/// Settings with this first line are complete when their last line is [`END`].
pub(super) const BEGIN: &str = "# begin";
/// See [`BEGIN`].
pub(super) const END: &str = "# end";

impl Settings {
    /// Returns whether the settings are complete, as far as they show it. Half of a file may be well-formed, and grant
    /// what the other half takes back.
    pub(super) fn are_finished(bytes: &[u8]) -> bool {
        let lines = bytes.trim_ascii();
        let first = lines.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
        first != BEGIN.as_bytes() || last == END.as_bytes()
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| PolicyError::Settings(format!("they are not UTF-8: {error}")))?;
        from_toml(text).map_err(PolicyError::Settings)
    }

    /// Rejects a file whose digest is not the one that the settings require.
    pub(super) fn check(&self, digest: &str) -> Result<(), PolicyError> {
        match &self.wasm_sha256 {
            Some(wanted) if !wanted.eq_ignore_ascii_case(digest) => {
                Err(PolicyError::Digest { found: digest.to_owned(), wanted: wanted.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Returns whether both settings run a version in the same way.
    pub(super) fn has_same_spec(&self, other: &Self) -> bool {
        let fields = |of: &Self| {
            let (config, grants, limits) = (of.config.clone(), of.grants.clone(), of.limits.clone());
            (config, grants, limits, of.on_fault, of.shards, of.plans, of.record.clone())
        };
        fields(self) == fields(other)
    }

    /// Returns the specification of a version with these settings.
    pub(super) fn spec(
        &self,
        version: PolicyVersion,
        options: &PolicyDirOptions,
    ) -> Result<PolicySpec, PolicyError> {
        let mut spec = PolicySpec::new(version, self.limits(&options.limits, &options.caps)?);
        let json = |config| serde_json::Value::Object(config).to_string().into();
        spec.config = self.config.clone().map(json);
        spec.grants = Arc::new(self.grants()?);
        spec.on_fault = self.on_fault();
        spec.shards = self.shards()?;
        spec.plans = self.plans;
        spec.enabled = self.enabled;
        let record = self.record.as_ref().or(options.record.as_ref());
        record.map_or(Ok(()), RecordSettings::check).map_err(PolicyError::Settings)?;
        spec.record = record.cloned().map(Arc::new);
        self.rollout.as_ref().map_or(Ok(()), RolloutSettings::check).map_err(PolicyError::Settings)?;
        Ok(spec)
    }

    fn grants(&self) -> Result<Grants, PolicyError> {
        let GrantSettings { capabilities, metadata, set_metadata } = self.grants.clone();
        let grants = Grants { capabilities, metadata, set_metadata };
        grants.check().map_err(PolicyError::Settings)?;
        Ok(grants)
    }

    fn shards(&self) -> Result<u32, PolicyError> {
        if (1..=MOST_SHARDS).contains(&self.shards) {
            Ok(self.shards)
        } else {
            let found = self.shards;
            Err(PolicyError::Settings(format!("shards is {found}: use a number from 1 to {MOST_SHARDS}")))
        }
    }

    const fn on_fault(&self) -> OnFault {
        match self.on_fault {
            FaultSetting::RoundRobin => OnFault::RoundRobin,
            FaultSetting::Fail => OnFault::Fail,
        }
    }

    /// Returns the limits of a version: those of the host, unless the settings change them within the host's caps.
    fn limits(&self, host: &Limits, caps: &Limits) -> Result<Limits, PolicyError> {
        let of = &self.limits;
        let mut limits = *host;
        let (ms, second) = (Duration::from_millis(1), Duration::from_secs(1));
        set("pick-ms", &mut limits.pick, of.pick_ms, EACH, ms, caps.pick)?;
        set("update-ms", &mut limits.update, of.update_ms, EACH, ms, caps.update)?;
        set("init-ms", &mut limits.init, of.init_ms, EACH, ms, caps.init)?;
        set("save-ms", &mut limits.save, of.save_ms, EACH, ms, caps.save)?;
        set("timer-ms", &mut limits.timer, of.timer_ms, EACH, caps.timer, Duration::MAX)?;
        set("compile-seconds", &mut limits.compile, of.compile_seconds, SECONDS, second, caps.compile)?;
        set("memory-mib", &mut limits.memory, of.memory_mib, MIB, 1 << 20, caps.memory)?;
        set("result-kib", &mut limits.handed_over, of.result_kib, KIB, 1 << 10, caps.handed_over)?;
        set("config-kib", &mut limits.config, of.config_kib, KIB, 1 << 10, caps.config)?;
        set("saved-kib", &mut limits.saved, of.saved_kib, KIB, 0, caps.saved)?;
        set("table-elements", &mut limits.table, of.table_elements, EACH, 0, caps.table)?;
        set("metadata-keys", &mut limits.metadata_keys, of.metadata_keys, EACH, 0, caps.metadata_keys)?;
        let value = &mut limits.metadata_value;
        set("metadata-value-bytes", value, of.metadata_value_bytes, EACH, 0, caps.metadata_value)?;
        set("log-line-bytes", &mut limits.log_line, of.log_line_bytes, EACH, 1, caps.log_line)?;
        set("log-lines-per-second", &mut limits.log_lines, of.log_lines_per_second, EACH, 0, caps.log_lines)?;
        set("instruments", &mut limits.instruments, of.instruments, EACH, 0, caps.instruments)?;
        set("timers", &mut limits.timers, of.timers, EACH, 0, caps.timers)?;
        set("faults-per-minute", &mut limits.faults, of.faults_per_minute, EACH, 1, caps.faults)?;
        Ok(limits)
    }
}

/// Sets a limit to the number in the settings, in the unit of its key. `None`: the limit stays as it is.
fn set<T: Measure>(
    key: &str,
    limit: &mut T,
    said: Option<u64>,
    unit: Unit,
    least: T,
    most: T,
) -> Result<(), PolicyError> {
    let Some(said) = said else { return Ok(()) };
    let value = T::of(said, unit);
    let refused = |why: String| Err(PolicyError::Settings(format!("limits.{key} is {said}{why}")));
    if value < least {
        refused(format!(", less than {}", least.count(unit)))
    } else if value > most {
        refused(format!(", and this host allows no more than {}", most.count(unit)))
    } else {
        *limit = value;
        Ok(())
    }
}

/// Unit of a number in the settings: in milliseconds for a time, in bytes or items for a count.
type Unit = u64;
const EACH: Unit = 1;
const SECONDS: Unit = 1000;
const KIB: Unit = 1 << 10;
const MIB: Unit = 1 << 20;

/// A limited quantity: a time, or a count.
trait Measure: Copy + PartialOrd {
    fn of(number: u64, unit: Unit) -> Self;
    /// Returns the quantity in units.
    fn count(self, unit: Unit) -> u128;
}

impl Measure for Duration {
    fn of(number: u64, unit: Unit) -> Self {
        Self::from_millis(number.saturating_mul(unit))
    }

    fn count(self, unit: Unit) -> u128 {
        self.as_millis() / u128::from(unit)
    }
}

impl Measure for usize {
    fn of(number: u64, unit: Unit) -> Self {
        Self::try_from(number.saturating_mul(unit)).unwrap_or(Self::MAX)
    }

    fn count(self, unit: Unit) -> u128 {
        self as u128 / u128::from(unit)
    }
}

impl Measure for u32 {
    fn of(number: u64, unit: Unit) -> Self {
        Self::try_from(number.saturating_mul(unit)).unwrap_or(Self::MAX)
    }

    fn count(self, unit: Unit) -> u128 {
        u128::from(self) / u128::from(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_say_all_of_this() {
        let settings = Settings::parse(
            br#"
            enabled = false
            wasm-sha256 = "AB"
            on-fault = "fail"
            [config]
            unmatched = "any"
            weights = { a = 1 }
            [grants]
            capabilities = ["env", "call"]
            metadata = ["color"]
            set-metadata = []
            [limits]
            pick-ms = 5
            update-ms = 20
            init-ms = 2000
            save-ms = 20
            memory-mib = 64
            table-elements = 1000
            metadata-keys = 1
            metadata-value-bytes = 100
            log-line-bytes = 200
            log-lines-per-second = 1
            saved-kib = 1
            instruments = 0
            timers = 1
            faults-per-minute = 10
            timer-ms = 5
            result-kib = 64
            config-kib = 1
            compile-seconds = 5
            "#,
        )
        .expect("settings");
        assert!(!settings.enabled && settings.check("ab").is_ok());
        let config = serde_json::Value::Object(settings.config.clone().expect("a configuration"));
        assert_eq!(config.to_string(), r#"{"unmatched":"any","weights":{"a":1}}"#);
        assert_eq!(
            settings.check("cd").expect_err("another").to_string(),
            "has the SHA-256 cd, but its settings ask for AB"
        );
        assert_eq!(settings.on_fault(), OnFault::Fail);
        assert_eq!(settings.grants().expect("capabilities").capabilities.map(|names| names.len()), Some(2));
        let limits = settings.limits(&Limits::default(), &Limits::caps()).expect("below the caps");
        assert_eq!((limits.pick, limits.memory), (Duration::from_millis(5), 64 << 20));
        assert_eq!(Settings::parse(b"").expect("settings"), Settings::default());
        let none = Settings::default().limits(&Limits::default(), &Limits::caps());
        assert_eq!(none, Ok(Limits::default()));
    }

    #[test]
    fn settings_may_say_where_they_end() {
        for (text, finished) in [
            ("", true),
            ("enabled = true", true),
            ("# begin", false),
            ("# begin\nenabled = true\n", false),
            ("# begin\nenabled = true\n# end\n", true),
            ("\n # begin \r\nenabled = true\r\n# end", true),
        ] {
            assert_eq!(Settings::are_finished(text.as_bytes()), finished, "{text:?}");
        }
    }

    #[test]
    fn malformed_settings_are_refused_with_their_line() {
        for (text, sentence) in [
            ("enabled = true\nenable = false\n", "line 2: unknown field `enable`"),
            ("enabled = 'yes'", "line 1: invalid type: string \"yes\", expected a boolean"),
            ("[config", "line 1: "),
            ("[limits]\nmemory = 3\n", "line 2: unknown field `memory`"),
            ("on-fault = 'panic'", "line 1: unknown variant `panic`"),
        ] {
            let error = Settings::parse(text.as_bytes()).expect_err(text).to_string();
            assert!(
                error.starts_with("has settings that cannot be used: ") && error.contains(sentence),
                "{error}"
            );
        }
    }

    #[test]
    fn what_the_host_does_not_allow_is_refused_by_name() {
        for (text, sentence) in [
            ("[limits]\npick-ms = 0", "limits.pick-ms is 0, less than 1"),
            ("[limits]\npick-ms = 1000", "limits.pick-ms is 1000, and this host allows no more than 50"),
            (
                "[limits]\nmemory-mib = 2048",
                "limits.memory-mib is 2048, and this host allows no more than 1024",
            ),
            ("[limits]\nmemory-mib = 18446744073709", "limits.memory-mib is 18446744073709, and this"),
            (
                "[limits]\ncompile-seconds = 700",
                "compile-seconds is 700, and this host allows no more than 600",
            ),
            ("[limits]\ntimers = 65", "limits.timers is 65, and this host allows no more than 64"),
            ("[grants]\ncapabilities = ['stat']", "\"stat\" is not a capability: there are env, stats, call"),
        ] {
            let settings = Settings::parse(text.as_bytes()).expect(text);
            let limits = settings.limits(&Limits::default(), &Limits::caps());
            let error = limits.map(drop).and(settings.grants().map(drop)).expect_err(text).to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
