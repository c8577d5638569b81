//! The RPC being picked for. Outside of [`Policy::pick`](crate::Policy::pick) the functions behave as for an RPC
//! without metadata and deadline.

#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::call as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;
use crate::{Nanos, PickInfo, SubConn};

/// A metadata key that picks read. Returned by [`declare_metadata`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u32);

/// Declares a metadata key that picks will read, in lower case. Only in [`Policy::init`](crate::Policy::init).
///
/// # Errors
///
/// The key is invalid, there are too many keys, or the operator does not grant it.
pub fn declare_metadata(key: &str) -> Result<Key, String> {
    host::declare_metadata(key).map(Key)
}

/// Declares a metadata key that comes from a field of the configuration.
///
/// # Errors
///
/// As for [`declare_metadata`]. The text begins with the name of the field.
pub fn declare(key: &str, field: &str) -> Result<Key, String> {
    declare_metadata(key).map_err(|error| {
        let mut sentence = String::from(field);
        sentence.push_str(": ");
        sentence.push_str(&error);
        sentence
    })
}

/// Makes [`PickInfo::affinity`](crate::PickInfo::affinity) the [hash](metadata_hash) of this key's value. Cheaper than
/// reading the value. Only in [`Policy::init`](crate::Policy::init).
///
/// # Errors
///
/// Called outside of `init`.
pub fn declare_affinity(key: Key) -> Result<(), String> {
    host::declare_affinity(key.0)
}

/// Makes [`PickInfo::affinity`](crate::PickInfo::affinity) the [number](metadata_number) of this key's first value,
/// instead of a hash. Cheaper than reading the value. Only in [`Policy::init`](crate::Policy::init).
///
/// # Errors
///
/// Called outside of `init`.
pub fn declare_affinity_number(key: Key) -> Result<(), String> {
    host::declare_affinity_number(key.0)
}

/// Returns the first value of a key. `None` if the RPC has no value, or if the value is too long or not ASCII text.
#[must_use]
pub fn metadata(key: Key) -> Option<String> {
    host::metadata(key.0)
}

/// Returns all values of a key. Values of `-bin` keys are decoded.
#[must_use]
pub fn metadata_all(key: Key) -> Vec<Vec<u8>> {
    host::metadata_all(key.0)
}

/// Returns the [hash](crate::hash) of a key's value. Several values are joined by commas. `None` if the RPC has no
/// value or an empty one. The hash spreads values; it does not identify them, because anyone can make values with equal
/// hashes.
#[must_use]
pub fn metadata_hash(key: Key) -> Option<u64> {
    host::metadata_hash(key.0)
}

/// Returns a number that identifies a key's first value: no other value ever has it. `None` if the RPC has no value or
/// an empty one. The host remembers the numbers of some thousand values that were requested most recently. A forgotten
/// value gets a new number, so a map with these numbers as keys needs a bound.
#[must_use]
pub fn metadata_number(key: Key) -> Option<u64> {
    host::metadata_number(key.0)
}

/// Sets metadata of the request, which takes effect if this pick sends it. Replaces the caller's values of the key. A
/// second value in the same pick is added to the first.
///
/// # Errors
///
/// The key is invalid or gRPC's own, the operator does not grant it, or the value is invalid.
pub fn set_metadata(key: &str, value: &[u8]) -> Result<(), String> {
    host::set_metadata(key, value)
}

/// Returns whether an earlier attempt of the same RPC used this subconn.
#[must_use]
pub fn tried(id: SubConn) -> bool {
    host::tried(id)
}

/// Returns a drawn subconn. For a retry, draws up to 16 more times until the RPC has not tried the subconn. Has no cost
/// for a first attempt.
///
/// ```
/// use hotpick_guest::{PickInfo, call};
///
/// let mut turns = [7, 8].into_iter().cycle();
/// assert_eq!(call::untried(&PickInfo::default(), || turns.next()), Some(7));
/// ```
#[inline]
pub fn untried(info: &PickInfo, mut draw: impl FnMut() -> Option<SubConn>) -> Option<SubConn> {
    let drawn = draw()?;
    if info.attempt == 0 { Some(drawn) } else { untried_or(drawn, &mut draw) }
}

#[cold]
fn untried_or(mut drawn: SubConn, draw: &mut dyn FnMut() -> Option<SubConn>) -> Option<SubConn> {
    for _ in 0..16 {
        if !tried(drawn) {
            break;
        }
        drawn = draw()?;
    }
    Some(drawn)
}

/// Returns the time until the RPC's deadline. `None` if the RPC has no deadline.
#[must_use]
pub fn time_left() -> Option<Nanos> {
    host::time_left()
}

/// Sets the text of the status if this pick fails or drops the RPC.
pub fn explain(message: &str) {
    host::explain(message);
}
