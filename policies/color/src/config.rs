//! The configuration of `color`.

use hotpick_guest::config::{Range, Refused, Setting, Value};
use hotpick_guest::group::Balance;

hotpick_guest::config! {
    /// Routes each RPC to the endpoints whose attributes match its metadata.
    pub(crate) struct Config {
        /// Metadata keys and attributes to compare. All of them must match.
        #[range(1..=4)]
        pub(crate) keys: Vec<Key> = vec![Key::default()],
        /// Fallbacks for RPCs with none of the keys. The first one with a ready endpoint is used: "any" endpoint, one
        /// that is "unlabelled" (without the attributes), one that matches {"values": [...]}, or "fail".
        #[range(1..=8)]
        pub(crate) missing: Chain = Chain(vec![Fallback::Any]),
        /// Fallbacks for RPCs that no ready endpoint matches.
        #[range(1..=8)]
        pub(crate) unmatched: Chain = Chain(vec![Fallback::Fail]),
        /// How RPCs are balanced over the endpoints that match.
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
        /// How the attribute is compared with the metadata's value.
        pub(crate) matching: Matching = Matching::Exact,
    }
}

hotpick_guest::config! {
    /// How an attribute is compared with the value of an RPC.
    pub(crate) enum Matching {
        /// Equal to the value.
        Exact,
        /// A prefix of the value. The longest one wins.
        Prefix,
        /// A regular expression for the whole value.
        Regex,
    }
}

impl Default for Key {
    fn default() -> Self {
        Self { metadata: "color".to_owned(), attribute: "color".to_owned(), matching: Matching::Exact }
    }
}

/// Fallbacks in order. Written as a list, or as a single fallback.
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

/// What to do with an RPC that asks for no color, or for one without a ready endpoint.
#[derive(Clone, Debug)]
pub(crate) enum Fallback {
    Any,
    Unlabelled,
    Fail,
    /// Use the endpoints for these values, one for each key.
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
