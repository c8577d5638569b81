//! A policy that imports parts of WASI.

use crate::wat::Wat;

/// Returns a component that imports parts of WASI, as components of languages with a runtime do. In `init` it prints,
/// draws random bytes, and reads the clocks, the environment and the preopened directories; at each pick it prints.
///
/// # Panics
///
/// Panics if the text does not parse.
#[must_use]
pub fn with_wasi() -> Vec<u8> {
    let module = Wat {
        imports: r#"
            (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
            (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush"
                (func $write (param i32 i32 i32 i32)))
            (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop (param i32)))
            (import "wasi:random/random@0.2.3" "get-random-u64" (func $random (result i64)))
            (import "wasi:random/random@0.2.3" "get-random-bytes" (func $bytes (param i64 i32)))
            (import "wasi:clocks/monotonic-clock@0.2.3" "now" (func $now (result i64)))
            (import "wasi:clocks/wall-clock@0.2.3" "now" (func $wall (param i32)))
            (import "wasi:cli/environment@0.2.3" "get-environment" (func $environment (param i32)))
            (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $directories (param i32)))"#,
        exports: r#"
            (data (i32.const 1000) "hello from a policy\n")
            (func $print (local $stream i32)
                (local.set $stream (call $stdout))
                (call $write (local.get $stream) (i32.const 1000) (i32.const 20) (i32.const 64))
                (call $drop (local.get $stream))
                (if (i32.load8_u (i32.const 64)) (then unreachable)))"#,
        init: "
            (call $print)
            (drop (call $random))
            (call $bytes (i64.const 16) (i32.const 64))
            (if (i32.ne (i32.load (i32.const 68)) (i32.const 16)) (then unreachable))
            (if (i64.eqz (call $now)) (then unreachable))
            (call $wall (i32.const 64))
            (call $environment (i32.const 64))
            (if (i32.load (i32.const 68)) (then unreachable))
            (call $directories (i32.const 64))
            (if (i32.load (i32.const 68)) (then unreachable))
            (i32.const 0)",
        pick: "(call $print) (call $picked (global.get $first))",
        ..Wat::default()
    };
    module.component_with(WASI)
}

/// World of [`with_wasi`], with the parts of WASI that it imports.
const WASI: &str = "
    package hotpick:fixture;
    world with-wasi {
        include hotpick:policy/policy@0.1.0;
        import wasi:cli/stdout@0.2.3;
        import wasi:cli/environment@0.2.3;
        import wasi:io/streams@0.2.3;
        import wasi:random/random@0.2.3;
        import wasi:clocks/monotonic-clock@0.2.3;
        import wasi:clocks/wall-clock@0.2.3;
        import wasi:filesystem/preopens@0.2.3;
    }
    package wasi:io@0.2.3 {
        interface error { resource error; }
        interface streams {
            use error.{error};
            variant stream-error { last-operation-failed(error), closed }
            resource output-stream {
                blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
            }
        }
    }
    package wasi:cli@0.2.3 {
        interface stdout {
            use wasi:io/streams@0.2.3.{output-stream};
            get-stdout: func() -> output-stream;
        }
        interface environment { get-environment: func() -> list<tuple<string, string>>; }
    }
    package wasi:random@0.2.3 {
        interface random { get-random-bytes: func(len: u64) -> list<u8>; get-random-u64: func() -> u64; }
    }
    package wasi:clocks@0.2.3 {
        interface monotonic-clock { now: func() -> u64; }
        interface wall-clock {
            record datetime { seconds: u64, nanoseconds: u32 }
            now: func() -> datetime;
        }
    }
    package wasi:filesystem@0.2.3 {
        interface types { resource descriptor { sync: func() -> result; } }
        interface preopens {
            use types.{descriptor};
            get-directories: func() -> list<tuple<descriptor, string>>;
        }
    }
";
