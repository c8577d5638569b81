//! Untrusted text in logs and statuses: limited in length, and on one line.

#[cfg(feature = "etcd")]
use std::borrow::Cow;

/// Returns at most `limit` bytes of a text, with each control character replaced by a space.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    text[..end].replace(char::is_control, " ")
}

/// Returns at most `limit` bytes in quotes, with escapes for invalid UTF-8 and unprintable characters. Appends the
/// number of bytes left out.
#[cfg(feature = "etcd")]
pub(crate) fn quoted(bytes: &[u8], limit: usize) -> String {
    let text: Cow<'_, str> = String::from_utf8_lossy(bytes);
    let end = text.floor_char_boundary(limit);
    let left = text.len() - end;
    let shown = text[..end].escape_debug();
    if left == 0 { format!("\"{shown}\"") } else { format!("\"{shown}\"... ({left} bytes more)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stays_on_one_line() {
        assert_eq!(clip("a\nb\u{1b}[2J", 100), "a b [2J");
        assert_eq!(clip("äöü", 3), "ä");
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn quoted_bytes_are_escaped_and_clipped() {
        assert_eq!(quoted(b"a\nb\x1b", 100), r#""a\nb\u{1b}""#);
        assert_eq!(quoted(b"\xff", 100), "\"\u{fffd}\"");
        assert_eq!(quoted(&[b'a'; 60_000], 3), "\"aaa\"... (59997 bytes more)");
    }
}
