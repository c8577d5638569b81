//! `color.toml`, beside `color.wasm`: what the operator says of a policy.

use serde::Deserialize;

use crate::files::from_toml;
use crate::policy::PolicyError;

/// The settings of a policy. Unknown keys are errors: a typing error must not pass for consent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct Settings {
    pub(super) enabled: bool,
    /// The file must have this digest, in hexadecimal.
    pub(super) wasm_sha256: Option<String>,
    /// For channels that give the policy no configuration of their own.
    pub(super) config: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, wasm_sha256: None, config: None }
    }
}

impl Settings {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| PolicyError::Settings(format!("they are not UTF-8: {error}")))?;
        from_toml(text).map_err(PolicyError::Settings)
    }

    /// Refuses a file that is not the one that the settings ask for.
    pub(super) fn check(&self, digest: &str) -> Result<(), PolicyError> {
        match &self.wasm_sha256 {
            Some(wanted) if !wanted.eq_ignore_ascii_case(digest) => {
                Err(PolicyError::Digest { found: digest.to_owned(), wanted: wanted.clone() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_may_say_all_of_this() {
        let settings = Settings::parse(
            b"enabled = false\nwasm-sha256 = 'AB'\n[config]\nunmatched = 'any'\nweights = { a = 1 }\n",
        )
        .expect("settings");
        assert!(!settings.enabled && settings.check("ab").is_ok());
        let config = serde_json::Value::Object(settings.config.clone().expect("a configuration"));
        assert_eq!(config.to_string(), r#"{"unmatched":"any","weights":{"a":1}}"#);
        assert_eq!(
            settings.check("cd").expect_err("another").to_string(),
            "has the SHA-256 cd, but its settings ask for AB"
        );
        assert_eq!(Settings::parse(b"").expect("settings"), Settings::default());
    }

    #[test]
    fn malformed_settings_are_refused_with_their_line() {
        for (text, sentence) in [
            ("enabled = true\nenable = false\n", "line 2: unknown field `enable`"),
            ("enabled = 'yes'", "line 1: invalid type: string \"yes\", expected a boolean"),
            ("[config", "line 1: "),
        ] {
            let error = Settings::parse(text.as_bytes()).expect_err(text).to_string();
            assert!(
                error.starts_with("has settings that cannot be used: ") && error.contains(sentence),
                "{error}"
            );
        }
    }
}
