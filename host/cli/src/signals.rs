//! The signals that end a program.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, and SIGHUP if the program ends with its terminal.
pub(crate) struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl EndSignals {
    /// Takes SIGTERM and SIGINT.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Takes SIGHUP as well, which a terminal sends when it is closed.
    pub(crate) fn with_hangup() -> anyhow::Result<Self> {
        Ok(Self { hangup: Some(of(SignalKind::hangup())?), ..Self::new()? })
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

fn of(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot register a signal handler")
}
