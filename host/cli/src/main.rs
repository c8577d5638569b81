//! The command `hotpick`.

mod build;
mod cache;
mod check;
mod compile;
mod demo;
mod new;
mod proxy;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Load balancing for gRPC, by policies in WebAssembly.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show policies being swapped under load: four backends, one channel, no lost RPC.
    Demo(demo::Arguments),
    /// Balance the RPCs of other programs: a gRPC proxy on hotpick's channel.
    Proxy(proxy::Arguments),
    /// Begin a policy of your own, in any of nine languages.
    New(new::Arguments),
    /// Make components of policies, by the tool of their language.
    Build(build::Arguments),
    /// Try policies out: what they are, may do and cost, or why a channel would not take them.
    Check(check::Arguments),
    #[command(hide = true)]
    CompilePolicy(compile::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Proxy(arguments) => {
            log_to_stderr("info");
            proxy::run(arguments)
        }
        Command::New(arguments) => new::run(&arguments),
        Command::Build(arguments) => {
            log_to_stderr("warn");
            build::run(&arguments)
        }
        Command::Check(arguments) => {
            log_to_stderr("warn");
            check::run(&arguments)
        }
        Command::CompilePolicy(arguments) => compile::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("hotpick: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs at this level, or as `RUST_LOG` says.
///
/// h2 warns of frames that a peer sends as often as it likes: unless h2 is named, only its errors are logged.
fn log_to_stderr(level: &str) {
    let asked = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let asked = if asked.contains("h2") { asked } else { format!("{asked},h2=error") };
    let filter = EnvFilter::try_new(asked).unwrap_or_else(|_| EnvFilter::new(level));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        // It would say on the standard error that nothing can be said there, and panic: whatever logs, on a full disk.
        .log_internal_errors(false)
        .init();
}
