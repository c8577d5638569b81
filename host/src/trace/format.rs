//! Traces as bytes: a header, and blocks of events.
//!
//! ```text
//! trace   "hotpick trace\n"  format: u16  contract: u8 length, text  block*
//! block   length: u32  XXH64 of the events: u64  events
//! event   time since the event before (ns, zigzag varint)  Event (postcard)  length: varint  answers
//! ```
//!
//! Integers of a fixed size are little-endian. The events are in the wire format of the crate `postcard`, version 1. The
//! answers are those that the policy got in this call from the functions that it imports, in their order.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use twox_hash::XxHash64;

use super::event::Event;
use super::rpc::{Numbers, RpcEvent, WINDOW, Writer};

/// Number of this format of traces.
pub const FORMAT: u16 = 1;
const MAGIC: &[u8] = b"hotpick trace\n";
/// The contract of the policies that are recorded.
const CONTRACT: &str = "hotpick:policy@0.1.0";
/// Length (bytes) at which a block is complete.
pub(super) const BLOCK: usize = 64 << 10;
/// Maximum length of a block (bytes): a single event may be long.
const LONGEST_BLOCK: usize = 64 << 20;
const BLOCK_HEADER: usize = 12;

/// Reason why bytes are not a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// Something else.
    #[error("is not a trace of hotpick")]
    NotATrace,
    /// Written by another version of hotpick.
    #[error("is in format {0} of traces, and this program reads format {FORMAT}")]
    Format(u16),
    /// Recorded of policies of another contract.
    #[error("is a trace of the contract {0}, and this program has {CONTRACT}")]
    Contract(String),
    /// Nothing is left of it.
    #[error("is cut off before its first block is complete")]
    Empty,
    /// A block does not have the bytes that were written.
    #[error("is damaged at byte {at}")]
    Damaged {
        /// Offset in the file.
        at: usize,
    },
}

/// An event, when it happened, and what the policy was answered in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Recorded {
    /// Time of the recording host's clock (ns), which is the policy's.
    pub at: u64,
    /// The event.
    pub event: Event,
    pub(crate) answers: Vec<u8>,
}

/// A recording of one instance of a policy.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// What happened, in order. The first event is [`Event::Start`].
    pub events: Vec<Recorded>,
    /// Whether the trace is cut off: its last events are missing.
    pub is_cut: bool,
}

/// Returns the bytes that a trace begins with.
pub(super) fn header() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(u8::try_from(CONTRACT.len()));
    bytes.extend(CONTRACT.as_bytes());
    bytes
}

/// A block that is being written.
#[derive(Debug)]
pub(super) struct Block {
    /// Place for the block's header, and the events.
    events: Scratch,
    last: u64,
}

impl Default for Block {
    fn default() -> Self {
        Self { events: Scratch { bytes: memory(), length: BLOCK_HEADER }, last: 0 }
    }
}

impl Block {
    /// Appends an event: something that is serialised as an [`Event`] is. What is longer than a block may be is left out.
    pub(super) fn push(&mut self, at: u64, event: &impl Serialize, answers: &[u8]) {
        let since = at.cast_signed().wrapping_sub(self.last.cast_signed());
        if self.events.push(&(since, event, AsBytes(answers))) {
            self.last = at;
        }
    }

    /// Appends an event of an RPC.
    #[inline]
    pub(super) fn push_rpc(&mut self, at: u64, event: &impl RpcEvent, answers: &[u8]) {
        const TIME_AND_LENGTH: usize = 30;
        let since = at.cast_signed().wrapping_sub(self.last.cast_signed());
        self.events.write(event.longest() + answers.len() + TIME_AND_LENGTH, |out| {
            event.write(since, answers, out);
        });
        self.last = at;
    }

    /// Returns the time of the last event.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// Returns the length of the events.
    pub(super) const fn len(&self) -> usize {
        self.events.length - BLOCK_HEADER
    }

    pub(super) const fn clear(&mut self) {
        self.events.length = BLOCK_HEADER;
        self.last = 0;
    }

    /// Returns the block's bytes, and begins the next block.
    pub(super) fn seal(&mut self) -> Bytes {
        let Scratch { mut bytes, length } = std::mem::replace(&mut self.events, Self::default().events);
        let (head, events) = bytes[..length].split_at_mut(BLOCK_HEADER);
        head[..4].copy_from_slice(&u32::try_from(events.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[4..].copy_from_slice(&XxHash64::oneshot(0, events).to_le_bytes());
        Bytes { memory: bytes, length }
    }
}

/// Bytes of a trace. Their memory is used again: to allocate a block's memory takes longer than to fill it.
pub(crate) struct Bytes {
    memory: Vec<u8>,
    length: usize,
}

/// Memory of a block (bytes): an event that makes it complete is rarely longer than this is.
const MEMORY: usize = BLOCK + (8 << 10);
/// Memory of blocks that have been passed on.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Returns memory for a block, with any contents.
fn memory() -> Vec<u8> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| vec![0; MEMORY])
}

impl Bytes {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.memory[..self.length]
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) fn into_vec(mut self) -> Vec<u8> {
        self.memory.truncate(self.length);
        std::mem::take(&mut self.memory)
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(memory: Vec<u8>) -> Self {
        Self { length: memory.len(), memory }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        /// Number of blocks whose memory is kept.
        const MOST: usize = 4;
        if self.memory.len() == MEMORY {
            let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < MOST {
                spare.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

/// Bytes that are serialised at once, and not one by one.
struct AsBytes<'a>(&'a [u8]);

impl Serialize for AsBytes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Memory that values are serialised to, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    length: usize,
}

impl Scratch {
    /// Appends a value. `false`: there would be too much.
    pub(crate) fn push(&mut self, value: &impl Serialize) -> bool {
        loop {
            let written =
                postcard::to_slice(value, &mut self.bytes[self.length..]).map(|written| written.len());
            match written {
                Ok(written) => {
                    self.length += written;
                    return true;
                }
                Err(_) if self.bytes.len() < LONGEST_BLOCK => {
                    let more = (2 * self.bytes.len()).clamp(1024, LONGEST_BLOCK);
                    self.bytes.resize(more, 0);
                }
                Err(_) => return false,
            }
        }
    }

    /// Appends what `write` writes, at most `longest` bytes with what it writes beyond its end.
    #[inline]
    pub(crate) fn write(&mut self, longest: usize, write: impl FnOnce(&mut Writer<'_>)) {
        let Some(memory) = self.more(longest) else { return };
        let mut out = Writer::new(memory);
        write(&mut out);
        self.length += out.length();
    }

    /// Appends numbers, at most [`NUMBERS`](super::rpc::NUMBERS) bytes of them.
    #[inline]
    pub(crate) fn numbers(&mut self, write: impl FnOnce(&mut Numbers<'_>)) {
        self.write(WINDOW, |out| out.numbers(write));
    }

    /// Returns memory of this length at least. `None`: there would be too much.
    #[inline]
    fn more(&mut self, length: usize) -> Option<&mut [u8]> {
        let wanted = self.length + length;
        if self.bytes.len() < wanted && !self.grow(wanted) {
            return None;
        }
        self.bytes.get_mut(self.length..)
    }

    #[cold]
    fn grow(&mut self, wanted: usize) -> bool {
        let may_grow = wanted <= LONGEST_BLOCK;
        if may_grow {
            self.bytes.resize(wanted.next_power_of_two().max(1024), 0);
        }
        may_grow
    }

    pub(crate) fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    pub(crate) const fn clear(&mut self) {
        self.length = 0;
    }
}

impl Trace {
    /// Reads a trace of this program's contract. One that is cut off is read as far as it goes.
    ///
    /// # Errors
    ///
    /// If the bytes are something else, or damaged.
    pub fn read(bytes: &[u8]) -> Result<Self, TraceError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(TraceError::NotATrace)?;
        let (format, rest) = rest.split_first_chunk().ok_or(TraceError::Empty)?;
        let format = u16::from_le_bytes(*format);
        if format != FORMAT {
            return Err(TraceError::Format(format));
        }
        let (length, rest) = rest.split_first().ok_or(TraceError::Empty)?;
        let (found, mut rest) = rest.split_at_checked(usize::from(*length)).ok_or(TraceError::Empty)?;
        if found != CONTRACT.as_bytes() {
            let found = String::from_utf8_lossy(found).into_owned();
            return Err(TraceError::Contract(found));
        }
        let mut trace = Self::default();
        let mut last = 0;
        while !rest.is_empty() {
            let damaged = TraceError::Damaged { at: bytes.len() - rest.len() };
            let Some((block, after)) = split_block(rest).map_err(|Damaged| damaged.clone())? else {
                trace.is_cut = true;
                break;
            };
            trace.read_events(block, &mut last).ok_or(damaged)?;
            rest = after;
        }
        trace.is_cut |= !matches!(trace.events.last(), Some(Recorded { event: Event::Finish(_), .. }));
        match trace.events.first() {
            Some(Recorded { event: Event::Start(_), .. }) => Ok(trace),
            Some(_) => Err(TraceError::NotATrace),
            None => Err(TraceError::Empty),
        }
    }

    fn read_events(&mut self, mut block: &[u8], last: &mut u64) -> Option<()> {
        while !block.is_empty() {
            let (since, rest) = postcard::take_from_bytes::<i64>(block).ok()?;
            let (event, rest) = postcard::take_from_bytes::<Event>(rest).ok()?;
            let (length, rest) = postcard::take_from_bytes::<usize>(rest).ok()?;
            let (answers, rest) = rest.split_at_checked(length)?;
            *last = last.wrapping_add_signed(since);
            self.events.push(Recorded { at: *last, event, answers: answers.to_vec() });
            block = rest;
        }
        Some(())
    }
}

/// A block has other bytes than were written.
struct Damaged;

/// A block, and what follows it.
type Split<'a> = Option<(&'a [u8], &'a [u8])>;

/// Splits off the first block. `None`: it is cut off.
fn split_block(bytes: &[u8]) -> Result<Split<'_>, Damaged> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > LONGEST_BLOCK {
        return Err(Damaged);
    }
    let Some((hash, rest)) = rest.split_first_chunk() else { return Ok(None) };
    let Some((block, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    (XxHash64::oneshot(0, block) == u64::from_le_bytes(*hash)).then_some(Some((block, rest))).ok_or(Damaged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::event::{Endpoint, Finish, Init, Start};
    use super::*;

    fn events() -> Vec<Recorded> {
        let start = Start { policy: "p".to_owned(), digest: "abc".to_owned(), ..Start::default() };
        let endpoint = Endpoint {
            id: 7,
            addresses: vec!["10.0.0.1:1".to_owned()],
            weight: 1,
            attributes: vec![("color".to_owned(), "red".to_owned())],
        };
        let all = [
            Event::Start(Box::new(start)),
            Event::Init(Box::new(Init { result: Ok(()), keys: vec!["color".to_owned()], affinity: None })),
            Event::Changed { added: vec![endpoint], removed: vec![1, 2] },
            Event::Ready(vec![7]),
            Event::Fired(3),
            Event::Finish(Finish::Ended),
        ];
        let recorded =
            |(number, event)| Recorded { at: 1_000_000 - 7 * number, event, answers: vec![1, 2, 3] };
        (0u64..).zip(all).map(recorded).collect()
    }

    /// Returns a trace with a block for each event.
    fn bytes(events: &[Recorded]) -> Vec<u8> {
        let mut bytes = header();
        let mut block = Block::default();
        for Recorded { at, event, answers } in events {
            block.push(*at, event, answers);
            bytes.extend(block.seal().as_slice());
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let trace = Trace::read(&bytes(&events())).expect("a trace");
        assert_eq!((trace.events, trace.is_cut), (events(), false));
    }

    #[test]
    fn the_contract_is_that_of_the_wit() {
        let wit = include_str!("../../wit/policy.wit");
        assert!(wit.contains(&format!("package {CONTRACT};")));
    }

    proptest! {
        /// Wherever it is cut, the events before are read; whatever byte is changed, something is said, or the trace is
        /// shorter.
        #[test]
        fn a_trace_that_is_cut_or_damaged_is_no_other_trace(at in 0usize..1000, bit in 0u8..8) {
            let (whole, mut bytes) = (events(), bytes(&events()));
            let at = at % bytes.len();
            if let Ok(cut) = Trace::read(&bytes[..at]) {
                prop_assert!(cut.is_cut && whole.starts_with(&cut.events));
            }
            bytes[at] ^= 1 << bit;
            if let Ok(read) = Trace::read(&bytes) {
                prop_assert!(read.is_cut && whole.starts_with(&read.events), "byte {at}");
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Trace::read(&bytes);
            let _ = Trace::read(&[header(), bytes].concat());
        }
    }
}
