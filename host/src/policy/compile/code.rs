//! From a file's bytes to a compiled component.

use std::borrow::Cow;
use std::sync::Arc;

use wasmtime::component::Component;

use super::cache::Keep;
use super::compiler::Compiler;
#[cfg(feature = "compile")]
use super::componentize::componentize_module;
use super::contract::Shape;
use super::digest::digest;
use super::error::PolicyError;
use super::grants::Grants;
use super::scan::{Outline, scan};
use super::seal::{Seal, verify};
use crate::policy::limits::Limits;

/// A compiled component whose names fit the contract.
pub(crate) struct Code {
    pub(crate) component: Component,
    /// Names of the component's imports and exports.
    pub(crate) shape: Shape,
    pub(crate) seal: Option<Seal>,
    /// SHA-256 of the file.
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "for reports alone"))]
    pub(crate) digest: String,
    /// Size of the file in bytes.
    #[cfg_attr(not(feature = "testing"), expect(dead_code, reason = "for reports alone"))]
    pub(crate) size: usize,
    /// Keeps the machine code in the cache while it is used.
    _keep: Option<Arc<Keep>>,
}

impl Code {
    /// Checks a file's bytes and compiles them, or takes the result of an earlier compilation.
    pub(crate) fn compile(
        bytes: &[u8],
        limits: &Limits,
        grants: &Grants,
        compiler: &Compiler,
    ) -> Result<Self, PolicyError> {
        // The bytes may come from anywhere. If a parser panics on them, they count as invalid.
        let checked = std::panic::catch_unwind(|| check(bytes, limits, grants));
        let panicked = || Err(PolicyError::Invalid("the parser panicked on it".to_owned()));
        let Checked { component, shape, seal } = checked.unwrap_or_else(|_| panicked())?;
        let digest = digest(bytes);
        let (component, keep) = compiler.compile(&component, &digest, limits)?;
        Ok(Self { component, shape, seal, digest, size: bytes.len(), _keep: keep })
    }
}

struct Checked<'a> {
    component: Cow<'a, [u8]>,
    shape: Shape,
    seal: Option<Seal>,
}

/// Checks everything that can be checked without compiling.
fn check<'a>(bytes: &'a [u8], limits: &Limits, grants: &Grants) -> Result<Checked<'a>, PolicyError> {
    if bytes.len() > limits.component {
        return Err(PolicyError::TooLarge { size: bytes.len(), limit: limits.component });
    }
    let kind = kind(bytes)?;
    let seal = verify(bytes)?;
    let outline = scan(bytes, limits)?;
    let (component, Outline { imports, exports }) = match kind {
        Kind::Component => (Cow::Borrowed(bytes), outline),
        #[cfg(feature = "compile")]
        Kind::Module => {
            let component = componentize_module(bytes)?;
            let outline = scan(&component, limits)?;
            (Cow::Owned(component), outline)
        }
        #[cfg(not(feature = "compile"))]
        Kind::Module => {
            return Err(PolicyError::Encode(
                "this host is built without the feature `compile`: build a component with `hotpick build`"
                    .to_owned(),
            ));
        }
    };
    let shape = Shape::of(&imports, &exports)?;
    if let Some(seal) = &seal {
        seal.check(&shape)?;
    }
    grants.allow(&shape.capabilities)?;
    Ok(Checked { component, shape, seal })
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
            Err(PolicyError::Invalid("unknown version of WebAssembly".to_owned()))
        }
        _ => Err(PolicyError::NotWasm),
    }
}
