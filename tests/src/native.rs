//! A policy in Rust that does what a test says, and keeps a ledger.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hotpick::picker::{PickInfo, PickResult, Picker};
use hotpick::policy::{PickerBuilder, Placement, Policy, PolicyVersion, StartError};
use hotpick::subconn::ReadySet;
use tonic::Code;

type PickWith = dyn Fn(&ReadySet, &PickInfo<'_>) -> PickResult + Send + Sync;

/// The policy `native`.
#[derive(Clone)]
pub struct Native {
    pick: Arc<PickWith>,
    ledger: Arc<Ledger>,
}

/// What became of the picks.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How often the picker was asked.
    pub asked: AtomicUsize,
    /// How often it picked a subconn.
    pub picks: AtomicUsize,
    /// How each of those ended: the code, none if it was not sent; and whether the client gave up.
    pub ends: Mutex<Vec<(Option<Code>, bool)>>,
}

impl Ledger {
    /// The ends so far, sorted by code.
    ///
    /// # Panics
    ///
    /// A test panicked while it looked.
    #[must_use]
    pub fn ends(&self) -> Vec<(Option<Code>, bool)> {
        let mut ends = self.ends.lock().expect("no panic").clone();
        ends.sort_by_key(|(code, gave_up)| (code.map(|code| code as i32), *gave_up));
        ends
    }

    /// How often the picker picked a subconn.
    #[must_use]
    pub fn picks(&self) -> usize {
        self.picks.load(Ordering::SeqCst)
    }

    /// How often the picker was asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Native {
    /// A policy that picks like this.
    pub fn new(pick: impl Fn(&ReadySet, &PickInfo<'_>) -> PickResult + Send + Sync + 'static) -> Self {
        Self { pick: Arc::new(pick), ledger: Arc::default() }
    }

    /// What became of its picks.
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
                    ledger.ends.lock().expect("no panic").push((end.code, end.client_ended));
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
