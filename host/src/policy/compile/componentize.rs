//! Conversion of core modules to components.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::contract::{CONTRACT, OPTIONAL};
use super::error::PolicyError;
use super::sections::{HEADER, section};

/// Converts a core module with the `component-type` section of its toolchain to a component. The loader does so with
/// core modules.
pub(crate) fn componentize_module(module: &[u8]) -> Result<Vec<u8>, PolicyError> {
    if !has_component_type(module)? {
        return Err(PolicyError::NoComponentType);
    }
    // Only the presence of the section matters. Its contents are replaced: some make wit-parser recurse until the
    // stack overflows, and the contract is known here.
    embed(without(module, b"component-type"), &[])
}

/// Converts a core module to a component, for tools that build policies.
///
/// A module without a `component-type` section, written by hand or by a compiler without support for components, is
/// assumed to be in the world `policy`, and to export each optional interface whose functions it exports
/// (`hotpick:policy/handover@0.1.0#save`).
///
/// # Errors
///
/// If the module is not WebAssembly, or does not export everything that the world requires with the right types.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, PolicyError> {
    componentize_with(module, &[])
}

/// Converts a core module that imports more than the contract to a component.
///
/// `adapters` are the other names that the module imports from, such as `wasi_snapshot_preview1`, each with the core
/// module that provides the imported functions. An adapter may use the memory of the module: it imports the memory as
/// `env` `memory`.
///
/// # Errors
///
/// As for [`componentize`], and if an adapter is not a core module or lacks an imported function.
pub fn componentize_with(module: &[u8], adapters: &[(&str, &[u8])]) -> Result<Vec<u8>, PolicyError> {
    if has_component_type(module)? {
        return encode(module, adapters);
    }
    embed(module.to_vec(), adapters)
}

/// Converts a module without a `component-type` section to a component.
fn embed(mut module: Vec<u8>, adapters: &[(&str, &[u8])]) -> Result<Vec<u8>, PolicyError> {
    let mut resolve = Resolve::default();
    let embed = |resolve: &mut Resolve, module: &mut Vec<u8>| -> Result<(), Box<dyn std::error::Error>> {
        resolve.push_source("policy.wit", CONTRACT)?;
        let world = world_of(module);
        let package = resolve.push_source("module.wit", &world)?;
        let world = resolve.select_world(&[package], None)?;
        Ok(wit_component::embed_component_metadata(module, resolve, world, StringEncoding::UTF8)?)
    };
    embed(&mut resolve, &mut module).map_err(|error| PolicyError::Invalid(error.to_string()))?;
    encode(&module, adapters)
}

fn encode(module: &[u8], adapters: &[(&str, &[u8])]) -> Result<Vec<u8>, PolicyError> {
    let encoder = ComponentEncoder::default().validate(true).module(module);
    adapters
        .iter()
        .fold(encoder, |encoder, (name, adapter)| encoder.and_then(|encoder| encoder.adapter(name, adapter)))
        .and_then(|mut encoder| encoder.encode())
        // Drops the encoder's names for its own glue code: 2 KB that nothing reads.
        .map(|component| without(&component, b"component-name"))
        .map_err(|error| PolicyError::Encode(format!("{error:#}").replace('\n', " ")))
}

/// Returns the world (as WIT) of a module that does not state it.
fn world_of(module: &[u8]) -> String {
    let optional = OPTIONAL.iter().filter(|name| {
        let prefix = format!("hotpick:policy/{name}@");
        exports(module).any(|export| export.starts_with(&prefix))
    });
    let exports: String = optional.map(|name| format!("export hotpick:policy/{name}@0.1.0;\n")).collect();
    format!("package local:module;\nworld module {{\ninclude hotpick:policy/policy@0.1.0;\n{exports}}}\n")
}

fn exports(module: &[u8]) -> impl Iterator<Item = &str> {
    wasmparser::Parser::new(0)
        .parse_all(module)
        .filter_map(|payload| match payload {
            Ok(wasmparser::Payload::ExportSection(section)) => Some(section),
            _ => None,
        })
        .flat_map(|section| section.into_iter().flatten().map(|export| export.name))
}

fn has_component_type(module: &[u8]) -> Result<bool, PolicyError> {
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        match payload.map_err(|error| PolicyError::Invalid(error.to_string()))? {
            wasmparser::Payload::CustomSection(section) if section.name().starts_with("component-type") => {
                return Ok(true);
            }
            _ => {}
        }
    }
    Ok(false)
}

/// Returns a module or component without the custom sections whose names start with `custom`.
fn without(wasm: &[u8], custom: &[u8]) -> Vec<u8> {
    let mut kept = wasm[..wasm.len().min(HEADER)].to_vec();
    let mut rest = &wasm[kept.len()..];
    while let Some((section, name, after)) = section(rest) {
        if !name.starts_with(custom) {
            kept.extend_from_slice(section);
        }
        rest = after;
    }
    kept
}
