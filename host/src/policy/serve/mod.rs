//! A policy at work in one channel.
//!
//! A [`WasmPickerBuilder`](picker::WasmPickerBuilder) owns one [`Slot`](slot::Slot) for each instance, usually one.
//! RPCs pick through the slot: from the policy's plan if there is one, otherwise by a call into its instance. A fault
//! ends the instance: the fallback picks for the current RPC, and the slot's [supervisor] starts another instance when
//! the slot's [state machine](machine) requires it. The supervisor also delivers [outcomes] and timers, and saves the
//! policy's state. Before a version gets RPCs it must pass the [preflight].

mod first_starts;
mod machine;
mod outcomes;
mod picker;
mod planning;
mod plans;
mod preflight;
mod recorded;
mod recording;
mod ring;
mod slot;
mod supervisor;

pub(crate) use self::first_starts::FirstStarts;
pub(crate) use self::picker::WasmPickerBuilder;
#[cfg(feature = "testing")]
pub(crate) use self::preflight::preflight;
