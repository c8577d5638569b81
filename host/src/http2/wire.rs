//! The layer between the bytes of a connection and h2.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frames::{Frames, Passed, Seen, Side, Written};
use super::limits::{FRAMES_IN_A_TURN, FRAMES_WHILE_WRITES_WAIT};
use super::traffic::Traffic;

pin_project! {
    /// Passes bytes through, reports events of the connection, and removes or amends frames that h2 would reject
    /// ([`Frames`]).
    ///
    /// After a server has closed the connection, a client's write can fail while the server's GOAWAY still waits to be
    /// read. The GOAWAY says which requests the server never processed, but h2 would end every stream at the failed
    /// write. So the error of a failed write is held back until everything has been read: further writes are discarded,
    /// and the error is returned in place of the end of the stream.
    ///
    /// A peer that sends and does not read is cut off after [`FRAMES_WHILE_WRITES_WAIT`] frames, because h2 queues an
    /// answer to each frame that it objects to, without a limit. Until then the peer's frames are read: two peers that
    /// wait for each other to read would wait forever.
    #[derive(Debug)]
    pub(crate) struct Wire<T, F> {
        #[pin]
        io: T,
        side: Side,
        frames: Frames,
        seen: F,
        traffic: Option<Traffic>,
        broken: Option<Broken>,
        // Number of frames received when writes began to wait. `None` while no write waits.
        waiting: Option<u64>,
        // Number of frames received when this turn began.
        turn: u64,
        // Number of frames that the last read had.
        last_read: u64,
        late: Late,
        written: Written,
        // The writing side is shut.
        is_shut: bool,
        held: Held,
        cut: Cut,
        // Notifies `Cut::gone` when the wire is dropped, and the connection with it.
        _gone: DropGuard,
    }
}

/// A failed write, after which nothing can be written.
#[derive(Debug)]
struct Broken {
    error: io::Error,
    /// Ends the wait for the peer's last frames. Usually they have arrived or are in flight.
    over: Pin<Box<Sleep>>,
}

/// Whether writes wait until the tasks that are ready have had their turn.
///
/// On a runtime of several threads a connection's task is the next one after each RPC's task that wakes it, and would write
/// the frames of that RPC alone. A system call for each RPC is a third of what a proxy takes. On a runtime of one
/// thread the connection has its turn after the RPCs in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Never,
    /// The next write waits for a turn.
    Next,
    /// Written now, until all is written.
    Now,
}

/// Frames in a read from which on there are likely other RPCs whose frames can be written at once.
const MANY: u64 = 4;

impl Late {
    fn of_this_runtime() -> Self {
        let flavor = Handle::try_current().map(|handle| handle.runtime_flavor());
        if flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread) { Self::Next } else { Self::Never }
    }
}

/// How long to read after a failed write.
const LAST_READ_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that were read and not passed on, because they did not fit or because their frame is incomplete.
#[derive(Debug, Default)]
struct Held {
    /// Beginning of an incomplete frame.
    part: Vec<u8>,
    /// Bytes for h2.
    out: Vec<u8>,
    /// Offset in `out` of the first byte that h2 has not read.
    at: usize,
}

impl Held {
    /// Copies as many bytes as fit. Returns whether there were any.
    fn copy_to(&mut self, buf: &mut ReadBuf<'_>) -> bool {
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

/// Ends a connection from outside. The connection runs in a task of its own, which may continue for old streams when
/// everything else has ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<CutState>);

#[derive(Debug, Default)]
struct CutState {
    /// The reason, once the connection is cut.
    cut: OnceLock<String>,
    reader: AtomicWaker,
    gone: CancellationToken,
}

impl Cut {
    /// Makes all further reads fail with this reason.
    pub(crate) fn cut(&self, why: String) {
        // Only the first reason is kept.
        let _ = self.0.cut.set(why);
        self.0.reader.wake();
    }

    /// Waits until the connection has ended for any reason.
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

impl<T, F: FnMut(Seen)> Wire<T, F> {
    pub(crate) fn new(io: T, side: Side, cut: Cut, traffic: Option<Traffic>, seen: F) -> Self {
        let _gone = cut.0.gone.clone().drop_guard();
        let (frames, held) = (Frames::new(side), Held::default());
        Self {
            io,
            side,
            frames,
            seen,
            traffic,
            broken: None,
            waiting: None,
            turn: 0,
            last_read: 0,
            late: Late::of_this_runtime(),
            written: Written::default(),
            is_shut: false,
            held,
            cut,
            _gone,
        }
    }

    /// Sets the size of the header lists that h2 accepts, in bytes: longer header blocks are not amended.
    pub(crate) fn with_max_header_list(mut self, bytes: u32) -> Self {
        self.frames.set_max_header_list(bytes);
        self
    }
}

impl<T: AsyncWrite, F> Wire<T, F> {
    /// Polls the writing side. Once the connection is broken or cut, returns `otherwise` as if the write had succeeded.
    fn poll_writing<R>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        otherwise: R,
        mut poll: impl FnMut(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let this = self.project();
        // h2 reads when nothing is left to be written, and that read returns the error.
        if this.broken.is_some() || this.cut.is_cut() {
            return Poll::Ready(Ok(otherwise));
        }
        // Not counted by Tokio's budget of a task's turn: h2 reads first, as long as there is something to read, so that a
        // peer that sends fast would use up the whole budget in each turn, and our writes would wait for its last frame.
        let mut io = this.io;
        let unbudgeted = pin!(unconstrained(poll_fn(|cx| poll(io.as_mut(), cx))));
        match unbudgeted.poll(cx) {
            Poll::Ready(Err(error)) if *this.side == Side::Client => {
                *this.broken = Some(Broken { error, over: Box::pin(sleep(LAST_READ_TIMEOUT)) });
                // Usually the reader is waiting already: wake it, so that it polls the timeout.
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
    /// Returns whether a write is left to the next turn, which follows when the tasks that are ready have had theirs.
    fn is_put_off(self: Pin<&mut Self>, cx: &Context<'_>) -> bool {
        let this = self.project();
        let is_put_off = *this.late == Late::Next && *this.last_read >= MANY && !this.cut.is_cut();
        if is_put_off {
            *this.late = Late::Now;
            cx.waker().wake_by_ref();
        }
        is_put_off
    }

    /// Records what was written of these buffers.
    fn wrote(self: Pin<&mut Self>, written: &Poll<io::Result<usize>>, bufs: &[io::IoSlice<'_>]) {
        let this = self.project();
        let (Side::Server, Some(traffic), Poll::Ready(Ok(count @ 1..))) = (*this.side, this.traffic, written)
        else {
            return;
        };
        traffic.record();
        let mut left = *count;
        for buf in bufs {
            let now = left.min(buf.len());
            left -= now;
            traffic.wrote(now, this.written.pass(&buf[..now], |stream| traffic.answered(stream)));
        }
    }
}

impl<T: AsyncRead, F: FnMut(Seen)> AsyncRead for Wire<T, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let begin = buf.filled().len();
        if this.held.copy_to(buf) || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.frames.count() - *this.turn > FRAMES_IN_A_TURN {
            *this.turn = this.frames.count();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            this.cut.poll(cx)?;
            if this.waiting.is_some_and(|before| this.frames.count() - before > FRAMES_WHILE_WRITES_WAIT) {
                let text = format!("the peer sent {FRAMES_WHILE_WRITES_WAIT} frames and read nothing");
                return Poll::Ready(Err(io::Error::other(text)));
            }
            let read = if this.held.part.is_empty() {
                let polled = this.io.as_mut().poll_read(cx, buf);
                let polled = unless_broken(this.broken, cx, polled);
                if polled.is_pending() {
                    *this.turn = this.frames.count();
                }
                ready!(polled)?;
                let bytes = &mut buf.filled_mut()[begin..];
                let read = bytes.len();
                let before = this.frames.count();
                let Passed { kept, rest } = this.frames.pass(bytes, &mut *this.seen);
                *this.last_read = this.frames.count() - before;
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
                    // The stream ends within a frame: h2 must see that.
                    out.append(part);
                }
                this.held.copy_to(buf);
                more.filled().len()
            };
            if read == 0 {
                if buf.filled().len() > begin {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(this.broken.take().map_or(Ok(()), |broken| Err(broken.error)));
            }
            if let Some(traffic) = this.traffic {
                traffic.record();
            }
            // To return no bytes would mean the end of the stream: read on if all were removed or held back.
            if buf.filled().len() > begin {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Reads of one turn, of what nobody wants any more.
const LAST_READS: usize = 16;

impl<T: AsyncRead, F> Wire<T, F> {
    /// Waits until the peer has closed its side, if it is to be waited for. What it still sends is of no use.
    fn poll_linger(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let Some(traffic) = this.traffic.as_ref().filter(|traffic| traffic.lingers()) else {
            return Poll::Ready(Ok(()));
        };
        for _ in 0..LAST_READS {
            let mut bytes = [MaybeUninit::uninit(); 4096];
            let mut read = ReadBuf::uninit(&mut bytes);
            // An error is as good an end as any.
            if ready!(this.io.as_mut().poll_read(cx, &mut read)).is_err() || read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            traffic.record();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Turns a pending read into the error of a failed write once [`LAST_READ_TIMEOUT`] has passed. Otherwise a peer that
/// has shut only its reading side, as is possible on a Unix socket, would be taken for a slow one.
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

impl<T: AsyncRead + AsyncWrite, F> AsyncWrite for Wire<T, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.as_mut().is_put_off(cx) {
            return Poll::Pending;
        }
        let written = self.as_mut().poll_writing(cx, buf.len(), |io, cx| io.poll_write(cx, buf));
        self.wrote(&written, &[io::IoSlice::new(buf)]);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.as_mut().is_put_off(cx) {
            return Poll::Pending;
        }
        let all = bufs.iter().map(|buf| buf.len()).sum();
        let written = self.as_mut().poll_writing(cx, all, |io, cx| io.poll_write_vectored(cx, bufs));
        self.wrote(&written, bufs);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.as_mut().poll_writing(cx, (), |io, cx| io.poll_flush(cx));
        let late = self.project().late;
        if flushed.is_ready() && *late == Late::Now {
            *late = Late::Next;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(self.as_mut().poll_writing(cx, (), |io, cx| io.poll_shutdown(cx)))?;
            let this = self.as_mut().project();
            *this.is_shut = true;
            this.traffic.iter().for_each(Traffic::over);
        }
        self.poll_linger(cx)
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

    /// The peer sent GOAWAY and closed the connection: a failed write must not hide the GOAWAY.
    #[tokio::test]
    async fn the_last_frames_of_a_peer_that_has_closed_are_read() {
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

    /// The peer neither reads nor sends: there is nothing to wait for.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_peer_that_has_shut_only_its_reading_side_ends_the_connection() {
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

    /// Pieces of every size, read into buffers of several sizes.
    #[tokio::test]
    async fn held_bytes_are_complete_and_in_order() {
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

    /// Each of two peers writes more than the connection buffers, and reads as much.
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

    /// Such a turn reads as much as a turn may, and h2 writes afterwards.
    #[tokio::test]
    async fn writes_do_not_wait_for_a_turn_that_reads_less() {
        let (ours, _peer) = tokio::io::duplex(1024);
        let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        (0..1000).for_each(|number| sender.send(number).expect("open"));
        poll_fn(|cx| {
            while receiver.poll_recv(cx).is_ready() {}
            assert!(!receiver.is_empty(), "the budget is used up");
            assert!(Pin::new(&mut wire).poll_write(cx, b"a request").is_ready());
            Poll::Ready(())
        })
        .await;
        assert_eq!(wire.waiting, None);
    }

    /// In that turn the RPCs whose frames were read can add theirs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn on_several_threads_a_write_after_many_frames_waits_for_a_turn() {
        let (ours, mut peer) = tokio::io::duplex(1024);
        let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
        for (frames, turns) in [(MANY, 2), (1, 1), (2 * MANY, 2)] {
            let sent = frame(6, 0, &[0; 8]).repeat(usize::try_from(frames).expect("few"));
            peer.write_all(&sent).await.expect("there is room");
            wire.read_exact(&mut vec![0; sent.len()]).await.expect("read");
            let mut polls = 0;
            let written = poll_fn(|cx| {
                polls += 1;
                Pin::new(&mut wire).poll_write(cx, b"a request")
            });
            assert_eq!(written.await.expect("written"), 9);
            assert_eq!(polls, turns, "{frames}");
            wire.flush().await.expect("flushed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_and_never_reads_is_cut_off() {
        let (ours, peer) = tokio::io::duplex(64 << 10);
        let (_from_us, mut to_us) = tokio::io::split(peer);
        let mut wire = Wire::new(ours, Side::Server, Cut::default(), None, |_| {});
        // The peer does not read: our writes wait.
        poll_fn(|cx| {
            while Pin::new(&mut wire).poll_write(cx, &[0; 4096]).is_ready() {}
            Poll::Ready(())
        })
        .await;
        tokio::spawn(async move {
            to_us.write_all(&[b'P'; 24]).await.expect("read");
            // Until the peer is cut off.
            while to_us.write_all(&frame(6, 0, &[0; 8])).await.is_ok() {}
        });
        let mut read = Vec::new();
        let error = wire.read_to_end(&mut read).await.expect_err("cut off");
        assert_eq!(error.to_string(), "the peer sent 100000 frames and read nothing");
        assert!(read.len() as u64 >= FRAMES_WHILE_WRITES_WAIT * 17);
    }

    /// The end of the stream must be read even if writes are waiting.
    #[tokio::test(start_paused = true)]
    async fn the_end_is_read_while_writes_wait() {
        let (ours, peer) = tokio::io::duplex(1024);
        let mut wire = Wire::new(ours, Side::Client, Cut::default(), None, |_| {});
        poll_fn(|cx| {
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
