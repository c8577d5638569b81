//! Texts of others, for logs and statuses: bounded, and on one line.

use std::borrow::Cow;

/// At most so many bytes of a text, with a space for each character that would do something to a terminal or a log.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    text[..end].replace(char::is_control, " ")
}

/// At most so many bytes of what may be no text at all, with escapes for what does not print; what was left out is
/// counted.
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
    fn nothing_of_it_makes_a_line_of_its_own() {
        assert_eq!(clip("a\nb\u{1b}[2J", 100), "a b [2J");
        assert_eq!(clip("äöü", 3), "ä");
        assert_eq!(quoted(b"a\nb\x1b", 100), r#""a\nb\u{1b}""#);
        assert_eq!(quoted(b"\xff", 100), "\"\u{fffd}\"");
        assert_eq!(quoted(&[b'a'; 60_000], 3), "\"aaa\"... (59997 bytes more)");
    }
}
