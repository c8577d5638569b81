//! `file:///path`: endpoints in a file, which is followed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Endpoint, ResolveNow, Resolver, ResolverStream, ResolverUpdate, Target, TargetError, record};
use crate::files::{self, Fingerprint, ReadError, Settling};
use crate::service_config::ServiceConfig;
use crate::workers;

/// A resolver of the endpoints in a JSON file, or a TOML file if its name ends in `.toml`.
///
/// The file is checked once a second, and read when it has changed and then stayed the same for 100 ms. A malformed or
/// missing file leaves the endpoints as they are. A file that is open for writing is read when it is closed, or when it
/// has not changed for 5 s.
///
/// ```toml
/// [[endpoints]]
/// address = "10.0.0.1:5001" # or unix:/path
/// weight = 2
/// color = "red"             # other members become attributes
///
/// [[endpoints]]
/// addresses = ["10.0.0.2:5001", "[2001:db8::2]:5001"] # of one backend
///
/// # Optional: a service config, as in gRPC.
/// [service_config]
/// loadBalancingConfig = [{ color = {} }, { round_robin = {} }]
/// ```
#[derive(Clone, Debug)]
pub struct FileResolver {
    path: PathBuf,
}

/// Time between two checks of the file.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after which a file that cannot be read is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// Number of times that a file may change while it is read, until that is an error.
const CHANGES: u32 = 20;
/// Time for which the file must not have changed before it is read.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes of the largest file.
const LIMIT: usize = 16 << 20;
/// Time without a change after which a file is read although a process has it open for writing.
const OPEN: Duration = Duration::from_secs(5);

impl FileResolver {
    /// Creates a resolver of this file.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub(super) fn of(target: &Target) -> Result<Self, TargetError> {
        match (target.authority(), target.endpoint()) {
            (_, "") => {
                Err(TargetError::invalid(target, "names no file: write file:///path/to/endpoints.json"))
            }
            ("", _) => Ok(Self::new(target.path())),
            _ => Err(TargetError::invalid(target, "has a host: write file:///path, with three slashes")),
        }
    }
}

impl Resolver for FileResolver {
    fn watch(&self, _target: &Target, _resolve_now: ResolveNow) -> ResolverStream {
        let follow = Follow {
            path: self.path.clone(),
            settling: Settling::default(),
            seen: None,
            open: None,
            changes: 0,
        };
        Box::pin(stream::unfold(follow, async |mut follow| {
            let update = follow.next().await;
            Some((update, follow))
        }))
    }
}

struct Follow {
    path: PathBuf,
    settling: Settling,
    /// The file at the last check, if it was there. `None`: it has not been checked. A missing file is an error at the first
    /// check.
    seen: Option<Option<Fingerprint>>,
    /// Fingerprint of the file since when it is open for writing without a change. `None`: it is not open.
    open: Option<(Fingerprint, Instant)>,
    /// Number of times in a row that the file was not what it had been by the time it was read.
    changes: u32,
}

impl Follow {
    async fn next(&mut self) -> ResolverUpdate {
        let name = self.path.to_string_lossy().into_owned();
        loop {
            let found = match self.seen {
                None => self.check().await,
                Some(_) if self.settling.is_pending(QUIET) => {
                    sleep(QUIET).await;
                    self.check().await
                }
                Some(seen) => self.changed(seen).await,
            };
            let first = self.seen.replace(found).is_none();
            let found: BTreeMap<_, _> = found.map(|found| (name.clone(), found)).into_iter().collect();
            if found.is_empty() && first {
                return ResolverUpdate::error(format!(
                    "file {:?} does not exist or cannot be accessed",
                    self.path
                ));
            }
            match self.settling.observe(&found, QUIET).pop() {
                None => {}
                Some((_, None)) => {
                    return ResolverUpdate::error(format!(
                        "file {:?} was removed or can no longer be accessed",
                        self.path
                    ));
                }
                Some((_, Some(fingerprint))) => match self.read(fingerprint).await {
                    Ok(None) if self.changes < CHANGES => {
                        self.changes += 1;
                        self.settling.retry(&name, Duration::ZERO);
                    }
                    Ok(None) => {
                        self.changes = 0;
                        self.settling.retry(&name, AGAIN);
                        return ResolverUpdate::error(format!(
                            "file {:?} cannot be read: it changes while it is read, or the system does not know its size",
                            self.path
                        ));
                    }
                    Err(ReadError::BeingWritten | ReadError::Young) => self.settling.retry(&name, INTERVAL),
                    Ok(Some(bytes)) => {
                        self.changes = 0;
                        let path = self.path.clone();
                        // Parsing tens of thousands of endpoints takes longer than RPCs may wait.
                        let parsed = workers::run(move || parse(&path, &bytes)).await;
                        return parsed.unwrap_or_else(|lost| {
                            ResolverUpdate::error(format!("file {:?} cannot be parsed: {lost}", self.path))
                        });
                    }
                    Err(error) => {
                        self.settling.retry(&name, AGAIN);
                        return ResolverUpdate::error(format!(
                            "file {:?} cannot be read: {error}",
                            self.path
                        ));
                    }
                },
            }
        }
    }

    /// Checks the file now, on a thread of the pool: on a network file system this may block.
    async fn check(&self) -> Option<Fingerprint> {
        let path = self.path.clone();
        workers::run(move || Fingerprint::at(&path)).await.unwrap_or_default()
    }

    /// Waits until the file is another one than it was, or is due again.
    async fn changed(&self, seen: Option<Fingerprint>) -> Option<Fingerprint> {
        let path = self.path.clone();
        let is_looking = Arc::new(AtomicBool::new(false));
        let looks = Arc::clone(&is_looking);
        let mut watch = workers::watch(INTERVAL, move || {
            looks.store(true, Ordering::Relaxed);
            let now = Fingerprint::at(&path);
            looks.store(false, Ordering::Relaxed);
            (now != seen).then_some(now)
        });
        let Some(mut again) = self.settling.again_at() else {
            return match watch.await {
                Ok(now) => now,
                Err(_) => self.check().await,
            };
        };
        loop {
            match timeout_at(again, &mut watch).await {
                Ok(Ok(now)) => return now,
                // If the file system hangs, another thread would hang as well.
                Err(_) if is_looking.load(Ordering::Relaxed) => again = Instant::now() + QUIET,
                Ok(Err(_)) | Err(_) => return self.check().await,
            }
        }
    }

    /// Reads the file, unless a process has it open for writing and has changed it less than [`OPEN`] ago.
    async fn read(&mut self, seen: Fingerprint) -> Result<Option<Vec<u8>>, ReadError> {
        let is_patient = !self.open.is_some_and(|(open, since)| open == seen && since.elapsed() >= OPEN);
        let path = self.path.clone();
        let read = if is_patient { files::read } else { files::read_open };
        let bytes = workers::run(move || read(&path, seen, LIMIT)).await;
        let bytes = bytes.unwrap_or_else(|lost| Err(std::io::Error::other(lost).into()));
        if !matches!(bytes, Err(ReadError::BeingWritten)) {
            self.open = None;
        } else if self.open.is_none_or(|(open, _)| open != seen) {
            let file = self.path.display();
            tracing::info!(%file, longest = ?OPEN, "endpoints file is open for writing: waiting");
            self.open = Some((seen, Instant::now()));
        }
        bytes
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    endpoints: Vec<Value>,
    service_config: Option<Value>,
}

fn parse(path: &Path, bytes: &[u8]) -> ResolverUpdate {
    let content = || -> Result<(Vec<Endpoint>, Option<Value>), String> {
        let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let content: Content = if path.extension().is_some_and(|extension| extension == "toml") {
            files::from_toml(text)?
        } else {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        };
        let endpoints = content.endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(at, value)| {
            record::endpoint(value).map_err(|error| format!("endpoint {}: {error}", at + 1))
        });
        Ok((endpoints.collect::<Result<_, _>>()?, content.service_config))
    };
    match content() {
        Ok((endpoints, None)) => ResolverUpdate::endpoints(endpoints),
        Ok((endpoints, Some(config))) => {
            ResolverUpdate::endpoints(endpoints).with_service_config(ServiceConfig::from_json(config))
        }
        Err(error) => ResolverUpdate::error(format!("file {path:?} is malformed: {}", error.trim_end())),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn parsed(name: &str, text: &str) -> Result<Vec<String>, String> {
        let endpoints =
            parse(Path::new(name), text.as_bytes()).endpoints.map_err(|error| error.to_string())?;
        Ok(endpoints
            .iter()
            .map(|endpoint| format!("{} x{}", endpoint.addresses()[0], endpoint.weight()))
            .collect())
    }

    #[test]
    fn json_and_toml_are_equivalent() {
        let json = r#"{"endpoints": [{"address": "a:1", "weight": 2}, {"address": "b:2"}]}"#;
        let toml = "[[endpoints]]\naddress = 'a:1'\nweight = 2\n[[endpoints]]\naddress = 'b:2'\n";
        let expected = Ok(vec!["a:1 x2".to_owned(), "b:2 x1".to_owned()]);
        assert_eq!(parsed("x.json", json), expected);
        assert_eq!(parsed("x.toml", toml), expected);
        assert_eq!(parsed("x", json), expected);
    }

    #[test]
    fn a_malformed_file_is_refused_with_its_name_and_place() {
        for (name, text, sentence) in [
            ("x.json", "{", "file \"x.json\" is malformed: EOF"),
            ("x.json", "{}", "missing field `endpoints`"),
            (
                "x.json",
                r#"{"endpoints": [{"address": "a:1"}, {"address": "b"}]}"#,
                "endpoint 2: address \"b\" has no port",
            ),
            ("x.json", r#"{"endpoint": []}"#, "unknown field `endpoint`"),
            ("x.toml", "endpoints = 1", "invalid type"),
        ] {
            let error = parsed(name, text).expect_err(text);
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn a_service_config_may_come_with_the_endpoints() {
        let update = parse(
            Path::new("x.toml"),
            b"endpoints = []\n[service_config]\nloadBalancingConfig = [{ color = {} }]",
        );
        let config = update.service_config.expect("a config").expect("a good one");
        assert_eq!(config.policies[0].name, "color");
        let update =
            parse(Path::new("x.json"), br#"{"endpoints": [], "service_config": {"methodConfig": 1}}"#);
        assert!(update.endpoints.is_ok() && update.service_config.is_some_and(|config| config.is_err()));
    }

    /// As are those of /proc: read, they are longer than the system says.
    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_file_of_unknown_size_is_an_error() {
        let resolver = FileResolver::new("/proc/version");
        let target: Target = "file:///proc/version".parse().expect("a target");
        let update = resolver.watch(&target, ResolveNow::default()).next().await.expect("an update");
        let error = update.endpoints.expect_err("no endpoints").to_string();
        assert!(error.contains("the system does not know its size"), "{error}");
    }
}
