//! Reads JSON (RFC 8259), for configurations.
//!
//! Of the crates that could do this, the smallest adds 22 KB to a policy, and serde_json 62 KB; a whole round robin
//! has 34. This is 6 of them.

/// A value. Numbers are as precise as `f64` is.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "JSON has no more")]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Self>),
    /// Fields in their order; no name is there twice.
    Object(Vec<(String, Self)>),
}

impl Value {
    /// What the value is, for people.
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

/// Arrays and objects in one another: more would take too much of a policy's stack.
const DEEPEST: u32 = 64;

/// Reads one value, and nothing else.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let read = reader.value().and_then(|value| match reader.peek() {
        None => Ok(value),
        Some(_) => Err("something after its end"),
    });
    read.map_err(|what| {
        let mut error = String::from("not JSON: ");
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
    /// The next byte.
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.byte()
    }

    /// Goes past this byte, if it is next.
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
        Err("an unknown word")
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
            Some(_) => Err("no value"),
            None => Err("no value"),
        }
    }

    /// What is between the brackets of an array or an object.
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
                            return Err("a field that is there twice");
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
                    return Err("no comma and no end");
                }
            }
        }
        self.depth -= 1;
        Ok(value)
    }

    fn field(&mut self) -> Read<(String, Value)> {
        if self.peek() != Some(b'"') {
            return Err("no field name in quotes");
        }
        let name = self.string()?;
        self.peek();
        if !self.eat(b':') {
            return Err("no colon");
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
            // Only whole characters are between bytes of ASCII.
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
                Some(_) => return Err("a control character in a string"),
                None => return Err("a string without an end"),
            }
        }
    }

    fn escaped(&mut self) -> Read<char> {
        let byte = self.byte().ok_or("a string without an end")?;
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
                        return Err("half a character");
                    }
                    0x10000 + ((high & 0x3ff) << 10) + (low & 0x3ff)
                } else {
                    high
                };
                char::from_u32(code).ok_or("half a character")?
            }
            _ => return Err("an unknown escape"),
        })
    }

    fn hex(&mut self) -> Read<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.byte().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or("an escape that is no number")?;
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
        if self.at == from { Err("no digit") } else { Ok(()) }
    }

    /// The standard library's way has tables of 10 KB, to be exact to the last bit. This may be off by some
    /// of them, from 16 digits on or with a large exponent.
    fn number(&mut self) -> Read<f64> {
        let negative = self.eat(b'-');
        let (mut mantissa, mut exponent) = (0f64, 0i32);
        if !self.eat(b'0') {
            self.digits(|digit| mantissa = mantissa * 10.0 + f64::from(digit))?;
        }
        if self.eat(b'.') {
            self.digits(|digit| {
                // More than these are not seen.
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
        // Up to 10^22 the scale is exact, and so one rounding is all.
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

/// Writes a text as JSON does.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.push('\\'),
            // These are not seen in configurations or their documentation.
            '\0'..' ' => continue,
            _ => {}
        }
        out.push(c);
    }
    out.push('"');
}

/// Writes a number of less than 19 digits, to six decimal places: the standard library's way is exact, and 20 KB.
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
        // With its leading zeros, and without those at its end.
        let mut place = 100_000;
        while millionths > 0 {
            push_number(out, millionths / place);
            (millionths, place) = (millionths % place, place / 10);
        }
    }
}

/// Writes a whole number: `write!` costs more, in code and in time.
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

    /// What serde_json makes of the same text.
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
                // Two rules of our own, and a number beyond all bounds is for the field to refuse.
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
        assert_eq!(parse("{\"a\": 1,}"), Err("not JSON: no field name in quotes at byte 8".to_owned()));
        assert_eq!(parse(""), Err("not JSON: no value at byte 0".to_owned()));
        assert_eq!(
            parse("{\"a\":1,\"a\":2}"),
            Err("not JSON: a field that is there twice at byte 12".to_owned())
        );
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&deep), Err("not JSON: nested too deeply at byte 65".to_owned()));
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
