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
pub(crate) enum RpcEvent<'a> {
    Pick(PickParts<'a>),
    Planned(PlannedParts<'a>),
    End(&'a End),
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

    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// A number, seven bits in a byte, the lowest first; all bytes but the last have their highest bit set.
    #[inline]
    pub(crate) fn number(&mut self, number: u64) {
        /// What eight bytes hold.
        const EIGHT: u64 = 1 << 56;
        if number < 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
            return self.byte(number as u8);
        }
        if number >= EIGHT {
            return self.long_number(number);
        }
        let length = (63 - number.leading_zeros()) / 7 + 1;
        // Spreads the bits, seven to a byte, in three steps.
        let spread = (number & 0x0fff_ffff) | (number & 0x00ff_ffff_f000_0000) << 4;
        let spread = (spread & 0x0000_3fff_0000_3fff) | (spread & 0x0fff_c000_0fff_c000) << 2;
        let spread = (spread & 0x007f_007f_007f_007f) | (spread & 0x3f80_3f80_3f80_3f80) << 1;
        let more = 0x8080_8080_8080_8080 >> (8 * (9 - length));
        self.bytes[self.length..self.length + 8].copy_from_slice(&(spread | more).to_le_bytes());
        self.length += length as usize;
    }

    #[cold]
    fn long_number(&mut self, mut number: u64) {
        while number >= 0x80 {
            #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        #[expect(clippy::cast_possible_truncation, reason = "seven bits")]
        self.byte(number as u8);
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

    pub(super) fn slice(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.fixed(bytes);
    }

    fn fixed(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    fn values(&mut self, values: &[(u8, ValueParts<'_>)]) {
        self.number(values.len() as u64);
        for (place, value) in values {
            self.byte(*place);
            match value {
                ValueParts::Plain(bytes) => {
                    self.byte(0);
                    self.slice(bytes);
                }
                ValueParts::Hashed(hash) => {
                    self.byte(1);
                    self.number(*hash);
                }
            }
        }
    }
}

/// Length that the numbers of an event have at most, and eight bytes that are written beyond them.
const NUMBERS: usize = 180;

impl RpcEvent<'_> {
    /// Returns a length that the event has at most.
    pub(super) fn longest(&self) -> usize {
        let values = |values: &[(u8, ValueParts<'_>)]| -> usize {
            let of = |(_, value): &(u8, ValueParts<'_>)| match value {
                ValueParts::Plain(bytes) => bytes.len() + 20,
                ValueParts::Hashed(_) => 20,
            };
            values.iter().map(of).sum()
        };
        NUMBERS
            + match self {
                Self::Pick(pick) => 5 * pick.tried.len() + values(pick.values),
                Self::Planned(pick) => values(pick.values),
                Self::End(_) => 0,
            }
    }

    pub(super) fn write(&self, out: &mut Writer<'_>) {
        match self {
            Self::Pick(pick) => {
                out.byte(PICK);
                out.number(pick.call);
                out.number(pick.method.into());
                out.optional(pick.affinity);
                out.fixed(&pick.random.to_le_bytes());
                out.number(pick.attempt.into());
                out.byte(u8::from(pick.wait_for_ready));
                out.byte(u8::from(pick.requeued));
                out.number(pick.tried.len() as u64);
                pick.tried.iter().for_each(|id| out.number((*id).into()));
                out.values(pick.values);
                match pick.result {
                    PickResult::Pick(id) => {
                        out.byte(0);
                        out.number(id.into());
                    }
                    PickResult::Queue => out.byte(1),
                    PickResult::Fail(code) => out.fixed(&[2, code]),
                    PickResult::Drop(code) => out.fixed(&[3, code]),
                    PickResult::Fault => out.byte(4),
                }
            }
            Self::Planned(pick) => {
                out.byte(PLANNED);
                out.number(pick.call);
                out.number(pick.method.into());
                out.optional(pick.affinity);
                out.number(pick.subconn.into());
                out.values(pick.values);
            }
            Self::End(end) => {
                out.byte(END);
                out.number(end.call);
                out.number(end.subconn.into());
                out.number(end.method.into());
                let flags = [end.not_sent, end.client_ended, end.reported].map(u8::from);
                out.fixed(&[end.code, flags[0], flags[1], flags[2]]);
                out.number(end.latency);
                out.byte(u8::from(end.load.is_some()));
                for number in end.load.into_iter().flatten() {
                    out.fixed(&number.to_le_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::event::{Event, Pick, Planned, Value};
    use super::*;

    fn written(event: &RpcEvent<'_>) -> Vec<u8> {
        let mut bytes = vec![0; event.longest()];
        let mut out = Writer::new(&mut bytes);
        event.write(&mut out);
        let length = out.length();
        bytes.truncate(length);
        bytes
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
            let pick = RpcEvent::Pick(PickParts {
                call, method, affinity, random, attempt, wait_for_ready, requeued, tried: &tried, values: &parts, result,
            });
            let planned = RpcEvent::Planned(PlannedParts { call, method, affinity, subconn: attempt, values: &parts });
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
            prop_assert_eq!(written(&RpcEvent::End(&end)), event);
        }

        #[test]
        fn signed_numbers_are_zigzag(bits in 0u32..64, number in any::<i64>()) {
            let number = number >> bits;
            let mut bytes = [0; 20];
            let mut out = Writer::new(&mut bytes);
            out.signed(number);
            let length = out.length();
            prop_assert_eq!(&bytes[..length], &*postcard::to_allocvec(&number).expect("serialised"));
        }
    }
}
