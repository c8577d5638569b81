//! A version is tried once before many channels try it: one that takes all of its time in `init` must not take it from each
//! of a thousand channels, on all processors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::picker::{Stage, StartError};

/// By configuration, which is all that `init` goes by.
#[derive(Debug, Default)]
pub(super) struct FirstTries(Mutex<BTreeMap<String, Arc<Mutex<Seen>>>>);

#[derive(Clone, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    /// It has started in a channel.
    Started,
    /// It has failed in `init`, and took long for it.
    Failed { at: Instant, error: StartError },
}

/// Channels have so many configurations of a version; of further ones nothing is kept.
const MOST: usize = 64;
/// What fails sooner, each channel may find out for itself.
const LONG: Duration = Duration::from_millis(50);
/// For so long the others take it from the first: it may have been the machine.
const VALID: Duration = Duration::from_secs(10);

impl FirstTries {
    /// Starts it, or says why it has just failed elsewhere. Blocks while another channel is the first to try.
    pub(super) fn start<T>(
        &self,
        config: &str,
        start: impl FnOnce() -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        let Some(tried) = self.of(config) else { return start() };
        let mut seen = lock(&tried);
        match &*seen {
            Seen::Started => {
                drop(seen);
                return start();
            }
            Seen::Failed { at, error } if at.elapsed() < VALID => return Err(error.clone()),
            Seen::Failed { .. } | Seen::Nothing => {}
        }
        let begun = Instant::now();
        let started = start();
        match &started {
            Ok(_) => *seen = Seen::Started,
            // One that was cut, or lacked something, says nothing of what others would see.
            Err(error) if error.stage() == Stage::Init && !error.is_passing() && begun.elapsed() >= LONG => {
                *seen = Seen::Failed { at: Instant::now(), error: error.clone() };
            }
            Err(_) => {}
        }
        started
    }

    fn of(&self, config: &str) -> Option<Arc<Mutex<Seen>>> {
        let mut all = lock(&self.0);
        if !all.contains_key(config) && all.len() == MOST {
            return None;
        }
        Some(Arc::clone(all.entry(config.to_owned()).or_default()))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn of_many_channels_one_finds_out_that_it_takes_all_its_time() {
        let (tries, begun) = (FirstTries::default(), AtomicUsize::new(0));
        let slow = || {
            begun.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(LONG);
            Err::<(), _>(StartError::at(Stage::Init, "it loops"))
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    assert_eq!(tries.start("{}", slow).expect_err("it loops").to_string(), "it loops");
                });
            }
        });
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        // Another configuration is another matter.
        tries.start("[]", || Ok(())).expect("started");
        tries.start("[]", || Ok(())).expect("started");
    }

    #[test]
    fn what_was_cut_says_nothing_of_other_channels() {
        let tries = FirstTries::default();
        let cut = || {
            std::thread::sleep(LONG);
            Err::<(), _>(StartError::passing(Stage::Init, "cut"))
        };
        tries.start("{}", cut).expect_err("cut");
        tries.start("{}", || Ok(())).expect("started");
    }

    #[test]
    fn what_fails_for_its_endpoints_or_at_once_says_nothing_of_other_channels() {
        let tries = FirstTries::default();
        for stage in [Stage::Init, Stage::PreFlight] {
            tries.start("{}", || Err::<(), _>(StartError::at(stage, "no"))).expect_err("no");
        }
        tries.start("{}", || Ok(())).expect("started");
    }
}
