//! Requests to an admin listener.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// An admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// `host:port`
    Tcp(String),
    Unix(PathBuf),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Time for a connection and the head of an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest answer that is not OK and is shown (bytes).
const LONGEST: usize = 2000;

impl Listener {
    /// Parses a URL: `http://host:port`, only `host:port`, or `unix:/path` for a control socket.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.trim_start_matches("//").into()));
        }
        let expected = || {
            format!(
                "{url:?} is not the address of an admin listener: expected http://HOST:PORT or unix:/PATH"
            )
        };
        let plain = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = plain.parse().ok().with_context(expected)?;
        anyhow::ensure!(uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/"), expected());
        let authority = uri.authority().with_context(expected)?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self::Tcp(format!("{}:{port}", authority.host())))
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(authority) => Box::new(TcpStream::connect(authority).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    /// Asks for a path. Returns the answer if it is OK.
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> anyhow::Result<Response<Incoming>> {
        self.ask(Method::GET, path, token).await
    }

    /// Asks for something. Returns the answer if it is OK.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
    ) -> anyhow::Result<Response<Incoming>> {
        let authority = match self {
            Self::Tcp(authority) => authority.as_str(),
            Self::Unix(_) => "localhost",
        };
        let asking = async {
            let stream = self.connect().await.context("cannot connect")?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await;
            answer.context("no answer by HTTP/1: is this the address of an admin listener?")
        };
        let answer = tokio::time::timeout(ANSWER, asking).await;
        let answer = answer.unwrap_or_else(|_| anyhow::bail!("no answer within {ANSWER:?}"));
        let answer = answer.with_context(|| format!("admin listener {self}"))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, mut body, mut text) = (answer.status(), answer.into_body(), Vec::new());
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if text.len() > LONGEST {
                break;
            }
        }
        anyhow::bail!("admin listener {self}: {status}: {}", String::from_utf8_lossy(&text).trim())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => f.write_str(authority),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Reads a token from a file.
pub(crate) fn token(file: Option<&PathBuf>) -> anyhow::Result<Option<String>> {
    let read = |path: &PathBuf| {
        let token = std::fs::read_to_string(path).with_context(|| format!("token {path:?}"))?;
        Ok(token.trim().to_owned())
    };
    file.map(read).transpose()
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

/// Longest line (bytes): a snapshot of some ten thousand endpoints.
const LONGEST_LINE: usize = 64 << 20;

impl Lines {
    /// Adds bytes. Returns the lines that are complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else {
            if self.0.len() > LONGEST_LINE {
                self.0.clear();
            }
            return Vec::new();
        };
        let complete: Vec<_> = self.0.drain(..=end).collect();
        let text = String::from_utf8_lossy(&complete[..end]);
        text.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_listeners_are_urls_or_less() {
        let parsed = |url: &str| Listener::parse(url).map(|listener| listener.to_string()).ok();
        assert_eq!(parsed("http://127.0.0.1:9901").as_deref(), Some("127.0.0.1:9901"));
        assert_eq!(parsed("http://[::1]:9901/").as_deref(), Some("[::1]:9901"));
        assert_eq!(parsed("localhost:9901").as_deref(), Some("localhost:9901"));
        assert_eq!(parsed("unix:/run/h.sock").as_deref(), Some("unix:/run/h.sock"));
        assert_eq!(parsed("unix:///run/h.sock").as_deref(), Some("unix:/run/h.sock"));
        for bad in ["https://x:1", "http://x:1/tap", "", "ftp://x", "a b"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn lines_are_cut_wherever_the_bytes_are() {
        let mut lines = Lines::default();
        assert!(lines.feed(b"ab").is_empty());
        assert_eq!(lines.feed(b"c\r\n\nd"), ["abc", ""]);
        assert_eq!(lines.feed("\u{e4}\n".as_bytes()), ["d\u{e4}"]);
    }
}
