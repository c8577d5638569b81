//! The events of RPCs, which are written on their path: the same bytes as those of [`Event`], at a third of the
//! instructions.

use super::event::{End, PickResult, ValueParts};

/// [`Event::Pick`](super::Event::Pick), of borrowed parts.
pub(crate) struct PickParts<'a> {
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) affinity: Option<u64>,
    pub(crate) random: u64,
    pub(crate) attempt: u32,
    pub(crate) wait_for_ready: bool,
    pub(crate) requeued: bool,
    pub(crate) tried: &'a [u32],
    pub(crate) values: &'a [(u8, ValueParts<'a>)],
    pub(crate) result: PickResult,
}

/// [`Event::Planned`](super::Event::Planned), of borrowed parts.
pub(crate) struct PlannedParts<'a> {
    pub(crate) call: u64,
    pub(crate) method: u32,
    pub(crate) affinity: Option<u64>,
    pub(crate) subconn: u32,
    pub(crate) values: &'a [(u8, ValueParts<'a>)],
}

/// An event of an RPC.
pub(crate) trait RpcEvent {
    /// Returns a length that the event has at most, with what is written beyond its end.
    fn longest(&self) -> usize;

    /// Writes the event, with its time and the answers that the policy got in it.
    fn write(&self, since: i64, answers: &[u8], out: &mut Writer<'_>);
}

/// Places of the cases in [`Event`](super::Event).
const PICK: u8 = 7;
const PLANNED: u8 = 9;
const END: u8 = 10;

/// Writes to memory that is long enough.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    pub(super) const fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }

    pub(super) const fn length(&self) -> usize {
        self.length
    }

    /// Writes numbers, at most [`NUMBERS`] bytes of them. The memory is [`WINDOW`] bytes longer than what has been written;
    /// otherwise nothing is written.
    #[inline]
    pub(crate) fn numbers(&mut self, write: impl FnOnce(&mut Numbers<'_>)) {
        let window = self.bytes.get_mut(self.length..).and_then(|rest| rest.first_chunk_mut());
        let Some(bytes) = window else { return };
        let mut numbers = Numbers { bytes, length: 0 };
        write(&mut numbers);
        self.length += usize::from(numbers.length);
    }

    /// Writes bytes whose number has been written.
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    #[inline]
    fn values(&mut self, values: &[(u8, ValueParts<'_>)]) {
        for (place, value) in values {
            match value {
                ValueParts::Plain(bytes) => {
                    self.numbers(|out| {
                        out.fixed([*place, 0]);
                        out.number(bytes.len() as u64);
                    });
                    self.bytes(bytes);
                }
                ValueParts::Hashed(hash) => self.numbers(|out| {
                    out.fixed([*place, 1]);
                    out.number(*hash);
                }),
            }
        }
    }
}

/// Bytes of numbers that are written with one check of bounds.
pub(super) const NUMBERS: usize = 180;
/// As many bytes as an index of one byte finds, and eight that are written beyond a number's end.
pub(super) const WINDOW: usize = 256 + 8;

/// Writes numbers to memory that is as long as any index can be, so that no index is checked.
pub(crate) struct Numbers<'a> {
    bytes: &'a mut [u8; WINDOW],
    length: u8,
}

impl Numbers<'_> {
    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length = self.length.wrapping_add(1);
    }

    /// Bytes as they are, at most eight.
    #[inline]
    pub(super) fn fixed<const N: usize>(&mut self, bytes: [u8; N]) {
        const { assert!(N <= 8) };
        let at = usize::from(self.length);
        self.bytes[at..at + N].copy_from_slice(&bytes);
        #[expect(clippy::cast_possible_truncation, reason = "at most eight")]
        let length = N as u8;
        self.length = self.length.wrapping_add(length);
    }

    /// A number, seven bits in a byte, the lowest first; all bytes but the last have their highest bit set.
    #[inline]
    pub(crate) fn number(&mut self, number: u64) {
        match number {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
            0..0x80 => self.byte(number as u8),
            #[expect(clippy::cast_possible_truncation, reason = "28 bits")]
            0x80..0x1000_0000 => self.short_number(number as u32),
            // By value: what has its address taken is not kept in a register.
            _ => self.length = long_number(self.bytes, self.length, number),
        }
    }

    /// A number of 8 to 28 bits.
    #[inline]
    fn short_number(&mut self, number: u32) {
        // Spreads the bits, seven to a byte, in two steps.
        let spread = (number & 0x3fff) | (number & 0x0fff_c000) << 2;
        let spread = (spread & 0x007f_007f) | (spread & 0x3f80_3f80) << 1;
        #[expect(clippy::cast_possible_truncation, reason = "at most four")]
        let length = ((38 - number.leading_zeros()) / 7) as u8;
        let more = 0x8080_8080 >> (40 - 8 * u32::from(length));
        let at = usize::from(self.length);
        self.bytes[at..at + 4].copy_from_slice(&(spread | more).to_le_bytes());
        self.length = self.length.wrapping_add(length);
    }

    /// A signed number, zigzag.
    #[inline]
    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)).cast_unsigned());
    }

    fn optional(&mut self, number: Option<u64>) {
        self.byte(u8::from(number.is_some()));
        if let Some(number) = number {
            self.number(number);
        }
    }
}

/// Writes a number, and returns the length after it.
#[inline(never)]
fn long_number(bytes: &mut [u8; WINDOW], mut length: u8, mut number: u64) -> u8 {
    while number >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
        let low = number as u8;
        bytes[usize::from(length)] = low | 0x80;
        length = length.wrapping_add(1);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
    let last = number as u8;
    bytes[usize::from(length)] = last;
    length.wrapping_add(1)
}

/// Returns a length that values have at most.
#[inline]
fn longest(values: &[(u8, ValueParts<'_>)]) -> usize {
    let of = |(_, value): &(u8, ValueParts<'_>)| match value {
        ValueParts::Plain(bytes) => bytes.len() + 20,
        ValueParts::Hashed(_) => 20,
    };
    values.iter().map(of).sum()
}

impl RpcEvent for PickParts<'_> {
    #[inline]
    fn longest(&self) -> usize {
        NUMBERS + WINDOW + 5 * self.tried.len() + longest(self.values)
    }

    #[inline]
    fn write(&self, since: i64, answers: &[u8], out: &mut Writer<'_>) {
        out.numbers(|out| {
            out.signed(since);
            out.byte(PICK);
            out.number(self.call);
            out.number(self.method.into());
            out.optional(self.affinity);
            out.fixed(self.random.to_le_bytes());
            out.number(self.attempt.into());
            out.fixed([u8::from(self.wait_for_ready), u8::from(self.requeued)]);
            out.number(self.tried.len() as u64);
        });
        for id in self.tried {
            out.numbers(|out| out.number((*id).into()));
        }
        out.numbers(|out| out.number(self.values.len() as u64));
        out.values(self.values);
        out.numbers(|out| {
            match self.result {
                PickResult::Pick(id) => {
                    out.byte(0);
                    out.number(id.into());
                }
                PickResult::Queue => out.byte(1),
                PickResult::Fail(code) => out.fixed([2, code]),
                PickResult::Drop(code) => out.fixed([3, code]),
                PickResult::Fault => out.byte(4),
            }
            out.number(answers.len() as u64);
        });
        out.bytes(answers);
    }
}

impl RpcEvent for PlannedParts<'_> {
    #[inline]
    fn longest(&self) -> usize {
        NUMBERS + WINDOW + longest(self.values)
    }

    #[inline]
    fn write(&self, since: i64, answers: &[u8], out: &mut Writer<'_>) {
        out.numbers(|out| {
            out.signed(since);
            out.byte(PLANNED);
            out.number(self.call);
            out.number(self.method.into());
            out.optional(self.affinity);
            out.number(self.subconn.into());
            out.number(self.values.len() as u64);
        });
        out.values(self.values);
        out.numbers(|out| out.number(answers.len() as u64));
        out.bytes(answers);
    }
}

impl RpcEvent for End {
    #[inline]
    fn longest(&self) -> usize {
        NUMBERS + WINDOW
    }

    #[inline]
    fn write(&self, since: i64, answers: &[u8], out: &mut Writer<'_>) {
        out.numbers(|out| {
            out.signed(since);
            out.byte(END);
            out.number(self.call);
            out.number(self.subconn.into());
            out.number(self.method.into());
            let flags = [self.not_sent, self.client_ended, self.reported].map(u8::from);
            out.fixed([self.code, flags[0], flags[1], flags[2]]);
            out.number(self.latency);
            out.byte(u8::from(self.load.is_some()));
            if let Some(load) = &self.load {
                load.iter().for_each(|number| out.fixed(number.to_le_bytes()));
            }
            out.number(answers.len() as u64);
        });
        out.bytes(answers);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::event::{Event, Pick, Planned, Value};
    use super::*;

    fn written(event: &impl RpcEvent) -> Vec<u8> {
        let mut bytes = vec![0xff; event.longest() + 2];
        let mut out = Writer::new(&mut bytes);
        event.write(0, &[], &mut out);
        let length = out.length();
        // The time, and that there are no answers.
        assert_eq!((bytes[0], bytes[length - 1]), (0, 0));
        bytes[1..length - 1].to_vec()
    }

    fn parts(values: &[(u8, Value)]) -> Vec<(u8, ValueParts<'_>)> {
        let of = |(place, value): &'_ (u8, Value)| match value {
            Value::Plain(bytes) => (*place, bytes.len(), None),
            Value::Hashed(hash) => (*place, 0, Some(*hash)),
        };
        let shapes: Vec<_> = values.iter().map(of).collect();
        values
            .iter()
            .zip(shapes)
            .map(|((_, value), (place, _, hash))| match (value, hash) {
                (Value::Plain(bytes), _) => (place, ValueParts::Plain(bytes)),
                (Value::Hashed(_), hash) => (place, ValueParts::Hashed(hash.unwrap_or_default())),
            })
            .collect()
    }

    fn values() -> impl Strategy<Value = Vec<(u8, Value)>> {
        let value = prop_oneof![
            any::<u64>().prop_map(Value::Hashed),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Plain),
        ];
        prop::collection::vec((any::<u8>(), value), 0..5)
    }

    fn result() -> impl Strategy<Value = PickResult> {
        prop_oneof![
            any::<u32>().prop_map(PickResult::Pick),
            Just(PickResult::Queue),
            any::<u8>().prop_map(PickResult::Fail),
            any::<u8>().prop_map(PickResult::Drop),
            Just(PickResult::Fault),
        ]
    }

    proptest! {
        /// What is written is what the serialiser of the format writes.
        #[test]
        fn picks_are_written_as_events(
            (call, method, affinity, random) in any::<(u64, u32, Option<u64>, u64)>(),
            (attempt, wait_for_ready, requeued) in any::<(u32, bool, bool)>(),
            tried in prop::collection::vec(any::<u32>(), 0..5),
            values in values(),
            result in result(),
        ) {
            let parts = parts(&values);
            let pick = PickParts {
                call, method, affinity, random, attempt, wait_for_ready, requeued, tried: &tried, values: &parts, result,
            };
            let planned = PlannedParts { call, method, affinity, subconn: attempt, values: &parts };
            let (pick, planned) = (written(&pick), written(&planned));
            let random = random.to_le_bytes();
            let event = Event::Pick(Pick {
                call, method, affinity, random, attempt, wait_for_ready, requeued, tried, values: values.clone(), result,
            });
            prop_assert_eq!(pick, postcard::to_allocvec(&event).expect("serialised"));
            let event = Event::Planned(Planned { call, method, affinity, subconn: attempt, values });
            prop_assert_eq!(planned, postcard::to_allocvec(&event).expect("serialised"));
        }

        #[test]
        fn ends_are_written_as_events(
            (call, subconn, method, code) in any::<(u64, u32, u32, u8)>(),
            (not_sent, client_ended, reported) in any::<(bool, bool, bool)>(),
            (latency, load) in any::<(u64, Option<[f64; 5]>)>(),
        ) {
            let end = End { call, subconn, method, code, not_sent, client_ended, reported, latency, load };
            let event = postcard::to_allocvec(&Event::End(end)).expect("serialised");
            prop_assert_eq!(written(&end), event);
        }

        #[test]
        fn signed_numbers_are_zigzag(bits in 0u32..64, number in any::<i64>()) {
            let number = number >> bits;
            let mut bytes = [0; WINDOW];
            let mut out = Writer::new(&mut bytes);
            out.numbers(|out| out.signed(number));
            let length = out.length();
            prop_assert_eq!(&bytes[..length], &*postcard::to_allocvec(&number).expect("serialised"));
        }
    }
}
