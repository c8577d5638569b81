//! Files that are not policies, not files, or too large to compile in a reasonable time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use hotpick::policy::Stage;
use hotpick::policy::componentize;

use super::{Bad, End, File, bad};
use crate::wat::Wat;

fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Replaces every occurrence of a text by another of the same length.
fn renamed(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "lengths are encoded in the file");
    let windows = bytes.windows(from.len()).enumerate();
    let places: Vec<_> = windows.filter(|(_, window)| *window == from.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "{from:?} does not occur");
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// Files that are not policies, or not for this host.
pub(super) fn not_policies() -> Vec<Bad> {
    use End::Rejected;
    let good = Wat::first();
    let text = |text: &str| text.as_bytes().to_vec();
    let imports = |name: &str| component(&format!(r#"(component (import "{name}" (instance)))"#));
    vec![
        bad("an empty file", Vec::new(), Rejected(Stage::Parse, "is not WebAssembly")),
        bad("a script", text("#!/bin/sh\nexit 1\n"), Rejected(Stage::Parse, "is not WebAssembly")),
        bad(
            "an ELF",
            fs::read("/proc/self/exe").map_or_else(
                |_| text("\x7fELF"),
                |mut elf| {
                    elf.truncate(1 << 20);
                    elf
                },
            ),
            Rejected(Stage::Parse, "is not WebAssembly"),
        ),
        bad("a ZIP", text("PK\x03\x04policy.wasm"), Rejected(Stage::Parse, "is not WebAssembly")),
        bad("1 MiB of zeros", vec![0; 1 << 20], Rejected(Stage::Parse, "is not WebAssembly")),
        bad(
            "the first four bytes of a policy",
            good[..4].to_vec(),
            Rejected(Stage::Parse, "is not WebAssembly"),
        ),
        bad(
            "a future version of WebAssembly",
            b"\0asm\x02\0\0\0".to_vec(),
            Rejected(Stage::Parse, "unknown version of WebAssembly"),
        ),
        bad(
            "the first half of a policy",
            good[..good.len() / 2].to_vec(),
            Rejected(Stage::Parse, "is not valid: "),
        ),
        bad(
            "a policy with garbage at its end",
            [&good[..], &[0xff; 64]].concat(),
            Rejected(Stage::Parse, "is not valid: "),
        ),
        bad("the header of a component", good[..8].to_vec(), Rejected(Stage::World, "it is not a policy")),
        bad(
            "an empty component",
            component("(component)"),
            Rejected(Stage::World, "does not export hotpick:policy/lifecycle@0.1"),
        ),
        bad(
            "a core module without a component-type section",
            Wat::default().module(),
            Rejected(Stage::Parse, "without a component-type section"),
        ),
        bad(
            "a core module that does not fit its world",
            wrong_module(),
            Rejected(Stage::Parse, "cannot be converted to a component"),
        ),
        bad(
            "an incompatible version of the contract",
            renamed(good.clone(), "@0.1.0", "@0.2.0"),
            Rejected(Stage::World, "this host speaks 0.1.x"),
        ),
        bad(
            "a future version of the contract",
            renamed(good.clone(), "@0.1.0", "@1.0.0"),
            Rejected(Stage::World, "this host speaks 0.1.x"),
        ),
        bad(
            "the exports of the contract without their functions",
            renamed_export(),
            Rejected(Stage::World, "does not fit the contract"),
        ),
        bad(
            "an unknown function of the contract",
            with_unknown_import(),
            Rejected(Stage::World, "does not fit the contract"),
        ),
        bad(
            "an unknown interface of the contract",
            imports("hotpick:policy/clairvoyance@0.1.0"),
            Rejected(Stage::World, "imports hotpick:policy/clairvoyance, which"),
        ),
        bad(
            "an import of sockets",
            imports("wasi:sockets/tcp@0.2.0"),
            Rejected(Stage::World, "imports wasi:sockets/tcp@0.2.0, which"),
        ),
        bad(
            "an import of HTTP",
            imports("wasi:http/outgoing-handler@0.2.0"),
            Rejected(Stage::World, "imports wasi:http/outgoing-handler@0.2.0, which"),
        ),
        bad(
            "an import of a future WASI",
            imports("wasi:cli/environment@0.3.0"),
            Rejected(Stage::World, "imports wasi:cli/environment@0.3.0, which"),
        ),
        bad(
            "an import of an unknown package",
            imports("acme:secrets/vault@1.0.0"),
            Rejected(Stage::World, "imports acme:secrets/vault@1.0.0, which"),
        ),
    ]
}

/// Returns a core module that claims the world `policy` without exporting its `pick`.
fn wrong_module() -> Vec<u8> {
    let module = Wat::default().module_with_type();
    renamed(module, "picker@0.1.0#pick", "picker@0.1.0#pack")
}

/// Returns a component whose exported interfaces have the right names and no functions.
fn renamed_export() -> Vec<u8> {
    let names = ["lifecycle", "endpoints", "picker"];
    let exports = names.map(|name| format!(r#"(export "hotpick:policy/{name}@0.1.0" (instance $empty))"#));
    component(&format!("(component (instance $empty) {})", exports.join(" ")))
}

/// Returns a policy that imports a function that the contract does not have.
fn with_unknown_import() -> Vec<u8> {
    let imports =
        r#"(import "hotpick:policy/stats@0.1.0" "in-flight" (func $in_flight (param i32) (result i32)))"#;
    let pick = "(drop (call $in_flight (i32.const 0))) (call $picked (global.get $first))";
    renamed(Wat { imports, pick, ..Wat::default() }.component(), "in-flight", "in-fright")
}

/// Encodes a number as unsigned LEB128.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, body: &[u8]) -> Vec<u8> {
    [vec![id], leb(body.len()), body.to_vec()].concat()
}

fn module(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

fn many(id: u8, count: usize, item: &[u8]) -> Vec<u8> {
    section(id, &[leb(count), item.repeat(count)].concat())
}

/// Appends a custom section of this size, in bytes.
fn padded(mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    bytes.extend(section(0, &[vec![3], b"pad".to_vec(), vec![0; size]].concat()));
    bytes
}

/// Files whose compilation would take seconds and gigabytes, and one that is within the limits.
pub(super) fn too_much() -> Vec<Bad> {
    use End::Rejected;
    let function = [leb(600_004), vec![0], [0x01].repeat(600_002), vec![0x0b]].concat();
    let nested = format!("{}{}", "(component ".repeat(40), ")".repeat(40));
    let exports: String = (0..20_000).map(|n| format!(r#"(export "e{n}")"#)).collect();
    let imports: String = (0..20_000).map(|n| format!(r#"(import "i" "i{n}" (func))"#)).collect();
    let instances = "(core instance (instantiate $m))".repeat(2_000);
    vec![
        bad(
            "999,000 functions",
            module(&[section(1, &[1, 0x60, 0, 0]), many(3, 999_000, &[0]), many(10, 999_000, &[2, 0, 0x0b])]),
            Rejected(Stage::Scan, "has 999000 functions"),
        ),
        bad(
            "500,000 types",
            module(&[many(1, 500_000, &[0x60, 0, 0])]),
            Rejected(Stage::Scan, "has 500000 types"),
        ),
        bad(
            "one function of 600 KB",
            module(&[
                section(1, &[1, 0x60, 0, 0]),
                section(3, &[1, 0]),
                section(10, &[leb(1), function].concat()),
            ]),
            Rejected(Stage::Scan, "bytes in one function"),
        ),
        bad("40 nested components", component(&nested), Rejected(Stage::Scan, "levels of components")),
        bad(
            "20,000 exports",
            component(&format!("(module (func {exports}))")),
            Rejected(Stage::Scan, "has 20000 exports"),
        ),
        bad(
            "20,000 imports",
            component(&format!("(module {imports})")),
            Rejected(Stage::Scan, "has 20000 imports"),
        ),
        bad(
            "2,000 instances",
            component(&format!("(component (core module $m) {instances})")),
            Rejected(Stage::Scan, "has 2000 instances"),
        ),
        bad(
            "a custom section of 33 MiB",
            padded(Wat::first(), 33 << 20),
            Rejected(Stage::Size, "bytes, more than"),
        ),
        bad("a custom section of 4 MiB", padded(Wat::first(), 4 << 20), End::Harmless),
    ]
}

/// Directory entries that are not regular files, or cannot be read.
pub(super) fn not_files() -> Vec<Bad> {
    use End::Rejected;
    let made = |name, make: fn(&Path), end| Bad { name, file: File::Made(make), end };
    vec![
        made(
            "a directory",
            |path| fs::create_dir(path).expect("created"),
            Rejected(Stage::File, "it is not a regular file"),
        ),
        made(
            "a FIFO",
            |path| {
                let status = std::process::Command::new("mkfifo").arg(path).status();
                assert!(status.expect("mkfifo runs").success(), "mkfifo fails");
            },
            Rejected(Stage::File, "it is not a regular file"),
        ),
        made(
            "a socket",
            |path| drop(std::os::unix::net::UnixListener::bind(path).expect("bound")),
            Rejected(Stage::File, "cannot be read"),
        ),
        made(
            "a symlink to a device",
            |path| symlink("/dev/zero", path).expect("linked"),
            Rejected(Stage::File, "it is not a regular file"),
        ),
        made(
            "a file whose reads fail",
            |path| symlink("/proc/self/mem", path).expect("linked"),
            Rejected(Stage::File, "cannot be read: "),
        ),
        made(
            "a sparse file of 5 GiB",
            |path| {
                fs::File::create(path).expect("created").set_len(5 << 30).expect("a sparse file");
            },
            Rejected(Stage::Size, "bytes, more than"),
        ),
        made("a dangling symlink", |path| symlink("nowhere", path).expect("linked"), End::Gone),
        made("a symlink to itself", |path| symlink(path, path).expect("linked"), End::Gone),
    ]
}

/// Returns a policy truncated at the end of each section except the last needed one, and at `random_places` random
/// offsets before that.
#[must_use]
pub fn truncations(random_places: usize, seed: u64) -> Vec<Vec<u8>> {
    let whole = componentize(&Wat::default().module()).unwrap_or_else(|error| panic!("{error}"));
    let mut places = Vec::new();
    // End of the last section that is not custom. Custom sections after it may be missing in a valid policy.
    let mut needed = 0;
    let mut at = 8;
    while at < whole.len() {
        let is_custom = whole[at] == 0;
        let (mut size, mut shift, mut head) = (0usize, 0, at + 1);
        loop {
            let byte = whole[head];
            head += 1;
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at = head + size;
        needed = if is_custom { needed } else { at };
        places.push(at);
    }
    places.retain(|place| *place < needed);
    let mut random = fastrand::Rng::with_seed(seed);
    places.extend((0..random_places).map(|_| random.usize(..needed)));
    places.into_iter().map(|at| whole[..at].to_vec()).collect()
}
