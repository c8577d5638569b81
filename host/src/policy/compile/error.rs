//! Errors of loading a policy.

use crate::lifecycle::{Stage, StartError};

/// Reason why a file cannot be used as a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The name is not a policy's name.
    #[error("{0:?} is not a policy name: use a-z, 0-9, '_' and '-', at most 63, the first a letter or digit")]
    Name(String),
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Read(String),
    /// The file is larger than the limit.
    #[error("has {size} bytes, more than {limit}")]
    TooLarge {
        /// Size of the file (bytes).
        size: usize,
        /// Maximum size (bytes).
        limit: usize,
    },
    /// The file contains too many items of one kind: it would take too long to compile.
    #[error("has {count} {what}, more than {limit}")]
    TooComplex {
        /// Kind of the items.
        what: &'static str,
        /// Number of items.
        count: usize,
        /// Maximum number of items.
        limit: usize,
    },
    /// The settings beside the file are malformed.
    #[error("has settings that cannot be used: {0}")]
    Settings(String),
    /// The file does not have the digest that its settings require.
    #[error("has the SHA-256 {found}, but its settings ask for {wanted}")]
    Digest {
        /// Digest of the file.
        found: String,
        /// Digest in the settings.
        wanted: String,
    },
    /// The file does not start as WebAssembly does.
    #[error("is not WebAssembly")]
    NotWasm,
    /// The file is shorter than its seal says.
    #[error("is cut short: its seal is for {sealed} bytes, but only {there} are present")]
    CutShort {
        /// Number of bytes present after the seal.
        there: usize,
        /// Number of bytes that the seal covers.
        sealed: usize,
    },
    /// The file was changed after it was sealed.
    #[error("does not fit its seal: it was changed after it was sealed; seal it again with `hotpick build`")]
    Seal,
    /// The file has no seal, but the options require one.
    #[error(
        "has no seal, but this host requires one: build the policy, or seal its file, with `hotpick build`"
    )]
    Unsealed,
    /// The file is a core module that does not state its world.
    #[error(
        "is a core module without a component-type section: build it with hotpick-guest or `hotpick build`"
    )]
    NoComponentType,
    /// The file is a core module that does not fit its world.
    #[error("cannot be converted to a component: {0}")]
    Encode(String),
    /// The file does not parse, validate or compile.
    #[error("is not valid: {0}")]
    Invalid(String),
    /// The policy imports something that this host does not provide.
    #[error("imports {0}, which this host does not provide{advice}", advice = advice(.0))]
    UnknownImport(String),
    /// The policy imports a capability that its operator does not grant.
    #[error("imports the capability {0:?}, which its settings do not grant")]
    NotGranted(String),
    /// The policy lacks a required interface.
    #[error("does not export {0}: it is not a policy")]
    MissingExport(String),
    /// The policy was built for another version of the contract.
    #[error(
        "uses {name}, but this host speaks {spoken}.x of hotpick:policy: rebuild it with this version's SDK"
    )]
    WrongVersion {
        /// Name of the import or export.
        name: String,
        /// Version of the contract that this host supports.
        spoken: &'static str,
    },
    /// An import or export has another type than in the contract.
    #[error("does not fit the contract: {0}")]
    Misfit(String),
    /// The policy is valid, but could not be compiled.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// The machine, not the file, prevented the compilation. It is retried later.
    #[error("cannot be compiled at this moment, and is tried again: {0}")]
    NotNow(String),
    /// All channels refused the policy.
    #[error(transparent)]
    Refused(StartError),
}

impl PolicyError {
    /// Returns the stage at which the policy was rejected.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match self {
            Self::Name(_) | Self::Read(_) => Stage::File,
            Self::Settings(_) | Self::Digest { .. } => Stage::Settings,
            Self::TooLarge { .. } => Stage::Size,
            Self::TooComplex { .. } => Stage::Scan,
            Self::CutShort { .. }
            | Self::Encode(_)
            | Self::Invalid(_)
            | Self::NoComponentType
            | Self::NotWasm
            | Self::Seal
            | Self::Unsealed => Stage::Parse,
            Self::UnknownImport(_) | Self::MissingExport(_) | Self::WrongVersion { .. } | Self::Misfit(_) => {
                Stage::World
            }
            Self::NotGranted(_) => Stage::Grants,
            Self::Compile(_) | Self::NotNow(_) => Stage::Compile,
            Self::Refused(error) => error.stage(),
        }
    }
}

/// Attributes an error of the compiler: to the machine if it is out of memory, otherwise to the component.
#[cfg(feature = "compile")]
pub(super) fn of_compiler(error: &wasmtime::Error) -> PolicyError {
    if error.is::<wasmtime::error::OutOfMemory>() {
        PolicyError::NotNow("there is not enough memory to compile it".to_owned())
    } else {
        PolicyError::Invalid(one_line(error))
    }
}

/// Returns an error with its causes, in one line.
pub(crate) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// Says how a language's tool leaves out an import of WASI.
fn advice(import: &str) -> &'static str {
    match import.strip_prefix("wasi:") {
        Some(rest) if rest.starts_with("sockets") || rest.starts_with("http") => {
            ": a policy cannot reach the network. Build without it: by hotpick build, or with --stub-wasi of componentize-py \
             and componentize-qjs, or disableFeatures of ComponentizeJS"
        }
        Some(_) => ": this host has WASI 0.2 without sockets and HTTP",
        None => "",
    }
}
