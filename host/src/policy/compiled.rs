//! From bytes to a compiled component whose imports and exports fit the contract.

use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::PolicyError;
use super::bindings::PolicyPre;
use super::componentize::componentize_module;
use super::contract::{OPTIONAL, PACKAGE, PROVIDED, REQUIRED, VERSION, fits};
use super::engine::Engine;
use super::imports::State;
use super::limits::Limits;
use super::scan::scan;
use crate::picker::PolicyVersion;

/// A component that fits, ready to be instantiated.
pub(super) struct Compiled {
    pub(super) engine: &'static Engine,
    pub(super) pre: PolicyPre<State>,
    pub(super) version: PolicyVersion,
    pub(super) limits: Limits,
    /// The interfaces that it imports, by their short names.
    pub(super) imports: Vec<String>,
    /// The optional interfaces that it exports, by their short names.
    pub(super) optional: Vec<String>,
}

impl Compiled {
    pub(super) fn new(version: PolicyVersion, bytes: &[u8], limits: Limits) -> Result<Self, PolicyError> {
        // Parsers and compilers of bytes from anywhere: a panic of theirs is one more way to be bad.
        std::panic::catch_unwind(|| Self::compile(version, bytes, limits))
            .unwrap_or_else(|_| Err(PolicyError::Invalid("the compiler panicked on it".to_owned())))
    }

    fn compile(version: PolicyVersion, bytes: &[u8], limits: Limits) -> Result<Self, PolicyError> {
        if bytes.len() > limits.component {
            return Err(PolicyError::TooLarge { size: bytes.len(), limit: limits.component });
        }
        let engine = Engine::shared().map_err(PolicyError::Engine)?;
        scan(bytes, &limits)?;
        let encoded;
        let bytes = match kind(bytes)? {
            Kind::Component => bytes,
            Kind::Module => {
                encoded = componentize_module(bytes)?;
                &encoded
            }
        };
        let component = Component::from_binary(&engine.wasm, bytes)
            .map_err(|error| PolicyError::Invalid(one_line(&error)))?;

        let shape = component.component_type();
        let imports: Vec<_> = shape
            .imports(&engine.wasm)
            .map(|(name, item)| {
                fits(name).map(|short| (short, matches!(item.ty, ComponentItem::ComponentInstance(_))))
            })
            .collect::<Result<_, _>>()?;
        for (short, is_interface) in &imports {
            if !is_interface || !PROVIDED.contains(&short.as_str()) {
                return Err(PolicyError::UnknownImport(format!("{PACKAGE}{short}")));
            }
        }
        let mut missing = REQUIRED.to_vec();
        let mut optional = Vec::new();
        for (name, _) in shape.exports(&engine.wasm) {
            if !name.starts_with(PACKAGE) {
                tracing::info!(
                    policy = version.name,
                    export = name,
                    "export is not part of the contract: ignored"
                );
                continue;
            }
            let short = fits(name)?;
            if OPTIONAL.contains(&short.as_str()) {
                optional.push(short);
            } else {
                missing.retain(|required| *required != short);
            }
        }
        if let Some(first) = missing.first() {
            return Err(PolicyError::MissingExport(format!("{PACKAGE}{first}@{VERSION}")));
        }

        let misfit = |error: wasmtime::Error| PolicyError::Misfit(one_line(&error));
        let pre = engine.linker.instantiate_pre(&component).map_err(misfit)?;
        let pre = PolicyPre::new(pre).map_err(misfit)?;
        let imports = imports.into_iter().map(|(short, _)| short).filter(|short| short != "types").collect();
        Ok(Self { engine, pre, version, limits, imports, optional })
    }
}

enum Kind {
    Component,
    Module,
}

fn kind(bytes: &[u8]) -> Result<Kind, PolicyError> {
    match bytes.first_chunk::<8>() {
        Some(b"\0asm\x01\0\0\0") => Ok(Kind::Module),
        Some(b"\0asm\x0d\0\x01\0") => Ok(Kind::Component),
        Some([0, b'a', b's', b'm', ..]) => {
            Err(PolicyError::Invalid("of a version of Wasm that is not known".to_owned()))
        }
        _ => Err(PolicyError::NotWasm),
    }
}

/// An error with its causes, in one line.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}
