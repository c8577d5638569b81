//! Plans: picks that a policy makes ahead, so that it is not called for each RPC.

use std::sync::{Arc, Mutex};

use super::fault::Fault;
use super::imports::Methods;
use crate::policy::limits::LONGEST_PLAN;
use crate::subconn::ReadySet;

/// What a policy has planned. It is valid for the endpoints that the policy was last notified of, until the next
/// notification.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) order: Order,
    pub(crate) picks: Picks,
    /// Endpoints that the picks are among.
    pub(crate) ready: ReadySet,
    /// Serial number of the instance that made the plan.
    pub(crate) serial: u64,
    /// Number of the first pick's RPC, by which its outcome is reported.
    pub(crate) first_call: u64,
    /// Numbers of methods, by which outcomes are reported.
    pub(crate) methods: Arc<Mutex<Methods>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// One after the other.
    Sequence,
    /// By the hash of the affinity key.
    ByAffinity,
}

/// Numbers of subconns, in a byte or two each if they are close together, as those of one time are: a table can have 65,537
/// entries in each of hundreds of channels.
#[derive(Debug)]
pub(crate) enum Picks {
    /// The least number, and the distances from it.
    Bytes(u32, Box<[u8]>),
    Shorts(u32, Box<[u16]>),
    Words(Box<[u32]>),
}

impl Plan {
    /// Returns a plan of these picks, for endpoints that the policy knows. `None`: there are no picks.
    pub(crate) fn new(
        order: Order,
        picks: Vec<u32>,
        ready: &ReadySet,
        serial: u64,
        first_call: u64,
        methods: &Arc<Mutex<Methods>>,
    ) -> Result<Option<Self>, Fault> {
        if picks.len() > LONGEST_PLAN as usize {
            return Err(Fault::LongPlan(picks.len()));
        }
        let Some(range) = range(&picks) else { return Ok(None) };
        if let Some(unknown) = unknown(&picks, range, ready) {
            return Err(Fault::UnknownSubConn(unknown));
        }
        let picks = Picks::new(picks, range);
        let (ready, methods) = (ready.clone(), Arc::clone(methods));
        Ok(Some(Self { order, picks, ready, serial, first_call, methods }))
    }

    /// Returns how many RPC numbers the plan may use.
    pub(crate) fn calls(&self) -> u64 {
        match self.order {
            Order::Sequence => self.picks.len() as u64,
            Order::ByAffinity => 1 << 32,
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "no distance is greater than the greatest")]
impl Picks {
    fn new(picks: Vec<u32>, (least, greatest): (u32, u32)) -> Self {
        let distances = picks.iter().map(|id| id - least);
        match greatest - least {
            0..=0xff => Self::Bytes(least, distances.map(|distance| distance as u8).collect()),
            0x100..=0xffff => Self::Shorts(least, distances.map(|distance| distance as u16).collect()),
            _ => Self::Words(picks.into_boxed_slice()),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Bytes(_, all) => all.len(),
            Self::Shorts(_, all) => all.len(),
            Self::Words(all) => all.len(),
        }
    }

    /// Copies the picks from this index on, as many as there is place for. Returns how many.
    pub(crate) fn read(&self, from: usize, into: &mut [u32]) -> usize {
        fn copy<T: Copy>(all: &[T], from: usize, into: &mut [u32], of: impl Fn(T) -> u32) -> usize {
            let all = all.get(from..).unwrap_or_default();
            into.iter_mut().zip(all).map(|(into, pick)| *into = of(*pick)).count()
        }
        match self {
            Self::Bytes(least, all) => copy(all, from, into, |distance| least + u32::from(distance)),
            Self::Shorts(least, all) => copy(all, from, into, |distance| least + u32::from(distance)),
            Self::Words(all) => copy(all, from, into, |id| id),
        }
    }

    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<u32> {
        match self {
            Self::Bytes(least, all) => all.get(at).map(|distance| least + u32::from(*distance)),
            Self::Shorts(least, all) => all.get(at).map(|distance| least + u32::from(*distance)),
            Self::Words(all) => all.get(at).copied(),
        }
    }
}

/// Returns the least and the greatest number.
fn range(picks: &[u32]) -> Option<(u32, u32)> {
    let first = *picks.first()?;
    Some(picks.iter().fold((first, first), |(least, most), id| (least.min(*id), most.max(*id))))
}

/// Returns the first pick that is not in the snapshot. A table repeats its picks, and each is looked up once if the
/// numbers are close enough together to remember which.
fn unknown(picks: &[u32], (least, most): (u32, u32), ready: &ReadySet) -> Option<u32> {
    let span = (most - least) as usize / 64 + 1;
    if span > picks.len() {
        return picks.iter().copied().find(|id| ready.find(*id).is_none());
    }
    let mut known = vec![0u64; span];
    picks.iter().copied().find(|id| {
        let at = id - least;
        let (word, bit) = (&mut known[at as usize / 64], 1 << (at % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        ready.find(*id).is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subconn::FakeSubConns;

    #[test]
    fn numbers_are_returned_as_they_were_up_to_the_greatest() {
        for greatest in [0, 0xff, 0x100, 0xffff, 0x1_0000] {
            for least in [0, 7, u32::MAX - greatest] {
                let numbers = [least + greatest, least, least + greatest / 2];
                let picks = Picks::new(numbers.to_vec(), range(&numbers).expect("not empty"));
                assert_eq!([0, 1, 2].map(|at| picks.get(at)), numbers.map(Some));
                assert_eq!((picks.len(), picks.get(3)), (3, None));
                for (from, place) in [(0, 4), (0, 2), (1, 2), (2, 2), (3, 1), (4, 1), (1, 0)] {
                    let mut read = vec![0; place];
                    let count = picks.read(from, &mut read);
                    assert_eq!(read[..count], numbers[from.min(3)..(from + place).min(3).max(from.min(3))]);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_plan_is_refused() {
        let ready = FakeSubConns::default().ready(1);
        let plan = |picks: &[u32]| Plan::new(Order::Sequence, picks.to_vec(), &ready, 1, 1, &Arc::default());
        assert!(plan(&[]).expect("no fault").is_none());
        for (picks, first) in [(vec![0, 7], 7), (vec![0, 0, 0, 5, 7, 0], 5), (vec![0, u32::MAX, 1], u32::MAX)]
        {
            assert_eq!(plan(&picks).expect_err("not there"), Fault::UnknownSubConn(first));
        }
        let long = vec![0; LONGEST_PLAN as usize + 1];
        assert_eq!(plan(&long).expect_err("too long"), Fault::LongPlan(long.len()));
    }
}
