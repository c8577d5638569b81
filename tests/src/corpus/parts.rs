//! Policies that misuse optional parts or imports of the contract.

use hotpick::policy::{FaultKind, Stage};

use super::policies::{LOG, LOOP, TRAP};
use super::{Bad, End, bad, wat};
use crate::wat::Wat;

const SCHEDULE: &str =
    r#"(import "hotpick:policy/timers@0.1.0" "schedule" (func $schedule (param i32 i64 i32)))"#;

/// Policies with faults in optional parts.
pub(super) fn bad_parts() -> Vec<Bad> {
    let exports = |exports| Wat { exports, ..Wat::default() };
    let saves = |save: &str, restore: &str| {
        format!(
            r#"(func (export "hotpick:policy/handover@0.1.0#save") (result i32) {save})
               (func (export "hotpick:policy/handover@0.1.0#restore") (param i32 i32) (result i32) {restore})"#
        )
    };
    let nothing =
        "(i32.store (i32.const 32) (i32.const 1)) (i64.store (i32.const 36) (i64.const 0)) (i32.const 32)";
    let large = "(i32.store (i32.const 32) (i32.const 1)) (i32.store (i32.const 36) (i32.const 65536))
                 (i32.store (i32.const 40) (i32.const 400000)) (i32.const 32)";
    vec![
        wat(
            "traps when notified of outcomes",
            &exports(
                r#"(func (export "hotpick:policy/outcomes@0.1.0#done") (param i32 i32 i64) unreachable)"#,
            ),
            End::Quarantined(TRAP),
        ),
        wat(
            "loops when notified of outcomes",
            &exports(
                r#"(func (export "hotpick:policy/outcomes@0.1.0#done") (param i32 i32 i64) (loop (br 0)))"#,
            ),
            End::Quarantined(LOOP),
        ),
        wat(
            "traps when notified of a state",
            &exports(
                r#"(func (export "hotpick:policy/connectivity@0.1.0#changed") (param i32 i32 i32 i32 i64) unreachable)"#,
            ),
            End::Refused(Stage::Init, TRAP),
        ),
        wat(
            "traps when its timer fires",
            &Wat {
                imports: SCHEDULE,
                init: "(call $schedule (i32.const 1) (i64.const 10000000) (i32.const 64)) (i32.const 0)",
                exports: r#"(func (export "hotpick:policy/alarms@0.1.0#fired") (param i32 i64) unreachable)"#,
                ..Wat::default()
            },
            End::Quarantined(TRAP),
        ),
        wat(
            "loops when its timer fires",
            &Wat {
                imports: SCHEDULE,
                init: "(call $schedule (i32.const 1) (i64.const 10000000) (i32.const 64)) (i32.const 0)",
                exports: r#"(func (export "hotpick:policy/alarms@0.1.0#fired") (param i32 i64) (loop (br 0)))"#,
                ..Wat::default()
            },
            End::Quarantined(LOOP),
        ),
        wat(
            "loops when notified of a state",
            &exports(
                r#"(func (export "hotpick:policy/connectivity@0.1.0#changed") (param i32 i32 i32 i32 i64) (loop (br 0)))"#,
            ),
            End::Refused(Stage::Init, LOOP),
        ),
        wat(
            "loops when it restores a state",
            &exports(&saves(nothing, "(loop (br 0)) unreachable")),
            End::CannotHandOver(&[]),
        ),
        wat(
            "traps when it saves its state",
            &exports(&saves("unreachable", "(i32.const 0)")),
            End::CannotHandOver(&[FaultKind::Trap]),
        ),
        wat(
            "loops when it saves its state",
            &exports(&saves("(loop (br 0)) unreachable", "(i32.const 0)")),
            End::CannotHandOver(&[FaultKind::Deadline]),
        ),
        wat(
            "saves a state that is larger than the limit",
            &Wat { memory: 8, exports: &saves(large, "(i32.const 0)"), ..Wat::default() },
            End::CannotHandOver(&[]),
        ),
        wat(
            "saves a state that is outside its memory",
            &exports(&saves(
                "(i32.store (i32.const 36) (i32.const -8)) (i32.store (i32.const 40) (i32.const 64)) (i32.const 32)",
                "(i32.const 0)",
            )),
            End::CannotHandOver(&[FaultKind::Trap]),
        ),
        wat(
            "traps when it restores a state",
            &exports(&saves(nothing, "unreachable")),
            End::CannotHandOver(&[]),
        ),
    ]
}

/// Policies that are wasteful or odd, but harmless.
pub(super) fn nuisances() -> Vec<Bad> {
    let harmless = |name, policy: &Wat<'_>| wat(name, policy, End::Harmless);
    let first = "(call $picked (global.get $first))";
    let repeat = |times: u32, what: &str| {
        format!(
            "(local $n i32) (loop {what} (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if 0 (i32.lt_u (local.get $n) (i32.const {times})))) {first}"
        )
    };
    // Two letters that encode `$n`.
    let name = "(i32.store8 (i32.const 1000) (i32.add (i32.const 0x61) (i32.rem_u (local.get $n) (i32.const 26))))
                (i32.store8 (i32.const 1001) (i32.add (i32.const 0x61) (i32.div_u (local.get $n) (i32.const 26))))";
    let init = |times: u32, what: &str| repeat(times, what).replace(first, "(i32.const 0)");
    vec![
        // The limit of 32 MiB is 512 pages: the instance is replaced before it has used them up.
        bad("leaks 64 KiB at each pick", Wat::every(1, "(drop (memory.grow (i32.const 1)))"), End::Harmless),
        harmless(
            "grows a table without limit",
            &Wat {
                exports: "(table $t 1 funcref)",
                pick: "(drop (table.grow $t (ref.null func) (i32.const 60000))) (call $picked (global.get $first))",
                ..Wat::default()
            },
        ),
        harmless(
            "logs 100 lines at each pick",
            &Wat {
                imports: LOG,
                pick: &repeat(100, "(call $log (i32.const 2) (i32.const 0) (i32.const 10))"),
                ..Wat::default()
            },
        ),
        harmless(
            "declares 600 metadata keys",
            &Wat {
                imports: r#"(import "hotpick:policy/call@0.1.0" "declare-metadata" (func $declare (param i32 i32 i32)))"#,
                init: &init(
                    600,
                    &format!("{name} (call $declare (i32.const 1000) (i32.const 2) (i32.const 64))"),
                ),
                ..Wat::default()
            },
        ),
        harmless(
            "declares 600 instruments",
            &Wat {
                imports: r#"(import "hotpick:policy/metrics@0.1.0" "counter" (func $counter (param i32 i32 i32 i32 i32)))"#,
                init: &init(
                    600,
                    &format!(
                        "{name} (call $counter (i32.const 1000) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 64))"
                    ),
                ),
                ..Wat::default()
            },
        ),
        harmless(
            "sets 100 timers at each pick",
            &Wat {
                imports: SCHEDULE,
                pick: &repeat(
                    100,
                    "(call $schedule (local.get $n) (i64.const 0) (i32.const 64)) (global.set $heap (i32.const 1024))",
                ),
                ..Wat::default()
            },
        ),
        harmless(
            "asks to connect and to resolve 100 times at each pick",
            &Wat {
                imports: r#"(import "hotpick:policy/connections@0.1.0" "connect" (func $connect (param i32)))
                        (import "hotpick:policy/connections@0.1.0" "resolve-now" (func $resolve))"#,
                pick: &repeat(100, "(call $connect (local.get $n)) (call $resolve)"),
                ..Wat::default()
            },
        ),
        harmless(
            "sets invalid metadata",
            &Wat {
                imports: r#"(import "hotpick:policy/call@0.1.0" "set-metadata" (func $set (param i32 i32 i32 i32 i32)))"#,
                exports: r#"(data (i32.const 1000) "grpc-status") (data (i32.const 1020) "Host") (data (i32.const 1040) "x")"#,
                pick: "(global.set $heap (i32.const 1024))
                   (call $set (i32.const 1000) (i32.const 11) (i32.const 1040) (i32.const 1) (i32.const 64))
                   (call $set (i32.const 1020) (i32.const 4) (i32.const 1040) (i32.const 1) (i32.const 64))
                   (call $set (i32.const 1040) (i32.const 1) (i32.const 16) (i32.const 8) (i32.const 64))
                   (call $picked (global.get $first))",
                ..Wat::default()
            },
        ),
        // Its packages depend on each other; found by mutating a valid file at random.
        bad(
            "has a component-type section with a cycle",
            include_bytes!("circle.wasm").to_vec(),
            End::Harmless,
        ),
        harmless(
            "has an unused export",
            &Wat { exports: r#"(global (export "unused") i32 (i32.const 1))"#, ..Wat::default() },
        ),
    ]
}
