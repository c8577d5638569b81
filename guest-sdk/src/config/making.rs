//! Functions that the expansion of [`config!`](macro@crate::config) calls.

use super::{Range, Refused, Setting, Value, camel, snake, write_string};

fn listed(names: &[&str], style: fn(&str) -> String) -> String {
    let mut list = String::new();
    for name in names {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(&style(name));
    }
    list
}

/// Returns the fields of an object. Fails if it has other fields than `known`.
pub fn fields<'a>(value: &'a Value, known: &[&str]) -> Result<&'a [(String, Value)], Refused> {
    let Value::Object(fields) = value else { return Err(Refused::kind("an object", value)) };
    for (name, _) in fields {
        if !known.iter().any(|field| camel(field) == *name) {
            let mut what = String::from("no such field; ");
            what.push_str(if known.is_empty() { "there are none" } else { "the fields are " });
            what.push_str(&listed(known, camel));
            return Err(Refused::because(&what).within(name));
        }
    }
    Ok(fields)
}

fn find<'a>(fields: &'a [(String, Value)], name: &str) -> Option<&'a Value> {
    let name = camel(name);
    fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
}

#[inline(never)]
fn within(refused: Refused, name: &str) -> Refused {
    refused.within(&camel(name))
}

pub fn field<T: Setting>(
    fields: &[(String, Value)],
    name: &str,
    range: Range,
    default: Option<T>,
) -> Result<T, Refused> {
    let read = match find(fields, name) {
        Some(value) => T::read(value, range),
        None => default.or_else(T::absent).ok_or_else(|| Refused::because("must be given")),
    };
    read.map_err(|refused| within(refused, name))
}

/// Removes the blank at the start of a doc comment.
fn trimmed(doc: &str) -> &str {
    doc.strip_prefix(' ').unwrap_or(doc)
}

const OBJECT: &str = "\"type\":\"object\",\"description\":";

pub fn object_schema(doc: &str, out: &mut String) {
    out.push_str(OBJECT);
    write_string(out, trimmed(doc));
    out.push_str(",\"additionalProperties\":false,\"properties\":{");
}

pub fn written<T: Setting>(value: &T) -> String {
    let mut out = String::new();
    value.write(&mut out);
    out
}

/// `default` is JSON.
pub fn field_schema(
    name: &str,
    doc: &str,
    range: Range,
    schema: fn(Range, &mut String),
    default: Option<String>,
    out: &mut String,
) {
    comma(out);
    write_string(out, &camel(name));
    out.push_str(":{");
    let from = out.len();
    schema(range, out);
    // If the type has a description of its own, the field's description would be a duplicate key.
    let is_described = out.as_bytes()[from..].starts_with(OBJECT.as_bytes());
    if !doc.is_empty() && !is_described {
        out.push_str(",\"description\":");
        write_string(out, trimmed(doc));
    }
    if let Some(default) = default {
        out.push_str(",\"default\":");
        out.push_str(&default);
    }
    out.push('}');
}

fn comma(out: &mut String) {
    if !out.ends_with(['{', '[']) {
        out.push(',');
    }
}

pub fn required(names: &[&str], out: &mut String) {
    out.push('}');
    if !names.is_empty() {
        out.push_str(",\"required\":");
        strings(names, camel, out);
    }
}

fn strings(names: &[&str], style: fn(&str) -> String, out: &mut String) {
    out.push('[');
    for name in names {
        comma(out);
        write_string(out, &style(name));
    }
    out.push(']');
}

pub fn write_field(name: &str, value: &str, out: &mut String) {
    comma(out);
    write_string(out, &camel(name));
    out.push(':');
    out.push_str(value);
}

/// Returns the index of the name that a value holds.
pub fn variant(value: &Value, names: &[&str]) -> Result<usize, Refused> {
    let given = if let Value::String(given) = value { given.as_str() } else { "" };
    let refused = || Refused::not("must be one of ", &listed(names, snake), &super::kinds::shown(value));
    names.iter().position(|name| snake(name) == given).ok_or_else(refused)
}

pub fn enum_schema(names: &[&str], out: &mut String) {
    out.push_str("\"enum\":");
    strings(names, snake, out);
}

pub fn write_variant(name: &str, out: &mut String) {
    write_string(out, &snake(name));
}
