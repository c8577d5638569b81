//! HTTP/2 servers and clients that send exactly the frames that a test specifies.

use std::fmt;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A server on a free port.
#[derive(Debug)]
pub struct RawServer(TcpListener);

/// A connection from a client or to a server.
pub struct RawPeer {
    stream: TcpStream,
    hpack: fluke_hpack::Decoder<'static>,
}

impl fmt::Debug for RawPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawPeer({:?})", self.stream)
    }
}

/// Response of a server on one stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RawAnswer {
    /// Names and values of headers and trailers.
    pub headers: Vec<(String, String)>,
    /// Payload of all DATA frames.
    pub data: Vec<u8>,
    /// Code of the RST_STREAM, if the server has sent one.
    pub reset: Option<u32>,
}

impl RawAnswer {
    /// Returns the last value of this name among headers and trailers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().rev().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }
}

/// A received frame.
#[derive(Debug)]
pub struct Frame {
    /// The frame's type: 0 DATA, 1 HEADERS, 3 RST_STREAM, 4 SETTINGS, 6 PING, 7 GOAWAY.
    pub kind: u8,
    /// The frame's flags.
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
    /// The bytes after the frame header.
    pub payload: Vec<u8>,
}

/// Frame type DATA.
pub const DATA: u8 = 0;
/// Frame type HEADERS.
pub const HEADERS: u8 = 1;
/// Frame type RST_STREAM.
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// Frame type GOAWAY.
pub const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
/// Flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// Flag of HEADERS.
pub const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_FRAME: usize = 16 << 10;

/// Error code REFUSED_STREAM.
pub const REFUSED_STREAM: u32 = 7;
/// Error code ENHANCE_YOUR_CALM.
pub const ENHANCE_YOUR_CALM: u32 = 11;

impl RawServer {
    /// Listens on a free port.
    ///
    /// # Panics
    ///
    /// Panics if there is no free port.
    pub async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    /// Address that the server listens on.
    ///
    /// # Panics
    ///
    /// Never, because the listener is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// Accepts the next connection without sending anything.
    pub async fn silent(&self) -> TcpStream {
        let (stream, _) = crate::soon("a connection", self.0.accept()).await.expect("accepted");
        // A response takes several writes. With Nagle's algorithm the second would wait 40 ms for the ACK of the first.
        stream.set_nodelay(true).expect("a socket");
        stream
    }

    /// Accepts the next connection, reads the client's preface and sends SETTINGS.
    pub async fn accept(&self, settings: &[(u16, u32)]) -> RawPeer {
        let mut peer = RawPeer::on(self.silent().await);
        let mut preface = [0; PREFACE.len()];
        crate::soon("the preface", peer.stream.read_exact(&mut preface)).await.expect("a preface");
        peer.settings(settings).await;
        peer
    }
}

impl RawPeer {
    /// Connects to a server, and sends the preface and empty SETTINGS.
    ///
    /// # Panics
    ///
    /// Panics if the connection fails.
    pub async fn connect(address: SocketAddr) -> Self {
        let mut peer = Self::silent(address).await;
        peer.bytes(PREFACE).await;
        peer.settings(&[]).await;
        peer
    }

    /// Connects to a server without sending anything.
    ///
    /// # Panics
    ///
    /// Panics if the connection fails.
    pub async fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connected");
        stream.set_nodelay(true).expect("a socket");
        Self::on(stream)
    }

    fn on(stream: TcpStream) -> Self {
        Self { stream, hpack: fluke_hpack::Decoder::new() }
    }

    /// Sends raw bytes.
    ///
    /// # Panics
    ///
    /// Panics if the peer has closed the connection.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// Sends a header block as HEADERS and as many CONTINUATION frames as needed.
    pub async fn headers(&mut self, stream: u32, block: &[u8], flags: u8) {
        let mut parts = block.chunks(MAX_FRAME).peekable();
        let (mut kind, mut flags) = (HEADERS, flags);
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
            self.send(kind, flags | end, stream, part).await;
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    /// Sends the preface and a PING on a silent connection. Returns whether the server answers instead of closing it.
    pub async fn is_taken(&mut self) -> bool {
        let sent = [&preface()[..], &[0, 0, 8, PING, 0, 0, 0, 0, 0], &[7; 8]].concat();
        if self.stream.write_all(&sent).await.is_err() {
            return false;
        }
        while let Some(frame) = self.frame().await {
            if frame.kind == PING && frame.flags & ACK != 0 {
                return true;
            }
        }
        false
    }

    /// Waits until the peer has read all that was sent. Afterwards both sides have each other's SETTINGS.
    ///
    /// # Panics
    ///
    /// Panics if the connection ends.
    pub async fn synchronize(&mut self) {
        self.send(PING, 0, 0, &[0; 8]).await;
        loop {
            let frame = self.frame().await.expect("the connection goes on");
            if frame.kind == PING && frame.flags & ACK != 0 {
                return;
            }
        }
    }

    /// Sends the headers of an RPC, including `more`, without ending the stream.
    pub async fn begin_rpc(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) {
        let mut block = request(path);
        block.extend(more.iter().flat_map(|(name, value)| literal(name, value)));
        self.headers(stream, &block, 0).await;
    }

    /// Sends an RPC with the headers `more` and the message "hello" of the echo service.
    pub async fn rpc(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) {
        self.begin_rpc(stream, path, more).await;
        self.send(DATA, END_STREAM, stream, HELLO).await;
    }

    /// Receives the response on a stream until its end. Ignores frames of other streams.
    ///
    /// # Panics
    ///
    /// Panics if the connection ends before the stream.
    pub async fn answer_on(&mut self, stream: u32) -> RawAnswer {
        let mut answer = RawAnswer::default();
        loop {
            let frame = self.frame().await.expect("the connection ended before the stream");
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                HEADERS => answer.headers.extend(self.fields(&frame.payload)),
                DATA => answer.data.extend(&frame.payload),
                RST_STREAM => {
                    answer.reset = frame.payload.first_chunk().map(|code| u32::from_be_bytes(*code));
                    return answer;
                }
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return answer;
            }
        }
    }

    fn fields(&mut self, block: &[u8]) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let fields = self.hpack.decode(block).expect("HPACK");
        fields.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await.expect("sent");
    }

    /// Sends SETTINGS.
    pub async fn settings(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// Sends GOAWAY: streams up to `last` will be served.
    pub async fn goaway(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// Sends RST_STREAM.
    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Sends the headers of a response without ending the stream.
    pub async fn begin_answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &headers(&[])).await;
    }

    /// Sends a complete response of the echo service: "hello", from this backend.
    pub async fn answer(&mut self, stream: u32, backend: &str) {
        self.answer_with(stream, backend, &[]).await;
    }

    /// Sends a complete response of the echo service with the trailers `more`.
    pub async fn answer_with(&mut self, stream: u32, backend: &str, more: &[(&str, &str)]) {
        self.begin_answer(stream).await;
        let mut message = b"\x0a\x05hello\x12".to_vec();
        message.push(u8::try_from(backend.len()).expect("a short name"));
        message.extend_from_slice(backend.as_bytes());
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        let framed = [&[0], &length[..], &message].concat();
        self.send(DATA, 0, stream, &framed).await;
        let mut trailers = literal("grpc-status", "0");
        for (name, value) in more {
            trailers.extend(literal(name, value));
        }
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &trailers).await;
    }

    /// Sends a response of trailers only.
    pub async fn refuse(&mut self, stream: u32, code: u8, message: &str) {
        let headers = headers(&[("grpc-status", &code.to_string()), ("grpc-message", message)]);
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &headers).await;
    }

    /// Receives the next frame, or `None` if the peer has closed the connection. Acknowledges SETTINGS and PING.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        crate::soon("a frame", self.stream.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
            PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
            _ => {}
        }
        Some(frame)
    }

    /// Waits for the headers of a request, and returns its stream.
    pub async fn begun_request(&mut self) -> u32 {
        loop {
            let frame = self.frame().await.expect("a request");
            if frame.kind == HEADERS {
                return frame.stream;
            }
        }
    }

    /// Waits for the end of a request, and returns its stream.
    pub async fn request(&mut self) -> u32 {
        loop {
            let frame = self.frame().await.expect("a request");
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return frame.stream;
            }
        }
    }

    /// Returns both sides of the connection, as bytes.
    #[must_use]
    pub fn split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.stream.into_split()
    }

    /// Waits until the peer has closed the connection.
    pub async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// Request message of the echo service: "hello".
pub const HELLO: &[u8] = b"\0\0\0\0\x07\x0a\x05hello";

/// Returns the first bytes of a client: the preface and empty SETTINGS.
#[must_use]
pub fn preface() -> Vec<u8> {
    [PREFACE, &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]].concat()
}

/// Returns the header block of an RPC, without Huffman coding or dynamic table.
#[must_use]
pub fn request(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, from the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.extend(literal(name, value));
    }
    block
}

/// Returns the header block of a response, without Huffman coding or dynamic table.
fn headers(more: &[(&str, &str)]) -> Vec<u8> {
    // `:status: 200`, from the static table.
    let mut block = vec![0x88];
    block.extend(literal("content-type", "application/grpc"));
    for (name, value) in more {
        block.extend(literal(name, value));
    }
    block
}

/// Returns a literal header field without indexing or Huffman coding.
#[must_use]
pub fn literal(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    fn text(text: &[u8]) -> Vec<u8> {
        // RFC 7541, section 5.1: an integer with a prefix of seven bits, continued in groups of seven bits.
        let mut bytes = Vec::new();
        let small = |length: usize| u8::try_from(length).unwrap_or_default();
        let mut length = text.len();
        if length < 127 {
            bytes.push(small(length));
        } else {
            bytes.push(127);
            length -= 127;
            while length >= 128 {
                bytes.push(small(length % 128) | 128);
                length /= 128;
            }
            bytes.push(small(length));
        }
        bytes.extend_from_slice(text);
        bytes
    }
    [&[0][..], &text(name.as_ref()), &text(value.as_ref())].concat()
}
