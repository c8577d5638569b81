//! The fields and results of a pick in every language. Each policy in `readers/` reads all fields of a pick and returns
//! every kind of result. C++ uses the header of C, and the bindings of Rust are generated.

use std::path::Path;
use std::time::Duration;

use hotpick::connectivity::ConnectivityState;
use hotpick::directory;
use hotpick::picker::{PickInfo, PickResult};
use hotpick::policy::Placement;
use hotpick::policy::{TestChannel, WasmPolicy};
use hotpick::resolver::Endpoint;
use hotpick_tests::languages::{build, cached, hotpick, said};
use http::{HeaderMap, HeaderValue};
use tonic::Code;
use twox_hash::XxHash64;

/// Name of the policies. A module of Python's standard library has the same name.
const NAME: &str = "random";

/// Builds a project with the reader as its policy. `None`: the language's tool is missing.
fn built(folder: &Path, language: &str, source: &str, at: &str) -> Option<WasmPolicy> {
    let project = folder.join(NAME);
    let new = hotpick().args(["new", NAME, "--lang", language, "--dir"]).arg(&project).output();
    let new = new.expect("hotpick runs");
    assert!(new.status.success(), "{}", said(&new));
    std::fs::write(project.join(at), source).expect("written");
    let out = folder.join("dist");
    build(&project, &out).then(|| {
        let file = out.join(format!("{NAME}.wasm"));
        directory::load(&file, &cached()).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    })
}

/// The fields of a pick, which a reader returns in the message of its result.
#[derive(Debug, PartialEq)]
struct Fields {
    call: u64,
    method: u32,
    affinity: Option<u64>,
    /// Uniform in 0..1. Languages without 64-bit integers get a fraction; the integer of the others is converted to
    /// one.
    random: f64,
    now: u64,
    tried: bool,
    in_flight: u32,
}

impl Fields {
    fn parse(text: &str) -> Self {
        let fields: Vec<_> = text.split_whitespace().collect();
        let [call, method, affinity, random, now, tried, in_flight] = fields[..] else { panic!("{text:?}") };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{text:?}"));
        Self {
            call: number(call),
            method: method.parse().expect("a number"),
            affinity: (affinity != "none").then(|| number(affinity)),
            random: match random.parse::<u64>() {
                Ok(number) if number > 1 => number as f64 / 2f64.powi(64),
                _ => random.parse().expect("a number"),
            },
            now: number(now),
            tried: tried.parse().expect("true or false"),
            in_flight: in_flight.parse().expect("a number"),
        }
    }
}

fn reads(language: &str, policy: &WasmPolicy) {
    let mut trial = TestChannel::start(policy, &Placement::new("test:///", "{}").with_seed(7))
        .expect("the policy starts");
    let endpoint = |number| Endpoint::new(format!("10.0.0.{number}:80").parse().expect("an address"));
    trial
        .update((1..=3).map(|number| (endpoint(number), ConnectivityState::Ready)))
        .expect("endpoints accepted");
    let mut pick = |info: &PickInfo<'_>| trial.pick(info).expect("a pick");
    let mut failed = |info: &PickInfo<'_>| match pick(info) {
        PickResult::Fail(status) => {
            assert_eq!(status.code(), Code::Unavailable);
            Fields::parse(status.message())
        }
        other => panic!("{other:?}"),
    };

    let mut alice = HeaderMap::new();
    let bare = alice.clone();
    alice.insert("user", HeaderValue::from_static("alice"));
    let info = PickInfo::new("/a.A/One", &alice);
    let first = failed(&info);
    assert_eq!(first.affinity, Some(XxHash64::oneshot(0, b"alice")));
    assert_eq!((first.tried, first.in_flight), (false, 0));

    let mut later = PickInfo::new(info.method, &bare);
    later.now = info.now + Duration::from_millis(5);
    let second = failed(&later);
    let expected = Fields {
        call: first.call + 1,
        affinity: None,
        random: second.random,
        now: first.now + 5_000_000,
        ..first
    };
    assert_eq!(second, expected);
    let randoms: Vec<_> = (0..256).map(|_| failed(&later).random).collect();
    assert!(randoms.iter().all(|random| (0.0..1.0).contains(random)), "{randoms:?}");
    let mean = randoms.iter().sum::<f64>() / 256.0;
    assert!((0.4..0.6).contains(&mean), "{mean}: {randoms:?}");
    assert_ne!(failed(&PickInfo::new("/a.A/Two", &bare)).method, first.method);

    let codes = [
        Code::Cancelled,
        Code::Unknown,
        Code::DeadlineExceeded,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::Unauthenticated,
    ];
    for (attempt, code) in (1..).zip(codes) {
        // The first ready subconn is number 0.
        let tried: Vec<_> = (0..attempt).map(|number| number + attempt % 2).collect();
        let mut retry = later.clone();
        retry.tried = &tried;
        match pick(&retry) {
            PickResult::Drop(status) => {
                assert_eq!(status.code(), code);
                assert_eq!(Fields::parse(status.message()).tried, attempt % 2 == 0, "{attempt}");
            }
            other => panic!("{other:?}"),
        }
    }
    later.requeued = true;
    let queued = pick(&later);
    assert!(matches!(queued, PickResult::Queue), "{queued:?}");
    later.requeued = false;
    later.wait_for_ready = true;
    let picked = pick(&later);
    assert!(matches!(&picked, PickResult::Pick(pick) if pick.subconn.id() == 0), "{picked:?}");
    later.wait_for_ready = false;
    later.tried = &[0; 10];
    let ended = trial.pick(&later).expect_err("there are nine codes").to_string();
    // Zig is built without runtime checks and returns an invalid tenth code.
    assert!(language == "zig" || ended.contains("; it said: "), "{ended}");
}

async fn try_reader(language: &'static str, source: &'static str, at: &'static str) {
    let tried = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(policy) = built(folder.path(), language, source, at) else { return };
        reads(language, &policy);
    });
    tried.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
}

macro_rules! readers {
    ($($language:ident: $source:literal at $at:literal),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $language() {
            try_reader(stringify!($language), include_str!(concat!("../readers/", $source)), $at).await;
        })+
    };
}

readers! {
    c: "reader.c" at "src/random.c",
    zig: "reader.zig" at "src/random.zig",
    go: "reader.go" at "random/main.go",
    assemblyscript: "reader.as.ts" at "assembly/random.ts",
    python: "reader.py" at "policies/random.py",
    javascript: "reader.js" at "src/random.js",
    typescript: "reader.ts" at "src/random.ts",
}
