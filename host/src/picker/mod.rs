//! Picking: how an RPC gets its subconn.
//!
//! A policy's builder makes one [`Picker`] for each [`ReadySet`](crate::subconn::ReadySet); the channel
//! publishes it in a [`PickerCell`]; RPCs pick with whichever picker is current. Replacing a policy is one
//! pointer store, and it wakes the RPCs that the previous picker had queued.

mod cell;
mod fixed;
#[expect(clippy::module_inception, reason = "the trait itself")]
mod picker;
mod rotation;
mod wait;

pub use self::cell::PickerCell;
pub(crate) use self::cell::{PickFailure, PickState};
pub(crate) use self::fixed::{Fixed, WakeUp};
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use self::picker::PastPick;
pub(crate) use self::picker::until_picked;
pub use self::picker::{Faults, Pick, PickInfo, PickResult, PickedBy, Picker};
pub(crate) use self::rotation::Rotation;
pub use self::wait::DelayType;
pub(crate) use self::wait::Delays;
