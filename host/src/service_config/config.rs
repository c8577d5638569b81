//! A service config and its JSON form.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::duration::duration;
use super::error::ServiceConfigError;
use super::retries;
use crate::retry::{CallPolicy, RetryPolicy, Throttling};

/// A service config (gRPC's `doc/service_config.md`), parsed from JSON.
///
/// hotpick reads `loadBalancingConfig` (gRFC A24), `loadBalancingPolicy`, `methodConfig` (its members `name`, `timeout`,
/// `waitForReady`, `retryPolicy` and `hedgingPolicy`), `retryThrottling` (all three gRFC A6) and `healthCheckConfig`
/// (gRFC A17). As in gRPC, all other members are ignored.
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
    pub(crate) throttling: Option<Throttling>,
}

/// Settings for an RPC that does not set them itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MethodConfig {
    /// Maximum duration of an RPC. `None`: no limit.
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
    pub(crate) policy: Option<Arc<CallPolicy>>,
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
        let raw: Raw =
            serde_json::from_value(json).map_err(|error| ServiceConfigError::new(error.to_string()))?;
        raw.check()
    }
}

impl ServiceConfig {
    /// Reads a retry policy from its JSON object, as in `methodConfig`: for
    /// [`RetryOptions::policy`](crate::retry::RetryOptions::policy).
    ///
    /// # Errors
    ///
    /// A member is missing, or out of its range (gRFC A6, "Validation of retryPolicy").
    pub fn retry_policy(json: &Value) -> Result<RetryPolicy, ServiceConfigError> {
        retries::retry_policy(json).map_err(|error| error.about("retry policy"))
    }
}

impl std::str::FromStr for ServiceConfig {
    type Err = ServiceConfigError;

    fn from_str(json: &str) -> Result<Self, ServiceConfigError> {
        let raw: Raw =
            serde_json::from_str(json).map_err(|error| ServiceConfigError::new(error.to_string()))?;
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
        [path, service, ""].iter().find_map(|key| self.by_path.get(*key)).cloned().unwrap_or_default()
    }
}

/// The JSON form of a service config.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
struct Raw {
    #[serde(default)]
    load_balancing_config: Vec<Map<String, Value>>,
    load_balancing_policy: Option<String>,
    #[serde(default)]
    method_config: Vec<RawMethod>,
    retry_throttling: Option<Value>,
    health_check_config: Option<RawHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
struct RawMethod {
    #[serde(default)]
    name: Vec<RawName>,
    timeout: Option<String>,
    wait_for_ready: Option<bool>,
    retry_policy: Option<Value>,
    hedging_policy: Option<Value>,
}

#[derive(Deserialize)]
#[serde(expecting = "a JSON object")]
struct RawName {
    #[serde(default)]
    service: String,
    #[serde(default)]
    method: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a JSON object")]
struct RawHealth {
    service_name: Option<String>,
}

impl RawMethod {
    fn config(&self) -> Result<MethodConfig, ServiceConfigError> {
        let timeout = self.timeout.as_deref().map(duration).transpose()?;
        let policy = match (&self.retry_policy, &self.hedging_policy) {
            (None, None) => None,
            (Some(retry), None) => Some(CallPolicy::Retry(retries::retry_policy(retry)?)),
            (None, Some(hedging)) => Some(CallPolicy::Hedging(retries::hedging_policy(hedging)?)),
            (Some(_), Some(_)) => {
                let text = "both retryPolicy and hedgingPolicy: expected at most one";
                return Err(ServiceConfigError::new(text.to_owned()));
            }
        };
        Ok(MethodConfig { timeout, wait_for_ready: self.wait_for_ready, policy: policy.map(Arc::new) })
    }

    /// Says which entry of `methodConfig` this is.
    fn place(&self, number: usize) -> String {
        match self.name.first() {
            None => format!("methodConfig[{number}]"),
            Some(RawName { service, .. }) if service.is_empty() => {
                format!("methodConfig[{number}], of all methods")
            }
            Some(RawName { service, method }) => format!("methodConfig[{number}], of {service}/{method}"),
        }
    }
}

impl Raw {
    fn check(self) -> Result<ServiceConfig, ServiceConfigError> {
        let mut policies = Vec::new();
        for entry in self.load_balancing_config {
            // The JSON form of a protobuf oneof has exactly one member.
            let count = entry.len();
            let (Some((name, config)), 1) = (entry.into_iter().next(), count) else {
                return Err(ServiceConfigError::new(format!(
                    "an entry of loadBalancingConfig has {count} policies instead of one"
                )));
            };
            if !config.is_object() {
                return Err(ServiceConfigError::new(format!(
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
        for (number, method) in self.method_config.into_iter().enumerate() {
            let config = method.config().map_err(|error| error.within(&method.place(number)))?;
            for name in method.name {
                let path = match (name.service.as_str(), name.method.as_str()) {
                    ("", "") => String::new(),
                    ("", method) => {
                        return Err(ServiceConfigError::new(format!(
                            "methodConfig names the method {method:?} without a service"
                        )));
                    }
                    (service, method) => format!("/{service}/{method}"),
                };
                if by_path.insert(path.clone(), config.clone()).is_some() {
                    return Err(ServiceConfigError::new(format!("methodConfig names {path:?} twice")));
                }
            }
        }
        let health = self.health_check_config.map(|health| health.service_name.unwrap_or_default());
        let throttling = self.retry_throttling.as_ref().map(retries::throttling).transpose()?;
        Ok(ServiceConfig { policies, methods: Arc::new(MethodConfigs { by_path, throttling }), health })
    }
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
            r#"{"xdsConfig": {}, "methodConfig": [{"name": [{}], "maxRequestMessageBytes": 1}]}"#
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
            ("\"x\"", "expected a JSON object"),
            (
                r#"{"methodConfig": [{}, {"name": [{"service": "a.B"}], "retryPolicy": {}}]}"#,
                "service config: methodConfig[1], of a.B/: retryPolicy lacks maxAttempts",
            ),
            (
                r#"{"methodConfig": [{"name": [{}], "hedgingPolicy": "x"}]}"#,
                "methodConfig[0], of all methods: hedgingPolicy is not a JSON object",
            ),
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

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<ServiceConfig>();
        }
    }
}
