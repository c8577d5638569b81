//! What is accepted as a policy, as `docs/accepted.md` says it: features of WebAssembly, one by one.

use hotpick::policy::{Limits, WasmPolicy, componentize};
use hotpick_tests::wat::Wat;

/// Features, and definitions that use them.
const FEATURES: &[(&str, bool, &str)] = &[
    ("multi-value", true, "(func $f (result i32 i32) (i32.const 1) (i32.const 2))"),
    ("sign extension", true, "(func $f (param i32) (result i32) (i32.extend8_s (local.get 0)))"),
    (
        "saturating conversions",
        true,
        "(func $f (param f64) (result i64) (i64.trunc_sat_f64_u (local.get 0)))",
    ),
    ("bulk memory", true, "(func $f (memory.fill (i32.const 0) (i32.const 0) (i32.const 1)))"),
    ("tables of functions", true, "(table $t 1 funcref) (func $f (drop (table.get $t (i32.const 0))))"),
    ("references to the host (externref)", false, "(table $t 1 externref)"),
    ("mutable globals", true, "(global (export \"g\") (mut i32) (i32.const 0))"),
    ("fixed-width SIMD", true, "(func $f (result v128) (i32x4.splat (i32.const 1)))"),
    ("tail calls", true, "(func $f (return_call $f))"),
    ("extended constants", true, "(global i32 (i32.add (i32.const 1) (i32.const 2)))"),
    ("multiple memories", true, "(memory $other 1) (func $f (drop (i32.load $other (i32.const 0))))"),
    ("64-bit memories", true, "(memory $wide i64 1) (func $f (drop (i32.load $wide (i64.const 0))))"),
    (
        "relaxed SIMD",
        false,
        "(func $f (param v128) (result v128) (i32x4.relaxed_trunc_f32x4_s (local.get 0)))",
    ),
    ("threads", false, "(memory $shared 1 1 shared)"),
    ("atomics", false, "(func $f (drop (i32.atomic.load (i32.const 0))))"),
    ("exceptions", false, "(tag $e) (func $f (throw $e))"),
    ("garbage collection", false, "(type $s (struct (field i32)))"),
    (
        "typed function references",
        true,
        "(type $t (func)) (func $f (param (ref $t)) (call_ref $t (local.get 0)))",
    ),
    ("stack switching", false, "(type $f (func)) (type $c (cont $f))"),
];

fn policy(definitions: &str) -> Result<WasmPolicy, String> {
    let module = Wat { exports: definitions, ..Wat::default() }.module();
    let component = componentize(&module).map_err(|error| error.to_string())?;
    WasmPolicy::compile("feature", 1, &component, Limits::default()).map_err(|error| error.to_string())
}

#[test]
fn features_of_webassembly_are_taken_or_refused_as_the_page_says() {
    let page = include_str!("../../docs/accepted.md");
    for (feature, is_taken, definitions) in FEATURES {
        let made = policy(definitions);
        assert_eq!(made.is_ok(), *is_taken, "{feature}: {made:?}");
        let verdict = if *is_taken { "taken" } else { "refused" };
        let row = format!("| {feature} | {verdict} |");
        assert!(page.contains(&row), "docs/accepted.md has no {row:?}");
        if let Err(why) = made {
            assert!(!why.is_empty() && why.lines().count() < 10, "{feature}: {why}");
        }
    }
    let rows =
        page.lines().filter(|line| line.ends_with("| taken |") || line.ends_with("| refused |")).count();
    assert_eq!(rows, FEATURES.len(), "rows of docs/accepted.md that are not tested");
}
