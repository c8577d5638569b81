//! The documentation of the standard policies agrees with their code.

use std::path::Path;

use hotpick::policy::{Limits, WasmPolicy};
use hotpick_tests::{STANDARD, standard};

/// Returns the JSON blocks of a page.
fn examples(page: &str) -> impl Iterator<Item = &str> {
    page.split("```json\n").skip(1).filter_map(|after| after.split("```").next())
}

#[tokio::test]
async fn each_policy_has_a_page_with_its_fields_and_examples_that_work() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies");
    for name in STANDARD {
        let file = folder.join(format!("{name}.md"));
        let page = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let policy = WasmPolicy::compile(name, 1, &standard(name), Limits::default()).expect("a policy");
        let report = policy.check("{}", 3).expect("a policy");
        let schema = report.config_schema.expect("a schema");
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
        let fields = schema["properties"].as_object().expect("fields");
        for (field, of) in fields {
            let row = page.lines().find(|line| line.starts_with(&format!("| `{field}` |")));
            let row = row.unwrap_or_else(|| panic!("{file:?} has no row for {field}"));
            let description = of["description"].as_str().unwrap_or_default().replace('|', "\\|");
            assert!(
                row.contains(&description),
                "{file:?}: the row {row} differs from the schema: {description}"
            );
            let default = &of["default"];
            assert!(
                default.is_null()
                    || default.is_object()
                    || default.is_array()
                    || row.contains(&default.to_string()),
                "{file:?}: the row {row} lacks the default {default}"
            );
        }
        assert!(fields.is_empty() || examples(&page).count() > 0, "{file:?} has no example");
        for example in examples(&page) {
            policy.check(example, 3).unwrap_or_else(|error| panic!("{file:?}: {example}: {error}"));
        }
    }
}
