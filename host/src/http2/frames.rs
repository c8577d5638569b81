//! Reads and amends the frames of a peer before h2 reads them.
//!
//! Three properties of h2 make this necessary:
//!
//! - h2 does not report that the peer's SETTINGS have arrived, nor a GOAWAY while streams are open.
//! - h2 counts DATA frames without data over the life of a connection and ends it at the 101st. Jetty sends one such
//!   frame with every response.
//! - h2 ends connections because of one RPC's headers (see [`header_block`](super::header_block)).
//!
//! A header block is passed on only when it is complete, because it is amended as a whole.

use std::ops::Range;

use super::header_block::HeaderBlocks;

/// An event of the connection that the peer has signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// The peer's first SETTINGS: the peer speaks HTTP/2.
    Settings,
    /// SETTINGS_MAX_CONCURRENT_STREAMS: the number of streams that may be open at once, from now on.
    MaxStreams(u32),
    /// GOAWAY: no new stream will be served.
    GoAway { last_stream: u32, code: u32 },
    /// RST_STREAM: the peer has given up this stream.
    Reset(u32),
}

/// Our side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const HEAD: usize = 9;
const PREFACE: usize = 24;
/// Bytes of a setting: two of its name, four of its value.
const SETTING: usize = 6;
/// Bytes of SETTINGS and GOAWAY that are read. Peers send a handful of settings, each once.
const KEPT: usize = 32 * SETTING;
/// Bytes of a GOAWAY that are read: the last stream and the error code.
const GOAWAY_KEPT: usize = 8;
/// Bytes of the largest frame that we allow: the default of SETTINGS_MAX_FRAME_SIZE. h2 refuses longer frames.
const MAX_FRAME: usize = 16 << 10;
/// CONTINUATION frames of a header block, at least. A block with more than the limit is passed on unread; h2 ends the
/// connection for it.
const MIN_CONTINUATIONS: usize = 128;

/// Reads and amends the frames in a stream of bytes that arrives in pieces of any size.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the current payload that are still to come.
    payload: usize,
    kept: Option<Kept>,
    settings_seen: bool,
    blocks: HeaderBlocks,
    /// CONTINUATION frames of a header block, at most.
    max_continuations: usize,
    /// Number of frames so far.
    count: u64,
}

/// The beginning of a payload that is read.
#[derive(Debug)]
struct Kept {
    kind: u8,
    bytes: [u8; KEPT],
    filled: usize,
}

/// Result of [`Frames::pass`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Number of bytes at the front that h2 may read.
    pub(super) kept: usize,
    /// Offset of an incomplete frame, which can be read only when more bytes have arrived. The bytes between `kept` and
    /// `rest` are no longer needed.
    pub(super) rest: usize,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let stream = u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]);
        Some(Self { length, kind: bytes[3], flags: bytes[4], stream })
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Frames {
    /// Creates the reader for a connection, of which `side` is our side.
    pub(super) fn new(side: Side) -> Self {
        let payload = match side {
            Side::Client => 0,
            // The client's preface is passed on like a payload.
            Side::Server => PREFACE,
        };
        let blocks = HeaderBlocks::default();
        let max_continuations = MIN_CONTINUATIONS;
        Self { payload, kept: None, settings_seen: false, blocks, max_continuations, count: 0 }
    }

    /// Sets the size of the header lists that h2 accepts, in bytes.
    pub(super) fn set_max_header_list(&mut self, bytes: u32) {
        // h2 ends the connection at 1.25 times as much in CONTINUATION frames, and at least at 6 of them.
        let frames = bytes as usize / MAX_FRAME;
        self.max_continuations = (frames + frames / 4 + 1).max(MIN_CONTINUATIONS);
    }

    /// Returns the number of frames so far.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Moves the bytes for h2 to the front, and calls `seen` for each event.
    pub(super) fn pass(&mut self, bytes: &mut [u8], mut seen: impl FnMut(Seen)) -> Passed {
        let (mut at, mut to) = (0, 0);
        let mut take = |at: &mut usize, count: usize, bytes: &mut [u8]| {
            if *at != to {
                bytes.copy_within(*at..*at + count, to);
            }
            *at += count;
            to += count;
        };
        while at < bytes.len() {
            if self.payload > 0 {
                let count = self.payload.min(bytes.len() - at);
                if let Some(kept) = &mut self.kept {
                    kept.take(&bytes[at..at + count]);
                }
                take(&mut at, count, bytes);
                self.payload -= count;
            } else {
                let Some(head) = Head::read(&bytes[at..]) else { break };
                match head.kind {
                    // All frames of the block, unchanged except for what is amended.
                    HEADERS => match whole_block(&bytes[at..], self.max_continuations) {
                        Block::Whole { first, more } => {
                            let end = more.last().unwrap_or(&first).end();
                            let amended = self.blocks.amend_in(&mut bytes[at..at + end], &first, &more);
                            self.count += 1 + more.len() as u64;
                            take(&mut at, amended, bytes);
                            at += end - amended;
                            continue;
                        }
                        Block::Unfinished => break,
                        Block::None => self.blocks.miss(),
                    },
                    PUSH_PROMISE => self.blocks.miss(),
                    // A DATA frame without data that does not end the stream carries no information.
                    DATA if head.length == 0 && !head.has(END_STREAM) => {
                        self.count += 1;
                        at += HEAD;
                        continue;
                    }
                    SETTINGS if !head.has(ACK) => self.kept = Some(Kept::new(SETTINGS)),
                    GOAWAY => self.kept = Some(Kept::new(GOAWAY)),
                    RST_STREAM => seen(Seen::Reset(head.stream)),
                    _ => {}
                }
                self.count += 1;
                take(&mut at, HEAD, bytes);
                self.payload = head.length;
            }
            if self.payload == 0
                && let Some(kept) = self.kept.take()
            {
                self.report(&kept, &mut seen);
            }
        }
        Passed { kept: to, rest: at }
    }

    fn report(&mut self, kept: &Kept, seen: &mut impl FnMut(Seen)) {
        let bytes = &kept.bytes[..kept.filled];
        if kept.kind == GOAWAY {
            if let Some([a, b, c, d, code @ ..]) = bytes.first_chunk::<GOAWAY_KEPT>() {
                let last_stream = u32::from_be_bytes([*a, *b, *c, *d]) & 0x7fff_ffff;
                seen(Seen::GoAway { last_stream, code: u32::from_be_bytes(*code) });
            }
            return;
        }
        for setting in bytes.chunks_exact(SETTING) {
            if u16::from_be_bytes([setting[0], setting[1]]) == MAX_CONCURRENT_STREAMS {
                let value = [setting[2], setting[3], setting[4], setting[5]];
                seen(Seen::MaxStreams(u32::from_be_bytes(value)));
            }
        }
        // Last, so that the receiver already knows the settings.
        if !std::mem::replace(&mut self.settings_seen, true) {
            seen(Seen::Settings);
        }
    }
}

impl Kept {
    const fn new(kind: u8) -> Self {
        Self { kind, bytes: [0; KEPT], filled: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.filled..];
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.filled += count;
    }
}

/// Reads the heads of the frames that a server writes, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Written {
    head: [u8; HEAD],
    /// Bytes of the current head.
    filled: usize,
    /// Bytes of the current payload that are still to come.
    payload: usize,
    /// The stream that ends with the current payload.
    ends: Option<u32>,
    /// The stream that ends with the header block that is being written.
    ends_with_block: Option<u32>,
}

impl Written {
    /// Reads the next bytes, and calls `ended` for each stream whose last frame is complete. Returns the number of bytes
    /// after the last of these frames; `None`: there was none.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut ended: impl FnMut(u32)) -> Option<usize> {
        let mut after = None;
        while !bytes.is_empty() {
            let count = if self.payload > 0 { self.payload } else { HEAD - self.filled }.min(bytes.len());
            let (now, rest) = bytes.split_at(count);
            bytes = rest;
            if self.payload > 0 {
                self.payload -= count;
            } else {
                self.head[self.filled..self.filled + count].copy_from_slice(now);
                self.filled += count;
                let Some(head) = Head::read(&self.head[..self.filled]) else { break };
                (self.filled, self.payload) = (0, head.length);
                self.ends = self.ending(head);
            }
            if self.payload == 0
                && let Some(stream) = self.ends.take()
            {
                ended(stream);
                after = Some(bytes.len());
            }
        }
        after
    }
}

impl Written {
    /// Returns the stream that ends with this frame.
    fn ending(&mut self, head: Head) -> Option<u32> {
        let is_last = head.has(END_STREAM);
        match head.kind {
            DATA => is_last.then_some(head.stream),
            // The block may go on in CONTINUATION frames, which have no END_STREAM.
            HEADERS if !head.has(END_HEADERS) => {
                self.ends_with_block = is_last.then_some(head.stream);
                None
            }
            HEADERS => is_last.then_some(head.stream),
            CONTINUATION if head.has(END_HEADERS) => self.ends_with_block.take(),
            RST_STREAM => Some(head.stream),
            _ => None,
        }
    }
}

/// Position of a header block that begins at the first of some bytes.
enum Block {
    /// The block is complete. Usually it is one frame.
    Whole { first: Part, more: Vec<Part> },
    /// More of the block is to come.
    Unfinished,
    /// The frames are not a header block: h2 answers with its own error.
    None,
}

/// A frame of a header block: the range of its HPACK bytes, and the padding after them.
struct Part {
    block: Range<usize>,
    padding: usize,
}

impl Part {
    fn end(&self) -> usize {
        self.block.end + self.padding
    }
}

fn whole_block(bytes: &[u8], max_continuations: usize) -> Block {
    let Some(head) = Head::read(bytes) else { return Block::Unfinished };
    let first = match Part::read(bytes, 0, head) {
        Ok(part) => part,
        Err(block) => return block,
    };
    let (mut more, mut is_last) = (Vec::new(), head.has(END_HEADERS));
    let mut at = first.end();
    while !is_last {
        let Some(head) = Head::read(&bytes[at..]) else { return Block::Unfinished };
        let is_of_it = head.kind == CONTINUATION && bytes[at + 5..at + HEAD] == bytes[5..HEAD];
        if !is_of_it || more.len() == max_continuations {
            return Block::None;
        }
        match Part::read(bytes, at, head) {
            Ok(part) => {
                at = part.end();
                more.push(part);
            }
            Err(block) => return block,
        }
        is_last = head.has(END_HEADERS);
    }
    Block::Whole { first, more }
}

impl Part {
    /// Reads the frame that begins at `at`.
    fn read(bytes: &[u8], at: usize, head: Head) -> Result<Self, Block> {
        if head.length > MAX_FRAME {
            return Err(Block::None);
        }
        let (begin, end) = (at + HEAD, at + HEAD + head.length);
        let payload = bytes.get(begin..end).ok_or(Block::Unfinished)?;
        let is_first = head.kind == HEADERS;
        let is_padded = is_first && head.has(PADDED);
        let padding = match payload.first() {
            Some(padding) if is_padded => usize::from(*padding),
            None if is_padded => return Err(Block::None),
            _ => 0,
        };
        let before = usize::from(is_padded) + if is_first && head.has(PRIORITY) { 5 } else { 0 };
        if before + padding > head.length {
            return Err(Block::None);
        }
        Ok(Self { block: begin + before..end - padding, padding })
    }
}

impl HeaderBlocks {
    /// Amends the block that consists of these parts of the frames in `bytes`. Returns the length of the frames, which
    /// may be shorter then.
    fn amend_in(&mut self, bytes: &mut [u8], first: &Part, more: &[Part]) -> usize {
        if more.is_empty() {
            let length = self.amend(&mut bytes[first.block.clone()]);
            let removed = first.block.len() - length;
            if removed > 0 {
                bytes.copy_within(first.block.end.., first.block.start + length);
                shorten(bytes, removed);
            }
            return bytes.len() - removed;
        }
        let parts = || std::iter::once(first).chain(more);
        let mut block: Vec<u8> = parts().flat_map(|part| bytes[part.block.clone()].to_vec()).collect();
        let length = self.amend(&mut block);
        let (mut rest, mut frames, mut begin) = (&block[..length], Vec::with_capacity(bytes.len()), 0);
        for part in parts() {
            let (own, after) = rest.split_at(part.block.len().min(rest.len()));
            let frame = frames.len();
            frames.extend_from_slice(&bytes[begin..part.block.start]);
            shorten(&mut frames[frame..], part.block.len() - own.len());
            frames.extend_from_slice(own);
            frames.extend_from_slice(&bytes[part.block.end..part.end()]);
            (rest, begin) = (after, part.end());
        }
        bytes[..frames.len()].copy_from_slice(&frames);
        frames.len()
    }
}

/// Writes the length of a frame that has become shorter by this many bytes.
fn shorten(frame: &mut [u8], by: usize) {
    if let Some([a, b, c]) = frame.first_chunk_mut() {
        let length =
            u32::from_be_bytes([0, *a, *b, *c]).saturating_sub(u32::try_from(by).unwrap_or_default());
        [_, *a, *b, *c] = length.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_ends_of_streams_are_seen_in_what_is_written() {
        let frame = |kind: u8, flags: u8, stream: u8, length: u8| {
            [vec![0, 0, length, kind, flags, 0, 0, 0, stream], vec![0xff; length.into()]].concat()
        };
        let all = [
            frame(SETTINGS, 0, 0, 6),
            frame(HEADERS, END_HEADERS, 1, 20),
            frame(DATA, 0, 1, 100),
            frame(DATA, END_STREAM, 3, 30),
            frame(SETTINGS, ACK, 0, 0),
            frame(HEADERS, END_HEADERS | END_STREAM, 1, 5),
            frame(RST_STREAM, 0, 5, 4),
            // A header block in three frames.
            frame(HEADERS, END_STREAM, 9, 10),
            frame(CONTINUATION, 0, 9, 10),
            frame(CONTINUATION, END_HEADERS, 9, 1),
            frame(HEADERS, 0, 11, 10),
            frame(CONTINUATION, END_HEADERS, 11, 1),
            // Its flag has another meaning.
            frame(6, 1, 0, 8),
            frame(DATA, END_STREAM, 7, 0),
        ];
        let last = frame(7, 0, 0, 8);
        let bytes = [all.concat(), last.clone()].concat();
        for piece in 1..bytes.len() {
            let (mut written, mut ended, mut after) = (Written::default(), Vec::new(), 0);
            for piece in bytes.chunks(piece) {
                after = written.pass(piece, |stream| ended.push(stream)).unwrap_or(after + piece.len());
            }
            assert_eq!((&ended[..], after), (&[3, 1, 5, 9, 7][..], last.len()), "pieces of {piece}");
        }
    }

    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Returns what h2 would read, and the events, if the bytes arrive in these pieces.
    fn passed(side: Side, pieces: &[&[u8]]) -> (Vec<u8>, Vec<Seen>) {
        let (mut frames, mut out, mut seen) = (Frames::new(side), Vec::new(), Vec::new());
        let mut carried = Vec::new();
        for piece in pieces {
            carried.extend_from_slice(piece);
            let Passed { kept, rest } = frames.pass(&mut carried, |s| seen.push(s));
            out.extend_from_slice(&carried[..kept]);
            carried.drain(..rest);
        }
        out.extend_from_slice(&carried);
        (out, seen)
    }

    #[test]
    fn a_goaway_that_is_too_short_is_ignored() {
        let bytes = [frame(GOAWAY, 0, &[1, 2, 3]), frame(SETTINGS, 0, &[])].concat();
        assert_eq!(passed(Side::Client, &[&bytes]), (bytes, vec![Seen::Settings]));
    }

    #[test]
    fn blocks_are_amended_up_to_the_limit_on_header_lists() {
        // Literal fields without indexing: a name of one letter, and a value that h2 would end the connection for.
        let bad = [0, 1, b'n', 1, b'\n'];
        let long: Vec<u8> = [0, 1, b'n', 126].into_iter().chain([b'v'; 126]).collect();
        let more = frame(CONTINUATION, 0, &long.repeat(100));
        let block =
            [frame(HEADERS, 0, &bad), more.repeat(1000), frame(CONTINUATION, END_HEADERS, &bad)].concat();
        let is_amended = |max_header_list: Option<u32>| {
            let mut frames = Frames::new(Side::Client);
            if let Some(bytes) = max_header_list {
                frames.set_max_header_list(bytes);
            }
            let mut bytes = block.clone();
            let passed = frames.pass(&mut bytes, |_| {});
            assert_eq!(passed.kept, block.len());
            (bytes[HEAD + 4] != b'\n', bytes.last() != Some(&b'\n'))
        };
        assert_eq!(is_amended(Some(16 << 20)), (true, true));
        assert_eq!(is_amended(None), (false, false));
    }

    #[test]
    fn the_stream_limit_is_read_at_any_position() {
        let settings: Vec<u8> = [(4u16, 65_535u32), (3, 7), (1, 0)]
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let bytes = [frame(SETTINGS, 0, &settings), frame(SETTINGS, 0, &settings)].concat();
        let limit = Seen::MaxStreams(7);
        assert_eq!(passed(Side::Client, &[&bytes]).1, [limit, Seen::Settings, limit]);
    }

    #[test]
    fn empty_data_frames_are_removed_unless_they_end_a_stream() {
        let (message, empty, end) = (frame(DATA, 0, b"x"), frame(DATA, 0, b""), frame(DATA, END_STREAM, b""));
        let bytes = [&empty[..], &message, &empty, &empty, &end, &empty].concat();
        assert_eq!(passed(Side::Client, &[&bytes]).0, [message, end].concat());
    }

    #[test]
    fn a_header_block_with_padding_and_priority_is_amended() {
        let block = [&[0x41, 3][..], b"a%b"].concat();
        let payload = [&[2, 0, 0, 0, 3, 9][..], &block, b"\0\0"].concat();
        let bytes = [&[0; PREFACE][..], &frame(HEADERS, PADDED | PRIORITY | 4, &payload)].concat();
        let at = bytes.len() - 5;
        let mut expected = bytes.clone();
        expected[at..at + 3].copy_from_slice(b"a-b");
        assert_eq!(passed(Side::Server, &[&bytes]).0, expected);
    }

    /// In HEADERS and CONTINUATION, split at every position.
    #[test]
    fn a_block_in_several_frames_is_amended() {
        let block = [&[0x44, 8][..], b"/t.T/M#x", &[0x41, 3], b"a%b"].concat();
        let amended = [&[0x44, 8][..], b"/t.T/M>x", &[0x41, 3], b"a-b"].concat();
        for first in 0..=block.len() {
            for second in first..=block.len() {
                let frames = |block: &[u8]| {
                    [
                        frame(HEADERS, 0, &block[..first]),
                        frame(CONTINUATION, 0, &block[first..second]),
                        frame(CONTINUATION, END_HEADERS, &block[second..]),
                        frame(DATA, 0, b"x"),
                    ]
                    .concat()
                };
                assert_eq!(passed(Side::Client, &[&frames(&block)]).0, frames(&amended), "{first}, {second}");
            }
        }
    }

    /// A newline in Huffman code takes more bits than the space in its place: the frames become shorter.
    #[test]
    fn frames_become_shorter_with_their_block() {
        use crate::http2::huffman::string;
        let field = |value: &[u8]| [&[0x40][..], &string(b"grpc-message"), &string(value)].concat();
        let (long, short) = (field(b"a\n\n\n\n\nb"), field(b"a     b"));
        assert!(short.len() < long.len());
        let after = frame(0, 1, b"data");
        let whole = |block: &[u8]| [frame(1, END_HEADERS, block), after.clone()].concat();
        assert_eq!(passed(Side::Client, &[&whole(&long)]).0, whole(&short));
        let padded = |block: &[u8]| {
            [frame(1, END_HEADERS | PADDED, &[&[3][..], block, &[0; 3]].concat()), after.clone()].concat()
        };
        assert_eq!(passed(Side::Client, &[&padded(&long)]).0, padded(&short));
        for cut in 0..long.len() {
            let (one, other) = long.split_at(cut);
            let split =
                [frame(1, 0, one), frame(CONTINUATION, 0, b""), frame(CONTINUATION, END_HEADERS, other)]
                    .concat();
            let (read, _) = passed(Side::Client, &[&[split, after.clone()].concat()]);
            let (mut block, mut rest) = (Vec::new(), &read[..]);
            while rest[3] != 0 {
                let length = usize::from(rest[2]);
                block.extend_from_slice(&rest[HEAD..HEAD + length]);
                rest = &rest[HEAD + length..];
            }
            assert_eq!((&block, rest), (&short, &after[..]), "{cut}");
        }
    }

    proptest! {
        /// The bytes and events are the same however the input is split.
        #[test]
        fn splits_do_not_matter(
            data in prop::collection::vec(any::<u8>(), 0..50),
            debug in prop::collection::vec(any::<u8>(), 0..300),
            last_stream in 0u32..0x7fff_ffff,
            code in any::<u32>(),
            sizes in prop::collection::vec(1usize..40, 1..60),
            is_server in any::<bool>(),
        ) {
            let goaway = [&last_stream.to_be_bytes()[..], &code.to_be_bytes(), &debug].concat();
            let side = if is_server { Side::Server } else { Side::Client };
            let bytes = [
                vec![b'P'; if is_server { PREFACE } else { 0 }],
                frame(SETTINGS, 0, &data[..data.len() / 6 * 6]),
                frame(HEADERS, 4, &[&[0x41, 3][..], b"a%b", &data].concat()),
                frame(DATA, 1, &data),
                frame(DATA, 0, &[]),
                frame(SETTINGS, ACK, &[]),
                frame(GOAWAY, 0, &goaway),
                frame(DATA, 0, &[]),
                frame(SETTINGS, 0, &[]),
            ]
            .concat();
            let whole = passed(side, &[&bytes]);
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*size));
                pieces.push(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&passed(side, &pieces), &whole);
            // A header may have become shorter.
            let most = bytes.len() - 2 * HEAD;
            prop_assert!((most - data.len()..=most).contains(&whole.0.len()));
            let seen: Vec<_> =
                whole.1.into_iter().filter(|seen| !matches!(seen, Seen::MaxStreams(_))).collect();
            prop_assert_eq!(seen, [Seen::Settings, Seen::GoAway { last_stream, code }]);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..500), size in 1usize..100) {
            let pieces: Vec<_> = bytes.chunks(size).collect();
            passed(Side::Client, &pieces);
            passed(Side::Server, &pieces);
        }
    }
}
