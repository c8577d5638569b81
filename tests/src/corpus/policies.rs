//! Policies that fit the contract, and fail when they are called.

use hotpick::policy::Stage;

use super::{Bad, End, bad, wat};
use crate::wat::Wat;

const RANDOM: &str = r#"(import "hotpick:policy/env@0.1.0" "random" (func $random (result i64)))"#;
pub(super) const LOG: &str = r#"(import "hotpick:policy/env@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
pub(super) const TRAP: &str = "trapped: ";
pub(super) const LOOP: &str = "ran past its limit of time";
const MEMORY: &str = "asked for more memory than its limit";
const SPIN: &str = "(loop (br 0))";

/// Policies that fail before their trial picks, or as soon as nothing is ready.
pub(super) fn bad_starts() -> Vec<Bad> {
    use End::Refused;
    let with = |init| Wat { init, ..Wat::default() };
    let text = |at: &str, length: &str| {
        format!(
            "(i32.store8 (i32.const 16) (i32.const 1)) (i32.store (i32.const 20) (i32.const {at}))
             (i32.store (i32.const 24) (i32.const {length})) (i32.const 16)"
        )
    };
    let recursion =
        "(func $deep (param i64) (result i64) (i64.add (i64.const 1) (call $deep (local.get 0))))";
    vec![
        wat(
            "loops in a start function",
            &Wat { exports: "(func $spin (loop (br 0))) (start $spin)", ..Wat::default() },
            Refused(Stage::Instantiate, LOOP),
        ),
        wat(
            "traps in a start function",
            &Wat { exports: "(func $trap unreachable) (start $trap)", ..Wat::default() },
            Refused(Stage::Instantiate, TRAP),
        ),
        wat(
            "starts with more memory than its limit",
            &Wat { memory: 60_000, ..Wat::default() },
            Refused(Stage::Instantiate, "memory"),
        ),
        wat(
            "has a table of 10 million elements",
            &Wat { exports: "(table 10000000 funcref)", ..Wat::default() },
            Refused(Stage::Instantiate, "failed to start"),
        ),
        wat(
            "has a data segment outside its memory",
            &Wat { exports: r#"(data (i32.const 200000) "x")"#, ..Wat::default() },
            Refused(Stage::Instantiate, TRAP),
        ),
        wat("loops in init", &with("(loop (br 0)) (i32.const 0)"), Refused(Stage::Init, LOOP)),
        wat("traps in init", &with("unreachable"), Refused(Stage::Init, TRAP)),
        wat(
            "recurses endlessly in init",
            &Wat {
                exports: recursion,
                init: "(drop (call $deep (i64.const 0))) (i32.const 0)",
                ..Wat::default()
            },
            Refused(Stage::Init, "stack"),
        ),
        wat(
            "grows its memory endlessly in init",
            &with("(loop (br_if 0 (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) unreachable"),
            Refused(Stage::Init, MEMORY),
        ),
        wat(
            "loops in realloc",
            &Wat { realloc: SPIN, changed: "", ..Wat::default() },
            Refused(Stage::Init, LOOP),
        ),
        wat(
            "traps in realloc",
            &Wat { realloc: "unreachable", ..Wat::default() },
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "returns an address outside its memory from realloc",
            &Wat { realloc: "(return (i32.const 0x7ffffff0))", ..Wat::default() },
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "returns a misaligned address from realloc",
            &Wat { realloc: "(return (i32.add (i32.const 2049) (i32.const 0)))", ..Wat::default() },
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "rejects its configuration",
            &with(&text("1000", "0")),
            Refused(Stage::Init, "refused its configuration"),
        ),
        wat(
            "rejects its configuration with a reason that is not UTF-8",
            &Wat {
                init: &text("1000", "4"),
                exports: r#"(data (i32.const 1000) "\ff\fe\ff\fe")"#,
                ..Wat::default()
            },
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "rejects its configuration with a reason outside its memory",
            &with(&text("0x7fffff00", "64")),
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "rejects its configuration with a reason of 2 GB",
            &with(&text("0", "0x7fffffff")),
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "rejects its configuration with a reason of 100,000 bytes",
            &Wat { init: &text("65536", "100000"), memory: 4, ..Wat::default() },
            Refused(Stage::Init, "refused its configuration"),
        ),
        wat(
            "returns an invalid result from init",
            &with("(i32.store8 (i32.const 16) (i32.const 7)) (i32.const 16)"),
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "loops when notified of endpoints",
            &Wat { changed: SPIN, ..Wat::default() },
            Refused(Stage::Init, LOOP),
        ),
        wat(
            "traps when notified of endpoints",
            &Wat { changed: "unreachable", ..Wat::default() },
            Refused(Stage::Init, TRAP),
        ),
        wat(
            "loops when notified of the ready subconns",
            &Wat { ready: SPIN, ..Wat::default() },
            Refused(Stage::Init, LOOP),
        ),
        wat(
            "traps when nothing is ready",
            &Wat { ready: "(if (i32.eqz (local.get $n)) (then unreachable))", ..Wat::default() },
            Refused(Stage::PreFlight, TRAP),
        ),
    ]
}

/// Policies that fail in their trial picks.
pub(super) fn bad_picks() -> Vec<Bad> {
    use End::Refused;
    let picks = |pick| Wat { pick, ..Wat::default() };
    let trial = |words| Refused(Stage::PreFlight, words);
    vec![
        wat("loops in pick", &picks("(loop (br 0)) (i32.const 0)"), trial(LOOP)),
        wat("traps in pick", &picks("unreachable"), trial(TRAP)),
        wat("divides by zero", &picks("(i32.div_u (i32.const 1) (i32.const 0))"), trial(TRAP)),
        wat(
            "traps at the 100th pick",
            &picks(
                "(if (i64.eq (local.get $call) (i64.const 100)) (then unreachable)) (call $picked (global.get $first))",
            ),
            trial(TRAP),
        ),
        wat(
            "recurses in pick",
            &Wat {
                exports: "(func $deep (param i64) (result i64) (i64.add (i64.const 1) (call $deep (local.get 0))))",
                pick: "(drop (call $deep (i64.const 0))) (i32.const 0)",
                ..Wat::default()
            },
            trial("stack"),
        ),
        wat(
            "picks a subconn that does not exist",
            &picks("(call $picked (i32.const 77))"),
            trial("picked subconn 77, which does not exist"),
        ),
        wat(
            "always picks the first subconn that was ever ready",
            &Wat {
                exports: "(global $ever (mut i32) (i32.const -1))",
                ready: "(if (i32.eq (global.get $ever) (i32.const -1)) (then (global.set $ever (global.get $first))))",
                pick: "(call $picked (global.get $ever))",
                ..Wat::default()
            },
            trial("which does not exist"),
        ),
        wat("only queues", &picks("(call $picked (i32.const -1))"), trial("only queues RPCs, though")),
        wat("returns a pick-result outside its memory", &picks("(i32.const -4)"), trial(TRAP)),
        wat("returns a pick-result at a misaligned address", &picks("(i32.const 17)"), trial(TRAP)),
        wat(
            "returns a pick-result of an unknown case",
            &picks("(i32.store8 (i32.const 16) (i32.const 9)) (i32.const 16)"),
            trial(TRAP),
        ),
        wat(
            "fails with an unknown code",
            &picks(
                "(i32.store8 (i32.const 16) (i32.const 2)) (i32.store8 (i32.const 20) (i32.const 200)) (i32.const 16)",
            ),
            trial(TRAP),
        ),
        wat(
            "calls the host endlessly",
            &Wat {
                imports: RANDOM,
                pick: "(loop (drop (call $random)) (br 0)) (i32.const 0)",
                ..Wat::default()
            },
            trial(LOOP),
        ),
        wat(
            "logs 2 MB at once",
            &Wat {
                imports: LOG,
                memory: 40,
                pick: "(call $log (i32.const 2) (i32.const 0) (i32.const 2000000)) (call $picked (global.get $first))",
                ..Wat::default()
            },
            trial(TRAP),
        ),
        wat(
            "logs text that is not UTF-8",
            &Wat {
                imports: LOG,
                exports: r#"(data (i32.const 1000) "\ff\fe")"#,
                pick: "(call $log (i32.const 2) (i32.const 1000) (i32.const 2)) (call $picked (global.get $first))",
                ..Wat::default()
            },
            trial(TRAP),
        ),
        wat(
            "logs at an unknown level",
            &Wat {
                imports: LOG,
                pick: "(call $log (i32.const 99) (i32.const 0) (i32.const 1)) (call $picked (global.get $first))",
                ..Wat::default()
            },
            trial(TRAP),
        ),
    ]
}

/// Policies that pass their trial picks, because they fail only for wait-for-ready RPCs.
pub(super) fn bad_in_service() -> Vec<Bad> {
    use End::Quarantined;
    let every = |name, n, what: &str, end| bad(name, Wat::every(n, what), end);
    vec![
        every("traps at every pick, in service", 1, "unreachable", Quarantined(TRAP)),
        every("traps at every 10th pick, in service", 10, "unreachable", Quarantined(TRAP)),
        every("loops, in service", 1, SPIN, Quarantined(LOOP)),
        every(
            "picks a subconn that does not exist, in service",
            1,
            "(return (call $picked (i32.const 1000)))",
            Quarantined("picked subconn 1000"),
        ),
        every(
            "allocates too much memory, in service",
            1,
            "(if (i32.eq (memory.grow (i32.const 60000)) (i32.const -1)) (then unreachable))",
            Quarantined(MEMORY),
        ),
        every(
            "returns a pick-result outside its memory, in service",
            1,
            "(return (i32.const -4))",
            Quarantined(TRAP),
        ),
    ]
}
