//! Linking: connects compiled code with the host's functions, and compares the types.

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::exports::Indices;
use super::imports::{HostState, provide_wasi};
use super::runtime::Runtime;
use crate::policy::compile::{Code, PACKAGE, PolicyError, WASI, one_line};

/// Code that can be instantiated.
pub(crate) struct Linked {
    pub(crate) code: Code,
    pub(super) pre: InstancePre<HostState>,
    pub(super) indices: Indices,
    pub(super) runtime: &'static Runtime,
    /// Whether the component imports a function that returns values of metadata.
    pub(super) reads_metadata: bool,
}

impl Linked {
    /// Links code with what the contract provides.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Misfit`]: an import or export has another type than in the contract.
    pub(crate) fn new(code: Code) -> Result<Self, PolicyError> {
        // The component may come from anywhere. If wasmtime panics on it, it counts as invalid.
        let link = std::panic::AssertUnwindSafe(|| Self::link(&code));
        let panicked = || Err(PolicyError::Invalid("the linker panicked on it".to_owned()));
        let (pre, indices, runtime) = std::panic::catch_unwind(link).unwrap_or_else(|_| panicked())?;
        let reads_metadata = reads_metadata(&code.component);
        Ok(Self { code, pre, indices, runtime, reads_metadata })
    }

    fn link(code: &Code) -> Result<(InstancePre<HostState>, Indices, &'static Runtime), PolicyError> {
        let misfit = |error: wasmtime::Error| PolicyError::Misfit(one_line(&error));
        let runtime = Runtime::shared()?;
        let linker = &runtime.linker;
        let pre = if code.shape.capabilities.iter().any(|name| name == WASI) {
            let mut linker = linker.clone();
            provide_wasi(&mut linker, &code.component).map_err(misfit)?;
            linker.instantiate_pre(&code.component)
        } else {
            linker.instantiate_pre(&code.component)
        };
        let pre = pre.map_err(misfit)?;
        let indices = Indices::new(&pre, &code.shape.optional).map_err(misfit)?;
        Ok((pre, indices, runtime))
    }
}

/// Returns whether a component reads metadata. Toolchains omit functions of an interface that are not used.
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
