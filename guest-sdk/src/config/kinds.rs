//! Types of fields.

use std::time::Duration;

use super::{Range, Refused, Setting, Value};
use crate::json::{self, write_number, write_string};

pub(super) fn shown(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Number(number) if number.abs() < 1e18 => write_number(&mut text, *number),
        Value::Number(_) => text.push_str("a number that large"),
        Value::String(given) => write_string(&mut text, given),
        other => text.push_str(other.kind()),
    }
    text
}

impl Setting for bool {
    fn read(value: &Value, _range: Range) -> Result<Self, Refused> {
        match value {
            Value::Bool(value) => Ok(*value),
            other => Err(Refused::kind("true or false", other)),
        }
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str("\"type\":\"boolean\"");
    }

    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl Setting for u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within its range")]
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        let range = range.within(0.0, Self::MAX.into());
        match value {
            Value::Number(value) if range.has(*value) && value % 1.0 == 0.0 => Ok(*value as Self),
            other => Err(range.refuse("a whole number", "", &shown(other))),
        }
    }

    fn schema(range: Range, out: &mut String) {
        out.push_str("\"type\":\"integer\"");
        range.within(0.0, Self::MAX.into()).schema("minimum", "maximum", out);
    }

    fn write(&self, out: &mut String) {
        write_number(out, (*self).into());
    }
}

impl Setting for f64 {
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        match value {
            Value::Number(value) if range.has(*value) => Ok(*value),
            other => Err(range.refuse("a number", "", &shown(other))),
        }
    }

    fn schema(range: Range, out: &mut String) {
        out.push_str("\"type\":\"number\"");
        range.schema("minimum", "maximum", out);
    }

    fn write(&self, out: &mut String) {
        write_number(out, *self);
    }
}

/// Longest duration [s]: about a hundred years, which fits into 64 bits as nanoseconds.
const LONGEST: f64 = 3e9;

impl Setting for Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within its range")]
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        let range = range.within(0.0, LONGEST);
        let text = if let Value::String(text) = value { text.strip_suffix('s') } else { None };
        match text.map(json::parse) {
            Some(Ok(Value::Number(seconds))) if range.has(seconds) => {
                Ok(Self::from_nanos((seconds * 1e9) as u64))
            }
            _ => Err(range.refuse("a duration like \"1.5s\"", " seconds", &shown(value))),
        }
    }

    fn schema(_range: Range, out: &mut String) {
        out.push_str("\"type\":\"string\",\"pattern\":\"^[0-9]+(\\\\.[0-9]+)?s$\"");
    }

    fn write(&self, out: &mut String) {
        out.push('"');
        write_number(out, self.as_secs_f64());
        out.push_str("s\"");
    }
}

/// Strings of 1 to 256 bytes, if no other range is given.
impl Setting for String {
    #[expect(clippy::cast_precision_loss, reason = "a length")]
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        let range = range.within(1.0, 256.0);
        match value {
            Value::String(text) if range.has(text.len() as f64) => Ok(text.clone()),
            Value::String(_) => Err(range.refuse("a string", " bytes long", &shown(value))),
            other => Err(Refused::kind("a string", other)),
        }
    }

    fn schema(range: Range, out: &mut String) {
        out.push_str("\"type\":\"string\"");
        range.within(1.0, 256.0).schema("minLength", "maxLength", out);
    }

    fn write(&self, out: &mut String) {
        write_string(out, self);
    }
}

/// A value or null. The range applies to the value.
impl<T: Setting> Setting for Option<T> {
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        if matches!(value, Value::Null) { Ok(None) } else { T::read(value, range).map(Some) }
    }

    fn schema(range: Range, out: &mut String) {
        T::schema(range, out);
    }

    fn write(&self, out: &mut String) {
        match self {
            None => out.push_str("null"),
            Some(value) => value.write(out),
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// Arrays. The range applies to the length.
impl<T: Setting> Setting for Vec<T> {
    #[expect(clippy::cast_precision_loss, reason = "a length")]
    fn read(value: &Value, range: Range) -> Result<Self, Refused> {
        let Value::Array(items) = value else { return Err(Refused::kind("an array", value)) };
        if !range.has(items.len() as f64) {
            let mut given = String::new();
            write_number(&mut given, items.len() as f64);
            return Err(range.refuse("an array", " items long", &given));
        }
        let item = |(at, item): (usize, &Value)| {
            T::read(item, Range::ALL).map_err(|refused| {
                let mut field = String::from("[");
                write_number(&mut field, at as f64);
                field.push(']');
                refused.within(&field)
            })
        };
        items.iter().enumerate().map(item).collect()
    }

    fn schema(range: Range, out: &mut String) {
        out.push_str("\"type\":\"array\",\"items\":{");
        T::schema(Range::ALL, out);
        out.push('}');
        range.schema("minItems", "maxItems", out);
    }

    fn write(&self, out: &mut String) {
        out.push('[');
        for (at, item) in self.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            item.write(out);
        }
        out.push(']');
    }
}
