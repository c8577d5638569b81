//! `hotpick compile-policy`: compiles one component for another process, within limits of CPU time and memory that the
//! operating system enforces. A component that crashes the compiler ends only this process.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// Compile a policy for the proxy. Internal: not for direct use.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Limit of CPU time in seconds; by default the value of HOTPICK_COMPILE_SECONDS, or 300.
    #[arg(long)]
    cpu_seconds: Option<u64>,
    /// Limit of address space in MiB.
    #[arg(long, default_value_t = 4096)]
    memory_mib: u64,
}

/// Default limit of CPU time in seconds.
const DEFAULT_SECONDS: u64 = 300;

/// Returns the command line with which the proxy compiles policies.
///
/// On Linux this is the running program, even if the file at its path has been replaced: the proxy cannot use code that
/// another version has compiled.
pub(crate) fn command() -> std::io::Result<Vec<std::ffi::OsString>> {
    let program = std::path::Path::new("/proc/self/exe");
    let program = if program.exists() { program.to_owned() } else { std::env::current_exe()? };
    Ok(vec![program.into(), "compile-policy".into()])
}

/// Sets the soft limit of a resource to `soft`, and its hard limit to `margin` more.
///
/// An inherited hard limit that is lower stays, because only root may raise it. The margin is for CPU time: at the soft
/// limit the process ends with SIGXCPU, which names the reason; at the hard limit it is killed.
fn lower(resource: Resource, soft: u64, margin: u64) -> rustix::io::Result<()> {
    let inherited = getrlimit(resource).maximum;
    let soft = inherited.map_or(soft, |inherited| inherited.min(soft));
    let hard =
        inherited.map_or(soft.saturating_add(margin), |inherited| inherited.min(soft.saturating_add(margin)));
    setrlimit(resource, Rlimit { current: Some(soft), maximum: Some(hard) })
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let from_environment = || std::env::var("HOTPICK_COMPILE_SECONDS").ok()?.parse().ok();
    let seconds = arguments.cpu_seconds.or_else(from_environment).unwrap_or(DEFAULT_SECONDS);
    lower(Resource::Cpu, seconds, 5).context("cannot limit the CPU time")?;
    lower(Resource::As, arguments.memory_mib.saturating_mul(1 << 20), 0)
        .context("cannot limit the memory")?;
    let mut component = Vec::new();
    std::io::stdin().read_to_end(&mut component).context("cannot read the component")?;
    // A long compilation must not take CPU time from RPCs.
    if component.len() > 1 << 20 {
        // Fails if the priority is already lower, because only root may raise it. It then stays lower.
        let _ = setpriority_process(None, 10);
    }
    match hotpick::policy::precompile(&component) {
        Ok(code) => {
            std::io::stdout().write_all(&code).context("cannot write the compiled component")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // The proxy reads this text.
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}
