//! Contexts of traces in the metadata of RPCs.

use std::sync::OnceLock;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::{Context, global};

struct Read<'a>(&'a HeaderMap);
struct Write<'a>(&'a mut HeaderMap);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

impl Injector for Write<'_> {
    fn set(&mut self, key: &str, value: String) {
        // A propagator of the program's own may make any text. One that is no header is left out.
        if let (Ok(name), Ok(mut value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            once(&mut value);
            self.0.insert(name, value);
        }
    }
}

/// Returns the context that metadata has, by the program's propagator.
pub(crate) fn extract(metadata: &HeaderMap) -> Context {
    global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &Read(metadata))
    })
}

/// Puts a context into metadata, by the program's propagator.
pub(crate) fn inject(context: &Context, metadata: &mut HeaderMap) {
    global::get_text_map_propagator(|propagator| propagator.inject_context(context, &mut Write(metadata)));
}

/// The header of W3C's Trace Context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Returns whether the program's propagator may find a context in this metadata: whether one of its headers is there.
pub(crate) fn has_context(metadata: &HeaderMap) -> bool {
    fields().iter().any(|field| metadata.contains_key(field))
}

/// Returns whether the program's propagator uses the header of W3C's Trace Context.
pub(crate) fn uses_traceparent() -> bool {
    fields().contains(&TRACEPARENT)
}

/// The headers of the program's propagator, as of the first RPC.
fn fields() -> &'static [HeaderName] {
    static FIELDS: OnceLock<Vec<HeaderName>> = OnceLock::new();
    FIELDS.get_or_init(|| {
        global::get_text_map_propagator(|propagator| {
            propagator.fields().filter_map(|field| HeaderName::try_from(field).ok()).collect()
        })
    })
}

/// Returns the value of the header for an RPC that is not sampled.
pub(crate) fn traceparent(trace: [u64; 2], span: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[3..19].copy_from_slice(&hex(trace[0]));
    text[19..35].copy_from_slice(&hex(trace[1]));
    text[36..52].copy_from_slice(&hex(span));
    let mut value = HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""));
    once(&mut value);
    value
}

/// Says that a value does not come again: HPACK then neither searches its table for it nor replaces what is of use there.
fn once(value: &mut HeaderValue) {
    value.set_sensitive(true);
}

/// The 16 hexadecimal digits of a number, all at once: eight digits in the eight bytes of a word.
fn hex(number: u64) -> [u8; 16] {
    let word = |half: u32| {
        let mut word = u64::from(half);
        word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
        word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
        word = (word << 4 | word) & 0x0f0f_0f0f_0f0f_0f0f;
        // 0x10 in each byte whose digit is a letter.
        let letters = (word + 0x0606_0606_0606_0606) & 0x1010_1010_1010_1010;
        (word + 0x3030_3030_3030_3030 + (letters >> 4) * 0x27).to_be_bytes()
    };
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let halves = [(number >> 32) as u32, number as u32].map(word);
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&halves[0]);
    digits[8..].copy_from_slice(&halves[1]);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_the_form_of_the_w3c() {
        let value = traceparent([0x0af7_6519_16cd_43dd, 0x8448_eb21_1c80_319c], 0xb7ad_6b71_6920_3331);
        assert_eq!(value, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    }

    #[test]
    fn digits_are_those_of_the_number() {
        for number in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210] {
            assert_eq!(String::from_utf8_lossy(&hex(number)), format!("{number:016x}"));
        }
    }
}
