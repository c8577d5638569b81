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
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
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
pub(crate) fn traceparent(trace: u128, span: u64) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let bytes = trace.to_be_bytes().into_iter().zip(1..).chain(span.to_be_bytes().into_iter().zip(18..));
    for (byte, at) in bytes {
        // After 16 bytes of the trace there is another dash.
        let at = 2 * at + 1 - usize::from(at >= 18);
        text[at] = DIGITS[usize::from(byte >> 4)];
        text[at + 1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_the_form_of_the_w3c() {
        let value = traceparent(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331);
        assert_eq!(value, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    }
}
