//! Starts a version in one channel before other channels start it: a version that uses all of its time in `init` must
//! not do that in a thousand channels, on all processors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lifecycle::{Stage, StartError};

/// Results by configuration, the only thing that `init` depends on.
#[derive(Debug, Default)]
pub(crate) struct FirstStarts(Mutex<BTreeMap<String, Arc<Mutex<Seen>>>>);

#[derive(Clone, Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    /// The version has started in a channel.
    Started,
    /// The version has failed in `init`, after a long time.
    Failed { at: Instant, error: StartError },
}

/// Number of configurations that are remembered.
const MOST: usize = 64;
/// Duration of a start below which its failure is not remembered, and the start is repeated in each channel.
const LONG: Duration = Duration::from_millis(50);
/// How long a failure is remembered: the machine may have caused it.
const VALID: Duration = Duration::from_secs(10);

impl FirstStarts {
    /// Starts the policy, or returns why it has just failed in another channel. Blocks while another channel is the
    /// first to start it.
    pub(crate) fn start<T>(
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
            // A start that was interrupted, or failed for a transient reason, says nothing about other channels.
            Err(error)
                if error.stage() == Stage::Init && !error.is_transient() && begun.elapsed() >= LONG =>
            {
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
        let (tries, begun) = (FirstStarts::default(), AtomicUsize::new(0));
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
        // Another configuration has a result of its own.
        tries.start("[]", || Ok(())).expect("started");
        tries.start("[]", || Ok(())).expect("started");
    }

    #[test]
    fn what_was_cut_says_nothing_of_other_channels() {
        let tries = FirstStarts::default();
        let cut = || {
            std::thread::sleep(LONG);
            Err::<(), _>(StartError::transient(Stage::Init, "cut"))
        };
        tries.start("{}", cut).expect_err("cut");
        tries.start("{}", || Ok(())).expect("started");
    }

    #[test]
    fn what_fails_for_its_endpoints_or_at_once_says_nothing_of_other_channels() {
        let tries = FirstStarts::default();
        for stage in [Stage::Init, Stage::PreFlight] {
            tries.start("{}", || Err::<(), _>(StartError::at(stage, "no"))).expect_err("no");
        }
        tries.start("{}", || Ok(())).expect("started");
    }
}
