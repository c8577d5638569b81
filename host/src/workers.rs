//! Threads for what takes longer than RPCs may be held up: starting policies, replacing instances, reading certificates.
//!
//! They are our own, and one of them is there from the first channel or directory on, because a machine can be out of
//! threads for a moment: tokio's `spawn_blocking` panics then, and with it would go the task that called it, which is a
//! channel's. Here what is to be done waits for a thread that there is.
//!
//! There are few of them on purpose: a thousand channels that start a policy at once must not take the processor from RPCs.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::supervision::guarded;

/// One stays; the others come when they are needed, and go.
const MOST: usize = 8;
/// So many may start policies, which take a second and more if they loop: nothing else waits for that.
const STARTS: usize = 6;
/// How long one is kept that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

const STACK: usize = 2 << 20;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Pool {
    jobs: VecDeque<Job>,
    /// Those of policies, of which only so many are done at a time, and the number that are.
    starts: VecDeque<Job>,
    starting: usize,
    threads: usize,
    idle: usize,
}

static POOL: Mutex<Pool> =
    Mutex::new(Pool { jobs: VecDeque::new(), starts: VecDeque::new(), starting: 0, threads: 0, idle: 0 });
static NEWS: Condvar = Condvar::new();

/// Makes sure that there is a thread, now that there can be one.
///
/// # Errors
///
/// There is none, and none can be made.
pub(crate) fn ready() -> io::Result<()> {
    let mut pool = pool();
    if pool.threads == 0 { grow(&mut pool) } else { Ok(()) }
}

/// Has something done on one of the threads, within the runtime of the caller if there is one. It is done even if the
/// task is dropped.
pub(crate) fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Task<T> {
    queue(work, |pool| &mut pool.jobs)
}

/// The same of a policy's start, which may take long: on a part of the threads.
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
        let result = guarded("a worker's task", work).ok_or(Lost);
        // Nobody may wait any more: then it is dropped here, and that is not our code either.
        let _ = guarded("what a worker's task has made", || drop(done.send(result)));
    };
    let mut pool = pool();
    which(&mut pool).push_back(Box::new(job));
    if pool.idle < pool.due() && pool.threads < MOST {
        // If there can be no more of them, those that there are will come to it.
        let grown = grow(&mut pool);
        if let Err(error) = grown.as_ref()
            && pool.threads == 0
        {
            tracing::error!(%error, "no thread could be made: what is to be done waits for the next try");
        }
    }
    drop(pool);
    NEWS.notify_one();
    Task(result)
}

/// The same, and waits for it: for the little that cannot be done on the caller's own thread.
///
/// # Errors
///
/// It panicked.
pub(crate) fn wait<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Lost> {
    let (done, result) = std::sync::mpsc::sync_channel(1);
    // Its result comes by the other way, and a panic ends that.
    drop(run(move || done.send(work())));
    result.recv().map_err(|_| Lost)
}

impl Pool {
    /// What could be done now, were there threads.
    fn due(&self) -> usize {
        self.jobs.len() + self.starts.len().min(STARTS - self.starting)
    }
}

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

fn grow(pool: &mut Pool) -> io::Result<()> {
    // Whatever RUST_MIN_STACK says: policies are called here.
    std::thread::Builder::new().name("hotpick-worker".to_owned()).stack_size(STACK).spawn(work)?;
    pool.threads += 1;
    Ok(())
}

fn work() {
    let mut pool = pool();
    loop {
        if let Some(job) = pool.jobs.pop_front() {
            drop(pool);
            job();
            pool = self::pool();
            continue;
        }
        if pool.starting < STARTS
            && let Some(job) = pool.starts.pop_front()
        {
            pool.starting += 1;
            drop(pool);
            job();
            pool = self::pool();
            pool.starting -= 1;
            continue;
        }
        pool.idle += 1;
        let (again, waited) = NEWS.wait_timeout(pool, IDLE).unwrap_or_else(PoisonError::into_inner);
        pool = again;
        pool.idle -= 1;
        if waited.timed_out() && pool.due() == 0 && pool.threads > 1 {
            pool.threads -= 1;
            return;
        }
    }
}

/// What is being done. Ready when it is.
#[derive(Debug)]
pub(crate) struct Task<T>(oneshot::Receiver<Result<T, Lost>>);

/// It panicked.
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
    async fn what_panics_takes_nothing_else_with_it() {
        ready().expect("a thread");
        let lost = run(|| -> u8 { panic!("as it should") }).await;
        assert_eq!(lost.expect_err("lost").to_string(), "the host panicked");
        assert_eq!(run(|| 7).await.expect("done"), 7);
    }

    /// Of the tests that hold nearly all of the threads.
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// More than there are threads, of which all but the last wait for the last.
    #[tokio::test]
    async fn there_are_so_many_threads_and_what_waits_for_one_is_done() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Arc::new(Mutex::new(released));
        let held: Vec<_> = (0..MOST - 1)
            .map(|_| {
                let released = std::sync::Arc::clone(&released);
                run(move || released.lock().expect("no panic").recv().is_err())
            })
            .collect();
        let others: Vec<_> = (0..100).map(|number| run(move || number)).collect();
        for (number, other) in others.into_iter().enumerate() {
            assert_eq!(other.await.expect("done"), number);
        }
        assert!(pool().threads <= MOST);
        drop(release);
        for one in held {
            assert!(one.await.expect("done"));
        }
    }

    #[test]
    fn what_is_waited_for_comes_or_is_lost() {
        assert_eq!(wait(|| 7).expect("done"), 7);
        assert!(wait(|| -> u8 { panic!("as it should") }).is_err());
    }

    /// Starts that all wait, as those of a version do that another channel tries first: the rest is done nevertheless.
    #[tokio::test]
    async fn starts_take_a_part_of_the_threads_only() {
        let _turn = TURN.lock().await;
        let (release, released) = mpsc::channel::<()>();
        let released = std::sync::Arc::new(Mutex::new(released));
        let held: Vec<_> = (0..MOST * 2)
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
