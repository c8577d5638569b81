//! A look at each header block before h2 decodes it, for what one RPC must not do to the others of its connection.
//!
//! To h2 a name or a value that the `http` crate does not take (a newline in `grpc-message`, a capital letter,
//! `:status: 0`) is an error of the connection; RFC 9113 makes it one of the stream, and gRPC's implementations pass most
//! of it. It refuses an `:authority` that is none of a URI's, as those of gRPC's clients on Unix sockets are
//! (`tmp%2Fusers.sock`), and it cuts a `:path` at a `#`, so that another RPC is served than the one that was asked for.
//!
//! So characters that may not be there are overwritten, in place: one character by one that takes as many bits. The
//! length of a block stays, and so does the size of every entry of HPACK's dynamic table, on which both sides must agree. No
//! table is needed to do that, because only literals are looked at: an entry of a table was a literal before.
//!
//! What cannot be mended so is left to h2: an empty name, a newline by Huffman's code whose bits do not fit elsewhere, and all
//! that is wrong with HPACK itself.

use http::uri::Authority;

use super::huffman;

/// Names of HPACK's static table (RFC 7541, appendix A).
mod index {
    pub(super) const AUTHORITY: usize = 1;
    pub(super) const METHODS: [usize; 2] = [2, 3];
    pub(super) const PATHS: [usize; 2] = [4, 5];
    pub(super) const SCHEMES: [usize; 2] = [6, 7];
    /// The first of them, as what it is in the first byte of a literal.
    pub(super) const SCHEME: u8 = 6;
    pub(super) const STATUSES: std::ops::RangeInclusive<usize> = 8..=14;
}

/// A string in a block.
#[derive(Clone, Copy)]
struct Text {
    begin: usize,
    end: usize,
    is_huffman: bool,
}

/// What a literal's value is to be, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    /// `:protocol`, or a field.
    Other,
}

/// Overwrites what h2 would end the connection for. What is not whole, or no header block, is left to h2.
pub(super) fn amend(block: &mut [u8]) {
    let mut reader = Reader { block, at: 0 };
    while reader.field().is_some() {}
}

struct Reader<'a> {
    block: &'a mut [u8],
    at: usize,
}

impl Reader<'_> {
    /// Passes a field. `None` at the end, and where it cannot be read.
    fn field(&mut self) -> Option<()> {
        let begin = self.at;
        let first = *self.block.get(begin)?;
        let (prefix, is_literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let name = self.integer(prefix)?;
        if !is_literal {
            return Some(());
        }
        let literal = if name == 0 { Some(self.text()?) } else { None };
        let kind = match literal {
            None => Kind::of(name),
            Some(text) => self.name(text),
        };
        let value = self.text()?;
        if kind == Kind::Status {
            // As if it were another name of as many characters: a response without a status is an error of its stream.
            match literal {
                _ if self.is_status(value) => {}
                None => self.block[begin] = self.block[begin] & 0xf0 | index::SCHEME,
                Some(name) if !name.is_huffman => {
                    self.block[name.begin..name.end].copy_from_slice(b":scheme");
                }
                Some(_) => {}
            }
        } else {
            self.value(value, kind.rule());
        }
        Some(())
    }

    /// RFC 7541, 5.1.
    fn integer(&mut self, prefix: u32) -> Option<usize> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(*self.block.get(self.at)?) & most;
        self.at += 1;
        if value < most {
            return Some(value);
        }
        for shift in (0..28).step_by(7) {
            let byte = *self.block.get(self.at)?;
            self.at += 1;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// RFC 7541, 5.2.
    fn text(&mut self) -> Option<Text> {
        let is_huffman = self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let begin = self.at;
        self.at = begin.checked_add(length).filter(|end| *end <= self.block.len())?;
        Some(Text { begin, end: self.at, is_huffman })
    }

    /// Amends a name, and says which it is.
    fn name(&mut self, text: Text) -> Kind {
        let bytes = &mut self.block[text.begin..text.end];
        if !text.is_huffman {
            if let Some(kind) = Kind::of_pseudo(bytes) {
                return kind;
            }
            for byte in bytes {
                if byte.is_ascii_uppercase() {
                    byte.make_ascii_lowercase();
                } else if !is_name(*byte) {
                    *byte = INSTEAD;
                }
            }
            return Kind::Other;
        }
        let name = huffman::decoded(bytes);
        match Kind::of_pseudo(&name) {
            Some(kind) => return kind,
            None if name.iter().copied().all(is_name) => {}
            None => huffman::rewrite(bytes, &name, is_name),
        }
        Kind::Other
    }

    fn value(&mut self, text: Text, rule: Rule) {
        let value = &mut self.block[text.begin..text.end];
        if !text.is_huffman {
            if !(rule.is_fine)(value) {
                value
                    .iter_mut()
                    .filter(|byte| !(rule.may_stay)(**byte))
                    .for_each(|byte| *byte = rule.instead);
            }
        } else if !rule.is_rare || huffman::may_have_rare(value) {
            let text = huffman::decoded(value);
            if !(rule.is_fine)(&text) {
                huffman::rewrite(value, &text, rule.may_stay);
            }
        }
    }

    /// Whether it is three digits.
    fn is_status(&self, text: Text) -> bool {
        let bytes = &self.block[text.begin..text.end];
        let is_status = |bytes: &[u8]| matches!(bytes, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']);
        if text.is_huffman { is_status(&huffman::decoded(bytes)) } else { is_status(bytes) }
    }
}

/// How a value is amended.
#[derive(Clone, Copy)]
struct Rule {
    /// h2 takes it as it is.
    is_fine: fn(&[u8]) -> bool,
    /// In one that is not, this character is not overwritten.
    may_stay: fn(u8) -> bool,
    /// And the others by this one, as far as it takes as many bits.
    instead: u8,
    /// Characters that may not stay have long codes.
    is_rare: bool,
}

impl Kind {
    fn rule(self) -> Rule {
        match self {
            // It is not used, and so need only be one.
            Self::Authority => Rule {
                is_fine: |text| Authority::try_from(text).is_ok(),
                may_stay: |byte| byte.is_ascii_alphanumeric() || byte == b'-',
                instead: b'-',
                is_rare: false,
            },
            Self::Method => Rule {
                is_fine: |text| text.iter().copied().all(is_token),
                may_stay: is_token,
                instead: b'-',
                is_rare: false,
            },
            // No path may have a '>': the request is refused.
            Self::Path => Rule {
                is_fine: |text| !text.contains(&b'#') && std::str::from_utf8(text).is_ok(),
                may_stay: |byte| byte.is_ascii() && byte != b'#',
                instead: b'>',
                is_rare: true,
            },
            Self::Scheme => Rule {
                is_fine: |text| std::str::from_utf8(text).is_ok(),
                may_stay: |byte| byte.is_ascii(),
                instead: b'>',
                is_rare: true,
            },
            Self::Status | Self::Other => Rule {
                is_fine: |text| text.iter().copied().all(is_in_value),
                may_stay: is_in_value,
                instead: b' ',
                is_rare: true,
            },
        }
    }

    fn of(name: usize) -> Self {
        match name {
            index::AUTHORITY => Self::Authority,
            name if index::METHODS.contains(&name) => Self::Method,
            name if index::PATHS.contains(&name) => Self::Path,
            name if index::SCHEMES.contains(&name) => Self::Scheme,
            name if index::STATUSES.contains(&name) => Self::Status,
            _ => Self::Other,
        }
    }

    fn of_pseudo(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            b":protocol" => Self::Other,
            _ => return None,
        })
    }
}

/// In a name, for what may not be there: no key of gRPC's has it, so who cares can tell such a name.
const INSTEAD: u8 = b'|';

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_name(byte: u8) -> bool {
    is_token(byte) && !byte.is_ascii_uppercase()
}

/// RFC 9110, 5.5.
fn is_in_value(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    /// A literal with incremental indexing, its name by itself.
    fn raw(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).expect("short");
        [&[0x40, length(name)][..], name, &[length(value)], value].concat()
    }

    /// The same by Huffman's code.
    fn huffman(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).expect("short") | 0x80;
        let (name, value) = (huffman::encoded(name), huffman::encoded(value));
        [&[0x40, length(&name)][..], &name, &[length(&value)], &value].concat()
    }

    /// What name and value become.
    fn amended(mut block: Vec<u8>) -> (String, Vec<u8>) {
        let length = block.len();
        amend(&mut block);
        assert_eq!(block.len(), length);
        let mut reader = Reader { block: &mut block, at: 1 };
        let texts = [reader.text().expect("a name"), reader.text().expect("a value")];
        let [name, value] = texts.map(|text| {
            let bytes = &block[text.begin..text.end];
            if text.is_huffman { huffman::decoded(bytes) } else { bytes.to_vec() }
        });
        (String::from_utf8(name).expect("a name is ASCII"), value)
    }

    /// As grpcio writes it, by Huffman's code, and by the static name.
    #[test]
    fn an_authority_that_is_none_is_overwritten() {
        let socket = b"tmp%2Fusers.sock";
        for block in [raw(b":authority", socket), huffman(b":authority", socket)] {
            let (name, value) = amended(block);
            assert_eq!(name, ":authority");
            assert!(Authority::try_from(&value[..]).is_ok(), "{value:?}");
            assert_eq!(value.len(), socket.len());
        }
        for first in [0x41, 0x01, 0x11] {
            let mut block = [&[first, 16][..], socket].concat();
            amend(&mut block);
            assert_eq!(&block[2..], b"tmp-2Fusers-sock");
        }
        for fine in ["localhost", "a.example:80", "[::1]:50", "user@host"] {
            for block in [raw(b":authority", fine.as_bytes()), huffman(b":authority", fine.as_bytes())] {
                assert_eq!(amended(block).1, fine.as_bytes());
            }
        }
    }

    #[test]
    fn a_path_with_a_fragment_becomes_no_path() {
        for block in [raw(b":path", b"/t.T/M#abc"), huffman(b":path", b"/t.T/M#abc")] {
            assert_eq!(amended(block).1, b"/t.T/M>abc");
        }
        assert!(PathAndQuery::try_from("/t.T/M>abc").is_err());
        for fine in ["/t.T/M", "/\u{e9}/\u{fc}", "/t.T/M?x=1", "*"] {
            for block in [raw(b":path", fine.as_bytes()), huffman(b":path", fine.as_bytes())] {
                assert_eq!(amended(block).1, fine.as_bytes());
            }
        }
    }

    #[test]
    fn characters_that_no_value_may_have_are_overwritten() {
        assert_eq!(amended(raw(b"grpc-message", b"a\nb\x7fc\td")).1, b"a b c\td");
        assert_eq!(amended(raw(b"x-a", b"\x01")).1, b" ");
        let (name, value) = amended(huffman(b"grpc-message", b"a\nb"));
        assert_eq!((&name[..], value.len()), ("grpc-message", 3));
        for byte in (0..=u8::MAX).filter(|byte| !is_in_value(*byte)) {
            // Two characters before it leave room in the last byte for one that takes two bits less.
            let (_, value) = amended(huffman(b"x-a", &[b'a', b'e', byte]));
            assert!(value.iter().copied().all(is_in_value), "{byte}: {value:?}");
            assert_eq!(value.len(), 3);
        }
        let fine = b"caf\xc3\xa9\xff \t!";
        assert_eq!(amended(huffman(b"x-a", fine)).1, fine);
    }

    #[test]
    fn names_are_made_such_as_http2_has_them() {
        assert_eq!(amended(raw(b"X-Up", b"1")).0, "x-up");
        assert_eq!(amended(raw(b"x y", b"1")).0, "x|y");
        assert_eq!(amended(raw(b":foo", b"1")).0, "|foo");
        let (name, _) = amended(huffman(b"X-Up", b"1"));
        assert!(name.bytes().all(is_name) && name.len() == 4, "{name}");
        assert_eq!(amended(huffman(b"content-type", b"1")).0, "content-type");
    }

    #[test]
    fn a_status_that_is_none_is_left_out() {
        for (status, is_fine) in [("200", true), ("999", true), ("0", false), ("abc", false), ("2000", false)]
        {
            let name = if is_fine { ":status" } else { ":scheme" };
            assert_eq!(amended(raw(b":status", status.as_bytes())).0, name, "{status}");
            for first in [0x48, 0x4e, 0x08, 0x18] {
                let mut block =
                    [&[first, u8::try_from(status.len()).expect("short")], status.as_bytes()].concat();
                amend(&mut block);
                assert_eq!(block[0], if is_fine { first } else { first & 0xf0 | 6 }, "{status}");
            }
        }
    }

    #[test]
    fn other_fields_stay_as_they_are() {
        // RFC 7541, C.3.3, with a size update before it.
        let block = [&[0x3f, 0xe1, 0x1f, 0x82, 0x87, 0x85, 0xbf][..], &raw(b"custom-key", b"custom-value")];
        let block = block.concat();
        let mut amended = block.clone();
        amend(&mut amended);
        assert_eq!(amended, block);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            amend(&mut bytes);
        }

        /// And neither is the size of an entry in a table another one.
        #[test]
        fn what_is_amended_is_fine(
            name in prop::collection::vec(any::<u8>(), 1..20),
            value in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let (after, text) = amended(raw(&name, &value));
            prop_assert!(after.bytes().all(is_name) || after.starts_with(':'));
            prop_assert_eq!(after.len(), name.len());
            prop_assert_eq!(text.len(), value.len());
            let (after, text) = amended_or_left(&huffman(&name, &value));
            prop_assert_eq!(after, name.len());
            prop_assert_eq!(text, value.len());
        }
    }

    /// The lengths of name and value.
    fn amended_or_left(block: &[u8]) -> (usize, usize) {
        let mut block = block.to_vec();
        amend(&mut block);
        let mut reader = Reader { block: &mut block, at: 1 };
        let texts = [reader.text().expect("a name"), reader.text().expect("a value")];
        let [name, value] = texts.map(|text| huffman::decoded(&block[text.begin..text.end]).len());
        (name, value)
    }
}
