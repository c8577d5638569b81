//! Why bytes are not a policy.

use crate::lifecycle::{Stage, StartError};

/// Why bytes are not a policy, stage by stage.
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
        /// Its size in bytes.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// There is so much of something in it that it would take too long to compile.
    #[error("has {count} {what}, more than {limit}")]
    TooComplex {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The settings beside the file are malformed.
    #[error("has settings that cannot be used: {0}")]
    Settings(String),
    /// The file is not the one that its settings ask for.
    #[error("has the SHA-256 {found}, but its settings ask for {wanted}")]
    Digest {
        /// The file's.
        found: String,
        /// The settings'.
        wanted: String,
    },
    /// The bytes do not begin as Wasm does.
    #[error("is not WebAssembly")]
    NotWasm,
    /// Less is there than its seal says.
    #[error("is cut short: its seal is for {sealed} bytes, of which {there} are there")]
    CutShort {
        /// Bytes that are there, after the seal.
        there: usize,
        /// Bytes that there should be.
        sealed: usize,
    },
    /// It is not what was sealed.
    #[error("does not fit its seal: it was changed after `hotpick build` made it, which can seal it again")]
    Seal,
    /// It has no seal.
    #[error("has no seal, and this host wants one: build it, or the file itself, with `hotpick build`")]
    Unsealed,
    /// A core module that does not say which world it is made for.
    #[error(
        "is a core module without a component-type section: build it with hotpick-guest or `hotpick build`"
    )]
    NoComponentType,
    /// A core module that does not fit the world that it names.
    #[error("cannot be made a component: {0}")]
    Encode(String),
    /// Wasm that does not parse, validate or compile.
    #[error("is not valid: {0}")]
    Invalid(String),
    /// It needs something that this host does not give.
    #[error("imports {0}, which this host does not provide")]
    UnknownImport(String),
    /// It needs something that its operator does not grant.
    #[error("imports the capability {0:?}, which its settings do not grant")]
    NotGranted(String),
    /// It lacks something that every policy has.
    #[error("does not export {0}: it is not a policy")]
    MissingExport(String),
    /// It was made for another version of the contract.
    #[error(
        "uses {name}, but this host speaks {spoken}.x of hotpick:policy: rebuild it with this version's SDK"
    )]
    WrongVersion {
        /// The import or export.
        name: String,
        /// The version of this host.
        spoken: &'static str,
    },
    /// An import or export has another type than in the contract.
    #[error("does not fit the contract: {0}")]
    Misfit(String),
    /// It is valid, but could not be compiled.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// The machine, and not the file, is why it could not be compiled: it is tried again, by and by.
    #[error("cannot be compiled at this moment, and is tried again: {0}")]
    NotNow(String),
    /// No channel took it.
    #[error(transparent)]
    Refused(StartError),
}

impl PolicyError {
    /// The stage at which the policy was refused.
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

/// Attributes an error of the compiler: to the machine if it is out of memory, or else to the component.
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
