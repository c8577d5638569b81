//! From bytes to code: what may become a policy, and how it is compiled.
//!
//! In order: [`scan`] counts what is in the bytes, [`seal`] checks that they are whole, [`componentize`] turns
//! a core module into a component, [`contract`] compares imports and exports with `wit/policy.wit`, [`grants`]
//! compares the imports with what the operator allows, and [`compiler`] compiles, in a [child](child) process
//! where there is a program for it, or takes the code from the [`cache`]. [`code`] is the whole way.
//!
//! Nothing here runs guest code or knows a channel.

mod cache;
mod child;
mod code;
mod compiler;
mod componentize;
mod contract;
mod digest;
mod engine;
mod error;
mod grants;
mod lane;
mod scan;
mod seal;
mod thread;

pub(crate) use self::code::Code;
pub(crate) use self::compiler::Compiler;
pub use self::compiler::{CompileOptions, precompile};
pub use self::componentize::{CONTRACT, componentize, componentize_with};
pub(crate) use self::contract::{PACKAGE, WASI};
pub use self::digest::digest;
pub(crate) use self::engine::{engine, has_stack};
pub use self::error::PolicyError;
pub(crate) use self::error::one_line;
pub use self::grants::Grants;
pub(crate) use self::seal::verify;
pub use self::seal::{Seal, seal};
