//! A server that answers each attempt of an RPC as the RPC's own metadata says, and remembers the attempts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};

use crate::scripted::{Exchange, Scripted, answer, head};

/// Servers that answer attempts by script.
///
/// An RPC has the metadata `call`, a name of its own, and `script`, with one word for each attempt; the last word is
/// also for all further attempts:
///
/// | word | answer |
/// |---|---|
/// | `ok` | OK, with a message |
/// | `14` | only trailers, with this status |
/// | `14/200` | the same, with this `grpc-retry-pushback-ms` |
/// | `h14` | headers, then trailers with this status |
/// | `http503` | this HTTP status, and no gRPC status |
/// | `refuse` | RST_STREAM with REFUSED_STREAM |
/// | `reset` | RST_STREAM with INTERNAL_ERROR |
/// | `hang` | none |
///
/// `50:` before a word delays the answer by 50 ms.
#[derive(Debug)]
pub struct Attempts {
    servers: Vec<Scripted>,
    log: Arc<Log>,
}

/// The attempts of each RPC.
#[derive(Debug, Default)]
struct Log(Mutex<HashMap<String, Vec<Attempt>>>);

/// An attempt, as a server has seen it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Number of the server.
    pub server: usize,
    /// The metadata `grpc-previous-rpc-attempts`.
    pub previous: Option<String>,
    /// When it came.
    pub at: Instant,
    /// The metadata `traceparent`.
    pub traceparent: Option<String>,
    /// The request's messages, framing included. Empty until the whole request has been read.
    pub body: Vec<u8>,
}

impl Attempts {
    /// Starts this number of servers, which share the memory of attempts.
    pub async fn start(count: usize) -> Self {
        let log = Arc::new(Log::default());
        let mut servers = Vec::new();
        for server in 0..count {
            let log = Arc::clone(&log);
            servers.push(Scripted::start(move |exchange| serve(server, Arc::clone(&log), exchange)).await);
        }
        Self { servers, log }
    }

    /// Addresses of the servers.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Scripted::address).collect()
    }

    /// Target of a channel to all servers.
    #[must_use]
    pub fn target(&self) -> String {
        let addresses: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
        format!("static:///{}", addresses.join(","))
    }

    /// The attempts of this RPC so far.
    #[must_use]
    pub fn of(&self, call: &str) -> Vec<Attempt> {
        self.log.lock().get(call).cloned().unwrap_or_default()
    }

    /// What the attempts of this RPC say of those before them: `-` if nothing.
    #[must_use]
    pub fn previous(&self, call: &str) -> Vec<String> {
        let previous = |attempt: Attempt| attempt.previous.unwrap_or_else(|| "-".to_owned());
        self.of(call).into_iter().map(previous).collect()
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Attempt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(server: usize, log: Arc<Log>, (request, mut respond): Exchange) {
    let text = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.map(ToOwned::to_owned)
    };
    let call = text("call").unwrap_or_default();
    let previous = text("grpc-previous-rpc-attempts");
    let script = text("script").unwrap_or_default();
    let number = {
        let mut log = log.lock();
        let attempts = log.entry(call.clone()).or_default();
        let traceparent = text("traceparent");
        attempts.push(Attempt { server, previous, at: Instant::now(), traceparent, body: Vec::new() });
        attempts.len() - 1
    };
    let words: Vec<_> = script.split(',').collect();
    let mut word = words[number.min(words.len() - 1)];
    if let Some((delay, rest)) = word.split_once(':') {
        tokio::time::sleep(Duration::from_millis(delay.parse().expect("milliseconds"))).await;
        word = rest;
    }
    // Most answers come before the request has been read, as a server's may.
    if word == "ok" {
        let mut body = request.into_body();
        let mut read = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
        }
        log.lock().get_mut(&call).expect("there")[number].body = read;
    }
    respond_with(word, &mut respond, server).await;
}

async fn respond_with(word: &str, respond: &mut SendResponse<Bytes>, server: usize) {
    let trailers = |status: &str, headers: &mut HeaderMap| {
        headers.insert("grpc-status", HeaderValue::from_str(status).expect("a status"));
        headers.insert("grpc-message", HeaderValue::from_static("as scripted"));
    };
    match word {
        "ok" => answer(respond, &server.to_string()),
        "refuse" => respond.send_reset(Reason::REFUSED_STREAM),
        "reset" => respond.send_reset(Reason::INTERNAL_ERROR),
        "hang" => {
            // Until the client resets the stream.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
        _ => {
            if let Some(status) = word.strip_prefix("http") {
                let response = Response::builder().status(status).body(()).expect("a response");
                let _ = respond.send_response(response, true);
            } else if let Some(status) = word.strip_prefix('h') {
                let Ok(mut stream) = respond.send_response(head(), false) else { return };
                let mut last = HeaderMap::new();
                trailers(status, &mut last);
                let _ = stream.send_trailers(last);
            } else {
                let (status, pushback) = word.split_once('/').map_or((word, None), |(a, b)| (a, Some(b)));
                let mut response = head();
                trailers(status, response.headers_mut());
                if let Some(pushback) = pushback {
                    let pushback = HeaderValue::from_str(pushback).expect("a value");
                    response.headers_mut().insert("grpc-retry-pushback-ms", pushback);
                }
                let _ = respond.send_response(response, true);
            }
        }
    }
}
