//! Components of core modules.

use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::contract::OPTIONAL;
use super::error::PolicyError;

/// The contract between the host and policies: the text of `wit/policy.wit`, for tools that build them.
pub const CONTRACT: &str = include_str!("../../../wit/policy.wit");

/// Makes a component of a core module that a toolchain has left its `component-type` section in, as
/// the loader does with such a file.
pub(crate) fn componentize_module(module: &[u8]) -> Result<Vec<u8>, PolicyError> {
    if !has_component_type(module)? {
        return Err(PolicyError::NoComponentType);
    }
    // That it says something is believed; not what it says. There are sections that wit-parser follows in a
    // circle until the stack of the process ends, and the contract is known here.
    embed(without(module, b"component-type"), &[])
}

/// A module or a component, but for its custom sections whose names begin like this.
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

/// Magic number and version.
pub(crate) const HEADER: usize = 8;

/// The first of these sections, its name if it is a custom one, and those after it.
pub(crate) fn section(sections: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut reader = wasmparser::BinaryReader::new(sections, 0);
    let id = reader.read_u8().ok()?;
    let size = usize::try_from(reader.read_var_u32().ok()?).ok()?;
    let (section, after) = sections.split_at_checked(reader.current_position().checked_add(size)?)?;
    let name = if id == 0 { reader.read_string().ok()?.as_bytes() } else { b"" };
    Some((section, name, after))
}

/// Makes a component of a core module, for tools that build policies.
///
/// A module without a `component-type` section, written by hand or by a compiler that knows nothing of
/// components, is taken to be in the world `policy`, and to export those of the optional interfaces
/// whose functions it exports (`hotpick:policy/handover@0.1.0#save`).
///
/// # Errors
///
/// Something that the world needs is not exported, has the wrong type, or is not Wasm at all.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, PolicyError> {
    componentize_with(module, &[])
}

/// The same, of a module that imports from elsewhere, too: `adapters` are the names that it imports from, such as
/// `wasi_snapshot_preview1`, each with the core module that provides what it imports. An adapter may use the memory of
/// the module (it imports it as `env` `memory`).
///
/// # Errors
///
/// As of [`componentize`]; or an adapter is none, or lacks something.
pub fn componentize_with(module: &[u8], adapters: &[(&str, &[u8])]) -> Result<Vec<u8>, PolicyError> {
    if has_component_type(module)? {
        return encode(module, adapters);
    }
    embed(module.to_vec(), adapters)
}

/// Makes a component of a module that says nothing of components.
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
        // The encoder's names for its own glue: 2 KB that nothing reads.
        .map(|component| without(&component, b"component-name"))
        .map_err(|error| PolicyError::Encode(format!("{error:#}").replace('\n', " ")))
}

/// The world of a module that does not say it.
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
