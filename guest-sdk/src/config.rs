//! Typed configurations. [`config!`](macro@crate::config) derives a type, its parser and its JSON Schema from one
//! declaration, so that they cannot differ.
//!
//! ```
//! use hotpick_guest::{Duration, config::Config as _};
//!
//! hotpick_guest::config! {
//!     /// Picks with a pause.
//!     struct Config {
//!         /// Number of endpoints to compare.
//!         #[range(2..=10)]
//!         choice_count: u32 = 2,
//!         /// How long to wait.
//!         pause: Duration = Duration::from_secs(10),
//!         /// Zone of this client.
//!         zone: String,
//!     }
//! }
//!
//! let config = Config::parse(r#"{ "zone": "a", "pause": "0.5s" }"#)?;
//! assert_eq!((config.choice_count, config.pause.as_millis(), config.zone.as_str()), (2, 500, "a"));
//!
//! let refused = |config| Config::parse(config).expect_err("wrong");
//! assert_eq!(refused(r#"{ "choiceCount": 1 }"#), "choiceCount: must be a whole number, 2 to 10, not 1");
//! assert_eq!(refused(r#"{ "zone": "a", "n": 1 }"#), "n: no such field; the fields are choiceCount, pause, zone");
//! assert_eq!(refused("{}"), "zone: must be given");
//! # Ok::<(), String>(())
//! ```
//!
//! Names are lowerCamelCase, as in gRPC's service config. Durations are strings such as `"1.5s"`, as in protobuf's
//! JSON mapping.

mod kinds;

pub use crate::json::Value;
use crate::json::{self, write_number, write_string};

/// A type of a configuration or of its fields.
pub trait Setting: Sized {
    /// Reads a value.
    ///
    /// # Errors
    ///
    /// The value has another type, or is out of range.
    fn read(value: &Value, range: Range) -> Result<Self, Refused>;

    /// Writes the JSON Schema of such values, without the braces around it.
    fn schema(range: Range, out: &mut String);

    /// Writes this value as JSON.
    fn write(&self, out: &mut String);

    /// Returns the value of a field that is missing and has no default. `None`: the field is required.
    fn absent() -> Option<Self> {
        None
    }
}

/// A complete configuration. [`config!`](macro@crate::config) implements it for structs.
pub trait Config: Setting {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// A sentence that begins with the name of the invalid field.
    fn parse(config: &str) -> Result<Self, String> {
        let value = json::parse(config).map_err(|error| Refused::because(&error));
        value.and_then(|value| Self::read(&value, Range::ALL)).map_err(Refused::into_sentence)
    }

    /// Returns the JSON Schema (draft 2020-12) of the configuration.
    #[must_use]
    fn json_schema() -> String {
        let mut schema = String::from("{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",");
        Self::schema(Range::ALL, &mut schema);
        schema.push('}');
        schema
    }
}

/// Inclusive bounds of a number, of a duration (s), or of the length of a string or list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    least: f64,
    most: f64,
}

impl Range {
    /// No bounds except those of the type.
    pub const ALL: Self = Self { least: f64::MIN, most: f64::MAX };

    fn within(self, least: f64, most: f64) -> Self {
        Self { least: self.least.max(least), most: self.most.min(most) }
    }

    fn has(self, value: f64) -> bool {
        self.least <= value && value <= self.most
    }

    /// Refuses a value, with a description of what is expected: `a whole number, 2 to 10`.
    #[inline(never)]
    fn refuse(self, what: &str, unit: &str, given: &str) -> Refused {
        let mut text = String::from(what);
        if self != Self::ALL {
            text.push_str(", ");
            write_number(&mut text, self.least);
            if self.most == f64::MAX {
                text.push_str(" or more");
            } else {
                text.push_str(" to ");
                write_number(&mut text, self.most);
            }
            text.push_str(unit);
        }
        Refused::not("must be ", &text, given)
    }

    fn schema(self, least: &str, most: &str, out: &mut String) {
        for (name, bound) in [(least, self.least), (most, self.most)] {
            if bound.abs() < f64::MAX {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                write_number(out, bound);
            }
        }
    }
}

impl From<std::ops::RangeInclusive<f64>> for Range {
    fn from(range: std::ops::RangeInclusive<f64>) -> Self {
        Self { least: *range.start(), most: *range.end() }
    }
}

impl From<std::ops::RangeInclusive<u32>> for Range {
    fn from(range: std::ops::RangeInclusive<u32>) -> Self {
        Self { least: (*range.start()).into(), most: (*range.end()).into() }
    }
}

/// Why a value is refused: the path to it, a colon, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    /// Refuses a value for this reason, such as `must be even`.
    #[must_use]
    pub fn because(what: &str) -> Self {
        let mut text = String::from(": ");
        text.push_str(what);
        Self(text)
    }

    /// Refuses a value of another type: `must be {expected}, not a string`.
    #[must_use]
    pub fn kind(expected: &str, given: &Value) -> Self {
        Self::not("must be ", expected, given.kind())
    }

    #[inline(never)]
    fn not(must: &str, expected: &str, given: &str) -> Self {
        let mut what = String::from(must);
        what.push_str(expected);
        what.push_str(", not ");
        what.push_str(given);
        Self::because(&what)
    }

    /// Adds the name of the enclosing field to the path.
    #[must_use]
    #[inline(never)]
    pub fn within(self, field: &str) -> Self {
        let mut path = String::from(field);
        if !matches!(self.0.as_bytes().first(), Some(b':' | b'[')) {
            path.push('.');
        }
        path.push_str(&self.0);
        Self(path)
    }

    fn into_sentence(self) -> String {
        if self.0.starts_with(':') { self.within("configuration").0 } else { self.0 }
    }
}

/// Returns `minRingSize` for `min_ring_size`.
fn camel(field: &str) -> String {
    let mut name = String::with_capacity(field.len());
    let mut up = false;
    for byte in field.bytes() {
        if byte == b'_' {
            up = true;
        } else {
            name.push(if std::mem::take(&mut up) { byte.to_ascii_uppercase() } else { byte }.into());
        }
    }
    name
}

/// Returns `round_robin` for `RoundRobin`.
fn snake(variant: &str) -> String {
    let mut name = String::with_capacity(variant.len() + 2);
    for byte in variant.bytes() {
        if byte.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(byte.to_ascii_lowercase().into());
    }
    name
}

#[doc(hidden)]
#[path = "config/making.rs"]
pub mod __making;

/// Declares a configuration; see [the module](mod@crate::config).
///
/// A struct's field without a default is required. `#[range(...)]` before a field bounds its number, its seconds or its
/// length. An enum's variants are written by name, in snake_case.
#[macro_export]
macro_rules! config {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $(#[range($range:expr)])?
                $field_vis:vis $field:ident: $type:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        $vis struct $name {
            $($(#[doc = $field_doc])* $field_vis $field: $type,)*
        }

        impl $crate::config::Setting for $name {
            fn read(
                value: &$crate::config::Value,
                _range: $crate::config::Range,
            ) -> Result<Self, $crate::config::Refused> {
                let _fields = $crate::config::__making::fields(value, &[$(stringify!($field)),*])?;
                Ok(Self {
                    $($field: $crate::config::__making::field(
                        _fields,
                        stringify!($field),
                        $crate::config!(@range $($range)?),
                        $crate::config!(@default $($default)?),
                    )?,)*
                })
            }

            fn schema(_range: $crate::config::Range, out: &mut String) {
                $crate::config::__making::object_schema(concat!($($doc),*), out);
                $($crate::config::__making::field_schema(
                    stringify!($field),
                    concat!($($field_doc),*),
                    $crate::config!(@range $($range)?),
                    <$type as $crate::config::Setting>::schema,
                    $crate::config!(@written $type $(= $default)?),
                    out,
                );)*
                let mut _required: Vec<&str> = Vec::new();
                $(if $crate::config!(@is_required $type $(= $default)?) { _required.push(stringify!($field)); })*
                $crate::config::__making::required(&_required, out);
            }

            fn write(&self, out: &mut String) {
                out.push('{');
                $($crate::config::__making::write_field(
                    stringify!($field),
                    &$crate::config::__making::written(&self.$field),
                    out,
                );)*
                out.push('}');
            }
        }

        impl $crate::config::Config for $name {}
    };

    (
        $(#[doc = $doc:literal])*
        $vis:vis enum $name:ident {
            $($(#[doc = $variant_doc:literal])* $variant:ident),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[doc = $variant_doc])* $variant,)+
        }

        impl $crate::config::Setting for $name {
            fn read(
                value: &$crate::config::Value,
                _range: $crate::config::Range,
            ) -> Result<Self, $crate::config::Refused> {
                const VARIANTS: &[$name] = &[$($name::$variant),+];
                let at = $crate::config::__making::variant(value, &[$(stringify!($variant)),+])?;
                Ok(VARIANTS[at])
            }

            fn schema(_range: $crate::config::Range, out: &mut String) {
                $crate::config::__making::enum_schema(&[$(stringify!($variant)),+], out);
            }

            fn write(&self, out: &mut String) {
                let name = match self { $(Self::$variant => stringify!($variant),)+ };
                $crate::config::__making::write_variant(name, out);
            }
        }
    };

    (@range) => { $crate::config::Range::ALL };
    (@range $range:expr) => { $crate::config::Range::from($range) };
    (@default) => { None };
    (@default $default:expr) => { Some($default) };
    (@written $type:ty) => { None };
    (@written $type:ty = $default:expr) => { Some($crate::config::__making::written::<$type>(&$default)) };
    (@is_required $type:ty = $default:expr) => { false };
    (@is_required $type:ty) => { <$type as $crate::config::Setting>::absent().is_none() };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    crate::config! {
        /// An inner one.
        struct Inner {
            /// A share.
            #[range(0.0..=1.0)]
            share: f64 = 0.25,
        }
    }

    crate::config! {
        /// How.
        enum Mode {
            /// First.
            RoundRobin,
            /// Second.
            P2c,
        }
    }

    crate::config! {
        /// All
        /// kinds.
        struct All {
            /// A number.
            #[range(1..=100)]
            min_size: u32 = 10,
            #[range(0.1..=60.0)]
            wait_time: Duration = Duration::from_millis(1_500),
            mode: Mode = Mode::P2c,
            inner: Option<Inner>,
            #[range(1..=2)]
            keys: Vec<String> = vec!["color".to_owned()],
            on: bool = true,
        }
    }

    #[test]
    fn everything_can_be_given_or_left_out() {
        let all = All::parse("{}").expect("defaults");
        assert_eq!((all.min_size, all.mode, all.inner.is_none(), all.on), (10, Mode::P2c, true, true));
        let text = r#"{"minSize":1,"waitTime":"0.1s","mode":"round_robin","inner":{"share":1},"keys":["a","b"],"on":false}"#;
        let all = All::parse(text).expect("good");
        assert_eq!((all.min_size, all.mode, all.on), (1, Mode::RoundRobin, false));
        assert_eq!((all.wait_time, all.keys.len()), (Duration::from_millis(100), 2));
        assert_eq!(all.inner.as_ref().map(|inner| inner.share), Some(1.0));
        let mut written = String::new();
        all.write(&mut written);
        assert_eq!(written, text);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, sentence) in [
            ("[]", "configuration: must be an object, not an array"),
            ("{", "configuration: invalid JSON: expected a quoted field name at byte 1"),
            (r#"{"minSize":0}"#, "minSize: must be a whole number, 1 to 100, not 0"),
            (r#"{"minSize":-1}"#, "minSize: must be a whole number, 1 to 100, not -1"),
            (r#"{"minSize":1e300}"#, "minSize: must be a whole number, 1 to 100, not a number that large"),
            (r#"{"minSize":1.5}"#, "minSize: must be a whole number, 1 to 100, not 1.5"),
            (r#"{"minSize":"1"}"#, "minSize: must be a whole number, 1 to 100, not \"1\""),
            (r#"{"waitTime":10}"#, "waitTime: must be a duration like \"1.5s\", 0.1 to 60 seconds, not 10"),
            (
                r#"{"waitTime":"-1s"}"#,
                "waitTime: must be a duration like \"1.5s\", 0.1 to 60 seconds, not \"-1s\"",
            ),
            (r#"{"mode":"random"}"#, "mode: must be one of round_robin, p2c, not \"random\""),
            (r#"{"inner":{"share":2}}"#, "inner.share: must be a number, 0 to 1, not 2"),
            (r#"{"inner":{"chare":2}}"#, "inner.chare: no such field; the fields are share"),
            (r#"{"keys":[]}"#, "keys: must be an array, 1 to 2 items long, not 0"),
            (r#"{"keys":["a",7]}"#, "keys[1]: must be a string, not a number"),
            (r#"{"keys":[""]}"#, "keys[0]: must be a string, 1 to 256 bytes long, not \"\""),
            (r#"{"on":1}"#, "on: must be true or false, not a number"),
            (r#"{"on":null}"#, "on: must be true or false, not null"),
        ] {
            assert_eq!(All::parse(config).expect_err(config), sentence);
        }
    }

    #[test]
    fn the_schema_is_of_the_same_declaration() {
        let schema: serde_json::Value = serde_json::from_str(&All::json_schema()).expect("JSON");
        let fields = &schema["properties"];
        assert_eq!(schema["description"], "All kinds.");
        assert_eq!(fields["minSize"]["maximum"], 100);
        assert_eq!(fields["minSize"]["default"], 10);
        assert_eq!(fields["minSize"]["description"], "A number.");
        assert_eq!(fields["waitTime"]["default"], "1.5s");
        assert_eq!(fields["mode"]["enum"][0], "round_robin");
        assert_eq!(fields["inner"]["properties"]["share"]["default"], 0.25);
        assert_eq!(fields["keys"]["items"]["minLength"], 1);
        assert_eq!(schema["additionalProperties"], false);
    }
}
