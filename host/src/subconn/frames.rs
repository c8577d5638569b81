//! A look at the heads of the frames that a peer sends.
//!
//! h2 tells neither that the peer's SETTINGS have come, which is what READY means, nor that it has
//! sent GOAWAY while streams are open. Both stand in the clear at the front of a frame, so a reader
//! that the bytes pass through on their way to h2 can see them at once.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Something that a peer said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The peer's first SETTINGS: it speaks HTTP/2.
    Settings,
    /// SETTINGS_MAX_CONCURRENT_STREAMS: so many streams at once, from now on.
    MaxStreams(u32),
    /// GOAWAY: no new stream will be served.
    GoAway { last_stream: u32, code: u32 },
}

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const HEAD: usize = 9;
/// A setting: two bytes of name, four of value.
const SETTING: usize = 6;
/// Of a GOAWAY the first 8 bytes are of interest.
const GOAWAY_KEPT: usize = 8;
/// Of SETTINGS so many settings are read; peers send a handful, each once.
const SETTINGS_KEPT: usize = 32 * SETTING;
const KEPT: usize = HEAD + SETTINGS_KEPT;

/// Reads frame heads out of a stream of bytes that comes in pieces of any size.
#[derive(Debug)]
pub(super) struct FrameReader {
    kept: [u8; KEPT],
    filled: usize,
    /// Bytes of the current payload that are of no interest.
    skip: usize,
    settings_seen: bool,
}

impl FrameReader {
    pub(super) fn new() -> Self {
        Self { kept: [0; KEPT], filled: 0, skip: 0, settings_seen: false }
    }

    pub(super) fn read(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];

            let wanted = self.wanted();
            let taken = (wanted - self.filled).min(bytes.len());
            self.kept[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];

            // A full head may show that more of this frame is wanted.
            if self.filled == self.wanted() && self.filled >= HEAD {
                self.frame(&mut seen);
                self.skip = self.length() - (self.filled - HEAD);
                self.filled = 0;
            }
        }
    }

    fn wanted(&self) -> usize {
        let payload = match self.kept[3] {
            _ if self.filled < HEAD => 0,
            GOAWAY => GOAWAY_KEPT,
            SETTINGS => SETTINGS_KEPT,
            _ => 0,
        };
        HEAD + self.length().min(payload)
    }

    fn length(&self) -> usize {
        usize::from(self.kept[0]) << 16 | usize::from(self.kept[1]) << 8 | usize::from(self.kept[2])
    }

    fn frame(&mut self, seen: &mut impl FnMut(Seen)) {
        let word = |at: usize| {
            u32::from_be_bytes([self.kept[at], self.kept[at + 1], self.kept[at + 2], self.kept[at + 3]])
        };
        match self.kept[3] {
            SETTINGS if self.kept[4] & ACK == 0 => {
                for setting in self.kept[HEAD..self.filled].chunks_exact(SETTING) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == MAX_CONCURRENT_STREAMS {
                        let value = [setting[2], setting[3], setting[4], setting[5]];
                        seen(Seen::MaxStreams(u32::from_be_bytes(value)));
                    }
                }
                // Last, so that who acts on it knows the settings.
                if !std::mem::replace(&mut self.settings_seen, true) {
                    seen(Seen::Settings);
                }
            }
            GOAWAY if self.filled == HEAD + GOAWAY_KEPT => {
                seen(Seen::GoAway { last_stream: word(HEAD) & 0x7fff_ffff, code: word(HEAD + 4) });
            }
            _ => {}
        }
    }
}

pin_project! {
    /// Passes everything through, and tells what the peer said.
    ///
    /// When the peer has closed, a write can fail while its last words, a GOAWAY that says which requests
    /// it never looked at, still wait to be read. h2 would end every stream at the failed write. So a
    /// failed write is kept until everything has been read: from then on writes go nowhere, and the error
    /// comes in place of the end of the stream.
    #[derive(Debug)]
    pub(super) struct Watched<T, F> {
        #[pin]
        io: T,
        frames: FrameReader,
        seen: F,
        last_read: Option<LastRead>,
        broken: Option<io::Error>,
        cut: Cut,
        // Tells that this is gone, and the connection with it.
        _gone: DropGuard,
    }
}

/// Ends a connection from outside. It is driven in a task of its own, which may go on
/// for its old streams when all else has ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut(Arc<CutState>);

#[derive(Debug, Default)]
struct CutState {
    /// Why it is.
    cut: OnceLock<String>,
    reader: AtomicWaker,
    gone: CancellationToken,
}

impl Cut {
    /// Reads fail from now on, for this reason.
    pub(super) fn cut(&self, why: String) {
        // The first counts.
        let _ = self.0.cut.set(why);
        self.0.reader.wake();
    }

    /// Waits until the connection has ended in any way.
    pub(super) async fn gone(&self) {
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

/// When something was read last.
#[derive(Clone, Debug)]
pub(super) struct LastRead(Arc<(Instant, AtomicU64)>);

impl Default for LastRead {
    fn default() -> Self {
        Self(Arc::new((Instant::now(), AtomicU64::new(0))))
    }
}

impl LastRead {
    fn now(&self) {
        let (begin, read) = &*self.0;
        read.store(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(super) fn elapsed(&self) -> Duration {
        let (begin, read) = &*self.0;
        begin.elapsed().saturating_sub(Duration::from_millis(read.load(Ordering::Relaxed)))
    }
}

impl<T, F: FnMut(Seen)> Watched<T, F> {
    pub(super) fn new(io: T, cut: Cut, last_read: Option<LastRead>, seen: F) -> Self {
        let _gone = cut.0.gone.clone().drop_guard();
        Self { io, frames: FrameReader::new(), seen, last_read, broken: None, cut, _gone }
    }
}

impl<T: AsyncWrite, F> Watched<T, F> {
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
            Poll::Ready(Err(error)) => {
                *this.broken = Some(error);
                Poll::Ready(Ok(otherwise))
            }
            other => other,
        }
    }
}

impl<T: AsyncRead, F: FnMut(Seen)> AsyncRead for Watched<T, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        this.cut.poll(cx)?;
        let before = buf.filled().len();
        std::task::ready!(this.io.poll_read(cx, buf))?;
        let bytes = &buf.filled()[before..];
        this.frames.read(bytes, this.seen);
        if let Some(last_read) = this.last_read {
            last_read.now();
        }
        match this.broken.take() {
            Some(error) if bytes.is_empty() => Poll::Ready(Err(error)),
            broken => {
                *this.broken = broken;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: AsyncWrite, F> AsyncWrite for Watched<T, F> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(buf.len(), |io| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.poll_writing(all, |io| io.poll_write_vectored(cx, bufs))
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
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn seen_in(pieces: &[&[u8]]) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut reader = FrameReader::new();
        for piece in pieces {
            reader.read(piece, |s| seen.push(s));
        }
        seen
    }

    /// The peer said GOAWAY and closed: a write that fails must not hide what it said.
    #[tokio::test]
    async fn the_last_words_of_a_peer_that_has_closed_are_read() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let (ours, mut peer) = tokio::io::duplex(1024);
        let goaway = [1u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
        let words = [frame(SETTINGS, 0, &[]), frame(GOAWAY, 0, &goaway)].concat();
        peer.write_all(&words).await.expect("there is room");
        drop(peer);

        let mut seen = Vec::new();
        let mut watched = Watched::new(ours, Cut::default(), None, |s| seen.push(s));
        watched.write_all(b"a request").await.expect("as if it were sent");
        watched.flush().await.expect("as if it were sent");
        let mut read = Vec::new();
        let error = watched.read_to_end(&mut read).await.expect_err("it was not sent");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(read, words);
        assert_eq!(seen, [Seen::Settings, Seen::GoAway { last_stream: 1, code: 0 }]);
    }

    #[test]
    fn a_frame_too_short_for_a_goaway_is_passed_over() {
        let bytes = [frame(GOAWAY, 0, &[1, 2, 3]), frame(SETTINGS, 0, &[])].concat();
        assert_eq!(seen_in(&[&bytes]), [Seen::Settings]);
    }

    #[test]
    fn the_limit_of_streams_is_read_wherever_it_stands() {
        let settings: Vec<u8> = [(4u16, 65_535u32), (3, 7), (1, 0)]
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let bytes = [frame(SETTINGS, 0, &settings), frame(SETTINGS, 0, &settings)].concat();
        let limit = Seen::MaxStreams(7);
        assert_eq!(seen_in(&[&bytes]), [limit, Seen::Settings, limit]);
    }

    proptest! {
        /// However the bytes are cut, the same is seen.
        #[test]
        fn cuts_do_not_matter(
            data in prop::collection::vec(any::<u8>(), 0..50),
            debug in prop::collection::vec(any::<u8>(), 0..20),
            last_stream in 0u32..0x7fff_ffff,
            code in any::<u32>(),
            size in 1usize..40,
        ) {
            let goaway = [&last_stream.to_be_bytes()[..], &code.to_be_bytes(), &debug].concat();
            let bytes = [
                frame(SETTINGS, 0, &data[..data.len() / 6 * 6]),
                frame(0, 1, &data),
                frame(SETTINGS, ACK, &[]),
                frame(GOAWAY, 0, &goaway),
                frame(SETTINGS, 0, &[]),
            ]
            .concat();
            let pieces: Vec<_> = bytes.chunks(size).collect();
            let seen: Vec<_> =
                seen_in(&pieces).into_iter().filter(|seen| !matches!(seen, Seen::MaxStreams(_))).collect();
            prop_assert_eq!(seen, [Seen::Settings, Seen::GoAway { last_stream, code }]);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), size in 1usize..100) {
            let pieces: Vec<_> = bytes.chunks(size).collect();
            seen_in(&pieces);
        }
    }
}
