//! The Huffman code of HPACK (RFC 7541, appendix B).
//!
//! The code is canonical: codes are assigned in order of their length, and codes of one length in order of their
//! symbols. So the lengths determine all codes.

use std::sync::LazyLock;

/// Length in bits of the code of each octet.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
     6, 10, 10, 12, 13,  6,  8, 11, 10, 10,  8, 11,  8,  6,  6,  6,
     5,  5,  5,  6,  6,  6,  6,  6,  6,  6,  7,  8, 15,  6, 12, 10,
    13,  6,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,  7,
     7,  7,  7,  7,  7,  7,  7,  7,  8,  7,  8, 13, 19, 13, 14,  6,
    15,  5,  6,  5,  6,  5,  6,  6,  6,  5,  7,  7,  6,  6,  6,  5,
     6,  7,  6,  5,  5,  6,  7,  7,  7,  7,  7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy, Default)]
struct Length {
    /// The first code of this length.
    first: u32,
    count: u32,
    /// Index of their first symbol in [`Code::symbols`].
    at: usize,
}

struct Code {
    lengths: [Length; LONGEST + 1],
    /// Symbols in the order of their codes.
    symbols: Vec<u8>,
    /// Code of each symbol.
    codes: [u32; 256],
}

static CODE: LazyLock<Code> = LazyLock::new(|| {
    let mut code =
        Code { lengths: [Length::default(); LONGEST + 1], symbols: Vec::with_capacity(256), codes: [0; 256] };
    let mut next = 0;
    for length in 1..=LONGEST {
        let at = code.symbols.len();
        code.symbols
            .extend((0..=u8::MAX).filter(|symbol| usize::from(LENGTHS[usize::from(*symbol)]) == length));
        let count = u32::try_from(code.symbols.len() - at).unwrap_or_default();
        for (symbol, value) in code.symbols[at..].iter().zip(next..) {
            code.codes[usize::from(*symbol)] = value;
        }
        code.lengths[length] = Length { first: next, count, at };
        next = (next + count) << 1;
    }
    code
});

/// Decodes a string. The text ends at the padding, or at bits that are not a code.
pub(super) fn decoded(bytes: &[u8]) -> Vec<u8> {
    let code = &*CODE;
    let mut text = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut value, mut length) = (0_u32, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        value = value << 1 | u32::from(bit);
        length += 1;
        let Some(of) = code.lengths.get(length) else { break };
        if let Some(nth) = value.checked_sub(of.first)
            && nth < of.count
        {
            text.push(code.symbols[of.at + nth as usize]);
            (value, length) = (0, 0);
        }
    }
    text
}

/// Encodes a text.
pub(super) fn encoded(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u64, 0);
    for symbol in text {
        let length = u32::from(LENGTHS[usize::from(*symbol)]);
        bits = bits << length | u64::from(CODE.codes[usize::from(*symbol)]);
        count += length;
        while count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    if count > 0 {
        // The padding is the beginning of EOS.
        bytes.push(((bits << (8 - count) | (0xff >> count)) & 0xff) as u8);
    }
    bytes
}

/// Returns whether these bytes are the code of the text that they were decoded to. Otherwise their end is not valid, and
/// left to h2.
pub(super) fn is_whole(bytes: &[u8], text: &[u8]) -> bool {
    encoded(text) == bytes
}

/// Encodes a text as a string of HPACK: its length, and its code (RFC 7541, 5.2).
pub(super) fn string(text: &[u8]) -> Vec<u8> {
    const CODED: u8 = 0x80;
    const MOST: u8 = 0x7f;
    let low = |number: usize| u8::try_from(number & usize::from(MOST)).unwrap_or_default();
    let code = encoded(text);
    let mut bytes = Vec::with_capacity(code.len() + 4);
    match code.len().checked_sub(MOST.into()) {
        None => bytes.push(CODED | low(code.len())),
        Some(mut rest) => {
            bytes.push(CODED | MOST);
            while rest > MOST.into() {
                bytes.push(low(rest) | 0x80);
                rest >>= 7;
            }
            bytes.push(low(rest));
        }
    }
    bytes.extend(code);
    bytes
}

/// Returns a symbol for which `may_stay` is true and whose code is as long as that of `symbol`, or shorter.
pub(super) fn no_longer(symbol: u8, may_stay: fn(u8) -> bool) -> Option<u8> {
    let of_length = |length: usize| {
        let Length { at, count, .. } = CODE.lengths[length];
        CODE.symbols[at..at + count as usize].iter().copied().find(|symbol| may_stay(*symbol))
    };
    (1..=usize::from(LENGTHS[usize::from(symbol)])).rev().find_map(of_length)
}

/// Returns whether a string may contain a symbol of more than 11 bits. All such codes begin with eight ones. No letter,
/// digit or slash has eight ones in its code, and usually no two of them in a row do.
pub(super) fn may_have_rare(bytes: &[u8]) -> bool {
    let mut run = 0;
    bytes.iter().any(|byte| {
        let is_long = run + byte.leading_ones() >= 8;
        run = if *byte == 0xff { run + 8 } else { byte.trailing_ones() };
        is_long
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 7541, appendix C.4 and C.6.
    #[test]
    fn the_examples_of_the_specification_are_read_and_written() {
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
            0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        let examples: [(&str, &[u8]); 4] = [
            ("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]),
            ("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            ("custom-value", &[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]),
            ("Mon, 21 Oct 2013 20:13:21 GMT", &date),
        ];
        for (text, bytes) in examples {
            assert_eq!(decoded(bytes), text.as_bytes());
            assert_eq!(encoded(text.as_bytes()), bytes);
        }
    }

    /// Kraft's sum with the 30-bit code of EOS is 1, so that no single length can be wrong.
    #[test]
    fn the_code_is_complete() {
        let sum: u64 = LENGTHS.iter().map(|length| 1 << (30 - length)).sum();
        assert_eq!(sum + 1, 1 << 30);
    }

    #[test]
    fn symbols_with_long_codes_are_always_found() {
        for symbol in (0..=u8::MAX).filter(|symbol| LENGTHS[usize::from(*symbol)] > 11) {
            for before in 0..8 {
                let text = [&[b'a'; 8][..before], &[symbol]].concat();
                assert!(may_have_rare(&encoded(&text)), "{symbol} after {before}");
            }
        }
        assert!(!may_have_rare(&encoded(b"/hotpick.echo.Echo/Unary")));
    }

    proptest! {
        #[test]
        fn encoded_text_is_decoded(text in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(decoded(&encoded(&text)), text);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            may_have_rare(&bytes);
            decoded(&bytes);
        }
    }
}
