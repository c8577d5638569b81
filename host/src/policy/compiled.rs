//! From bytes to a compiled component whose imports and exports fit the contract.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::cache::Keep;
use super::compiler::{Compiler, one_line};
use super::componentize::componentize_module;
use super::contract::{PACKAGE, Shape, WASI};
use super::engine::Engine;
use super::exports::Indices;
use super::grants::Grants;
use super::imports::{State, provide_wasi};
use super::limits::Limits;
use super::scan::{Outline, scan};
use super::seal::{Seal, verify};
use super::{PolicyError, digest};

/// A component that fits, ready to be instantiated.
pub(super) struct Compiled {
    pub(super) engine: &'static Engine,
    pub(super) pre: InstancePre<State>,
    pub(super) indices: Indices,
    pub(super) shape: Shape,
    pub(super) seal: Option<Seal>,
    /// What was compiled stays in the cache meanwhile.
    _keep: Option<Arc<Keep>>,
    /// It imports a function that gives values of metadata.
    pub(super) reads_metadata: bool,
    /// SHA-256 of the file.
    pub(super) digest: String,
    /// Bytes of the file.
    pub(super) size: usize,
}

impl Compiled {
    pub(super) fn new(
        bytes: &[u8],
        limits: &Limits,
        grants: &Grants,
        compiler: &Compiler,
    ) -> Result<Self, PolicyError> {
        // Parsers and compilers of bytes from anywhere: a panic of theirs is one more way to be bad.
        let checked = std::panic::catch_unwind(|| check(bytes, limits, grants));
        let Checked { component, shape, seal } = checked.unwrap_or_else(|_| Err(panicked()))?;
        let digest = digest(bytes);
        let (component, keep) = compiler.compile(&component, &digest, limits)?;
        let size = bytes.len();
        let link = AssertUnwindSafe(|| Self::link(&component, shape));
        let linked = std::panic::catch_unwind(link).unwrap_or_else(|_| Err(panicked()))?;
        Ok(Self { digest, size, seal, _keep: keep, ..linked })
    }

    fn link(component: &Component, shape: Shape) -> Result<Self, PolicyError> {
        let engine = Engine::shared()?;
        let misfit = |error: wasmtime::Error| PolicyError::Misfit(one_line(&error));
        let pre = if shape.capabilities.iter().any(|name| name == WASI) {
            let mut linker = engine.linker.clone();
            provide_wasi(&mut linker, component).map_err(misfit)?;
            linker.instantiate_pre(component)
        } else {
            engine.linker.instantiate_pre(component)
        };
        let pre = pre.map_err(misfit)?;
        let indices = Indices::new(&pre, &shape.optional).map_err(misfit)?;
        let reads_metadata = reads_metadata(component);
        Ok(Self {
            engine,
            pre,
            indices,
            shape,
            reads_metadata,
            digest: String::new(),
            size: 0,
            seal: None,
            _keep: None,
        })
    }
}

/// Toolchains leave out of an interface what is not used.
fn reads_metadata(component: &Component) -> bool {
    let (ty, engine) = (component.component_type(), component.engine());
    let is_call = |name: &str| name.strip_prefix(PACKAGE).is_some_and(|name| name.starts_with("call@"));
    let mut calls = ty.imports(engine).filter(|(name, _)| is_call(name));
    calls.any(|(_, item)| match item.ty {
        ComponentItem::ComponentInstance(interface) => {
            let mut functions = interface.exports(engine).map(|(name, _)| name);
            functions
                .any(|name| matches!(name, "metadata" | "metadata-all" | "metadata-hash" | "metadata-number"))
        }
        _ => false,
    })
}

struct Checked<'a> {
    component: Cow<'a, [u8]>,
    /// What it says of itself.
    shape: Shape,
    seal: Option<Seal>,
}

/// All that can be said of bytes without compiling them.
fn check<'a>(bytes: &'a [u8], limits: &Limits, grants: &Grants) -> Result<Checked<'a>, PolicyError> {
    if bytes.len() > limits.component {
        return Err(PolicyError::TooLarge { size: bytes.len(), limit: limits.component });
    }
    let kind = kind(bytes)?;
    let seal = verify(bytes)?;
    let outline = scan(bytes, limits)?;
    let (component, Outline { imports, exports }) = match kind {
        Kind::Component => (Cow::Borrowed(bytes), outline),
        Kind::Module => {
            let component = componentize_module(bytes)?;
            let outline = scan(&component, limits)?;
            (Cow::Owned(component), outline)
        }
    };
    let shape = Shape::of(&imports, &exports)?;
    if let Some(seal) = &seal {
        seal.check(&shape)?;
    }
    grants.allow(&shape.capabilities)?;
    Ok(Checked { component, shape, seal })
}

fn panicked() -> PolicyError {
    PolicyError::Invalid("the parser panicked on it".to_owned())
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
