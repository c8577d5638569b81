//! Checks a policy's bytes against the limits before anything is compiled.
//!
//! The time and memory to compile a file depend on its contents, not on its size: a valid component of 4 MB with a
//! million empty functions takes the compiler 43 s and 5 GiB. Counting them takes a tenth of a second.

use wasmparser::{Parser, Payload};

use super::error::PolicyError;
use crate::policy::limits::Limits;

/// Number of items of each kind, over all modules and components in a file, and the names of the outermost component.
#[derive(Debug, Default)]
struct Count {
    depth: usize,
    outline: Outline,
    functions: usize,
    imports: usize,
    exports: usize,
    instances: usize,
    types: usize,
}

/// Names of a component's imports and exports.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// Rejects bytes that do not parse, or exceed the limits.
pub(crate) fn scan(bytes: &[u8], limits: &Limits) -> Result<Outline, PolicyError> {
    let mut count = Count::default();
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(|error| invalid(&error))?;
        count.add(&payload, limits)?;
        if count.depth == 1 {
            count.outline.add(payload).map_err(|error| invalid(&error))?;
        }
    }
    Ok(count.outline)
}

fn invalid(error: &wasmparser::BinaryReaderError) -> PolicyError {
    PolicyError::Invalid(error.to_string().replace('\n', " "))
}

impl Outline {
    fn add(&mut self, payload: Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        match payload {
            Payload::ComponentImportSection(section) => {
                for import in section {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Count {
    fn add(&mut self, payload: &Payload<'_>, limits: &Limits) -> Result<(), PolicyError> {
        match payload {
            Payload::Version { .. } => {
                self.depth += 1;
                more("levels of components within each other", self.depth, limits.nesting)
            }
            Payload::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                Ok(())
            }
            Payload::FunctionSection(section) => {
                self.functions += items(section.count());
                more("functions", self.functions, limits.functions)
            }
            Payload::CodeSectionEntry(body) => {
                more("bytes in one function", body.range().len(), limits.function)
            }
            Payload::TypeSection(section) => self.types(section.count(), limits),
            Payload::CoreTypeSection(section) => self.types(section.count(), limits),
            Payload::ComponentTypeSection(section) => self.types(section.count(), limits),
            Payload::ImportSection(section) => self.imports(section.count(), limits),
            Payload::ComponentImportSection(section) => self.imports(section.count(), limits),
            Payload::ExportSection(section) => self.exports(section.count(), limits),
            Payload::ComponentExportSection(section) => self.exports(section.count(), limits),
            Payload::InstanceSection(section) => self.instances(section.count(), limits),
            Payload::ComponentInstanceSection(section) => self.instances(section.count(), limits),
            _ => Ok(()),
        }
    }

    fn types(&mut self, count: u32, limits: &Limits) -> Result<(), PolicyError> {
        self.types += items(count);
        more("types", self.types, limits.functions)
    }

    fn imports(&mut self, count: u32, limits: &Limits) -> Result<(), PolicyError> {
        self.imports += items(count);
        more("imports", self.imports, limits.names)
    }

    fn exports(&mut self, count: u32, limits: &Limits) -> Result<(), PolicyError> {
        self.exports += items(count);
        more("exports", self.exports, limits.names)
    }

    fn instances(&mut self, count: u32, limits: &Limits) -> Result<(), PolicyError> {
        self.instances += items(count);
        more("instances", self.instances, limits.instances)
    }
}

fn items(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn more(what: &'static str, count: usize, limit: usize) -> Result<(), PolicyError> {
    if count > limit { Err(PolicyError::TooComplex { what, count, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn refused(wat: &str, limits: Limits) -> String {
        let bytes = wat::parse_str(wat).expect("WAT");
        scan(&bytes, &limits).expect_err("too much").to_string()
    }

    #[test]
    fn each_count_has_its_limit() {
        let limits =
            Limits { functions: 2, function: 8, nesting: 2, names: 2, instances: 1, ..Limits::default() };
        for (wat, sentence) in [
            ("(module (func) (func) (func))", "has 3 functions, more than 2"),
            ("(component (core module (func) (func)) (core module (func)))", "has 3 functions, more than 2"),
            (
                "(module (func nop nop nop nop nop nop nop nop nop))",
                "has 11 bytes in one function, more than 8",
            ),
            (
                "(component (component (component)))",
                "has 3 levels of components within each other, more than 2",
            ),
            (
                r#"(module (import "a" "a" (func)) (import "a" "b" (func)) (import "a" "c" (func)))"#,
                "has 3 imports, more than 2",
            ),
            (r#"(module (func (export "a") (export "b") (export "c")))"#, "has 3 exports, more than 2"),
            (
                "(component (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)))",
                "has 2 instances, more than 1",
            ),
        ] {
            assert_eq!(refused(wat, limits), sentence, "{wat}");
        }
    }

    /// Encodes a section's size, or a count, as LEB128.
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

    fn section(id: u8, count: usize, item: &[u8]) -> Vec<u8> {
        let body = [leb(count), item.repeat(count)].concat();
        [vec![id], leb(body.len()), body].concat()
    }

    /// The file that takes 43 s to compile.
    #[test]
    fn a_million_functions_are_counted_and_not_compiled() {
        let many = 999_000;
        let sections =
            [section(1, 1, &[0x60, 0, 0]), section(3, many, &[0]), section(10, many, &[2, 0, 0x0b])];
        let bytes = [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat();
        let begin = Instant::now();
        let error = crate::policy::WasmPolicy::compile("many", 1, &bytes, Limits::default());
        assert_eq!(error.expect_err("too many").to_string(), "has 999000 functions, more than 100000");
        // A generous bound: counting takes a fraction of a second.
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }

    #[test]
    fn the_standard_policies_are_far_below_the_limits() {
        let small = Limits {
            functions: 2000,
            function: 32 << 10,
            nesting: 4,
            names: 200,
            instances: 100,
            ..Limits::default()
        };
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/dist");
        for file in std::fs::read_dir(folder).expect("built policies").flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                let bytes = std::fs::read(&path).expect("read");
                scan(&bytes, &small).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            }
        }
    }
}
