//! A peer that says exactly the HTTP/2 frames that a test wants.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Listens on a port of its own.
#[derive(Debug)]
pub struct RawServer(TcpListener);

/// A connection from a client.
#[derive(Debug)]
pub struct RawPeer(TcpStream);

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    /// The frame's type: 0 DATA, 1 HEADERS, 3 RST_STREAM, 4 SETTINGS, 6 PING, 7 GOAWAY.
    pub kind: u8,
    /// The frame's flags.
    pub flags: u8,
    /// The stream; 0 is the connection.
    pub stream: u32,
    /// What follows the head.
    pub payload: Vec<u8>,
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: usize = 24;

/// REFUSED_STREAM.
pub const REFUSED_STREAM: u32 = 7;
/// ENHANCE_YOUR_CALM.
pub const ENHANCE_YOUR_CALM: u32 = 11;

impl RawServer {
    /// A server on a free port.
    ///
    /// # Panics
    ///
    /// There is none.
    pub async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    }

    /// Where it listens.
    ///
    /// # Panics
    ///
    /// Never.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The next connection, without a word.
    pub async fn silent(&self) -> TcpStream {
        let (stream, _) = crate::soon("a connection", self.0.accept()).await.expect("accepted");
        // An answer is several writes, of which the second would wait for 40 ms until the first is acknowledged.
        stream.set_nodelay(true).expect("a socket");
        stream
    }

    /// The next connection, with our SETTINGS sent and the client's preface read.
    pub async fn accept(&self, settings: &[(u16, u32)]) -> RawPeer {
        let mut peer = RawPeer(self.silent().await);
        let mut preface = [0; PREFACE];
        crate::soon("the preface", peer.0.read_exact(&mut preface)).await.expect("a preface");
        peer.settings(settings).await;
        peer
    }
}

impl RawPeer {
    /// Sends a frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.0.write_all(&[&head, payload].concat()).await.expect("sent");
    }

    /// SETTINGS.
    pub async fn settings(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    /// GOAWAY: streams up to `last` will be served.
    pub async fn goaway(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// RST_STREAM.
    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// The headers of a response that goes on.
    pub async fn begin_answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &headers(&[])).await;
    }

    /// A whole response of the echo service: "hello", from this backend.
    pub async fn answer(&mut self, stream: u32, backend: &str) {
        self.answer_with(stream, backend, &[]).await;
    }

    /// The same, with more trailers.
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

    /// A response that is nothing but a status.
    pub async fn refuse(&mut self, stream: u32, code: u8, message: &str) {
        let headers = headers(&[("grpc-status", &code.to_string()), ("grpc-message", message)]);
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &headers).await;
    }

    /// The next frame; none when the client has closed. Acknowledges SETTINGS and PINGs.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        crate::soon("a frame", self.0.read_exact(&mut head)).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("a length")];
        self.0.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
            PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload).await,
            _ => {}
        }
        Some(frame)
    }

    /// Waits for a whole request, and gives its stream.
    pub async fn request(&mut self) -> u32 {
        loop {
            let frame = self.frame().await.expect("a request");
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return frame.stream;
            }
        }
    }

    /// Waits until the client has closed the connection.
    pub async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// The header block of a response, uncompressed.
fn headers(more: &[(&str, &str)]) -> Vec<u8> {
    // `:status: 200` of the static table.
    let mut block = vec![0x88];
    block.extend(literal("content-type", "application/grpc"));
    for (name, value) in more {
        block.extend(literal(name, value));
    }
    block
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("a short text");
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}
