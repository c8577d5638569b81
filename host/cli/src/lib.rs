//! The command `hotpick`: demo, sidecar proxy, and tools for writing policies.
//!
//! A library, because Cargo compiles a library while those that it uses are still being optimised, and a program only
//! afterwards. Its only function is [`main`].

#[macro_use]
mod print;

mod build;
mod cache;
mod check;
mod compile;
mod demo;
mod new;
mod proxy;
mod replay;
mod signals;
mod sim;
mod watch;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// gRPC client-side load balancing with WebAssembly policies.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a demo that swaps policies under load: four backends, one channel, no failed RPC.
    Demo(demo::Arguments),
    /// Run a sidecar: a gRPC proxy that balances the RPCs of programs in any language.
    Proxy(proxy::Arguments),
    /// Watch a sidecar in a terminal: its channels, endpoints, policies and events.
    Top(watch::TopArguments),
    /// Print the RPCs of a sidecar as they end, one line each.
    Tap(watch::TapArguments),
    /// Create a project for a new policy, in one of nine languages or in WebAssembly text.
    New(new::Arguments),
    /// Build policies into components, with the tools of their language.
    Build(build::Arguments),
    /// Set up a Rust compiler that can build policies, unless there is one. Takes a minute without rustup.
    Toolchain(build::ToolchainArguments),
    /// Check policies: print what they import, may do and cost, or why a channel would reject them.
    Check(check::Arguments),
    /// Simulate policies in virtual time: latency, errors and balance in a scenario, with the components that will serve.
    Sim(sim::Arguments),
    /// Record a policy at work in a sidecar: what it is told, what it asks, what it picks, and how the RPCs end.
    Record(watch::RecordArguments),
    /// Steer the rollout of a policy in a sidecar: pause, resume, promote or abort it.
    Rollout(watch::RolloutArguments),
    /// Replay a recording: the same policy must pick the same again, and another one is compared with it.
    Replay(replay::Arguments),
    #[command(hide = true)]
    CompilePolicy(compile::Arguments),
}

/// Runs the command that the arguments of this process name, and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Proxy(arguments) => {
            log_to_stderr("info");
            proxy::run(arguments)
        }
        Command::Top(arguments) => watch::top(&arguments),
        Command::Tap(arguments) => watch::tap(&arguments),
        Command::New(arguments) => new::run(&arguments),
        Command::Build(arguments) => {
            log_to_stderr("warn");
            build::run(&arguments)
        }
        Command::Toolchain(arguments) => build::toolchain(&arguments),
        Command::Check(arguments) => {
            log_to_stderr("warn");
            check::run(&arguments)
        }
        Command::Sim(arguments) => {
            log_to_stderr("warn");
            sim::run(&arguments)
        }
        Command::Record(arguments) => watch::record(&arguments),
        Command::Rollout(arguments) => watch::rollout(&arguments),
        Command::Replay(arguments) => {
            log_to_stderr("warn");
            replay::run(&arguments)
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

/// Starts logging to stderr at this level, or with the filter in `RUST_LOG`.
///
/// Unless the filter names h2, only errors of h2 are logged: it logs a warning for invalid frames, of which a peer can
/// send any number.
fn log_to_stderr(level: &str) {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = if filter.contains("h2") { filter } else { format!("{filter},h2=error") };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(level));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(std::io::stderr)
        // Reporting a failed write goes to stderr, too, and would panic: when stderr is a file on a full disk, any
        // log line could end the process.
        .log_internal_errors(false)
        .init();
}
