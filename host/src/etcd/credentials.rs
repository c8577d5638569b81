//! User and password of an etcd cluster.

use std::path::PathBuf;

/// A user of etcd, and where its password is.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: String,
    password: Password,
}

#[derive(Clone)]
enum Password {
    Given(String),
    /// Read at each login, because the password may change.
    File(PathBuf),
}

impl Credentials {
    /// Creates credentials with a password.
    pub(super) fn given(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: Password::Given(password.into()) }
    }

    /// Creates credentials with a password in a file.
    pub(super) fn file(user: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        Self { user: user.into(), password: Password::File(file.into()) }
    }

    /// Returns the password, which may have changed since the last login if it is in a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn password(&self) -> Result<String, String> {
        match &self.password {
            Password::Given(password) => Ok(password.clone()),
            Password::File(path) => std::fs::read_to_string(path)
                .map(|password| password.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|error| format!("etcd's password file {path:?} cannot be read: {error}")),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
