//! Parsing of `etcd:///prefix?endpoints=...` targets.

use std::time::Duration;

use super::cluster::{Etcd, EtcdBuilder};
use crate::resolver::{Target, TargetError};
use crate::tls::ClientTls;

const FORM: &str = "write etcd:///prefix?endpoints=host:port,host:port";

/// Known parameters.
const KEYS: &str = "endpoints, ca, cert, key, user, password-file, hold";

/// Returns the prefix, the cluster, and the time to hold if the target has one.
pub(super) fn parse(target: &Target) -> Result<(String, EtcdBuilder, Option<Duration>), TargetError> {
    let invalid = |reason: String| TargetError::invalid(target, reason);
    if !target.authority().is_empty() {
        return Err(invalid(format!("has a host: {FORM}")));
    }
    let (prefix, query) = target.endpoint().split_once('?').unwrap_or((target.endpoint(), ""));
    let [mut endpoints, mut ca, mut cert, mut key, mut user, mut password, mut hold] = [None; 7];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = match name {
            "endpoints" => &mut endpoints,
            "ca" => &mut ca,
            "cert" => &mut cert,
            "key" => &mut key,
            "user" => &mut user,
            "password-file" => &mut password,
            "hold" => &mut hold,
            _ => return Err(invalid(format!("has the unknown parameter {name:?}: use {KEYS}"))),
        };
        if value.is_empty() {
            return Err(invalid(format!("has an empty parameter {name}: {FORM}")));
        }
        if place.replace(value).is_some() {
            return Err(invalid(format!("has the parameter {name} twice")));
        }
    }
    let endpoints = endpoints.ok_or_else(|| invalid(format!("has no parameter endpoints: {FORM}")))?;
    if prefix.is_empty() {
        return Err(invalid(format!("has no prefix: {FORM}")));
    }
    let mut etcd = Etcd::builder(endpoints);
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(invalid("has only one of cert and key: write both".to_owned())),
    };
    if ca.is_some() || identity.is_some() {
        let mut tls = ClientTls::new();
        if let Some(file) = ca {
            tls = tls.ca_file(file);
        }
        if let Some((cert, key)) = identity {
            tls = tls.identity_files(cert, key);
        }
        etcd = etcd.tls(tls);
    }
    etcd = match (user, password) {
        (Some(user), Some(file)) => etcd.user_with_password_file(user, file),
        (None, None) => etcd,
        _ => return Err(invalid("has only one of user and password-file: write both".to_owned())),
    };
    etcd.check().map_err(|error| match error {
        TargetError::Invalid { reason, .. } => invalid(reason),
        error => error,
    })?;
    let hold = hold.map(|text| {
        seconds(text).ok_or_else(|| {
            invalid(format!("has the invalid hold {text:?}: write seconds up to 86400, such as 30"))
        })
    });
    Ok((prefix.to_owned(), etcd, hold.transpose()?))
}

/// Parses a number of seconds, up to one day, with or without an `s`.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: u32 = text.strip_suffix('s').unwrap_or(text).parse().ok()?;
    (seconds <= 86_400).then(|| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_a_prefix_and_the_members() {
        let of = |text: &str| {
            let target: Target = text.parse().expect("a target");
            parse(&target).map(|(prefix, _, hold)| (prefix, hold)).map_err(|error| error.to_string())
        };
        let said = |prefix: &str, hold: Option<u64>| Ok((prefix.to_owned(), hold.map(Duration::from_secs)));
        assert_eq!(of("etcd:///services/echo?endpoints=a:1,b:2"), said("services/echo", None));
        assert_eq!(of("etcd:////echo/?endpoints=http://a:1&hold=0"), said("/echo/", Some(0)));
        assert_eq!(of("etcd:///e?endpoints=https://a:1&ca=/ca&user=me&password-file=/p"), said("e", None));
        for (text, sentence) in [
            ("etcd:///echo", "has no parameter endpoints: write etcd:///prefix?endpoints="),
            ("etcd:///?endpoints=a:1", "has no prefix"),
            ("etcd://a:1/echo", "has a host"),
            ("etcd:///echo?endpoints=a", "address \"a\" has no port"),
            ("etcd:///echo?endpoints=", "has an empty parameter endpoints"),
            ("etcd:///echo?endpoints=ftp://a:1", "has the unknown scheme \"ftp\""),
            ("etcd:///echo?endpoints=http://a:1&ca=/ca", "a member has http://"),
            ("etcd:///echo?endpoints=a:1&cert=/c", "has only one of cert and key"),
            ("etcd:///echo?endpoints=a:1&user=me", "has only one of user and password-file"),
            ("etcd:///echo?endpoints=a:1&hold=soon", "has the invalid hold \"soon\": write seconds"),
            (
                "etcd:///echo?endpoints=a:1&pass=x",
                "has the unknown parameter \"pass\": use endpoints, ca, cert",
            ),
            ("etcd:///echo?endpoints=a:1&endpoints=b:1", "has the parameter endpoints twice"),
        ] {
            assert!(of(text).is_err_and(|error| error.contains(sentence)), "{text}: {:?}", of(text));
        }
    }
}
