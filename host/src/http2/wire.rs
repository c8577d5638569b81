//! What lies between a connection's bytes and h2.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frames::{Frames, Passed, Seen, Side};
use super::limits::FRAMES_WHILE_WRITES_WAIT;

pin_project! {
    /// Passes bytes through, tells what the peer said, and leaves out or amends what h2 would take amiss
    /// ([`Frames`]).
    ///
    /// When a client's peer has closed, a write can fail while its last words, a GOAWAY that says which requests
    /// it never looked at, still wait to be read. h2 would end every stream at the failed write. So a
    /// failed write is kept until everything has been read: from then on writes go nowhere, and the error
    /// comes in place of the end of the stream.
    ///
    /// A peer that sends and does not read is cut off after a while ([`FRAMES_WHILE_WRITES_WAIT`]): h2 queues an answer to
    /// each frame that it objects to, without a limit. It is read until then: two peers that wait for each
    /// other to read would wait for ever.
    #[derive(Debug)]
    pub(crate) struct Wire<T, F> {
        #[pin]
        io: T,
        side: Side,
        frames: Frames,
        seen: F,
        activity: Option<LastActivity>,
        broken: Option<Broken>,
        // How many frames had come when writes began to wait, while they do.
        waiting: Option<u64>,
        held: Held,
        cut: Cut,
        // Tells that this is gone, and the connection with it.
        _gone: DropGuard,
    }
}

/// Nothing can be written any more.
#[derive(Debug)]
struct Broken {
    error: io::Error,
    /// When the peer's last words are not waited for any longer: what it said is on its way, or there, as a rule.
    over: Pin<Box<Sleep>>,
}

/// How long last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What was read and not passed on, because it did not fit or because more of it is needed.
#[derive(Debug, Default)]
struct Held {
    /// The beginning of a frame.
    part: Vec<u8>,
    /// For h2, from here on.
    out: Vec<u8>,
    at: usize,
}

impl Held {
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let rest = &self.out[self.at..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.at += count;
        if self.at == self.out.len() {
            self.out.clear();
            self.at = 0;
        }
        count > 0
    }
}

/// Ends a connection from outside. It is driven in a task of its own, which may go on
/// for its old streams when all else has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<CutState>);

#[derive(Debug, Default)]
struct CutState {
    /// Why it is.
    cut: OnceLock<String>,
    reader: AtomicWaker,
    gone: CancellationToken,
}

impl Cut {
    /// Reads fail from now on, for this reason.
    pub(crate) fn cut(&self, why: String) {
        // The first counts.
        let _ = self.0.cut.set(why);
        self.0.reader.wake();
    }

    /// Waits until the connection has ended in any way.
    pub(crate) async fn gone(&self) {
        self.0.gone.cancelled().await;
    }

    fn poll(&self, cx: &Context<'_>) -> io::Result<()> {
        self.0.reader.register(cx.waker());
        match self.0.cut.get() {
            None => Ok(()),
            Some(why) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, why.clone())),
        }
    }

    fn is_cut(&self) -> bool {
        self.0.cut.get().is_some()
    }
}

/// When something was read last; on a server's side, when something was read or written last.
#[derive(Clone, Debug)]
pub(crate) struct LastActivity(Arc<(Instant, AtomicU64)>);

impl Default for LastActivity {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl LastActivity {
    fn now(&self) {
        let (begin, last) = &*self.0;
        last.store(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(crate) fn elapsed(&self) -> Duration {
        let (begin, last) = &*self.0;
        begin.elapsed().saturating_sub(Duration::from_millis(last.load(Ordering::Relaxed)))
    }
}

impl<T, F: FnMut(Seen)> Wire<T, F> {
    pub(crate) fn new(io: T, side: Side, cut: Cut, activity: Option<LastActivity>, seen: F) -> Self {
        let _gone = cut.0.gone.clone().drop_guard();
        let (frames, held) = (Frames::new(side), Held::default());
        Self { io, side, frames, seen, activity, broken: None, waiting: None, held, cut, _gone }
    }
}

impl<T: AsyncWrite, F> Wire<T, F> {
    /// Does something with the writing side, as if it succeeded with `otherwise` once it is broken.
    fn poll_writing<R>(
        self: Pin<&mut Self>,
        otherwise: R,
        poll: impl FnOnce(Pin<&mut T>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let this = self.project();
        // A reader that is cut off finds out by itself, once nothing is left to be written.
        if this.broken.is_some() || this.cut.is_cut() {
            return Poll::Ready(Ok(otherwise));
        }
        match poll(this.io) {
            Poll::Ready(Err(error)) if *this.side == Side::Client => {
                *this.broken = Some(Broken { error, over: Box::pin(sleep(LAST_WORDS)) });
                // Which waits, as a rule, and is to wait for that long.
                this.cut.0.reader.wake();
                Poll::Ready(Ok(otherwise))
            }
            Poll::Pending => {
                this.waiting.get_or_insert(this.frames.count());
                Poll::Pending
            }
            other @ Poll::Ready(_) => {
                *this.waiting = None;
                other
            }
        }
    }
}

impl<T, F> Wire<T, F> {
    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        if self.side == Side::Server
            && matches!(written, Poll::Ready(Ok(1..)))
            && let Some(activity) = &self.activity
        {
            activity.now();
        }
    }
}

impl<T: AsyncRead, F: FnMut(Seen)> AsyncRead for Wire<T, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let begin = buf.filled().len();
        if this.held.give(buf) || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            this.cut.poll(cx)?;
            if this.waiting.is_some_and(|before| this.frames.count() - before > FRAMES_WHILE_WRITES_WAIT) {
                let text = format!("the peer sent {FRAMES_WHILE_WRITES_WAIT} frames and read nothing");
                return Poll::Ready(Err(io::Error::other(text)));
            }
            let read = if this.held.part.is_empty() {
                let polled = this.io.as_mut().poll_read(cx, buf);
                ready!(unless_broken(this.broken, cx, polled))?;
                let bytes = &mut buf.filled_mut()[begin..];
                let read = bytes.len();
                let Passed { kept, rest } = this.frames.pass(bytes, &mut *this.seen);
                this.held.part.extend_from_slice(&bytes[rest..]);
                buf.set_filled(begin + kept);
                read
            } else {
                let mut more = [MaybeUninit::uninit(); 4096];
                let mut more = ReadBuf::uninit(&mut more);
                let polled = this.io.as_mut().poll_read(cx, &mut more);
                ready!(unless_broken(this.broken, cx, polled))?;
                let Held { part, out, .. } = &mut *this.held;
                part.extend_from_slice(more.filled());
                let Passed { kept, rest } = this.frames.pass(part, &mut *this.seen);
                out.extend_from_slice(&part[..kept]);
                part.drain(..rest);
                if more.filled().is_empty() {
                    // The end, amid a frame: h2 is to see that.
                    out.append(part);
                }
                this.held.give(buf);
                more.filled().len()
            };
            if read == 0 {
                if buf.filled().len() > begin {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(this.broken.take().map_or(Ok(()), |broken| Err(broken.error)));
            }
            if let Some(activity) = this.activity {
                activity.now();
            }
            // What was left out, or is not whole, is not the end.
            if buf.filled().len() > begin {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Where nothing can be written, nothing is waited for but last words: a peer that has shut its reading side alone (a Unix
/// socket's may) would be taken for one that is slow.
fn unless_broken(
    broken: &mut Option<Broken>,
    cx: &mut Context<'_>,
    read: Poll<io::Result<()>>,
) -> Poll<io::Result<()>> {
    if read.is_pending()
        && let Some(Broken { error, .. }) = broken.take_if(|broken| broken.over.as_mut().poll(cx).is_ready())
    {
        return Poll::Ready(Err(error));
    }
    read
}

impl<T: AsyncWrite, F> AsyncWrite for Wire<T, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.as_mut().poll_writing(buf.len(), |io| io.poll_write(cx, buf));
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        let written = self.as_mut().poll_writing(all, |io| io.poll_write_vectored(cx, bufs));
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing((), |io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing((), |io| io.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    /// The peer said GOAWAY and closed: a write that fails must not hide what it said.
    #[tokio::test]
    async fn the_last_words_of_a_peer_that_has_closed_are_read() {
        let (ours, mut peer) = tokio::io::duplex(1024);
        let goaway = [1u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
        let words = [frame(4, 0, &[]), frame(7, 0, &goaway)].concat();
        peer.write_all(&words).await.expect("there is room");
        drop(peer);

        let mut seen = Vec::new();
        let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |s| seen.push(s));
        wire.write_all(b"a request").await.expect("as if it were sent");
        wire.flush().await.expect("as if it were sent");
        let mut read = Vec::new();
        let error = wire.read_to_end(&mut read).await.expect_err("it was not sent");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(read, words);
        assert_eq!(seen, [Seen::Settings, Seen::GoAway { last_stream: 1, code: 0 }]);
    }

    /// It reads no more, and says no more: there is nothing to wait for.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_peer_that_has_shut_its_reading_side_alone_is_gone() {
        let (ours, peer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        peer.shutdown(std::net::Shutdown::Read).expect("shut");
        ours.set_nonblocking(true).expect("set");
        let ours = tokio::net::UnixStream::from_std(ours).expect("a socket");
        let wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
        let (mut reader, mut writer) = tokio::io::split(wire);
        let reading = tokio::spawn(async move { reader.read(&mut [0; 8]).await });
        tokio::task::yield_now().await;
        writer.write_all(b"a request").await.expect("as if it were sent");
        let ended = tokio::time::timeout(Duration::from_secs(5), reading).await.expect("it does not wait");
        let error = ended.expect("no panic").expect_err("it was not sent");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// Pieces of every size, read with room for every size.
    #[tokio::test]
    async fn what_is_held_back_comes_whole_and_in_order() {
        let empty = frame(0, 0, b"");
        let expected =
            [frame(4, 0, &[]), frame(0, 0, b"hello"), frame(0, 0, b"more"), b"half".to_vec()].concat();
        let sent = [
            frame(4, 0, &[]),
            empty.clone(),
            frame(0, 0, b"hello"),
            empty,
            frame(0, 0, b"more"),
            b"half".to_vec(),
        ]
        .concat();
        for piece in 1..sent.len() {
            for room in [1, 2, 9, 10, 100] {
                let (ours, mut peer) = tokio::io::duplex(piece);
                let sent = sent.clone();
                let peer = tokio::spawn(async move { peer.write_all(&sent).await });
                let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
                let (mut read, mut some) = (Vec::new(), vec![0; room]);
                loop {
                    match wire.read(&mut some).await.expect("bytes") {
                        0 => break,
                        count => read.extend_from_slice(&some[..count]),
                    }
                }
                peer.await.expect("no panic").expect("it was read");
                assert_eq!(read, expected, "pieces of {piece}, room for {room}");
            }
        }
    }

    /// Two of them, each with more to write than fits on the way, and with as much to read.
    #[tokio::test(start_paused = true)]
    async fn peers_that_both_write_first_do_not_wait_for_each_other() {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let exchange = |io| async move {
            let wire = Wire::new(io, Side::Client, Cut::default(), None, |_| {});
            let (mut reader, mut writer) = tokio::io::split(wire);
            let data = frame(0, 0, &[0; 16 << 10]).repeat(600);
            let mut read = vec![0; data.len()];
            let (written, read) = tokio::join!(writer.write_all(&data), reader.read_exact(&mut read));
            written.expect("written");
            read.expect("read")
        };
        let both = async { tokio::join!(exchange(ours), exchange(theirs)) };
        let (ours, theirs) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("no deadlock");
        assert_eq!(ours, theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_and_never_reads_is_cut_off() {
        let (ours, peer) = tokio::io::duplex(64 << 10);
        let (_from_us, mut to_us) = tokio::io::split(peer);
        let mut wire = Wire::new(ours, Side::Server, Cut::default(), None, |_| {});
        // It does not read: our writes wait.
        std::future::poll_fn(|cx| {
            while Pin::new(&mut wire).poll_write(cx, &[0; 4096]).is_ready() {}
            Poll::Ready(())
        })
        .await;
        tokio::spawn(async move {
            to_us.write_all(&[b'P'; 24]).await.expect("read");
            // Until it is cut off.
            while to_us.write_all(&frame(6, 0, &[0; 8])).await.is_ok() {}
        });
        let mut read = Vec::new();
        let error = wire.read_to_end(&mut read).await.expect_err("cut off");
        assert_eq!(error.to_string(), "the peer sent 100000 frames and read nothing");
        assert!(read.len() as u64 >= FRAMES_WHILE_WRITES_WAIT * 17);
    }

    /// A write that fails while another one waits is no reason not to read.
    #[tokio::test(start_paused = true)]
    async fn the_end_is_seen_though_writes_had_to_wait() {
        let (ours, peer) = tokio::io::duplex(1024);
        let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
        std::future::poll_fn(|cx| {
            while Pin::new(&mut wire).poll_write(cx, &[0; 4096]).is_ready() {}
            Poll::Ready(())
        })
        .await;
        let reading = async {
            let mut read = Vec::new();
            wire.read_to_end(&mut read).await
        };
        let (ended, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(1), reading), async {
            tokio::task::yield_now().await;
            drop(peer);
        });
        assert_eq!(ended.expect("seen").expect("the end"), 0);
    }
}
