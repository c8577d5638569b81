//! A channel with one normal server, and one that answers at random.

use std::time::{Duration, Instant};

use hotpick::Channel;
use hotpick::resolver::{Endpoint, ManualResolver};
use hotpick::transport::SubConnOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Request;

use super::{Report, Run, bytes, frame, mutate, one};
use crate::raw::{self, literal};
use crate::scripted::{self, Scripted};
use crate::{Policies, standard};

/// Deadline of each RPC.
const DEADLINE: Duration = Duration::from_secs(1);

/// Sends half of the RPCs to a normal server and half to a hostile one, by `color`. All RPCs to the normal server must
/// succeed; those to the hostile one must end within five times their deadline.
///
/// # Panics
///
/// Panics if there is no free port.
pub async fn answers(run: Run) -> Report {
    let good =
        Scripted::start(async |(_, mut respond): scripted::Exchange| scripted::answer(&mut respond, "good"))
            .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let evil = listener.local_addr().expect("an address");
    let endpoint =
        |address: std::net::SocketAddr, color| Endpoint::new(address.into()).with_attribute("color", color);
    let resolver = ManualResolver::new(vec![endpoint(good.address(), "good"), endpoint(evil, "evil")]);
    let policies = Policies::with(&[("color.wasm", &standard("color"))]);
    let mut options = SubConnOptions::default();
    options.connect_timeout = Duration::from_millis(200);
    options.backoff.base = Duration::from_millis(1);
    options.backoff.max = Duration::from_millis(5);
    let channel = Channel::builder("static:///hostile").resolver(resolver).subconn_options(options);
    let channel = channel.policies(&policies.followed).policy("color").connect_lazy().expect("a channel");
    let mut dice = run.dice(0);
    let mut servers = JoinSet::new();
    servers.spawn(async move {
        let mut serving = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            serving.spawn(misbehave(stream, dice.fork()));
            while serving.try_join_next().is_some() {}
        }
    });

    let ready = channel.wait_for(|status| status.policy.name == "color" && !status.ready.ready().is_empty());
    crate::soon("the normal server ready", ready).await;
    // The run starts here, because compiling the policy takes seconds on a busy machine.
    let end = Instant::now() + run.time;
    let mut callers = JoinSet::new();
    for number in 0..16 {
        let mut client = hotpick_echo::EchoClient::new(channel.clone());
        callers.spawn(async move {
            let (mut rpcs, mut findings) = (0, Vec::new());
            while Instant::now() < end {
                let color = if number % 2 == 0 { "good" } else { "evil" };
                let mut request = Request::new(hotpick_echo::EchoRequest::new("hello"));
                request.metadata_mut().insert("color", color.parse().expect("metadata"));
                request.set_timeout(DEADLINE);
                let start = Instant::now();
                let ended = tokio::time::timeout(DEADLINE * 20, client.unary(request)).await;
                match ended {
                    Err(_) => {
                        findings.push(format!("an RPC to the {color} server hung for {:?}", DEADLINE * 20));
                    }
                    Ok(Err(status)) if color == "good" => {
                        findings.push(format!("an RPC to the good server failed: {status}"));
                    }
                    Ok(_) if start.elapsed() > DEADLINE * 5 => {
                        findings.push(format!("an RPC to the {color} server took {:?}", start.elapsed()));
                    }
                    Ok(_) => {}
                }
                rpcs += 1;
                // The hostile server gets RPCs as fast as it answers, the normal one at a moderate rate.
                if color == "good" {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
            (number % 2 == 0, rpcs, findings)
        });
    }
    let mut report = Report::default();
    while let Some(ended) = callers.join_next().await {
        let (is_good, rpcs, findings) =
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        *(if is_good { &mut report.others } else { &mut report.sent }) += rpcs;
        report.findings.extend(findings);
    }
    if good.accepted() != 1 {
        report
            .findings
            .push(format!("the good server accepted {} connections instead of 1", good.accepted()));
    }
    report
}

/// Serves a connection with random answers, some of which are invalid.
async fn misbehave(mut stream: TcpStream, mut dice: fastrand::Rng) {
    let _ = stream.set_nodelay(true);
    if dice.u8(..20) == 0 {
        return;
    }
    let mut sent = frame(4, 0, 0, &[]);
    if dice.u8(..20) == 0 {
        mutate(&mut dice, &mut sent);
    }
    let mut read = [0; 16 << 10];
    let mut stream_number = 1;
    for _ in 0..dice.u32(1..100) {
        if stream.write_all(&sent).await.is_err() {
            return;
        }
        sent.clear();
        let count = match tokio::time::timeout(Duration::from_secs(2), stream.read(&mut read)).await {
            Ok(Ok(count)) if count > 0 => count,
            _ => return,
        };
        // Approximate number of HEADERS frames that were read. Stream numbers are assumed to be consecutive.
        let heads = read[..count]
            .windows(9)
            .filter(|head| head[3] == raw::HEADERS && head[4] & 4 != 0 && head[0] == 0);
        for _ in 0..heads.count().min(50) {
            answer(&mut dice, stream_number, &mut sent);
            stream_number += 2;
        }
        if dice.u8(..30) == 0 {
            let (kind, flags, length) = (dice.u8(..12), dice.u8(..), dice.usize(..40));
            let of = dice.u32(..stream_number + 4);
            sent.extend(frame(kind, flags, of, &bytes(&mut dice, length)));
        }
        if dice.u8(..40) == 0 && !sent.is_empty() {
            mutate(&mut dice, &mut sent);
        }
        if dice.u8(..60) == 0 {
            let last = dice.u32(..stream_number + 10);
            let code = dice.u32(..15);
            sent.extend(frame(raw::GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()));
        }
    }
}

/// Appends the answer to an RPC, which may be invalid in some parts.
fn answer(dice: &mut fastrand::Rng, stream: u32, out: &mut Vec<u8>) {
    let mut head = vec![0x88];
    if dice.u8(..30) == 0 {
        let status = one(dice, &["0", "abc", "100", "503", "204", "999", ""]);
        head = literal(":status", status);
    }
    head.extend(literal(
        "content-type",
        one(dice, &["application/grpc", "application/grpc+proto", "text/html"]),
    ));
    let names =
        ["x-a", "X-A", "grpc-message", "connection", "content-length", "x y", ":foo", "grpc-encoding", ""];
    for _ in 0..dice.usize(..3) {
        let name = one(dice, &names);
        let length = if dice.u8(..40) == 0 { dice.usize(..400_000) } else { dice.usize(..20) };
        let value = if dice.bool() { bytes(dice, length) } else { vec![b'7'; length] };
        head.extend(literal(name, value));
    }
    let trailers_only = dice.u8(..10) == 0;
    if trailers_only {
        head.extend(literal("grpc-status", one(dice, &["0", "5", "14", "abc", "99"])));
    }
    let mut parts = head.chunks(16 << 10).peekable();
    let (mut kind, mut flags) = (raw::HEADERS, if trailers_only { raw::END_STREAM } else { 0 });
    while let Some(part) = parts.next() {
        let end = if parts.peek().is_none() { raw::END_HEADERS } else { 0 };
        out.extend(frame(kind, flags | end, stream, part));
        (kind, flags) = (9, 0);
    }
    if trailers_only {
        return;
    }
    for _ in 0..dice.usize(..3) {
        let message = if dice.bool() {
            raw::HELLO.to_vec()
        } else {
            let length = dice.usize(..300);
            bytes(dice, length)
        };
        out.extend(frame(raw::DATA, 0, stream, &message));
    }
    match dice.u8(..12) {
        0 => out.extend(frame(raw::RST_STREAM, 0, stream, &dice.u32(..15).to_be_bytes())),
        1 => out.extend(frame(raw::DATA, raw::END_STREAM, stream, b"")),
        2 => {}
        _ => {
            let trailers = literal("grpc-status", one(dice, &["0", "0", "0", "5", "-1"]));
            out.extend(frame(raw::HEADERS, raw::END_HEADERS | raw::END_STREAM, stream, &trailers));
        }
    }
}
