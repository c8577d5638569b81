//! The members of a service config that gRFC A6 defines.

use serde_json::Value;
use tonic::Code;

use super::duration::duration;
use super::error::ServiceConfigError;
use crate::retry::{Codes, HedgingPolicy, RetryPolicy, Throttling};

/// A member of a JSON object, and how errors name it.
struct Member<'a> {
    of: &'static str,
    name: &'static str,
    value: Option<&'a Value>,
}

/// Reads `retryPolicy`.
pub(super) fn retry_policy(json: &Value) -> Result<RetryPolicy, ServiceConfigError> {
    const OF: &str = "retryPolicy";
    an_object(json, OF)?;
    let member = |name| Member::of(json, OF, name);
    let policy = RetryPolicy {
        max_attempts: member("maxAttempts").attempts()?,
        initial_backoff: member("initialBackoff")
            .required(|value| duration(value.as_str().unwrap_or_default()))?,
        max_backoff: member("maxBackoff").required(|value| duration(value.as_str().unwrap_or_default()))?,
        backoff_multiplier: member("backoffMultiplier").number()?,
        codes: member("retryableStatusCodes").codes()?,
    };
    policy.checked().map_err(|error| ServiceConfigError::new(format!("{OF}: {error}")))
}

/// Reads `hedgingPolicy`.
pub(super) fn hedging_policy(json: &Value) -> Result<HedgingPolicy, ServiceConfigError> {
    const OF: &str = "hedgingPolicy";
    an_object(json, OF)?;
    let member = |name| Member::of(json, OF, name);
    let delay = member("hedgingDelay");
    let codes = member("nonFatalStatusCodes");
    let policy = HedgingPolicy {
        max_attempts: member("maxAttempts").attempts()?,
        delay: match delay.value {
            None => std::time::Duration::ZERO,
            Some(_) => delay.required(|value| duration(value.as_str().unwrap_or_default()))?,
        },
        non_fatal: if codes.value.is_none() { Codes::none() } else { codes.codes()? },
    };
    policy.checked().map_err(|error| ServiceConfigError::new(format!("{OF}: {error}")))
}

/// Reads `retryThrottling`.
pub(super) fn throttling(json: &Value) -> Result<Throttling, ServiceConfigError> {
    const OF: &str = "retryThrottling";
    an_object(json, OF)?;
    let tokens = Member::of(json, OF, "maxTokens");
    let max = tokens.value.and_then(Value::as_u64).filter(|max| (1..=1000).contains(max));
    let max = max
        .and_then(|max| u32::try_from(max).ok())
        .ok_or_else(|| tokens.expected("an integer from 1 to 1000"))?;
    let ratio = Member::of(json, OF, "tokenRatio");
    // Decimals beyond the third are ignored. No success can fill more than the whole bucket.
    let thousandths = (ratio.number()? * 1000.0).clamp(0.0, 1_000_000.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to a million, and cut on purpose"
    )]
    let thousandths = thousandths as u32;
    if thousandths == 0 {
        return Err(ratio.expected("a number of at least 0.001"));
    }
    Ok(Throttling { max: max * 1000, ratio: thousandths })
}

fn an_object(json: &Value, of: &str) -> Result<(), ServiceConfigError> {
    if json.is_object() { Ok(()) } else { Err(ServiceConfigError::new(format!("{of} is not a JSON object"))) }
}

impl<'a> Member<'a> {
    fn of(json: &'a Value, of: &'static str, name: &'static str) -> Self {
        Self { of, name, value: json.get(name).filter(|value| !value.is_null()) }
    }

    fn expected(&self, what: &str) -> ServiceConfigError {
        let Self { of, name, value } = self;
        ServiceConfigError::new(match value {
            None => format!("{of} lacks {name}: expected {what}"),
            Some(value) => format!("{of}: {name} is {value}: expected {what}"),
        })
    }

    fn required<T>(
        &self,
        read: impl FnOnce(&Value) -> Result<T, ServiceConfigError>,
    ) -> Result<T, ServiceConfigError> {
        let what = "seconds with an \"s\" suffix, such as \"1.5s\"";
        self.value.and_then(|value| read(value).ok()).ok_or_else(|| self.expected(what))
    }

    fn attempts(&self) -> Result<u32, ServiceConfigError> {
        let attempts = self.value.and_then(Value::as_u64);
        let attempts = attempts.ok_or_else(|| self.expected("an integer of at least 2"))?;
        Ok(u32::try_from(attempts).unwrap_or(u32::MAX))
    }

    fn number(&self) -> Result<f64, ServiceConfigError> {
        self.value.and_then(Value::as_f64).ok_or_else(|| self.expected("a number greater than 0"))
    }

    fn codes(&self) -> Result<Codes, ServiceConfigError> {
        let list =
            self.value.and_then(Value::as_array).ok_or_else(|| self.expected("a list of status codes"))?;
        list.iter().try_fold(Codes::none(), |codes, value| {
            let code: Option<Code> = match value {
                Value::String(name) => Codes::by_name(name),
                Value::Number(number) => number.as_u64().and_then(Codes::by_number),
                _ => None,
            };
            let code = code.ok_or_else(|| {
                let Self { of, name, .. } = self;
                ServiceConfigError::new(format!(
                    "{of}: {name} contains {value}: expected the name or number of a status code"
                ))
            })?;
            Ok(codes.with(code))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::ServiceConfig;
    use super::*;

    fn retry() -> Value {
        json!({
            "maxAttempts": 4,
            "initialBackoff": "0.1s",
            "maxBackoff": "1s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "aborted", 8]
        })
    }

    #[test]
    fn the_example_of_the_specification_is_read() {
        let policy = retry_policy(&retry()).expect("a policy");
        assert_eq!((policy.max_attempts, policy.backoff_multiplier), (4, 2.0));
        assert_eq!((policy.initial_backoff.as_millis(), policy.max_backoff.as_millis()), (100, 1000));
        let codes = [Code::Unavailable, Code::Aborted, Code::ResourceExhausted];
        assert_eq!(policy.codes, codes.into_iter().fold(Codes::none(), Codes::with));
        let hedging = hedging_policy(&json!({"maxAttempts": 3})).expect("a policy");
        assert!(hedging.delay.is_zero() && hedging.non_fatal.is_empty());
        assert_eq!(
            throttling(&json!({"maxTokens": 10, "tokenRatio": 0.5466})).expect("valid"),
            Throttling { max: 10_000, ratio: 546 }
        );
    }

    #[test]
    fn a_bad_value_is_refused_with_a_sentence_that_names_it() {
        for (member, value, sentence) in [
            ("maxAttempts", json!(1), "retryPolicy: maxAttempts is 1: expected at least 2"),
            ("maxAttempts", json!(2.5), "retryPolicy: maxAttempts is 2.5: expected an integer of at least 2"),
            ("maxAttempts", json!(-1), "maxAttempts is -1: expected an integer"),
            ("maxAttempts", Value::Null, "retryPolicy lacks maxAttempts: expected an integer of at least 2"),
            ("initialBackoff", json!("0s"), "retryPolicy: initialBackoff is 0: expected more"),
            ("maxBackoff", json!("1m"), "maxBackoff is \"1m\": expected seconds with an \"s\" suffix"),
            ("backoffMultiplier", json!(0), "backoffMultiplier is 0: expected a number greater than 0"),
            ("backoffMultiplier", json!("2"), "backoffMultiplier is \"2\": expected a number greater than 0"),
            ("retryableStatusCodes", json!([]), "retryableStatusCodes is empty: expected at least one code"),
            ("retryableStatusCodes", json!("UNAVAILABLE"), "expected a list of status codes"),
            (
                "retryableStatusCodes",
                json!(["GONE"]),
                "contains \"GONE\": expected the name or number of a status code",
            ),
            (
                "retryableStatusCodes",
                json!([17]),
                "contains 17: expected the name or number of a status code",
            ),
        ] {
            let mut json = retry();
            json[member] = value;
            let error = retry_policy(&json).expect_err(sentence).to_string();
            assert!(error.contains(sentence), "{error}");
        }
        for (json, sentence) in [
            (json!({"maxTokens": 0, "tokenRatio": 1}), "maxTokens is 0: expected an integer from 1 to 1000"),
            (json!({"maxTokens": 1001, "tokenRatio": 1}), "maxTokens is 1001"),
            (json!({"maxTokens": 1}), "retryThrottling lacks tokenRatio"),
            (
                json!({"maxTokens": 1, "tokenRatio": 0.0005}),
                "tokenRatio is 0.0005: expected a number of at least 0.001",
            ),
        ] {
            let error = throttling(&json).expect_err(sentence).to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }

    /// One bad member refuses the whole config (gRFC A21).
    #[test]
    fn a_config_with_a_bad_policy_is_refused_whole() {
        let both = json!({"methodConfig": [{"name": [{}], "retryPolicy": retry(), "hedgingPolicy": {"maxAttempts": 2}}]});
        let error = ServiceConfig::from_json(both).expect_err("both").to_string();
        assert!(error.contains("both retryPolicy and hedgingPolicy"), "{error}");
        // Also if no method is named by it.
        let unused = json!({"methodConfig": [{"name": [], "hedgingPolicy": {"maxAttempts": 1}}]});
        let error = ServiceConfig::from_json(unused).expect_err("one attempt").to_string();
        assert!(error.contains("hedgingPolicy: maxAttempts is 1: expected at least 2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_number_panics(attempts in any::<f64>(), ratio in any::<f64>(), tokens in any::<i64>()) {
            let _ = retry_policy(&json!({"maxAttempts": attempts, "backoffMultiplier": ratio}));
            let _ = throttling(&json!({"maxTokens": tokens, "tokenRatio": ratio}));
        }
    }
}
