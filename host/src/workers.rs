//! A thread pool for jobs that would delay RPCs: starting policies, replacing instances, reading certificates, looking whether a
//! file has changed.
//!
//! The pool exists because a machine can run out of threads for a moment. tokio's `spawn_blocking` panics then, and
//! that would end the task of a channel. Here the first channel or directory starts one thread, which stays, and jobs
//! wait for a thread of the pool if no further one can be started.
//!
//! The pool is small on purpose: a thousand channels that start a policy at once must not take the processor from RPCs.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::supervision::guarded;

/// Maximum number of threads. One stays; the others are started on demand and end when idle.
const MAX_THREADS: usize = 8;
/// Maximum number of threads that start policies. A policy that loops takes a second or more; other jobs do not wait
/// for it.
const MAX_STARTS: usize = 6;
/// Maximum number of threads that look: those of file systems that hang do not come back, and other jobs do not wait for it.
const MAX_LOOKS: usize = 6;
/// How long a look may be overdue, because there is other work, until it comes first.
const OVERDUE: Duration = Duration::from_secs(5);
/// How long an idle thread is kept. Tests of what happens then would take as long.
const IDLE_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(10) };

/// Bytes of a thread's stack.
const STACK: usize = 2 << 20;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Pool {
    jobs: VecDeque<Job>,
    /// Jobs that start policies.
    starts: VecDeque<Job>,
    /// Jobs for later, by time and number.
    timed: BTreeMap<(Instant, u64), Job>,
    /// Number of the last one.
    number: u64,
    /// Whether an idle thread waits for the first of them. The others wait for other work.
    has_keeper: bool,
    /// Number of them that run now, at most [`MAX_LOOKS`].
    looking: usize,
    /// Number of `starts` that run now, at most [`MAX_STARTS`].
    starting: usize,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool {
    jobs: VecDeque::new(),
    starts: VecDeque::new(),
    timed: BTreeMap::new(),
    number: 0,
    has_keeper: false,
    looking: 0,
    starting: 0,
    threads: 0,
    idle: 0,
});
static WORK_AVAILABLE: Condvar = Condvar::new();

/// Starts the first thread if there is none.
///
/// # Errors
///
/// There is no thread, and none can be started.
pub(crate) fn ready() -> io::Result<()> {
    let mut pool = pool();
    if pool.threads == 0 { grow(&mut pool) } else { Ok(()) }
}

/// Queues a job for a thread of the pool. The job runs within the caller's Tokio runtime if there is one, and runs even
/// if the task is dropped.
pub(crate) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    queue(work, |pool| &mut pool.jobs)
}

/// Like [`run`], for starting a policy, which may take long: at most [`MAX_STARTS`] threads run such jobs.
pub(crate) fn start<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    queue(work, |pool| &mut pool.starts)
}

fn queue<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
    which: impl FnOnce(&mut Pool) -> &mut VecDeque<Job>,
) -> Task<T> {
    let (done, result) = oneshot::channel();
    let (runtime, span) = (Handle::try_current().ok(), tracing::Span::current());
    let job = move || {
        let _runtime = runtime.as_ref().map(Handle::enter);
        let _span = span.entered();
        let result = guarded("a worker job", work).ok_or(Lost);
        // If nobody waits any more, the result is dropped here, and its `drop` is not our code either.
        let _ = guarded("the drop of a worker job's result", || drop(done.send(result)));
    };
    let mut pool = pool();
    which(&mut pool).push_back(Box::new(job));
    if pool.idle < pool.due() && pool.threads < MAX_THREADS {
        // If no thread can be started, the existing ones will run the job.
        let grown = grow(&mut pool);
        if let Err(error) = grown.as_ref()
            && pool.threads == 0
        {
            tracing::error!(%error, "cannot start a worker thread: jobs wait for the next attempt");
        }
    }
    drop(pool);
    WORK_AVAILABLE.notify_one();
    Task(result)
}

/// Like [`run`], but blocks until the job has ended: for short work that cannot be done on the caller's thread.
///
/// # Errors
///
/// The job panicked.
pub(crate) fn wait<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    // The result arrives through `result`; a panic drops `done`.
    drop(run(move || done.send(work())));
    result.recv().map_err(|_| Lost)
}

/// Calls `look` on a thread of the pool once in each interval, until it returns something, but not now. Ends if nobody waits any
/// more. The caller's thread is not woken before.
///
/// Looks of the same interval are made at the same time, and one after another. One that blocks holds up the others for at
/// most [`IDLE_TIMEOUT`], once: then another thread goes on with them, unless [`MAX_LOOKS`] block.
pub(crate) fn watch<T: Send + 'static>(
    interval: Duration,
    look: impl FnMut() -> Option<T> + Send + 'static,
) -> Task<T> {
    let (done, result) = oneshot::channel();
    let mut pool = pool();
    pool.add_timed(interval, look_once(interval, look, done));
    pool.add_spare();
    drop(pool);
    // The keeper, if it waits for a later time.
    WORK_AVAILABLE.notify_all();
    Task(result)
}

fn look_once<T: Send + 'static>(
    interval: Duration,
    mut look: impl FnMut() -> Option<T> + Send + 'static,
    done: oneshot::Sender<Result<T, Lost>>,
) -> Job {
    Box::new(move || {
        if done.is_closed() {
            return;
        }
        match guarded("a worker's look", &mut look) {
            Some(None) => pool().add_timed(interval, look_once(interval, look, done)),
            Some(Some(found)) => _ = done.send(Ok(found)),
            None => _ = done.send(Err(Lost)),
        }
    })
}

impl Pool {
    /// Adds a job for the next whole interval since the first one was added: a process with many of them wakes up once.
    fn add_timed(&mut self, interval: Duration, job: Job) {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let since = START.elapsed();
        let rest = since.as_nanos() % interval.as_nanos().max(1);
        let rest = Duration::from_nanos(u64::try_from(rest).unwrap_or_default());
        self.number += 1;
        let (at, number) = (*START + since - rest + interval, self.number);
        self.timed.insert((at, number), job);
        let is_first = self.timed.first_key_value().is_some_and(|((_, first), _)| *first == number);
        if is_first && self.has_keeper {
            // It waits for a later one.
            WORK_AVAILABLE.notify_all();
        }
    }

    /// Takes a job that was for later, and has been due for this long.
    fn take_timed(&mut self, overdue: Duration) -> Option<Job> {
        let first = self.timed.first_entry().filter(|_| self.looking < MAX_LOOKS)?;
        let is_due = Instant::now().checked_duration_since(first.key().0).is_some_and(|by| by >= overdue);
        is_due.then(|| first.remove())
    }

    /// Has another thread look after the jobs for later, while this one works.
    fn pass_on_timed(&mut self) {
        if self.timed.is_empty() || self.has_keeper {
            return;
        }
        if self.idle > 0 {
            WORK_AVAILABLE.notify_one();
        } else {
            self.add_spare();
        }
    }

    /// Starts a thread for the jobs for later, unless one is idle. If none can be started, the existing ones do them, and the
    /// next look tries again.
    fn add_spare(&mut self) {
        if !self.timed.is_empty() && self.idle == 0 && self.threads < MAX_THREADS {
            let _ = grow(self);
        }
    }

    /// Returns the number of jobs that could run now if there were threads for them.
    fn due(&self) -> usize {
        self.jobs.len() + self.starts.len().min(MAX_STARTS - self.starting)
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn grow(pool: &mut Pool) -> io::Result<()> {
    // Independent of RUST_MIN_STACK, because policies are called on these threads.
    std::thread::Builder::new().name("hotpick-worker".to_owned()).stack_size(STACK).spawn(work)?;
    pool.threads += 1;
    Ok(())
}

fn work() {
    let mut pool = pool();
    let mut idle_since = Instant::now();
    loop {
        let overdue = if pool.looking == 0 { pool.take_timed(OVERDUE) } else { None };
        if overdue.is_none()
            && let Some(job) = pool.jobs.pop_front()
        {
            pool.pass_on_timed();
            drop(pool);
            job();
            pool = self::pool();
            idle_since = Instant::now();
            continue;
        }
        if overdue.is_none()
            && pool.starting < MAX_STARTS
            && let Some(job) = pool.starts.pop_front()
        {
            pool.pass_on_timed();
            pool.starting += 1;
            drop(pool);
            job();
            pool = self::pool();
            pool.starting -= 1;
            idle_since = Instant::now();
            continue;
        }
        // A thread that does nothing else is idle. An idle one finds by itself that this one has not come back.
        if let Some(look) = overdue.or_else(|| pool.take_timed(Duration::ZERO)) {
            pool.add_spare();
            pool.looking += 1;
            drop(pool);
            look();
            pool = self::pool();
            pool.looking -= 1;
            continue;
        }
        let may_keep = !pool.has_keeper && pool.looking < MAX_LOOKS;
        let first = pool.timed.first_key_value().map(|((at, _), _)| *at).filter(|_| may_keep);
        let patience = first.map_or(IDLE_TIMEOUT, |at| at.saturating_duration_since(Instant::now()));
        pool.has_keeper |= first.is_some();
        pool.idle += 1;
        pool = WORK_AVAILABLE.wait_timeout(pool, patience).unwrap_or_else(PoisonError::into_inner).0;
        pool.idle -= 1;
        if first.is_some() {
            pool.has_keeper = false;
            continue;
        }
        // Of several jobs for later one may block: beside the thread that looks after them another one stays.
        let is_needed = match pool.timed.len() {
            0 => pool.threads == 1,
            1 => !pool.has_keeper,
            _ => !pool.has_keeper || pool.idle < 2,
        };
        if idle_since.elapsed() >= IDLE_TIMEOUT && pool.due() == 0 && !is_needed {
            pool.threads -= 1;
            return;
        }
    }
}

/// A queued or running job. Resolves to its result.
#[derive(Debug)]
pub(crate) struct Task<T>(oneshot::Receiver<Result<T, Lost>>);

/// Error of a job that panicked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the host panicked")]
pub(crate) struct Lost;

impl<T> Future for Task<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|result| result.unwrap_or(Err(Lost)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_job() {
        ready().expect("a thread");
        let lost = run(|| -> u8 { panic!("as it should") }).await;
        assert_eq!(lost.expect_err("lost").to_string(), "the host panicked");
        assert_eq!(run(|| 7).await.expect("done"), 7);
    }

    /// Held by a test that occupies nearly all threads.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// More jobs than threads, while all threads but one are occupied.
    #[tokio::test]
    async fn threads_are_limited_and_waiting_jobs_run() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Arc::new(Mutex::new(released));
        let held: Vec<_> = (0..MAX_THREADS - 1)
            .map(|_| {
                let released = std::sync::Arc::clone(&released);
                run(move || released.lock().expect("no panic").recv().is_err())
            })
            .collect();
        let others: Vec<_> = (0..100).map(|number| run(move || number)).collect();
        for (number, other) in others.into_iter().enumerate() {
            assert_eq!(other.await.expect("done"), number);
        }
        assert!(pool().threads <= MAX_THREADS);
        drop(release);
        for one in held {
            assert!(one.await.expect("done"));
        }
    }

    /// Whichever thread looks after the jobs for later, and then gets work that takes long.
    #[tokio::test]
    async fn looks_go_on_while_others_work() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Arc::new(Mutex::new(released));
        let often = Duration::from_millis(1);
        let mut held = Vec::new();
        for _ in 0..MAX_THREADS - 1 {
            let released = std::sync::Arc::clone(&released);
            held.push(run(move || released.lock().expect("no panic").recv().is_err()));
            let mut looks = 0;
            let watch = watch(often, move || {
                looks += 1;
                (looks == 10).then_some(())
            });
            watch.await.expect("found");
        }
        drop(release);
        for one in held {
            assert!(one.await.expect("done"));
        }
    }

    /// As when one of two file systems hangs.
    #[tokio::test]
    async fn a_look_that_blocks_does_not_hold_up_others_for_ever() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let often = Duration::from_millis(1);
        let blocked = watch(often, move || Some(released.recv().is_err()));
        for _ in 0..3 {
            let mut looks = 0;
            let other = watch(often, move || {
                looks += 1;
                (looks == 100).then_some(())
            });
            other.await.expect("found");
        }
        drop(release);
        assert!(blocked.await.expect("found"));
    }

    #[test]
    fn wait_returns_the_result_or_lost() {
        assert_eq!(wait(|| 7).expect("done"), 7);
        assert!(wait(|| -> u8 { panic!("as it should") }).is_err());
    }

    #[tokio::test]
    async fn a_watch_looks_until_there_is_something_or_nobody_waits() {
        const OFTEN: Duration = Duration::from_millis(1);
        let mut looks = 0;
        let watch = watch(OFTEN, move || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(watch.await.expect("found"), 3);
        let lost = super::watch(OFTEN, || -> Option<u8> { panic!("as it should") });
        assert!(lost.await.is_err());
        // Dropped: what it holds is dropped before it looks again.
        let (held, gone) = oneshot::channel::<()>();
        drop(super::watch(OFTEN, move || held.is_closed().then_some(())));
        assert!(gone.await.is_err());
    }

    /// Starts that all wait, as do those of a version that another channel tries first. Other jobs run nevertheless.
    #[tokio::test]
    async fn starts_use_only_some_of_the_threads() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Arc::new(Mutex::new(released));
        let held: Vec<_> = (0..MAX_THREADS * 2)
            .map(|_| {
                let released = std::sync::Arc::clone(&released);
                start(move || released.lock().expect("no panic").recv().is_err())
            })
            .collect();
        for number in 0..20 {
            assert_eq!(run(move || number).await.expect("done"), number);
        }
        drop(release);
        for one in held {
            assert!(one.await.expect("done"));
        }
    }

    #[tokio::test]
    async fn the_runtime_is_that_of_the_caller() {
        run(|| tokio::spawn(async {})).await.expect("done").await.expect("spawned");
        let outside = std::thread::spawn(|| run(|| 7));
        assert_eq!(outside.join().expect("no panic").await.expect("done"), 7);
    }
}
