//! The recorder of one instance: events in, blocks out.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::event::{End, Event, Finish, ValueParts};
use super::format::{BLOCK, Block, Bytes, header};
use super::rpc::RpcEvent;

/// Where the blocks of a trace go. Called on the path of RPCs: must not block.
pub(crate) trait TraceSink: Send + Sync {
    /// Takes bytes. `false`: they cannot be taken now, or the trace is not wanted any more.
    fn write(&self, bytes: Bytes) -> bool;
    /// The trace is complete.
    fn close(&self);
    /// Returns whether the trace is still wanted.
    fn is_wanted(&self) -> bool;
    /// Returns whether all bytes have been taken, so that a short block does no harm.
    fn is_idle(&self) -> bool;
}

/// What a recording contains, and how long it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    /// Metadata keys of which the values are kept although the policy does not declare them.
    pub(crate) metadata: Vec<String>,
    /// Metadata keys of which the values are in plain.
    pub(crate) plain: Vec<String>,
}

/// Records one instance. What it costs an RPC is a lock that is hardly ever contended, and the serialisation of two
/// events.
pub(crate) struct Recorder {
    extent: Extent,
    is_requested: bool,
    began: Instant,
    until: Instant,
    /// Woken when the trace is complete.
    wake: OnceLock<Arc<Notify>>,
    inner: Mutex<Inner>,
    sink: Box<dyn TraceSink>,
    is_over: AtomicBool,
    /// Hashes values of metadata. Nobody has the key, so nobody can find a value by its hash.
    hasher: RandomState,
    /// Texts that the trace contains in plain anyway: in the configuration and in attributes of endpoints.
    known: RwLock<HashSet<Box<[u8]>, foldhash::fast::RandomState>>,
}

#[derive(Default)]
struct Inner {
    block: Block,
    /// Bytes that the sink has got.
    passed: u64,
    /// Number of methods whose names are in the trace.
    methods: u32,
    /// Whether the instance has started, so that blocks may be passed on.
    is_started: bool,
}

impl Recorder {
    /// Creates the recorder of an instance of a policy of this contract.
    pub(crate) fn new(extent: Extent, sink: Box<dyn TraceSink>, is_requested: bool) -> Self {
        let began = Instant::now();
        let until = began + extent.time;
        Self {
            extent,
            is_requested,
            began,
            until,
            wake: OnceLock::new(),
            inner: Mutex::default(),
            sink,
            is_over: AtomicBool::new(false),
            hasher: RandomState::new(),
            known: RwLock::default(),
        }
    }

    /// Returns whether the trace is complete.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Returns whether the trace was requested: it is not one that is recorded all the time.
    pub(crate) const fn is_requested(&self) -> bool {
        self.is_requested
    }

    /// Returns whether the trace can be written, and someone wants it.
    pub(crate) fn is_wanted(&self) -> bool {
        self.sink.is_wanted()
    }

    /// Passes on what has been recorded so far.
    pub(crate) fn flush(&self) {
        let mut inner = self.lock();
        if inner.is_started
            && !self.is_over()
            && inner.block.len() > 0
            && self.sink.is_idle()
            && !self.pass(&mut inner)
        {
            let at = inner.block.last();
            self.finish_at(&mut inner, at, Finish::TooFast);
        }
    }

    /// Returns when the recorder was created.
    pub(crate) const fn began(&self) -> Instant {
        self.began
    }

    /// Returns when the trace is complete at the latest.
    pub(crate) const fn until(&self) -> Instant {
        self.until
    }

    /// Returns the metadata keys of which the values are kept although the policy does not declare them.
    pub(crate) fn metadata(&self) -> &[String] {
        &self.extent.metadata
    }

    /// Forgets everything: the instance starts again.
    pub(crate) fn restart(&self) {
        let mut inner = self.lock();
        inner.block.clear();
        inner.methods = 0;
    }

    /// The instance picks: from now on blocks are passed on. `wake` is notified when the trace is complete.
    pub(crate) fn started(&self, wake: &Arc<Notify>) {
        let _ = self.wake.set(Arc::clone(wake));
        let mut inner = self.lock();
        inner.is_started = true;
        let bytes = header();
        inner.passed += bytes.len() as u64;
        if !self.sink.write(bytes.into()) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    /// Records an event, with the answers that the policy got in it.
    pub(crate) fn record(&self, at: u64, event: &impl Serialize, answers: &[u8]) {
        if !self.is_over() {
            let mut inner = self.lock();
            inner.block.push(at, event, answers);
            self.pass_if_full(&mut inner, at);
        }
    }

    /// Records a pick for an RPC of this method. `name` returns the names of methods.
    pub(crate) fn record_pick(
        &self,
        at: u64,
        method: u32,
        name: impl Fn(u32) -> Option<String>,
        event: &impl RpcEvent,
        answers: &[u8],
    ) {
        if self.is_over() {
            return;
        }
        let mut inner = self.lock();
        while inner.methods <= method
            && let Some(name) = name(inner.methods)
        {
            inner.block.push(at, &Event::Method(name), &[]);
            inner.methods += 1;
        }
        inner.block.push_rpc(at, event, answers);
        self.pass_if_full(&mut inner, at);
    }

    /// Records the end of an RPC. Reading the clock would cost more than all else: it has the time of the event before.
    pub(crate) fn record_end(&self, end: &End) {
        if self.is_over() {
            return;
        }
        let mut inner = self.lock();
        let at = inner.block.last();
        inner.block.push_rpc(at, end, &[]);
        self.pass_if_full(&mut inner, at);
    }

    fn pass_if_full(&self, inner: &mut Inner, at: u64) {
        if inner.block.len() < BLOCK || !inner.is_started || self.is_over() {
            return;
        }
        if inner.passed + inner.block.len() as u64 >= self.extent.bytes {
            self.finish_at(inner, at, Finish::Full);
        } else if !self.pass(inner) {
            // The sink may take the few bytes that say so.
            self.finish_at(inner, at, Finish::TooFast);
        }
    }

    fn pass(&self, inner: &mut Inner) -> bool {
        let block = inner.block.seal();
        inner.passed += block.len() as u64;
        self.sink.write(block)
    }

    /// Ends the trace, unless it has ended.
    pub(crate) fn finish(&self, at: u64, why: Finish) {
        let mut inner = self.lock();
        if !self.is_over() {
            self.finish_at(&mut inner, at, why);
        }
    }

    fn finish_at(&self, inner: &mut Inner, at: u64, why: Finish) {
        self.is_over.store(true, Ordering::Relaxed);
        if inner.is_started {
            inner.block.push(at, &Event::Finish(why), &[]);
            self.pass(inner);
            self.sink.close();
        }
        if let Some(wake) = self.wake.get() {
            wake.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes texts that the trace contains in plain.
    pub(crate) fn knows<'a>(&self, texts: impl Iterator<Item = &'a str>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for text in texts.filter(|text| !text.is_empty()) {
            if !known.contains(text.as_bytes()) {
                known.insert(text.as_bytes().into());
            }
        }
    }

    /// Notes the texts of a configuration.
    pub(crate) fn knows_config(&self, config: &str) {
        let Ok(config) = serde_json::from_str(config) else { return };
        let mut values = vec![&config];
        while let Some(value) = values.pop() {
            match value {
                serde_json::Value::String(text) => self.knows(std::iter::once(text.as_str())),
                serde_json::Value::Array(items) => values.extend(items),
                serde_json::Value::Object(fields) => {
                    self.knows(fields.keys().map(String::as_str));
                    values.extend(fields.values());
                }
                _ => {}
            }
        }
    }

    /// Returns a value of metadata as the trace may contain it.
    pub(crate) fn value<'a>(&self, key: &str, value: &'a [u8]) -> ValueParts<'a> {
        let is_known = || self.known.read().unwrap_or_else(PoisonError::into_inner).contains(value);
        if self.extent.plain.iter().any(|plain| plain == key) || is_known() {
            ValueParts::Plain(value)
        } else {
            ValueParts::Hashed(self.hasher.hash_one(value))
        }
    }
}

/// The last value of each key, and what the trace contains of it: most RPCs have the same value as one before.
#[derive(Debug, Default)]
pub(crate) struct LastValues(Vec<Option<(Vec<u8>, Option<u64>)>>);

impl LastValues {
    /// Returns the value of the key with this index as the trace may contain it.
    pub(crate) fn value<'a>(
        &mut self,
        recorder: &Recorder,
        at: usize,
        key: &str,
        value: &'a [u8],
    ) -> ValueParts<'a> {
        if let Some(Some((last, hash))) = self.0.get(at)
            && last == value
        {
            return hash.map_or(ValueParts::Plain(value), ValueParts::Hashed);
        }
        self.find(recorder, at, key, value)
    }

    #[inline(never)]
    fn find<'a>(&mut self, recorder: &Recorder, at: usize, key: &str, value: &'a [u8]) -> ValueParts<'a> {
        /// Length of the values that are remembered.
        const SHORT: usize = 128;
        let parts = recorder.value(key, value);
        if value.len() <= SHORT {
            if self.0.len() <= at {
                self.0.resize_with(at + 1, || None);
            }
            let (last, hash) = self.0[at].get_or_insert_default();
            value.clone_into(last);
            *hash = match parts {
                ValueParts::Plain(_) => None,
                ValueParts::Hashed(hash) => Some(hash),
            };
        }
        parts
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let at = self.lock().block.last();
        self.finish(at, Finish::Replaced);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}
