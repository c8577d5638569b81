//! Loading of policies: checks the bytes of a file, and compiles them.
//!
//! In order: [`seal`] checks that the file is complete, [`scan`] counts the items in it, [`componentize`]
//! converts a core module to a component, [`contract`] compares imports and exports with `wit/policy.wit`, [`grants`]
//! compares the imports with what the operator allows, and [`compiler`] compiles, in a [child](child) process if a
//! compiler program is set, or takes the code from the [`cache`]. Before it is compiled, [`forward`] rewrites it so that
//! calls take less time. [`code`] runs all of these steps.
//!
//! Nothing here runs guest code or depends on a channel.

mod cache;
mod child;
mod code;
mod compiler;
#[cfg(feature = "compile")]
mod componentize;
mod contract;
mod digest;
mod engine;
mod error;
#[cfg(feature = "compile")]
mod forward;
mod grants;
mod lane;
mod scan;
mod seal;
mod sections;
#[cfg(feature = "compile")]
mod thread;

pub(crate) use self::code::Code;
pub use self::compiler::CompileOptions;
pub(crate) use self::compiler::Compiler;
#[cfg(feature = "compile")]
pub use self::compiler::precompile;
#[cfg(feature = "compile")]
pub use self::componentize::{componentize, componentize_with};
pub use self::contract::CONTRACT;
pub(crate) use self::contract::{PACKAGE, WASI};
pub use self::digest::digest;
pub(crate) use self::engine::{engine, has_stack};
#[cfg(feature = "testing")]
pub(crate) use self::engine::{is_metered, meter};
pub use self::error::PolicyError;
pub(crate) use self::error::one_line;
#[cfg(all(feature = "compile", feature = "testing"))]
#[doc(hidden)]
pub use self::forward::forwarded;
pub use self::grants::Grants;
pub(crate) use self::seal::verify;
pub use self::seal::{Seal, seal};
