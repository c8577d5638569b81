//! JSON (RFC 8259), for configurations.
//!
//! The smallest crate for this adds 22 KB to a policy, and serde_json 62 KB; a whole round robin is 34 KB. This module
//! is 6 KB of those.

/// A JSON value. Numbers have the precision of `f64`.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "JSON has no more")]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// The fields of an object, in order. Names are unique.
    Object(Vec<(String, Self)>),
}

impl Value {
    /// Returns the type of the value, for error messages.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Deepest nesting of arrays and objects. More would take too much of a policy's stack.
const DEEPEST: u32 = 64;

/// Parses one value, and nothing after it.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let read = reader.value().and_then(|value| match reader.peek() {
        None => Ok(value),
        Some(_) => Err("unexpected text after the value"),
    });
    read.map_err(|what| {
        let mut error = String::from("invalid JSON: ");
        error.push_str(what);
        error.push_str(" at byte ");
        push_number(&mut error, reader.at as u64);
        error
    })
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

type Read<T> = Result<T, &'static str>;

impl Reader<'_> {
    /// Returns the next byte.
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips blanks and returns the next byte.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    /// Skips this byte if it is next.
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.byte() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str, value: Value) -> Read<Value> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(value);
        }
        Err("unknown word")
    }

    fn value(&mut self) -> Read<Value> {
        match self.peek() {
            Some(b'{') => self.nested(b'}', Value::Object(Vec::new())),
            Some(b'[') => self.nested(b']', Value::Array(Vec::new())),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(_) => Err("expected a value"),
            None => Err("expected a value"),
        }
    }

    /// Reads what is between the brackets of an array or object.
    fn nested(&mut self, end: u8, mut value: Value) -> Read<Value> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err("nested too deeply");
        }
        self.peek();
        if !self.eat(end) {
            loop {
                match &mut value {
                    Value::Object(fields) => {
                        let field = self.field()?;
                        if fields.iter().any(|(name, _)| *name == field.0) {
                            return Err("field given twice");
                        }
                        fields.push(field);
                    }
                    Value::Array(items) => items.push(self.value()?),
                    _ => {}
                }
                self.peek();
                if self.eat(end) {
                    break;
                }
                if !self.eat(b',') {
                    return Err("expected a comma or a closing bracket");
                }
            }
        }
        self.depth -= 1;
        Ok(value)
    }

    fn field(&mut self) -> Read<(String, Value)> {
        if self.peek() != Some(b'"') {
            return Err("expected a quoted field name");
        }
        let name = self.string()?;
        self.peek();
        if !self.eat(b':') {
            return Err("expected a colon");
        }
        Ok((name, self.value()?))
    }

    fn string(&mut self) -> Read<String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let from = self.at;
            while self.byte().is_some_and(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
                self.at += 1;
            }
            // The range starts and ends next to ASCII bytes, so it contains whole characters.
            text.push_str(self.text.get(from..self.at).unwrap_or_default());
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escaped()?);
                }
                Some(_) => return Err("control character in a string"),
                None => return Err("unterminated string"),
            }
        }
    }

    fn escaped(&mut self) -> Read<char> {
        let byte = self.byte().ok_or("unterminated string")?;
        self.at += 1;
        Ok(match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let high = self.hex()?;
                let code = if high & 0xfc00 == 0xd800 && self.eat(b'\\') && self.eat(b'u') {
                    let low = self.hex()?;
                    if low & 0xfc00 != 0xdc00 {
                        return Err("incomplete surrogate pair");
                    }
                    0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff)
                } else {
                    high
                };
                char::from_u32(code).ok_or("incomplete surrogate pair")?
            }
            _ => return Err("unknown escape"),
        })
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or("invalid \\u escape")?;
            self.at += 1;
        }
        Ok(code)
    }

    fn digits(&mut self, mut each: impl FnMut(u8)) -> Read<()> {
        let from = self.at;
        while let Some(byte @ b'0'..=b'9') = self.byte() {
            each(byte - b'0');
            self.at += 1;
        }
        if self.at == from { Err("expected a digit") } else { Ok(()) }
    }

    /// Parses a number. The standard library's parser is exact, but has 10 KB of tables. This one may be wrong in the
    /// last bits of numbers with 16 or more digits or with a large exponent.
    fn number(&mut self) -> Read<f64> {
        let negative = self.eat(b'-');
        let (mut mantissa, mut exponent) = (0f64, 0i32);
        if !self.eat(b'0') {
            self.digits(|digit| mantissa = mantissa * 10.0 + f64::from(digit))?;
        }
        if self.eat(b'.') {
            self.digits(|digit| {
                // Further digits make no difference.
                if mantissa < 1e15 {
                    mantissa = mantissa * 10.0 + f64::from(digit);
                    exponent -= 1;
                }
            })?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let down = self.eat(b'-');
            if !down {
                self.eat(b'+');
            }
            let mut given = 0i32;
            self.digits(|digit| given = (given * 10 + i32::from(digit)).min(1_000))?;
            exponent += if down { -given } else { given };
        }
        let mut scale = 1.0f64;
        for _ in 0..exponent.unsigned_abs() {
            scale *= 10.0;
        }
        // Up to 10^22 the scale is exact, so there is only one rounding.
        let value = if mantissa == 0.0 {
            0.0
        } else if exponent < 0 {
            mantissa / scale
        } else {
            mantissa * scale
        };
        Ok(if negative { -value } else { value })
    }
}

/// Writes a string as JSON.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.push('\\'),
            // Configurations and their documentation contain no control characters.
            '\0'..' ' => continue,
            _ => {}
        }
        out.push(c);
    }
    out.push('"');
}

/// Writes a number of less than 19 digits, with six decimal places. The standard library's function is exact, but 20
/// KB.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not that large")]
pub(crate) fn write_number(out: &mut String, value: f64) {
    let (mut whole, mut millionths) = (value.abs() as u64, ((value.abs() % 1.0) * 1e6 + 0.5) as u64);
    if millionths == 1_000_000 {
        (whole, millionths) = (whole + 1, 0);
    }
    if value < 0.0 && (whole, millionths) != (0, 0) {
        out.push('-');
    }
    push_number(out, whole);
    if millionths != 0 {
        out.push('.');
        // Write leading zeros, but no trailing ones.
        let mut place = 100_000;
        while millionths > 0 {
            push_number(out, millionths / place);
            (millionths, place) = (millionths % place, place / 10);
        }
    }
}

/// Writes a whole number. `write!` takes more code and more time.
pub(crate) fn push_number(out: &mut String, number: u64) {
    if number >= 10 {
        push_number(out, number / 10);
    }
    out.push(char::from(b'0' + (number % 10) as u8));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(value: f64) -> String {
        let mut out = String::new();
        write_number(&mut out, value);
        out
    }

    /// Converts serde_json's value.
    fn theirs(value: serde_json::Value) -> Value {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(value) => Value::Number(value.as_f64().expect("a number")),
            serde_json::Value::String(value) => Value::String(value),
            serde_json::Value::Array(items) => Value::Array(items.into_iter().map(theirs).collect()),
            serde_json::Value::Object(fields) => {
                Value::Object(fields.into_iter().map(|(name, value)| (name, theirs(value))).collect())
            }
        }
    }

    fn documents() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            (-1_000_000_000i64..1_000_000_000).prop_map(Into::into),
            (-1_000_000i32..1_000_000, 0u32..6)
                .prop_map(|(n, places)| (f64::from(n) / f64::from(10u32.pow(places))).into()),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|fields| serde_json::Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_others_write_is_read(value in documents(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            prop_assert_eq!(parse(&text.expect("written")), Ok(theirs(value)));
        }

        #[test]
        fn what_others_refuse_is_refused_and_nothing_panics(text in "[\\[\\]{}\",:0-9.eE+\\-tfnul\\\\ ua-d]{0,24}") {
            match (parse(&text), serde_json::from_str::<serde_json::Value>(&text)) {
                (Ok(ours), Ok(value)) => prop_assert!(alike(&ours, &theirs(value)), "{}", text),
                // Our parser also refuses duplicate fields. It accepts numbers out of range, which the field refuses.
                (Err(error), Ok(_)) => prop_assert!(error.contains("twice"), "{}: {}", text, error),
                (Ok(_), Err(error)) => prop_assert!(error.to_string().contains("out of range"), "{}: {}", text, error),
                (Err(_), Err(_)) => {}
            }
        }

        #[test]
        fn any_text_is_written_and_read(text in "[^\\p{Cc}]{0,20}") {
            let mut out = String::new();
            write_string(&mut out, &text);
            prop_assert_eq!(parse(&out), Ok(Value::String(text)));
        }
    }

    fn alike(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => (a - b).abs() <= b.abs() * 1e-12 + f64::MIN_POSITIVE,
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
            }
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(name, a)| b.iter().any(|(other, b)| name == other && alike(a, b)))
            }
            (a, b) => a == b,
        }
    }

    #[test]
    fn an_error_says_where() {
        assert_eq!(
            parse("{\"a\": 1,}"),
            Err("invalid JSON: expected a quoted field name at byte 8".to_owned())
        );
        assert_eq!(parse(""), Err("invalid JSON: expected a value at byte 0".to_owned()));
        assert_eq!(parse("{\"a\":1,\"a\":2}"), Err("invalid JSON: field given twice at byte 12".to_owned()));
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&deep), Err("invalid JSON: nested too deeply at byte 65".to_owned()));
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        for (value, text) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.25, "0.25"),
            (1.9, "1.9"),
            (0.000_001, "0.000001"),
            (65_537.0, "65537"),
        ] {
            assert_eq!(written(value), text);
        }
        assert_eq!(written(0.999_999_99), "1");
    }
}
