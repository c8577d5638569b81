//! Durations in JSON.

use std::time::Duration;

use super::error::ServiceConfigError;

/// Parses a duration in protobuf's JSON form: seconds with up to nine decimals, and the suffix `s`.
pub(super) fn duration(text: &str) -> Result<Duration, ServiceConfigError> {
    let parsed = || {
        let (seconds, fraction) = match text.strip_suffix('s')?.split_once('.') {
            None => (text.strip_suffix('s')?, ""),
            Some((_, "")) => return None,
            Some((seconds, fraction)) => (seconds, fraction),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let nanos = format!("{fraction:0<9}").parse().ok()?;
        Some(Duration::new(seconds.parse().ok()?, nanos))
    };
    parsed().ok_or_else(|| {
        ServiceConfigError::new(format!(
            "invalid duration {text:?}: expected seconds with an \"s\" suffix, such as \"1.5s\""
        ))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_those_of_protobuf() {
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("1.000000001s"), Ok(Duration::new(1, 1)));
        assert_eq!(duration("3.25s"), Ok(Duration::from_millis(3250)));
        for bad in ["", "s", "1", ".5s", "1.s", "-1s", "1.0000000001s", "1 s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = duration(&text);
        }
    }
}
