//! `hotpick compile-policy`: compiles one component for another process, within limits that the system
//! enforces. Whatever the component does to the compiler, it does to this process alone.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// Used by the proxy; not meant for people.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds of CPU; by default what HOTPICK_COMPILE_SECONDS says.
    #[arg(long)]
    cpu_seconds: Option<u64>,
    /// MiB of address space.
    #[arg(long, default_value_t = 4096)]
    memory_mib: u64,
}

/// Without word of how long it may take.
const SECONDS: u64 = 300;

/// The command line that the proxy compiles by.
///
/// On Linux by the program that runs, whatever lies at its path by now: another version's code would be of no use here.
pub(crate) fn command() -> std::io::Result<Vec<std::ffi::OsString>> {
    let program = std::path::Path::new("/proc/self/exe");
    let program = if program.exists() { program.to_owned() } else { std::env::current_exe()? };
    Ok(vec![program.into(), "compile-policy".into()])
}

/// Sets a limit, or leaves the one that there is if it is lower: only root may raise that. The hard limit is `more` above: at the
/// soft one of CPU time the system says why it ends the process (SIGXCPU), at the hard one it kills it.
fn lower(resource: Resource, most: u64, more: u64) -> rustix::io::Result<()> {
    let inherited = getrlimit(resource).maximum;
    let most = inherited.map_or(most, |inherited| inherited.min(most));
    let maximum =
        inherited.map_or(most.saturating_add(more), |inherited| inherited.min(most.saturating_add(more)));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(maximum) })
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let said = || std::env::var("HOTPICK_COMPILE_SECONDS").ok()?.parse().ok();
    let seconds = arguments.cpu_seconds.or_else(said).unwrap_or(SECONDS);
    lower(Resource::Cpu, seconds, 5).context("limit the CPU time")?;
    lower(Resource::As, arguments.memory_mib.saturating_mul(1 << 20), 0).context("limit the memory")?;
    let mut component = Vec::new();
    std::io::stdin().read_to_end(&mut component).context("read the component")?;
    // What takes seconds must not take the processor from RPCs.
    if component.len() > 1 << 20 {
        // One that is lower already stays: only root may raise it.
        let _ = setpriority_process(None, 10);
    }
    match hotpick::policy::precompile(&component) {
        Ok(code) => {
            std::io::stdout().write_all(&code).context("write the compiled component")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // Read by the proxy.
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}
