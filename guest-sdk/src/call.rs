//! The RPC being picked. Outside [`Policy::pick`](crate::Policy::pick) these answer as if it were empty.

#[cfg(target_arch = "wasm32")]
use crate::bindings::hotpick::policy::call as host;
#[cfg(not(target_arch = "wasm32"))]
use crate::fake as host;
use crate::{Nanos, PickInfo, SubConn};

/// A metadata key that picks read. From [`declare_metadata`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u32);

/// In [`Policy::init`](crate::Policy::init): names a metadata key, in lower case, that picks will read.
///
/// # Errors
///
/// It is no metadata key, there are too many, or the operator refuses it.
pub fn declare_metadata(key: &str) -> Result<Key, String> {
    host::declare_metadata(key).map(Key)
}

/// The same, of a key that stands in a field of the configuration: the error begins with its name.
///
/// # Errors
///
/// As [`declare_metadata`].
pub fn declare(key: &str, field: &str) -> Result<Key, String> {
    declare_metadata(key).map_err(|error| {
        let mut sentence = String::from(field);
        sentence.push_str(": ");
        sentence.push_str(&error);
        sentence
    })
}

/// In [`Policy::init`](crate::Policy::init): has the host [hash](metadata_hash) the value of this key into
/// [`PickInfo::affinity`](crate::PickInfo::affinity) of each RPC. Costs less than to read it.
///
/// # Errors
///
/// Called outside of `init`.
pub fn declare_affinity(key: Key) -> Result<(), String> {
    host::declare_affinity(key.0)
}

/// In [`Policy::init`](crate::Policy::init): has the host give the [number](metadata_number) of the first value of this key as
/// [`PickInfo::affinity`](crate::PickInfo::affinity) of each RPC, in place of its hash. Costs less than to read it.
///
/// # Errors
///
/// Called outside of `init`.
pub fn declare_affinity_number(key: Key) -> Result<(), String> {
    host::declare_affinity_number(key.0)
}

/// The first value of a key, if it is text.
#[must_use]
pub fn metadata(key: Key) -> Option<String> {
    host::metadata(key.0)
}

/// All values of a key; those of `-bin` keys are decoded.
#[must_use]
pub fn metadata_all(key: Key) -> Vec<Vec<u8>> {
    host::metadata_all(key.0)
}

/// The [hash](crate::hash) of the value of a key, of several joined by commas; none if it is empty: to spread values, not to tell them apart. Anyone can make values
/// that have the same.
#[must_use]
pub fn metadata_hash(key: Key) -> Option<u64> {
    host::metadata_hash(key.0)
}

/// A number for the first value of a key, if it is not empty: no other value ever has it. A value keeps it as long as it is among the latest
/// some thousands, so what is kept by such numbers needs a bound.
#[must_use]
pub fn metadata_number(key: Key) -> Option<u64> {
    host::metadata_number(key.0)
}

/// Sets metadata of the request, if this pick sends it, in place of what the caller has under that key; a second
/// value in the same pick is added to the first.
///
/// # Errors
///
/// The key is gRPC's own or no key, or the value none that metadata can have.
pub fn set_metadata(key: &str, value: &[u8]) -> Result<(), String> {
    host::set_metadata(key, value)
}

/// Whether an earlier attempt of the same RPC used this subconn.
#[must_use]
pub fn tried(id: SubConn) -> bool {
    host::tried(id)
}

/// What this draws, at a retry one that the RPC has not tried: drawn again if need be, up to 16 times, and then whatever
/// it is. Costs nothing at a first attempt.
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

/// The time left until the RPC's deadline, if it has one.
#[must_use]
pub fn time_left() -> Option<Nanos> {
    host::time_left()
}

/// The text of the status, if this pick fails or drops the RPC.
pub fn explain(message: &str) {
    host::explain(message);
}
