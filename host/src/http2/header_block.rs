//! Amends each header block before h2 decodes it, so that one malformed RPC does not end the others of its connection.
//!
//! h2 ends the connection for a name or value that the `http` crate rejects: a newline in `grpc-message`, an upper-case
//! letter in a name, `:status: 0`. RFC 9113 makes these stream errors, and gRPC implementations accept most of them. h2
//! also refuses an `:authority` that is not valid in a URI, such as gRPC clients send on Unix sockets
//! (`tmp%2Fusers.sock`). And h2 cuts a `:path` at a `#`, so that a different RPC is served than the one requested.
//!
//! This module replaces the invalid characters, each by one character that takes no more bits. The block may become
//! shorter. The size of an entry of HPACK's dynamic table, on which both sides must agree, does not change: it counts
//! characters. Only literals are inspected, because each table entry was a literal before. The module tracks which name
//! is at which index of the table, for literals that refer to their name by index.
//!
//! Some faults cannot be repaired so and are left to h2:
//!
//! - an empty name;
//! - a malformed `:status` or an empty `:method` whose name is in the dynamic table;
//! - every error of HPACK itself.

use std::collections::VecDeque;

use http::uri::Authority;

use super::huffman;

/// Indices of names in HPACK's static table (RFC 7541, appendix A).
mod index {
    pub(super) const AUTHORITY: usize = 1;
    pub(super) const METHODS: [usize; 2] = [2, 3];
    pub(super) const PATHS: [usize; 2] = [4, 5];
    pub(super) const SCHEMES: [usize; 2] = [6, 7];
    /// Index of the first `:scheme`, as the low bits of a literal's first byte.
    pub(super) const SCHEME: u8 = 6;
    pub(super) const STATUSES: std::ops::RangeInclusive<usize> = 8..=14;
}

/// Position of a string in a block.
#[derive(Clone, Copy)]
struct Text {
    /// Index of the first byte of its length.
    head: usize,
    begin: usize,
    end: usize,
    is_huffman: bool,
}

/// Kind of a field by its name. Decides which values are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
    Other,
}

/// The header blocks received on a connection, in their order.
#[derive(Debug, Default)]
pub(super) struct HeaderBlocks {
    table: Table,
    /// A block could not be read. The table is unknown from then on; h2 ends the connection.
    is_lost: bool,
}

impl HeaderBlocks {
    /// Replaces each character for which h2 would end the connection. Returns the length of the block, which is at its
    /// front. Bytes that are not a header block stay unchanged; h2 rejects them.
    pub(super) fn amend(&mut self, block: &mut [u8]) -> usize {
        if self.is_lost {
            return block.len();
        }
        let mut reader = Reader { block, at: 0, table: &mut self.table };
        while reader.at < reader.block.len() {
            if reader.field().is_none() {
                self.is_lost = true;
                break;
            }
        }
        reader.block.len()
    }

    /// Records that a block was passed on without being read.
    pub(super) fn miss(&mut self) {
        self.is_lost = true;
    }
}

/// A model of HPACK's dynamic table (RFC 7541, 2.3.2 and 4): kinds and lengths of names, sizes of entries.
#[derive(Debug)]
struct Table {
    /// The latest entry is first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    name: usize,
    size: usize,
}

/// Bytes in the dynamic table: the default of SETTINGS_HEADER_TABLE_SIZE, which we do not change.
const TABLE_SIZE: usize = 4096;

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: TABLE_SIZE }
    }
}

impl Table {
    /// Returns the kind and length of the name with this index, or `None` if there is no such entry.
    fn name(&self, number: usize) -> Option<(Kind, usize)> {
        match number.checked_sub(STATIC.len()) {
            None | Some(0) => Some((Kind::of(number), STATIC.get(number.checked_sub(1)?).copied()?.into())),
            Some(at) => self.entries.get(at - 1).map(|entry| (entry.kind, entry.name)),
        }
    }

    fn insert(&mut self, kind: Kind, name: usize, value: usize) {
        let size = name + value + 32;
        self.entries.push_front(Entry { kind, name, size });
        self.size += size;
        self.evict();
    }

    fn resize(&mut self, max: usize) {
        // A larger size is an error, which h2 reports.
        self.max = max.min(TABLE_SIZE);
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.max {
            self.size -= self.entries.pop_back().map_or(self.size, |entry| entry.size);
        }
    }
}

/// Lengths of the names of HPACK's static table (RFC 7541, appendix A).
#[rustfmt::skip]
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3, 16,
];

struct Reader<'a> {
    block: &'a mut [u8],
    at: usize,
    table: &'a mut Table,
}

impl Reader<'_> {
    /// Reads one field. Returns `None` at the end of the block, and if the field cannot be read.
    fn field(&mut self) -> Option<()> {
        let begin = self.at;
        let first = *self.block.get(begin)?;
        let (prefix, is_inserted) = match first {
            0x80.. => {
                self.integer(7)?;
                return Some(());
            }
            0x40.. => (6, true),
            0x20.. => {
                let max = self.integer(5)?;
                self.table.resize(max);
                return Some(());
            }
            _ => (4, false),
        };
        let number = self.integer(prefix)?;
        let literal = if number == 0 { Some(self.text()?) } else { None };
        let (mut kind, name, literal) = match literal {
            None => {
                let (kind, length) = self.table.name(number)?;
                (kind, length, None)
            }
            Some(text) => {
                let (kind, text) = self.name(text);
                (kind, self.length(text), Some(text))
            }
        };
        let mut value = self.text()?;
        // h2 would end the connection for these values. Under another name of the same length they do no harm, and a
        // message without a status or a method is only a stream error.
        let is_bad = match kind {
            Kind::Status => !self.is_status(value),
            Kind::Method => value.begin == value.end,
            _ => false,
        };
        if is_bad && self.rename(begin, number, literal) {
            kind = Kind::Scheme;
        }
        if kind != Kind::Status {
            value = self.value(value, kind.rule());
        }
        if is_inserted {
            let value = self.length(value);
            self.table.insert(kind, name, value);
        }
        Some(())
    }

    /// Renames a `:status` or `:method` to `:scheme`, which has the same length. Returns false if that is impossible in
    /// place.
    fn rename(&mut self, begin: usize, number: usize, literal: Option<Text>) -> bool {
        match literal {
            None if number <= *index::STATUSES.end() => {
                self.block[begin] = self.block[begin] & 0xf0 | index::SCHEME;
                true
            }
            None => false,
            Some(name) => {
                let scheme = if name.is_huffman { huffman::encoded(b":scheme") } else { b":scheme".to_vec() };
                let bytes = &mut self.block[name.begin..name.end];
                let fits = bytes.len() == scheme.len();
                if fits {
                    bytes.copy_from_slice(&scheme);
                }
                fits
            }
        }
    }

    /// Returns the length of a string in characters.
    fn length(&self, text: Text) -> usize {
        let bytes = &self.block[text.begin..text.end];
        if text.is_huffman { huffman::decoded(bytes).len() } else { bytes.len() }
    }

    /// Reads an integer with a prefix of `prefix` bits (RFC 7541, 5.1).
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

    /// Reads a string (RFC 7541, 5.2).
    fn text(&mut self) -> Option<Text> {
        let head = self.at;
        let is_huffman = self.block.get(head)? & 0x80 != 0;
        let length = self.integer(7)?;
        let begin = self.at;
        self.at = begin.checked_add(length).filter(|end| *end <= self.block.len())?;
        Some(Text { head, begin, end: self.at, is_huffman })
    }

    /// Replaces the string before the reader, which is in Huffman code, by this text, which takes no more bytes in it.
    fn replace(&mut self, old: Text, text: &[u8]) -> Text {
        let string = huffman::string(text);
        let Some(removed) = (old.end - old.head).checked_sub(string.len()) else { return old };
        let block = std::mem::take(&mut self.block);
        let end = old.head + string.len();
        block[old.head..end].copy_from_slice(&string);
        block.copy_within(old.end.., end);
        let length = block.len() - removed;
        self.block = &mut block[..length];
        self.at = old.head;
        // It is read as it was written.
        self.text().unwrap_or(old)
    }

    /// Amends a name. Returns its kind, and where it is.
    fn name(&mut self, text: Text) -> (Kind, Text) {
        let bytes = &mut self.block[text.begin..text.end];
        if !text.is_huffman {
            if let Some(kind) = Kind::of_pseudo(bytes) {
                return (kind, text);
            }
            for byte in bytes {
                if byte.is_ascii_uppercase() {
                    byte.make_ascii_lowercase();
                } else if !is_name(*byte) {
                    *byte = REPLACEMENT;
                }
            }
            return (Kind::Other, text);
        }
        let mut name = huffman::decoded(bytes);
        match Kind::of_pseudo(&name) {
            Some(kind) => return (kind, text),
            None if name.iter().copied().all(is_name) || !huffman::is_whole(bytes, &name) => {
                return (Kind::Other, text);
            }
            None => {}
        }
        // The code of a small letter is never longer than that of its capital.
        name.make_ascii_lowercase();
        for byte in name.iter_mut().filter(|byte| !is_name(**byte)) {
            *byte = huffman::no_longer(*byte, is_name).unwrap_or(*byte);
        }
        (Kind::Other, self.replace(text, &name))
    }

    /// Amends a value. Returns where it is.
    fn value(&mut self, text: Text, rule: Rule) -> Text {
        let value = &mut self.block[text.begin..text.end];
        if !text.is_huffman {
            if !(rule.is_fine)(value) {
                rule.apply(value);
            }
        } else if !rule.is_rare || huffman::may_have_rare(value) {
            let mut decoded = huffman::decoded(value);
            if !(rule.is_fine)(&decoded) && huffman::is_whole(value, &decoded) {
                rule.apply(&mut decoded);
                return self.replace(text, &decoded);
            }
        }
        text
    }

    /// Returns whether a string is a status of three digits.
    fn is_status(&self, text: Text) -> bool {
        let bytes = &self.block[text.begin..text.end];
        let is_status = |bytes: &[u8]| matches!(bytes, [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9']);
        if text.is_huffman { is_status(&huffman::decoded(bytes)) } else { is_status(bytes) }
    }
}

/// Rule by which values of a kind are amended.
#[derive(Clone, Copy)]
struct Rule {
    /// Returns whether h2 accepts a value unchanged.
    is_fine: fn(&[u8]) -> bool,
    /// Returns whether a character is kept in a value that h2 does not accept.
    may_stay: fn(u8) -> bool,
    /// Replaces the other characters. Its Huffman code is not longer than theirs.
    instead: u8,
    /// Characters that are not kept have long Huffman codes, so that most strings need not be decoded.
    is_rare: bool,
}

impl Rule {
    fn apply(&self, value: &mut [u8]) {
        let others = value.iter_mut().filter(|byte| !(self.may_stay)(**byte));
        others.for_each(|byte| *byte = self.instead);
    }
}

impl Kind {
    fn rule(self) -> Rule {
        match self {
            // The authority is not used: any valid one will do.
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
            // A path with '>' is invalid: the request is refused.
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
            b":protocol" => Self::Scheme,
            _ => return None,
        })
    }
}

/// Replaces an invalid character in a name. No gRPC metadata key contains it, so that amended names can be recognized.
const REPLACEMENT: u8 = b'|';

/// Returns whether a character may be in a token (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_name(byte: u8) -> bool {
    is_token(byte) && !byte.is_ascii_uppercase()
}

/// Returns whether a character may be in a field value (RFC 9110, 5.5).
fn is_in_value(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    /// Encodes a literal with incremental indexing and a literal name.
    fn raw(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).expect("short");
        [&[0x40, length(name)][..], name, &[length(value)], value].concat()
    }

    /// Encodes the same literal with Huffman coding.
    fn huffman(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).expect("short") | 0x80;
        let (name, value) = (huffman::encoded(name), huffman::encoded(value));
        [&[0x40, length(&name)][..], &name, &[length(&value)], &value].concat()
    }

    /// Returns name and value after the block was amended.
    fn amended(mut block: Vec<u8>) -> (String, Vec<u8>) {
        let length = HeaderBlocks::default().amend(&mut block);
        block.truncate(length);
        let mut table = Table::default();
        let mut reader = Reader { block: &mut block, at: 1, table: &mut table };
        let texts = [reader.text().expect("a name"), reader.text().expect("a value")];
        let [name, value] = texts.map(|text| {
            let bytes = &block[text.begin..text.end];
            if text.is_huffman { huffman::decoded(bytes) } else { bytes.to_vec() }
        });
        (String::from_utf8(name).expect("a name is ASCII"), value)
    }

    /// As grpcio encodes the field, with Huffman coding, and with an indexed name.
    #[test]
    fn an_invalid_authority_is_replaced() {
        let socket = b"tmp%2Fusers.sock";
        for block in [raw(b":authority", socket), huffman(b":authority", socket)] {
            let (name, value) = amended(block);
            assert_eq!(name, ":authority");
            assert!(Authority::try_from(&value[..]).is_ok(), "{value:?}");
            assert_eq!(value.len(), socket.len());
        }
        for first in [0x41, 0x01, 0x11] {
            let mut block = [&[first, 16][..], socket].concat();
            HeaderBlocks::default().amend(&mut block);
            assert_eq!(&block[2..], b"tmp-2Fusers-sock");
        }
        for fine in ["localhost", "a.example:80", "[::1]:50", "user@host"] {
            for block in [raw(b":authority", fine.as_bytes()), huffman(b":authority", fine.as_bytes())] {
                assert_eq!(amended(block).1, fine.as_bytes());
            }
        }
    }

    #[test]
    fn a_path_with_a_fragment_becomes_invalid() {
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
    fn characters_that_no_value_may_have_are_replaced() {
        assert_eq!(amended(raw(b"grpc-message", b"a\nb\x7fc\td")).1, b"a b c\td");
        assert_eq!(amended(raw(b"x-a", b"\x01")).1, b" ");
        // Wherever they are, and however many: a space takes fewer bits than they do.
        for byte in (0..=u8::MAX).filter(|byte| !is_in_value(*byte)) {
            for before in 0..9 {
                for many in 1..9 {
                    let text = [&vec![b'a'; before][..], &vec![byte; many], b"end"].concat();
                    let (name, value) = amended(huffman(b"grpc-message", &text));
                    let expected = [&vec![b'a'; before][..], &vec![b' '; many], b"end"].concat();
                    assert_eq!((&name[..], &value[..]), ("grpc-message", &expected[..]), "{text:?}");
                }
            }
        }
        // The length takes fewer bytes afterwards.
        let long = vec![b'\n'; 40];
        let block = [&[0x40][..], &huffman::string(b"x-a"), &huffman::string(&long)].concat();
        assert_eq!(amended(block), ("x-a".to_owned(), vec![b' '; 40]));
        let fine = b"caf\xc3\xa9\xff \t!";
        assert_eq!(amended(huffman(b"x-a", fine)).1, fine);
    }

    #[test]
    fn names_are_made_valid_in_http2() {
        assert_eq!(amended(raw(b"X-Up", b"1")).0, "x-up");
        assert_eq!(amended(raw(b"x y", b"1")).0, "x|y");
        assert_eq!(amended(raw(b":foo", b"1")).0, "|foo");
        // However it is encoded, a name is the same one in small letters.
        for capital in b'A'..=b'Z' {
            let sent = [&[capital][..], b"-Up", &[capital]].concat();
            let expected = String::from_utf8(sent.to_ascii_lowercase()).expect("text");
            assert_eq!(amended(huffman(&sent, b"1")).0, expected);
            assert_eq!(amended(raw(&sent, b"1")).0, expected);
        }
        let (name, _) = amended(huffman(b"x y", b"1"));
        assert!(name.bytes().all(is_name) && name.len() == 3, "{name}");
        assert_eq!(amended(huffman(b"content-type", b"1")).0, "content-type");
    }

    #[test]
    fn pseudo_headers_are_recognized_however_they_are_encoded() {
        // With Huffman coding, and with a value that is not text.
        assert_eq!(amended(huffman(b":status", b"0")).0, ":scheme");
        let (name, value) = amended(raw(b":status", b"\xff"));
        assert_eq!((&name[..], &value[..]), (":scheme", &b">"[..]));
        // Without a value.
        assert_eq!(amended(raw(b":method", b"")).0, ":scheme");
        assert_eq!(amended(raw(b":protocol", b"\xff")).1, b">");
    }

    #[test]
    fn an_invalid_status_is_renamed() {
        for (status, is_fine) in [("200", true), ("999", true), ("0", false), ("abc", false), ("2000", false)]
        {
            let name = if is_fine { ":status" } else { ":scheme" };
            assert_eq!(amended(raw(b":status", status.as_bytes())).0, name, "{status}");
            for first in [0x48, 0x4e, 0x08, 0x18] {
                let mut block =
                    [&[first, u8::try_from(status.len()).expect("short")], status.as_bytes()].concat();
                HeaderBlocks::default().amend(&mut block);
                assert_eq!(block[0], if is_fine { first } else { first & 0xf0 | 6 }, "{status}");
            }
        }
    }

    #[test]
    fn other_fields_stay_unchanged() {
        // RFC 7541, C.3.3, with a size update before it.
        let block = [&[0x3f, 0xe1, 0x1f, 0x82, 0x87, 0x85][..], &raw(b"custom-key", b"custom-value")];
        let block = block.concat();
        let mut amended = block.clone();
        HeaderBlocks::default().amend(&mut amended);
        assert_eq!(amended, block);
    }

    /// By the static name, then by the entry that this created: at once, after later entries, and after eviction.
    #[test]
    fn a_name_in_the_dynamic_table_is_known() {
        let mut blocks = HeaderBlocks::default();
        blocks.amend(&mut [&[0x44, 6][..], b"/t.T/M"].concat());
        let mut by_entry = [&[0x0f, 62 - 15, 8][..], b"/t.T/M#x"].concat();
        blocks.amend(&mut by_entry);
        assert!(by_entry.ends_with(b"/t.T/M>x"));
        // A literal that takes its name from the entry inserts another entry.
        blocks.amend(&mut [&[0x7e, 6][..], b"/t.T/N"].concat());
        blocks.amend(&mut raw(b"x-a", b"1"));
        for number in [63, 64] {
            let mut by_entry = [&[0x0f, number - 15, 8][..], b"/t.T/M#x"].concat();
            blocks.amend(&mut by_entry);
            assert!(by_entry.ends_with(b"/t.T/M>x"), "{number}");
        }
        // An entry with another name.
        let mut other = [&[0x0f, 62 - 15, 8][..], b"/t.T/M#x"].concat();
        blocks.amend(&mut other);
        assert!(other.ends_with(b"/t.T/M#x"));
        // The table is emptied and filled again.
        blocks.amend(&mut [0x20, 0x3f, 0xe1, 0x1f]);
        assert!(blocks.table.entries.is_empty());
        blocks.amend(&mut [&[0x44, 6][..], b"/t.T/M"].concat());
        let mut by_entry = [&[0x0f, 62 - 15, 8][..], b"/t.T/M#x"].concat();
        blocks.amend(&mut by_entry);
        assert!(by_entry.ends_with(b"/t.T/M>x"));
    }

    /// Encodes a dynamic table size update (RFC 7541, 6.3).
    fn size_update(size: usize) -> Vec<u8> {
        let byte = |value: usize| u8::try_from(value).expect("small");
        match size.checked_sub(31) {
            None => vec![0x20 | byte(size)],
            Some(rest) => vec![0x3f, byte(rest % 128) | 0x80, byte(rest / 128)],
        }
    }

    proptest! {
        /// The model has the same entries as a table of HPACK.
        #[test]
        fn the_table_is_that_of_hpack(
            fields in prop::collection::vec((0usize..6, "[a-z]{1,40}", 0usize..1500, any::<bool>()), 1..60),
            sizes in prop::collection::vec(0usize..4097, 0..3),
        ) {
            let names = [":path", ":authority", "x-a", "grpc-message", ":method", "content-type"];
            let mut blocks = HeaderBlocks::default();
            // Index of the name and size of the entry, the latest first.
            let (mut model, mut max) = (VecDeque::<(usize, usize)>::new(), TABLE_SIZE);
            let mut sizes = sizes.into_iter();
            for (name, text, length, is_huffman) in fields {
                let value = text.repeat(1 + length / text.len());
                let value = &value.as_bytes()[..length.min(value.len()).min(120)];
                let field = if is_huffman { huffman(names[name].as_bytes(), value) } else { raw(names[name].as_bytes(), value) };
                let mut block = Vec::new();
                let evict = |model: &mut VecDeque<(usize, usize)>, max| {
                    while model.iter().map(|(_, size)| size).sum::<usize>() > max {
                        model.pop_back();
                    }
                };
                if length % 17 == 0
                    && let Some(size) = sizes.next()
                {
                    max = size;
                    block.extend(size_update(size));
                    evict(&mut model, max);
                }
                block.extend(field);
                blocks.amend(&mut block);
                prop_assert!(!blocks.is_lost);
                model.push_front((name, names[name].len() + value.len() + 32));
                while model.iter().map(|(_, size)| size).sum::<usize>() > max { model.pop_back(); }
                prop_assert_eq!(blocks.table.entries.len(), model.len());
                for (entry, (_, size)) in blocks.table.entries.iter().zip(&model) {
                    prop_assert_eq!(entry.size, *size);
                }
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            HeaderBlocks::default().amend(&mut bytes);
        }

        /// The sizes of table entries do not change either.
        #[test]
        fn amended_fields_are_valid(
            name in prop::collection::vec(any::<u8>(), 1..20),
            value in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let (after, text) = amended(raw(&name, &value));
            prop_assert!(after.bytes().all(is_name) || after.starts_with(':'));
            prop_assert_eq!(after.len(), name.len());
            prop_assert_eq!(text.len(), value.len());
            let (after, text) = amended(huffman(&name, &value));
            prop_assert!(after.bytes().all(is_name) || after.starts_with(':'));
            prop_assert_eq!(after.len(), name.len());
            prop_assert_eq!(text.len(), value.len());
        }
    }
}
