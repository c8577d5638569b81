//! Two versions of a policy as one policy of a channel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::cohort::{Cohort, Reading, Side};
use super::settings::RolloutMode;
use crate::lifecycle::{Handover, PickerBuilder, Placement, Policy, PolicyVersion, Standing, StartError};
use crate::picker::{DelayType, Faults, PickInfo, PickResult, Picker, until_picked};
use crate::policy::WasmPolicy;
use crate::policy::instance::time;
use crate::subconn::{Done, DoneInfo, ReadySet};

/// The active version of a policy, and a new one beside it. Shared by all channels.
#[derive(Clone)]
pub(crate) struct Split {
    active: WasmPolicy,
    candidate: WasmPolicy,
    shared: Arc<Shared>,
}

struct Shared {
    mode: RolloutMode,
    /// Share of the RPCs that the new version picks for (parts in a million).
    share: AtomicU32,
    cohort: ArcSwap<Cohort>,
    /// Whether the new version has been promoted: its state is what the next instances begin with.
    is_promoted: AtomicBool,
    active: Arc<PolicyVersion>,
    candidate: Arc<PolicyVersion>,
}

const WHOLE: u32 = 1_000_000;
/// Between the digests of two versions.
const BOTH: char = '+';

impl Split {
    pub(crate) fn new(active: WasmPolicy, candidate: WasmPolicy, mode: RolloutMode) -> Self {
        let shared = Shared {
            mode,
            share: AtomicU32::new(0),
            cohort: ArcSwap::default(),
            is_promoted: AtomicBool::new(false),
            active: Arc::new(active.version()),
            candidate: Arc::new(candidate.version()),
        };
        Self { active, candidate, shared: Arc::new(shared) }
    }

    /// Begins an interval, in which the new version picks for this share of the RPCs (per cent).
    pub(crate) fn begin(&self, share: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the whole")]
        let parts = (share.clamp(0.0, 100.0) / 100.0 * f64::from(WHOLE)).round() as u32;
        self.shared.share.store(parts, Ordering::Relaxed);
        self.shared.cohort.store(Arc::default());
    }

    /// Ends the rollout, also where the two versions are used until they are replaced. The state of the new version is
    /// handed over if it is promoted.
    pub(crate) fn end(&self, is_promoted: bool) {
        self.shared.is_promoted.store(is_promoted, Ordering::Relaxed);
        let may_pick = is_promoted && self.shared.mode == RolloutMode::Canary;
        self.begin(if may_pick { 100.0 } else { 0.0 });
    }

    /// Returns whether this is the version of two versions.
    pub(crate) fn is_version(version: &PolicyVersion) -> bool {
        version.digest.contains(BOTH)
    }

    pub(crate) fn read(&self) -> Reading {
        self.shared.cohort.load().read()
    }

    pub(crate) const fn candidate(&self) -> &WasmPolicy {
        &self.candidate
    }
}

impl Policy for Split {
    /// The active version's, with both digests: it is another policy than the active version alone.
    fn version(&self) -> PolicyVersion {
        let Shared { active, candidate, .. } = &*self.shared;
        let digest = format!("{}{BOTH}{}", active.digest, candidate.digest);
        PolicyVersion { digest, ..PolicyVersion::clone(active) }
    }

    fn start(&self, placement: &Placement, ready: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        let standing = match self.shared.mode {
            RolloutMode::Shadow => Standing::Shadow,
            RolloutMode::Canary => Standing::Canary,
        };
        let beside = placement.clone().with_standing(standing);
        // The new version first: if it is refused, the channel stays as it is.
        let candidate = self.candidate.start(&beside, ready)?;
        // Neither disconnects what the other may need.
        let active =
            self.active.start(if standing == Standing::Canary { &beside } else { placement }, ready)?;
        Ok(Box::new(SplitBuilder { active, candidate, shared: Arc::clone(&self.shared) }))
    }
}

struct SplitBuilder {
    active: Box<dyn PickerBuilder>,
    candidate: Box<dyn PickerBuilder>,
    shared: Arc<Shared>,
}

impl PickerBuilder for SplitBuilder {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        let (active, candidate) = (self.active.build(ready), self.candidate.build(ready));
        Arc::new(SplitPicker { active, candidate, shared: Arc::clone(&self.shared) })
    }

    /// A version that does not connect by itself needs the host to, and what the host connects harms no other.
    fn is_lazy(&self) -> bool {
        self.active.is_lazy() && (self.shared.mode == RolloutMode::Shadow || self.candidate.is_lazy())
    }

    fn handover(&self) -> Option<Handover> {
        let (active, candidate) = (self.active.handover(), self.candidate.handover());
        let shared = Arc::clone(&self.shared);
        Some(Handover::new(move || {
            let is_promoted = shared.is_promoted.load(Ordering::Relaxed);
            let from = if is_promoted { &candidate } else { &active };
            from.as_ref().map(Handover::save).unwrap_or_default()
        }))
    }
}

struct SplitPicker {
    active: Arc<dyn Picker>,
    candidate: Arc<dyn Picker>,
    shared: Arc<Shared>,
}

impl SplitPicker {
    /// Picks by one of the versions, and counts for it how the RPC ends.
    fn pick_by_one(&self, info: &PickInfo<'_>, is_candidate: bool) -> Option<PickResult> {
        let picker = if is_candidate { &self.candidate } else { &self.active };
        let picked = picker.try_pick(info)?;
        let cohort = self.shared.cohort.load_full();
        let mut pick = match picked {
            PickResult::Pick(pick) => pick,
            other => {
                side(&cohort, is_candidate).goes_unserved();
                return Some(other);
            }
        };
        side(&cohort, is_candidate).begins(pick.by);
        if is_candidate {
            pick.notes_mut().policy = Some(Arc::clone(&self.shared.candidate));
        }
        let done = pick.done.take();
        pick.done = Some(Done::new(move |info| {
            side(&cohort, is_candidate).ends(info);
            if let Some(done) = done {
                done.notify(info);
            }
        }));
        Some(PickResult::Pick(pick))
    }

    /// Picks by the active version, and compares what the new one would have picked.
    fn pick_beside_a_shadow(&self, info: &PickInfo<'_>) -> Option<PickResult> {
        let picked = self.active.try_pick(info)?;
        let cohort = self.shared.cohort.load();
        // While another thread is in it, the shadow is not waited for.
        let Some(shadow) = self.candidate.try_pick(info) else { return Some(picked) };
        let is_same = match (&picked, &shadow) {
            (PickResult::Pick(pick), PickResult::Pick(shadow)) => pick.subconn.id() == shadow.subconn.id(),
            (PickResult::Queue, PickResult::Queue) => true,
            (PickResult::Fail(one), PickResult::Fail(other))
            | (PickResult::Drop(one), PickResult::Drop(other)) => one.code() == other.code(),
            _ => false,
        };
        cohort.compare(is_same);
        match &picked {
            PickResult::Pick(pick) => cohort.active.begins(pick.by),
            _ => cohort.active.goes_unserved(),
        }
        let PickResult::Pick(shadow) = shadow else {
            cohort.candidate.goes_unserved();
            return Some(picked);
        };
        cohort.candidate.begins(shadow.by);
        let PickResult::Pick(mut pick) = picked else {
            // The RPC that it picked for was not sent.
            if let Some(done) = shadow.done {
                let latency = std::time::Duration::ZERO;
                done.notify(&DoneInfo { code: None, client_ended: false, trailers: None, latency });
            }
            return Some(picked);
        };
        if let Some(shadow) = shadow.done {
            let shadow = shadow.on(pick.subconn.id());
            let done = pick.done.take();
            pick.done = Some(Done::new(move |info| {
                if let Some(done) = done {
                    done.notify(info);
                }
                shadow.notify(info);
            }));
        }
        Some(PickResult::Pick(pick))
    }
}

fn side(cohort: &Cohort, is_candidate: bool) -> &Side {
    if is_candidate { &cohort.candidate } else { &cohort.active }
}

impl Picker for SplitPicker {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        until_picked(self, info)
    }

    fn try_pick(&self, info: &PickInfo<'_>) -> Option<PickResult> {
        match self.shared.mode {
            RolloutMode::Shadow => self.pick_beside_a_shadow(info),
            RolloutMode::Canary => {
                let share = self.shared.share.load(Ordering::Relaxed);
                self.pick_by_one(info, place(info.begun) < share)
            }
        }
    }

    fn queues_for(&self) -> DelayType {
        self.active.queues_for()
    }

    fn faults(&self) -> Faults {
        let (mut all, candidate) = (self.active.faults(), self.candidate.faults());
        all.count += candidate.count;
        all.fallback_picks += candidate.fallback_picks;
        all.last = candidate.last.or(all.last);
        all
    }
}

/// Returns the place of an RPC that began at this moment, below [`WHOLE`]: the same for all of its attempts, and as if
/// at random for others.
fn place(begun: Instant) -> u32 {
    // The finalizer of splitmix64 (Steele, Lea and Flood, 2014).
    let mut hash = time(begun);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    u32::try_from(hash % u64::from(WHOLE)).unwrap_or_default()
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Split({}, {})", self.shared.active, self.shared.candidate)
    }
}

impl fmt::Debug for SplitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitBuilder").finish_non_exhaustive()
    }
}

impl fmt::Debug for SplitPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitPicker").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_share_of_all_moments_is_that_share() {
        let now = Instant::now();
        let below = |share: u32| {
            (0..100_000u64).filter(|nanos| place(now + Duration::from_nanos(nanos * 1_037)) < share).count()
        };
        assert!((900..1100).contains(&below(WHOLE / 100)), "{}", below(WHOLE / 100));
        assert!((24_000..26_000).contains(&below(WHOLE / 4)));
        assert_eq!((below(0), below(WHOLE)), (0, 100_000));
    }
}
