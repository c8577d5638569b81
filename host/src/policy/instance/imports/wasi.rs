//! The parts of WASI 0.2 that language runtimes need. None of them reaches the machine: output becomes log lines,
//! clocks and randomness are those of `env`, environment and arguments are empty, and no directory is open. Functions
//! that need a resource which a policy cannot obtain here (a file, for example) trap.

use wasmtime::StoreContextMut;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
};

use super::state::HostState;
use super::tape::Question;
use crate::policy::instance::bindings::hotpick::policy::env;
use crate::policy::instance::time::now;

/// A resource type. Resources have no contents, here and below: only their types matter.
struct Pollable;
struct InputStream;
struct OutputStream;
struct IoError;
struct Descriptor;
struct DirectoryEntryStream;
struct TerminalInput;
struct TerminalOutput;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    #[allow(dead_code, reason = "a case of the type, which never happens")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

#[derive(ComponentType, Lift, Lower, Clone, Copy)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Context<'a> = StoreContextMut<'a, HostState>;

/// Maximum number of bytes that one call may write, or request at random.
const MOST: u64 = 64 << 10;

/// Provides the WASI functions that a component imports.
pub(crate) fn provide(linker: &mut Linker<HostState>, component: &Component) -> wasmtime::Result<()> {
    let engine = linker.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let Some(interface) = name.strip_prefix("wasi:") else { continue };
        let interface = interface.split('@').next().unwrap_or_default();
        let ComponentItem::ComponentInstance(instance) = import.ty else { continue };
        // Under the version that the component imports: these functions are the same in all versions 0.2.x.
        let mut linker = linker.instance(name)?;
        for (item, export) in instance.exports(&engine) {
            match export.ty {
                ComponentItem::ComponentFunc(_) => function(&mut linker, interface, item)?,
                ComponentItem::Resource(_) => resource(&mut linker, item)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn resource(linker: &mut LinkerInstance<'_, HostState>, name: &str) -> wasmtime::Result<()> {
    let resource = match name {
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "error" => ResourceType::host::<IoError>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        "directory-entry-stream" => ResourceType::host::<DirectoryEntryStream>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        _ => ResourceType::host::<TerminalOutput>(),
    };
    linker.resource(name, resource, |_, _| Ok(()))
}

fn function(linker: &mut LinkerInstance<'_, HostState>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match (interface, name) {
        ("cli/environment", "get-environment") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((Vec::<(String, String)>::new(),)))
        }
        ("cli/environment", "get-arguments") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((Vec::<String>::new(),)))
        }
        ("cli/environment", "initial-cwd") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((None::<String>,)))
        }
        ("cli/exit", "exit") => linker.func_wrap(name, |_: Context<'_>, (_,): (Result<(), ()>,)| {
            Err::<(), _>(wasmtime::Error::msg("called exit"))
        }),
        ("cli/stdin", "get-stdin") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((Resource::<InputStream>::new_own(0),)))
        }
        ("cli/stdout" | "cli/stderr", _) => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((Resource::<OutputStream>::new_own(0),)))
        }
        ("cli/terminal-stdin", "get-terminal-stdin") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((None::<Resource<TerminalInput>>,)))
        }
        ("cli/terminal-stdout" | "cli/terminal-stderr", _) => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((None::<Resource<TerminalOutput>>,)))
        }
        ("io/streams", _) => stream(linker, name),
        ("io/poll", "[method]pollable.ready") => {
            linker.func_wrap(name, |_: Context<'_>, (_,): (Resource<Pollable>,)| Ok((true,)))
        }
        // Every pollable is ready at once: a policy must not block.
        ("io/poll", "[method]pollable.block") => {
            linker.func_wrap(name, |_: Context<'_>, (_,): (Resource<Pollable>,)| Ok(()))
        }
        ("io/poll", "poll") => {
            linker.func_wrap(name, |_: Context<'_>, (all,): (Vec<Resource<Pollable>>,)| {
                Ok(((0u32..).take(all.len()).collect::<Vec<_>>(),))
            })
        }
        ("clocks/monotonic-clock", "now") => linker.func_wrap(name, |mut context: Context<'_>, ()| {
            Ok((context.data_mut().answered(Question::wasi_clock(0), |_| now()),))
        }),
        ("clocks/wall-clock", "resolution") => linker
            .func_wrap(name, |_: Context<'_>, ()| Ok((Datetime { seconds: 0, nanoseconds: 1_000_000 },))),
        ("clocks/monotonic-clock", "resolution") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((1_000u64,)))
        }
        ("clocks/monotonic-clock", "subscribe-instant" | "subscribe-duration") => {
            linker.func_wrap(name, |_: Context<'_>, (_,): (u64,)| Ok((Resource::<Pollable>::new_own(0),)))
        }
        ("clocks/wall-clock", "now") => linker.func_wrap(name, |mut context: Context<'_>, ()| {
            Ok((wall_clock(context.data_mut().answered(Question::wasi_clock(1), |_| now())),))
        }),
        ("random/random", "get-random-bytes") | ("random/insecure", "get-insecure-random-bytes") => linker
            .func_wrap(name, |mut context: Context<'_>, (len,): (u64,)| {
                let len = usize::try_from(len.min(MOST + 1)).unwrap_or(usize::MAX);
                wasmtime::ensure!(len as u64 <= MOST, "asked for more than {MOST} random bytes");
                let bytes = context.data_mut().answered(Question::wasi_random_bytes(len as u64), |state| {
                    let mut bytes = vec![0; len];
                    state.random.fill(&mut bytes);
                    bytes
                });
                Ok((bytes,))
            }),
        ("random/random", "get-random-u64") | ("random/insecure", "get-insecure-random-u64") => linker
            .func_wrap(name, |mut context: Context<'_>, ()| {
                let question = Question::wasi_random_number(0);
                Ok((context.data_mut().answered(question, |state| state.random.u64(..)),))
            }),
        ("random/insecure-seed", "insecure-seed") => {
            linker.func_wrap(name, |mut context: Context<'_>, ()| {
                let seed = |state: &mut HostState| (state.random.u64(..), state.random.u64(..));
                Ok((context.data_mut().answered(Question::wasi_random_seed(0), seed),))
            })
        }
        ("filesystem/preopens", "get-directories") => {
            linker.func_wrap(name, |_: Context<'_>, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))
        }
        _ => {
            let called = format!("called wasi:{interface} {name}, which this host does not support");
            linker.func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(called.clone())))
        }
    }
}

fn stream(linker: &mut LinkerInstance<'_, HostState>, name: &str) -> wasmtime::Result<()> {
    type Written = Result<(), StreamError>;
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            linker.func_wrap(name, |_: Context<'_>, (_, _): (Resource<InputStream>, u64)| {
                Ok((Err::<Vec<u8>, _>(StreamError::Closed),))
            })
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => linker
            .func_wrap(name, |_: Context<'_>, (_, _): (Resource<InputStream>, u64)| {
                Ok((Err::<u64, _>(StreamError::Closed),))
            }),
        "[method]input-stream.subscribe" => linker
            .func_wrap(name, |_: Context<'_>, (_,): (Resource<InputStream>,)| {
                Ok((Resource::<Pollable>::new_own(0),))
            }),
        "[method]output-stream.subscribe" => linker
            .func_wrap(name, |_: Context<'_>, (_,): (Resource<OutputStream>,)| {
                Ok((Resource::<Pollable>::new_own(0),))
            }),
        "[method]output-stream.check-write" => linker
            .func_wrap(name, |_: Context<'_>, (_,): (Resource<OutputStream>,)| {
                Ok((Ok::<_, StreamError>(MOST),))
            }),
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => linker.func_wrap(
            name,
            |mut context: Context<'_>, (_, bytes): (Resource<OutputStream>, Vec<u8>)| {
                context.data_mut().print(&bytes);
                Ok((Written::Ok(()),))
            },
        ),
        "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            linker.func_wrap(name, |_: Context<'_>, (_, _): (Resource<OutputStream>, u64)| {
                Ok((Written::Ok(()),))
            })
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            linker.func_wrap(name, |_: Context<'_>, (_,): (Resource<OutputStream>,)| Ok((Written::Ok(()),)))
        }
        _ => {
            let called = format!("called wasi:io/streams {name}, which this host does not support");
            linker.func_new(name, move |_, _, _, _| Err(wasmtime::Error::msg(called.clone())))
        }
    }
}

/// Returns a time of day that does not come from the machine: a policy must behave the same at every time of day.
/// Runtimes use the time of day as a seed, or in log lines, which have timestamps of their own.
const fn wall_clock(nanos: u64) -> Datetime {
    Datetime { seconds: nanos / 1_000_000_000, nanoseconds: (nanos % 1_000_000_000) as u32 }
}

impl HostState {
    /// Logs printed text, line by line. A line that exceeds the limit is split.
    fn print(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().take(usize::try_from(MOST).unwrap_or(usize::MAX)) {
            if *byte == b'\n' || self.line.len() >= self.limits.log_line {
                let line = std::mem::take(&mut self.line);
                self.write(env::Level::Info, &String::from_utf8_lossy(&line));
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            }
        }
    }
}
