//! The configuration of a policy as a table of its fields, from its JSON Schema.

use serde_json::Value;

/// A field of a configuration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Indented, and after the field that it is in: `.b` is in an object, `[].b` in the objects of a list.
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) default: String,
    pub(super) description: String,
}

/// Objects in objects that are shown.
const DEEPEST: usize = 8;

/// Returns the fields of a schema. `None`: it is not the schema of an object.
pub(super) fn fields(schema: &str) -> Option<Vec<Field>> {
    let schema: Value = serde_json::from_str(schema).ok()?;
    let mut fields = Vec::new();
    schema.get("properties")?.as_object()?;
    add(&mut fields, "", &schema, 0);
    Some(fields)
}

/// Adds the fields of an object. `before` is put before their names.
fn add(fields: &mut Vec<Field>, before: &str, object: &Value, depth: usize) {
    let required = object["required"].as_array();
    for (name, schema) in object["properties"].as_object().into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.iter().any(|its| its == name));
        fields.push(Field {
            kind: kind(schema),
            default: match schema.get("default") {
                _ if is_required => "required".to_owned(),
                None | Some(Value::Null) => "-".to_owned(),
                Some(default) => default.to_string(),
            },
            description: schema["description"].as_str().unwrap_or_default().to_owned(),
            name: format!("{:1$}{before}{name}", "", 2 * depth),
        });
        if depth < DEEPEST {
            add(fields, ".", schema, depth + 1);
            add(fields, "[].", &schema["items"], depth + 1);
        }
    }
}

/// Says what a value has to be.
fn kind(schema: &Value) -> String {
    if let Some(choices) = schema["enum"].as_array() {
        return choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    }
    let bounds = |least: &str, most: &str| match (schema.get(least), schema.get(most)) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", {least} or more"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    };
    match schema["type"].as_str() {
        Some("integer") => format!("whole number{}", bounds("minimum", "maximum")),
        Some("number") => format!("number{}", bounds("minimum", "maximum")),
        Some("boolean") => "true | false".to_owned(),
        Some("string") if schema["pattern"].as_str().is_some_and(|pattern| pattern.ends_with("?s$")) => {
            "duration, as \"1.5s\"".to_owned()
        }
        Some("string") => "text".to_owned(),
        Some("array") => format!("list of: {}", kind(&schema["items"])),
        Some("object") => "object".to_owned(),
        _ => "any".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: &str, default: &str, description: &str) -> Field {
        let [name, kind, default, description] = [name, kind, default, description].map(str::to_owned);
        Field { name, kind, default, description }
    }

    #[test]
    fn every_kind_of_field_is_described() {
        let schema = r#"{"type": "object", "required": ["zone"], "properties": {
            "balance": {"enum": ["a", "b"], "default": "a"},
            "eject": {"type": "object", "default": null, "properties": {"percent": {"type": "integer", "maximum": 100}}},
            "on": {"type": "boolean", "default": true, "description": "Whether."},
            "pause": {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?s$", "default": "1s"},
            "routes": {"type": "array", "items": {"type": "object", "properties": {"to": {"type": "string"}}}},
            "share": {"type": "number", "minimum": 0.5},
            "zone": {"type": "string"}
        }}"#;
        assert_eq!(
            fields(schema).expect("a schema"),
            [
                field("balance", "\"a\" | \"b\"", "\"a\"", ""),
                field("eject", "object", "-", ""),
                field("  .percent", "whole number, at most 100", "-", ""),
                field("on", "true | false", "true", "Whether."),
                field("pause", "duration, as \"1.5s\"", "\"1s\"", ""),
                field("routes", "list of: object", "-", ""),
                field("  [].to", "text", "-", ""),
                field("share", "number, 0.5 or more", "-", ""),
                field("zone", "text", "required", ""),
            ]
        );
        assert_eq!(fields("{}"), None);
        assert_eq!(fields("no"), None);
    }
}
