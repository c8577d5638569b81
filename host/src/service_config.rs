//! gRPC's service config: the load-balancing policy, and defaults for the RPCs of each method.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A service config (gRPC's `doc/service_config.md`), parsed from JSON.
///
/// hotpick reads `loadBalancingConfig` (gRFC A24), `loadBalancingPolicy`, `methodConfig` (its members `name`, `timeout`
/// and `waitForReady`) and `healthCheckConfig` (gRFC A17). As in gRPC, all other members are ignored.
///
/// ```
/// use hotpick::service_config::ServiceConfig;
///
/// let config: ServiceConfig = r#"{
///     "loadBalancingConfig": [{"color": {"unmatched": "any"}}, {"round_robin": {}}],
///     "methodConfig": [{"name": [{"service": "shop.Cart"}], "timeout": "1.5s", "waitForReady": true}],
///     "healthCheckConfig": {"serviceName": "shop.Cart"}
/// }"#
/// .parse()?;
/// # Ok::<(), hotpick::service_config::ServiceConfigError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceConfig {
    pub(crate) policies: Vec<PolicyConfig>,
    pub(crate) methods: Arc<MethodConfigs>,
    pub(crate) health: Option<String>,
}

/// Error of parsing a [`ServiceConfig`]. Its text is one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("service config: {0}")]
pub struct ServiceConfigError(String);

/// The name and configuration of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyConfig {
    pub(crate) name: String,
    /// JSON.
    pub(crate) config: String,
}

/// Settings for the RPCs of each method.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MethodConfigs {
    /// Keys are `/service/method`, `/service/`, or the empty string for all other methods.
    by_path: HashMap<String, MethodConfig>,
}

/// Settings for an RPC that does not set them itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MethodConfig {
    /// Maximum duration of an RPC. `None`: no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
}

impl ServiceConfig {
    /// Sets the load-balancing policy and its configuration. Replaces the previous policies.
    #[must_use]
    pub fn with_policy(mut self, name: impl Into<String>, config: &Value) -> Self {
        self.policies = vec![PolicyConfig { name: name.into(), config: config.to_string() }];
        self
    }

    /// Reads a service config from its JSON object.
    ///
    /// # Errors
    ///
    /// Returns an error if a member that hotpick reads is malformed.
    pub fn from_json(json: Value) -> Result<Self, ServiceConfigError> {
        let raw: Raw = serde_json::from_value(json).map_err(|error| ServiceConfigError(error.to_string()))?;
        raw.check()
    }
}

impl std::str::FromStr for ServiceConfig {
    type Err = ServiceConfigError;

    fn from_str(json: &str) -> Result<Self, ServiceConfigError> {
        let raw: Raw = serde_json::from_str(json).map_err(|error| ServiceConfigError(error.to_string()))?;
        raw.check()
    }
}

impl MethodConfigs {
    /// Returns the settings for RPCs of this path (`/service/method`): from the entry of the method, else of the
    /// service, else of all methods.
    pub(crate) fn of(&self, path: &str) -> MethodConfig {
        if self.by_path.is_empty() {
            return MethodConfig::default();
        }
        let service = path.rfind('/').map_or("", |slash| &path[..=slash]);
        [path, service, ""].iter().find_map(|key| self.by_path.get(*key)).copied().unwrap_or_default()
    }
}

/// The JSON form of a service config.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    load_balancing_config: Vec<Map<String, Value>>,
    load_balancing_policy: Option<String>,
    #[serde(default)]
    method_config: Vec<RawMethod>,
    health_check_config: Option<RawHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMethod {
    #[serde(default)]
    name: Vec<RawName>,
    timeout: Option<String>,
    wait_for_ready: Option<bool>,
}

#[derive(Deserialize)]
struct RawName {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHealth {
    service_name: Option<String>,
}

impl Raw {
    fn check(self) -> Result<ServiceConfig, ServiceConfigError> {
        let mut policies = Vec::new();
        for entry in self.load_balancing_config {
            // The JSON form of a protobuf oneof has exactly one member.
            let count = entry.len();
            let (Some((name, config)), 1) = (entry.into_iter().next(), count) else {
                return Err(ServiceConfigError(format!(
                    "an entry of loadBalancingConfig has {count} policies instead of one"
                )));
            };
            if !config.is_object() {
                return Err(ServiceConfigError(format!(
                    "the configuration of policy {name:?} is not a JSON object"
                )));
            }
            policies.push(PolicyConfig { name, config: config.to_string() });
        }
        if policies.is_empty()
            && let Some(name) = self.load_balancing_policy
        {
            // The deprecated field, whose values may be in upper case.
            policies.push(PolicyConfig { name: name.to_ascii_lowercase(), config: "{}".to_owned() });
        }

        let mut by_path = HashMap::new();
        for method in self.method_config {
            let timeout = method.timeout.as_deref().map(duration).transpose()?;
            let config = MethodConfig { timeout, wait_for_ready: method.wait_for_ready };
            for name in method.name {
                let path = match (name.service.as_str(), name.method.as_str()) {
                    ("", "") => String::new(),
                    ("", method) => {
                        return Err(ServiceConfigError(format!(
                            "methodConfig names the method {method:?} without a service"
                        )));
                    }
                    (service, method) => format!("/{service}/{method}"),
                };
                if by_path.insert(path.clone(), config).is_some() {
                    return Err(ServiceConfigError(format!("methodConfig names {path:?} twice")));
                }
            }
        }
        let health = self.health_check_config.map(|health| health.service_name.unwrap_or_default());
        Ok(ServiceConfig { policies, methods: Arc::new(MethodConfigs { by_path }), health })
    }
}

/// Parses a duration in protobuf's JSON form: seconds with up to nine decimals, and the suffix `s`.
fn duration(text: &str) -> Result<Duration, ServiceConfigError> {
    let parsed = || {
        let (seconds, fraction) = match text.strip_suffix('s')?.split_once('.') {
            None => (text.strip_suffix('s')?, ""),
            Some((_, "")) => return None,
            Some((seconds, fraction)) => (seconds, fraction),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let nanos = format!("{fraction:0<9}").parse().ok()?;
        Some(Duration::new(seconds.parse().ok()?, nanos))
    };
    parsed().ok_or_else(|| {
        ServiceConfigError(format!(
            "invalid duration {text:?}: expected seconds with an \"s\" suffix, such as \"1.5s\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(json: &str) -> String {
        json.parse::<ServiceConfig>().expect_err(json).to_string()
    }

    #[test]
    fn unknown_members_are_ignored() {
        let config: ServiceConfig =
            r#"{"retryThrottling": {}, "methodConfig": [{"name": [{}], "retryPolicy": {}}]}"#
                .parse()
                .expect("a config");
        assert!(config.policies.is_empty() && config.health.is_none());
    }

    #[test]
    fn the_most_specific_entry_applies() {
        let config: ServiceConfig = r#"{"methodConfig": [
            {"name": [{}], "timeout": "3s"},
            {"name": [{"service": "a.B"}, {"service": "c.D", "method": "E"}], "timeout": "2.5s", "waitForReady": true},
            {"name": [{"service": "a.B", "method": "C"}]}
        ]}"#
        .parse()
        .expect("a config");
        let of = |path| {
            let method = config.methods.of(path);
            (method.timeout.map(|timeout| timeout.as_millis()), method.wait_for_ready)
        };
        assert_eq!(of("/a.B/C"), (None, None));
        assert_eq!(of("/a.B/X"), (Some(2500), Some(true)));
        assert_eq!(of("/c.D/E"), (Some(2500), Some(true)));
        assert_eq!(of("/c.D/F"), (Some(3000), None));
        assert_eq!(of(""), (Some(3000), None));
    }

    #[test]
    fn a_malformed_config_is_refused_with_one_sentence() {
        for (json, sentence) in [
            ("{", "EOF while parsing an object"),
            ("[]", "invalid"),
            (r#"{"loadBalancingConfig": [{"a": {}, "b": {}}]}"#, "has 2 policies instead of one"),
            (
                r#"{"loadBalancingConfig": [{"a": 1}]}"#,
                "the configuration of policy \"a\" is not a JSON object",
            ),
            (
                r#"{"methodConfig": [{"name": [{}], "timeout": "1m"}]}"#,
                "invalid duration \"1m\": expected seconds with an \"s\" suffix",
            ),
            (r#"{"methodConfig": [{"name": [{"method": "x"}]}]}"#, "the method \"x\" without a service"),
            (r#"{"methodConfig": [{"name": [{}, {}]}]}"#, "names \"\" twice"),
        ] {
            assert!(refused(json).contains(sentence), "{json}: {}", refused(json));
        }
    }

    #[test]
    fn durations_are_those_of_protobuf() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1.000000001s"), Ok(Duration::new(1, 1)));
        assert_eq!(duration("3.25s"), Ok(Duration::from_millis(3250)));
        for bad in ["", "s", "1", ".5s", "1.s", "-1s", "1.0000000001s", "1 s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<ServiceConfig>();
            let _ = duration(&text);
        }
    }
}
