//! Endpoints in JSON or TOML: in files, and as values in etcd.

use serde::Deserialize;
use serde_json::Value;

use super::{Address, Endpoint};

/// Parses an endpoint: `address` is `host:port`, or a host beside a `port`, or `unix:/path`. Further addresses of the
/// same server are in `addresses`. `weight` is a number, `attributes` a table. All other members that are text, numbers
/// or booleans are attributes, too.
pub(crate) fn endpoint(value: &Value) -> Result<Endpoint, String> {
    let record = Record::deserialize(value).map_err(|error| error.to_string())?;
    let mut texts = record.addresses;
    if let Some(address) = record.address {
        let text = match record.port {
            None => address,
            // An IPv6 host need not be in brackets here.
            Some(port) if address.contains(':') && !address.starts_with('[') => format!("[{address}]:{port}"),
            Some(port) => format!("{address}:{port}"),
        };
        texts.insert(0, text);
    }
    let mut addresses = Vec::new();
    for text in texts {
        addresses.push(text.parse::<Address>().map_err(|error| error.to_string())?);
    }
    let mut addresses = addresses.into_iter();
    let first = addresses.next().ok_or("an endpoint has no address")?;
    let mut endpoint = addresses.fold(Endpoint::new(first), Endpoint::with_address);
    endpoint = endpoint.with_weight(record.weight.unwrap_or(1));
    for (key, value) in record.others.into_iter().chain(record.attributes) {
        let text = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => {
                return Err(format!("attribute {key:?} is neither text nor a number nor a boolean"));
            }
        };
        endpoint = endpoint.with_attribute(key, text);
    }
    Ok(endpoint)
}

#[derive(Deserialize)]
struct Record {
    address: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    addresses: Vec<String>,
    weight: Option<u32>,
    #[serde(default)]
    attributes: serde_json::Map<String, Value>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_members_are_attributes() {
        let value = json!({"address": "10.0.0.1", "port": 5001, "weight": 3, "color": "red", "shard": 7,
            "attributes": {"zone": "a"}, "draining": false, "note": null});
        let found = endpoint(&value).expect("an endpoint");
        assert_eq!((found.addresses()[0].to_string(), found.weight()), ("10.0.0.1:5001".to_owned(), 3));
        let attributes: Vec<_> = found.attributes().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(attributes, ["color=red", "draining=false", "shard=7", "zone=a"]);
    }

    #[test]
    fn addresses_are_written_in_several_ways() {
        for (value, addresses) in [
            (json!({"address": "a:1"}), "a:1"),
            (json!({"address": "::1", "port": 1}), "[::1]:1"),
            (json!({"address": "[::1]", "port": 1}), "[::1]:1"),
            (json!({"address": "unix:/run/a.sock"}), "unix:/run/a.sock"),
            (json!({"addresses": ["a:1", "b:2"]}), "a:1 b:2"),
        ] {
            let found = endpoint(&value).expect("an endpoint");
            let found: Vec<_> = found.addresses().iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), addresses);
        }
        for (value, sentence) in [
            (json!({}), "an endpoint has no address"),
            (json!({"address": "a"}), "has no port"),
            (json!({"address": "a:1", "tags": []}), "attribute \"tags\" is neither"),
            (
                json!({"address": "10.0.0.1:5001", "port": 5001}),
                "has brackets without an IPv6 address in them",
            ),
            (json!({"address": "a:1", "weight": -1}), "invalid value"),
            (json!([]), "invalid"),
        ] {
            let error = endpoint(&value).expect_err("refused");
            assert!(error.contains(sentence), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), port in any::<u16>()) {
            let _ = endpoint(&json!({"address": text, "port": port}));
            let _ = endpoint(&json!({"address": text}));
        }
    }
}
