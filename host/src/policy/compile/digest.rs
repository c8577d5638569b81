//! The digest that identifies a policy's code.

use sha2::{Digest as _, Sha256};

/// Returns the SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
