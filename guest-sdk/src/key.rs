//! What of an RPC is hashed to choose its endpoint.

use crate::config::{Range, Refused, Setting, Value};
use crate::{MethodMap, OTHER_METHOD, PickInfo, call, env, hash};

/// What is hashed, as configurations name it: `metadata:<key>`, `method` or `random`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what there is")]
pub enum HashOn {
    /// The value of this metadata key; several are joined by commas (gRFC A76). RPCs without it, or with nothing in it,
    /// go anywhere.
    Metadata(String),
    /// The method's name. RPCs of those that are [not numbered](OTHER_METHOD) go anywhere.
    Method,
    /// Nothing: any RPC goes anywhere.
    Random,
}

impl HashOn {
    /// The metadata key `hash-key`, which stands for nothing but this.
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
            // gRFC A76 has none of these: their values differ with how they are encoded.
            (_, Some(key)) if key.ends_with("-bin") => {
                Err(Refused::because("must be no key of bytes, with -bin at its end"))
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

/// Hashes RPCs.
#[derive(Clone, Debug)]
pub struct Key {
    on: HashOn,
    methods: MethodMap<u64>,
}

impl Key {
    /// In [`Policy::init`](crate::Policy::init): declares what is to be hashed. A metadata key becomes the
    /// policy's affinity key.
    ///
    /// # Errors
    ///
    /// It is no metadata key, or the operator refuses it. The sentence begins with `field`.
    pub fn declare(on: HashOn, field: &str) -> Result<Self, String> {
        if let HashOn::Metadata(key) = &on {
            call::declare(key, field).and_then(call::declare_affinity)?;
        }
        Ok(Self { on, methods: MethodMap::default() })
    }

    /// The hash of an RPC; none if there is nothing to hash, and it may go anywhere.
    pub fn of(&mut self, info: &PickInfo) -> Option<u64> {
        match self.on {
            HashOn::Metadata(_) => info.affinity,
            // They are many, and must not all go to one endpoint.
            HashOn::Method if info.method >= OTHER_METHOD => None,
            HashOn::Method => {
                let name = || hash(env::method_name(info.method).as_bytes());
                Some(*self.methods.get_or_insert_with(info.method, name))
            }
            HashOn::Random => None,
        }
    }
}
