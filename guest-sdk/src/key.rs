//! The key of an RPC that is hashed to choose its endpoint.

use crate::config::{Range, Refused, Setting, Value};
use crate::{MethodMap, OTHER_METHOD, PickInfo, call, env, hash};

/// What is hashed, in configurations: `metadata:<key>`, `method` or `random`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the cases are complete")]
pub enum HashOn {
    /// The value of this metadata key. Several values are joined by commas (gRFC A76). RPCs without a value, or with an
    /// empty one, go to any endpoint.
    Metadata(String),
    /// The name of the method. RPCs of methods [without a number](OTHER_METHOD) go to any endpoint.
    Method,
    /// Nothing. RPCs go to any endpoint.
    Random,
}

impl HashOn {
    /// Returns the default of the standard policies: the metadata key `hash-key`.
    #[must_use]
    pub fn hash_key() -> Self {
        Self::Metadata("hash-key".to_owned())
    }
}

impl Setting for HashOn {
    fn read(value: &Value, _range: Range) -> Result<Self, Refused> {
        let expected = "\"metadata:\" and a key, \"method\" or \"random\"";
        let Value::String(text) = value else { return Err(Refused::kind(expected, value)) };
        match (text.as_str(), text.strip_prefix("metadata:")) {
            ("method", _) => Ok(Self::Method),
            ("random", _) => Ok(Self::Random),
            // gRFC A76 excludes these keys: their values depend on how they are encoded.
            (_, Some(key)) if key.ends_with("-bin") => {
                Err(Refused::because("must not be a binary key (ending in -bin)"))
            }
            (_, Some(key)) if !key.is_empty() => Ok(Self::Metadata(key.to_owned())),
            _ => {
                let mut what = String::from("must be ");
                what.push_str(expected);
                what.push_str(", not \"");
                what.push_str(text);
                what.push('"');
                Err(Refused::because(&what))
            }
        }
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str("\"type\":\"string\",\"pattern\":\"^(metadata:.+|method|random)$\"");
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Metadata(key) => {
                out.push_str("\"metadata:");
                out.push_str(key);
                out.push('"');
            }
            Self::Method => out.push_str("\"method\""),
            Self::Random => out.push_str("\"random\""),
        }
    }
}

/// Hashes the keys of RPCs.
#[derive(Clone, Debug)]
pub struct Key {
    on: HashOn,
    methods: MethodMap<u64>,
}

impl Key {
    /// Declares what is hashed. A metadata key becomes the policy's affinity key. Only in
    /// [`Policy::init`](crate::Policy::init).
    ///
    /// # Errors
    ///
    /// The metadata key is invalid, or the operator does not grant it. The text begins with `field`.
    pub fn declare(on: HashOn, field: &str) -> Result<Self, String> {
        if let HashOn::Metadata(key) = &on {
            call::declare(key, field).and_then(call::declare_affinity)?;
        }
        Ok(Self { on, methods: MethodMap::default() })
    }

    /// Returns the hash of an RPC. `None`: there is nothing to hash, and the RPC may go to any endpoint.
    pub fn of(&mut self, info: &PickInfo) -> Option<u64> {
        match self.on {
            HashOn::Metadata(_) => info.affinity,
            // The number stands for many methods, which must not all go to one endpoint.
            HashOn::Method if info.method >= OTHER_METHOD => None,
            HashOn::Method => {
                let name = || hash(env::method_name(info.method).as_bytes());
                Some(*self.methods.get_or_insert_with(info.method, name))
            }
            HashOn::Random => None,
        }
    }
}
