//! What policies in every language are told of a pick, and how they answer: `readers/` has one in each that reads all of
//! it and answers in every way. (That of C++ is told by the header of C; Rust has bindings that are generated.)

use std::path::Path;
use std::time::Duration;

use hotpick::connectivity::ConnectivityState;
use hotpick::directory;
use hotpick::picker::{PickInfo, PickResult};
use hotpick::policy::Placement;
use hotpick::policy::{ConformanceOptions, TestChannel, WasmPolicy};
use hotpick::resolver::Endpoint;
use hotpick_tests::languages::{build, cached, hotpick, said};
use http::{HeaderMap, HeaderValue};
use tonic::Code;
use twox_hash::XxHash64;

/// Of a policy, and of a module in Python's library, too.
const NAME: &str = "random";

/// Those that are given their optional parts by a world of their own.
const SCRIPTS: [&str; 3] = ["python", "javascript", "typescript"];

/// A project with the reader as its policy; its component, if the language's tool is there.
fn built(folder: &Path, language: &str, source: &str, at: &str) -> Option<WasmPolicy> {
    let project = folder.join(NAME);
    let new = hotpick().args(["new", NAME, "--lang", language, "--dir"]).arg(&project).output();
    let new = new.expect("hotpick runs");
    assert!(new.status.success(), "{}", said(&new));
    std::fs::write(project.join(at), source).expect("written");
    if SCRIPTS.contains(&language) {
        std::fs::create_dir(project.join("wit")).expect("a folder");
        std::fs::write(project.join("wit/world.wit"), include_str!("../readers/world.wit")).expect("written");
    }
    let out = folder.join("dist");
    build(&project, &out).then(|| {
        let file = out.join(format!("{NAME}.wasm"));
        directory::load(&file, &cached()).unwrap_or_else(|error| panic!("{file:?}: {error}"))
    })
}

/// What it says of a pick that it fails: as which call, of which method, and so on.
#[derive(Debug, PartialEq)]
struct Told {
    call: u64,
    method: u32,
    affinity: Option<u64>,
    /// Uniform in 0..1: where languages have no 64 bits they are told so, and the others' number is taken for a fraction.
    random: f64,
    now: u64,
    tried: bool,
    in_flight: u32,
}

impl Told {
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
    let mut trial =
        TestChannel::start(policy, &Placement::new("test:///", "{}").with_seed(7)).expect("it starts");
    let endpoint = |number| Endpoint::new(format!("10.0.0.{number}:80").parse().expect("an address"));
    trial.update((1..=3).map(|number| (endpoint(number), ConnectivityState::Ready))).expect("told");
    let mut pick = |info: &PickInfo<'_>| trial.pick(info).expect("a pick");
    let mut failed = |info: &PickInfo<'_>| match pick(info) {
        PickResult::Fail(status) => {
            assert_eq!(status.code(), Code::Unavailable);
            Told::parse(status.message())
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
    let expected = Told {
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
        // The first that is ready is number 0.
        let tried: Vec<_> = (0..attempt).map(|number| number + attempt % 2).collect();
        let mut retry = later.clone();
        retry.tried = &tried;
        match pick(&retry) {
            PickResult::Drop(status) => {
                assert_eq!(status.code(), code);
                assert_eq!(Told::parse(status.message()).tried, attempt % 2 == 0, "{attempt}");
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
    // Zig as it is built checks nothing: it answers by the tenth of nine codes.
    assert!(language == "zig" || ended.contains("; it said: "), "{ended}");
}

/// An optional part that is written as `docs/languages.md` says. The loads that the conformance run has servers report all
/// say 100 RPCs per second, and the readers look.
fn has_outcomes(policy: &WasmPolicy) {
    assert_eq!(policy.optional_parts(), ["outcomes"]);
    let mut options = ConformanceOptions::default();
    options.picks = 10_000;
    for seen in policy.conformance(&options) {
        assert!(seen.passed, "{seen:?}");
    }
}

async fn try_reader(language: &'static str, source: &'static str, at: &'static str) {
    let tried = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(policy) = built(folder.path(), language, source, at) else { return };
        reads(language, &policy);
        if SCRIPTS.contains(&language) || ["c", "zig"].contains(&language) {
            has_outcomes(&policy);
        }
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
