//! Requests to an admin listener.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An admin listener.
#[derive(Clone, Debug)]
pub(crate) struct Listener {
    /// `host:port`
    authority: String,
}

/// Time for a connection and the head of an answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Longest answer that is not OK and is shown (bytes).
const LONGEST: usize = 2000;

impl Listener {
    /// Parses a URL: `http://host:port`, or only `host:port`.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let expected =
            || format!("{url:?} is not the address of an admin listener: expected http://HOST:PORT");
        let plain = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = plain.parse().ok().with_context(expected)?;
        anyhow::ensure!(uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/"), expected());
        let authority = uri.authority().with_context(expected)?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: format!("{}:{port}", authority.host()) })
    }

    /// Asks for a path. Returns the answer if it is OK.
    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> anyhow::Result<Response<Incoming>> {
        let authority = &self.authority;
        let asking = async {
            let stream = TcpStream::connect(authority).await.context("cannot connect")?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let mut request = Request::get(path).header(header::HOST, authority);
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await;
            answer.context("no answer by HTTP/1: is this the address of an admin listener?")
        };
        let answer = tokio::time::timeout(ANSWER, asking).await;
        let answer = answer.unwrap_or_else(|_| anyhow::bail!("no answer within {ANSWER:?}"));
        let answer = answer.with_context(|| format!("admin listener {authority}"))?;
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
        anyhow::bail!("admin listener {authority}: {status}: {}", String::from_utf8_lossy(&text).trim())
    }
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
        let parsed = |url: &str| Listener::parse(url).map(|listener| listener.authority).ok();
        assert_eq!(parsed("http://127.0.0.1:9901").as_deref(), Some("127.0.0.1:9901"));
        assert_eq!(parsed("http://[::1]:9901/").as_deref(), Some("[::1]:9901"));
        assert_eq!(parsed("localhost:9901").as_deref(), Some("localhost:9901"));
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
