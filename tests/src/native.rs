//! A native policy that picks by a closure and records its picks.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hotpick::picker::{PickInfo, PickResult, Picker};
use hotpick::policy::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use hotpick::subconn::ReadySet;
use tonic::Code;

type PickWith = dyn Fn(&ReadySet, &PickInfo<'_>) -> PickResult + Send + Sync;

/// The policy `native`, which picks by a closure.
#[derive(Clone)]
pub struct Native {
    pick: Arc<PickWith>,
    ledger: Arc<Ledger>,
}

/// Record of the picks and their outcomes.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Number of calls of the picker.
    pub asked: AtomicUsize,
    /// Number of calls that picked a subconn.
    pub picks: AtomicUsize,
    /// Outcome of each pick: the status code, or `None` if the RPC was not sent; and whether the client ended the RPC.
    pub ends: Mutex<Vec<(Option<Code>, bool)>>,
}

impl Ledger {
    /// Returns the outcomes so far, sorted by code.
    ///
    /// # Panics
    ///
    /// Panics if another thread panicked while holding the lock.
    #[must_use]
    pub fn ends(&self) -> Vec<(Option<Code>, bool)> {
        let mut ends = self.ends.lock().expect("not poisoned").clone();
        ends.sort_by_key(|(code, client_ended)| (code.map(|code| code as i32), *client_ended));
        ends
    }

    /// Returns the number of calls that picked a subconn.
    #[must_use]
    pub fn picks(&self) -> usize {
        self.picks.load(Ordering::SeqCst)
    }

    /// Returns the number of calls of the picker.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Native {
    /// Creates a policy that picks with this closure.
    pub fn new(pick: impl Fn(&ReadySet, &PickInfo<'_>) -> PickResult + Send + Sync + 'static) -> Self {
        Self { pick: Arc::new(pick), ledger: Arc::default() }
    }

    /// Returns the record of its picks.
    #[must_use]
    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }
}

impl Policy for Native {
    fn version(&self) -> PolicyVersion {
        PolicyVersion::new("native", 1, "")
    }

    fn start(&self, _: &Placement, _: &ReadySet) -> Result<Box<dyn PickerBuilder>, StartError> {
        Ok(Box::new(self.clone()))
    }
}

impl PickerBuilder for Native {
    fn build(&mut self, ready: &ReadySet) -> Arc<dyn Picker> {
        Arc::new(Snapshot { native: self.clone(), ready: ready.clone() })
    }
}

#[derive(Debug)]
struct Snapshot {
    native: Native,
    ready: ReadySet,
}

impl Picker for Snapshot {
    fn pick(&self, info: &PickInfo<'_>) -> PickResult {
        let ledger = &self.native.ledger;
        ledger.asked.fetch_add(1, Ordering::SeqCst);
        match (self.native.pick)(&self.ready, info) {
            PickResult::Pick(pick) => {
                ledger.picks.fetch_add(1, Ordering::SeqCst);
                let ledger = Arc::clone(ledger);
                PickResult::Pick(pick.on_done(move |end| {
                    ledger.ends.lock().expect("not poisoned").push((end.code, end.client_ended));
                }))
            }
            other => other,
        }
    }
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Native").field(&self.ledger).finish()
    }
}
