//! The admin listener in the configuration file.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hotpick_admin::AdminBuilder;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// `admin`: an address, or a table with one.
#[derive(Clone, Debug)]
pub(super) enum AdminEntry {
    Address(String),
    Table(AdminTable),
}

impl<'de> Deserialize<'de> for AdminEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AdminVisitor)
    }
}

/// Reads either form. A derived reader of both would not say which key is wrong.
struct AdminVisitor;

impl<'de> Visitor<'de> for AdminVisitor {
    type Value = AdminEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"127.0.0.1:9901\", or a table with listen, tap, control, token_file and control_socket")
    }

    fn visit_str<E>(self, address: &str) -> Result<AdminEntry, E> {
        Ok(AdminEntry::Address(address.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<AdminEntry, A::Error> {
        AdminTable::deserialize(MapAccessDeserializer::new(table)).map(AdminEntry::Table)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminTable {
    pub(super) listen: String,
    /// Whether `/tap` shows RPCs.
    #[serde(default)]
    pub(super) tap: bool,
    /// Whether policies can be recorded and rollouts steered, with the token.
    #[serde(default)]
    pub(super) control: bool,
    /// A file with the token that `/tap` and control ask for.
    pub(super) token_file: Option<PathBuf>,
    /// A Unix socket on which the same is served to whoever can open it, control without a token.
    pub(super) control_socket: Option<PathBuf>,
}

impl AdminEntry {
    pub(super) fn address(&self) -> &str {
        match self {
            Self::Address(address) => address,
            Self::Table(table) => &table.listen,
        }
    }

    /// Returns the path of the control socket, if there is one.
    pub(super) fn control_socket(&self) -> Option<&Path> {
        match self {
            Self::Address(_) => None,
            Self::Table(table) => table.control_socket.as_deref(),
        }
    }

    /// Lets `/tap` be asked for and policies be controlled, if the configuration says so.
    pub(super) fn allow(&self, mut builder: AdminBuilder, is_loopback: bool) -> anyhow::Result<AdminBuilder> {
        let Self::Table(AdminTable { tap, control, token_file, .. }) = self else { return Ok(builder) };
        anyhow::ensure!(
            token_file.is_none() || *tap || *control,
            "admin: token_file is for tap and control: set tap = true or control = true as well"
        );
        let token = token_file.as_deref().map(|path| {
            let token =
                std::fs::read_to_string(path).with_context(|| format!("admin: token_file {path:?}"))?;
            let token = token.trim().to_owned();
            anyhow::ensure!(!token.is_empty(), "admin: token_file {path:?} is empty");
            Ok(token)
        });
        let token = token.transpose()?;
        if *control {
            let token = token.clone();
            builder = builder
                .allow_control(token.context("admin: control needs token_file, or use control_socket")?);
        }
        if !tap {
            return Ok(builder);
        }
        anyhow::ensure!(
            token.is_some() || is_loopback,
            "admin: tap shows the RPCs of all clients, and {} is not a loopback address: set token_file",
            self.address()
        );
        Ok(builder.allow_tap(token))
    }
}
