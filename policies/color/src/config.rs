//! The configuration of `color`.

use hotpick_guest::config::{Range, Refused, Setting, Value};
use hotpick_guest::group::Balance;

hotpick_guest::config! {
    /// RPCs go to the endpoints whose attributes match their metadata.
    pub(crate) struct Config {
        /// What is compared; all of it must match.
        #[range(1..=4)]
        pub(crate) keys: Vec<Key> = vec![Key::default()],
        /// For RPCs with none of the keys, the first of these that there is: "any" ready endpoint, one that is
        /// "unlabelled" (without the attributes), one that matches {"values": [...]}, or "fail".
        #[range(1..=8)]
        pub(crate) missing: Chain = Chain(vec![Fallback::Any]),
        /// The same for RPCs that no ready endpoint matches.
        #[range(1..=8)]
        pub(crate) unmatched: Chain = Chain(vec![Fallback::Fail]),
        /// How RPCs are spread over the endpoints that match.
        pub(crate) balance: Balance = Balance::RoundRobin,
    }
}

hotpick_guest::config! {
    /// A metadata key and an attribute.
    pub(crate) struct Key {
        /// The metadata key of RPCs.
        pub(crate) metadata: String = "color".to_owned(),
        /// The attribute of endpoints.
        pub(crate) attribute: String = "color".to_owned(),
        /// What the attribute is to the metadata's value.
        pub(crate) matching: Matching = Matching::Exact,
    }
}

hotpick_guest::config! {
    /// What an attribute is to the value that an RPC has.
    pub(crate) enum Matching {
        /// The same.
        Exact,
        /// A prefix of it; the longest one wins.
        Prefix,
        /// A regular expression for the whole of it.
        Regex,
    }
}

impl Default for Key {
    fn default() -> Self {
        Self { metadata: "color".to_owned(), attribute: "color".to_owned(), matching: Matching::Exact }
    }
}

/// Fallbacks in order: a list, or a single one as it is.
#[derive(Clone, Debug)]
pub(crate) struct Chain(pub(crate) Vec<Fallback>);

impl Setting for Chain {
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        match value {
            Value::Array(_) => Vec::read(value, range),
            one => Fallback::read(one, Range::ALL).map(|one| vec![one]),
        }
        .map(Self)
    }

    fn schema(range: Range, out: &mut String) {
        out.push_str("\"anyOf\":[{");
        Fallback::schema(Range::ALL, out);
        out.push_str("},{");
        Vec::<Fallback>::schema(range, out);
        out.push_str("}]");
    }

    fn write(&self, out: &mut String) {
        self.0.write(out);
    }
}

/// What to do with an RPC that asks for no colour, or for one that is not there.
#[derive(Clone, Debug)]
pub(crate) enum Fallback {
    Any,
    Unlabelled,
    Fail,
    /// As if it had asked for these: one for each key.
    Values(Vec<String>),
}

impl Setting for Fallback {
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        let expected = "\"any\", \"unlabelled\", \"fail\" or {\"values\": [...]}";
        match value {
            Value::String(text) if text == "any" => Ok(Self::Any),
            Value::String(text) if text == "unlabelled" => Ok(Self::Unlabelled),
            Value::String(text) if text == "fail" => Ok(Self::Fail),
            Value::Object(fields) => match &fields[..] {
                [(name, values)] if name == "values" => {
                    let values = Vec::read(values, range).map_err(|refused| refused.within("values"))?;
                    Ok(Self::Values(values))
                }
                _ => Err(Refused::kind(expected, value)),
            },
            other => Err(Refused::kind(expected, other)),
        }
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str("\"anyOf\":[{\"enum\":[\"any\",\"unlabelled\",\"fail\"]},{\"type\":\"object\",\"properties\":{\"values\":{");
        Vec::<String>::schema(Range::ALL, out);
        out.push_str("}},\"required\":[\"values\"],\"additionalProperties\":false}]");
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Any => out.push_str("\"any\""),
            Self::Unlabelled => out.push_str("\"unlabelled\""),
            Self::Fail => out.push_str("\"fail\""),
            Self::Values(values) => {
                out.push_str("{\"values\":");
                values.write(out);
                out.push('}');
            }
        }
    }
}
