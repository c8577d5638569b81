//! Output of the demo: the view of `hotpick top` on a terminal, plain lines elsewhere.

use std::io::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use hotpick::channel::ChannelStatus;

use crate::watch::{App, Ask, Events, Listener, Terminal};

/// The state of the demo at one moment.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) elapsed: Duration,
    pub(super) status: &'a ChannelStatus,
    /// RPCs per second, over about the last second.
    pub(super) rate: f64,
    pub(super) latencies: &'a Histogram<u64>,
    pub(super) failed: u64,
    pub(super) dials: u64,
    /// Of all versions.
    pub(super) fallback_picks: u64,
    /// Name of each backend, and its share of the RPCs of about the last second (0 to 1).
    pub(super) shares: &'a [(String, f64)],
}

/// Where the demo is shown: plain lines, or the view of `hotpick top` with the demo's own lines.
pub(super) enum Screen {
    Plain,
    Live(Box<Live>),
}

/// The view of `hotpick top`, of the demo's own admin listener.
pub(super) struct Live {
    terminal: Terminal,
    app: App,
    events: Events,
    /// The view shows the latest state.
    is_drawn: bool,
    /// All lines of the demo, which are printed when the terminal is given back.
    said: Vec<String>,
}

impl Screen {
    /// Takes the terminal for the view of this admin listener.
    pub(super) async fn live(listener: &Listener) -> anyhow::Result<Self> {
        let events = Events::of(listener.get("/live", None).await?.into_body());
        let terminal = Terminal::take()?;
        Ok(Self::Live(Box::new(Live {
            terminal,
            app: App::default(),
            events,
            is_drawn: false,
            said: Vec::new(),
        })))
    }

    /// Returns the interval between two frames.
    pub(super) const fn interval() -> Duration {
        Duration::from_secs(1)
    }

    /// Shows a line that stays.
    pub(super) fn say(&mut self, elapsed: Duration, text: &str) -> anyhow::Result<()> {
        let line = format!("{:5.1} s  {text}", elapsed.as_secs_f64());
        match self {
            Self::Plain => writeln!(io::stdout().lock(), "{line}")?,
            Self::Live(live) => {
                live.said.push(line.clone());
                live.app.say(line);
                live.is_drawn = false;
            }
        }
        Ok(())
    }

    /// Shows numbers. The view has its own.
    pub(super) fn draw(&self, frame: &Frame<'_>) -> io::Result<()> {
        match self {
            Self::Plain => io::stdout().lock().write_all(line(frame).as_bytes()),
            Self::Live(_) => Ok(()),
        }
    }

    /// Keeps the view up to date until a key asks for the end. Never returns without a view. Cancel-safe.
    pub(super) async fn until_quit(&mut self) -> anyhow::Result<()> {
        let Self::Live(live) = self else { return std::future::pending().await };
        loop {
            // The future is made anew for each event of the demo: there may be nothing to draw.
            if !std::mem::replace(&mut live.is_drawn, true) {
                live.terminal.draw(&live.app)?;
            }
            tokio::select! {
                update = live.events.next() => match update {
                    Some(update) => {
                        live.is_drawn = false;
                        live.app.update(update);
                    }
                    None => return std::future::pending().await,
                },
                key = live.terminal.key() => {
                    live.is_drawn = false;
                    if live.app.apply(key) == Ask::Quit {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Gives the terminal back, with all lines of the demo.
    pub(super) fn end(&mut self) {
        if let Self::Live(live) = std::mem::replace(self, Self::Plain) {
            let Live { terminal, said, .. } = *live;
            drop(terminal);
            for line in said {
                println!("{line}");
            }
        }
    }
}

fn line(frame: &Frame<'_>) -> String {
    let shares: Vec<_> =
        frame.shares.iter().map(|(name, share)| format!("{name} {:.0} %", share * 100.0)).collect();
    format!(
        "{:5.1} s  {:6.0} RPC/s  {}  failed {}  dials {}  policy {}  swaps {}  fallback picks {}  {}\n",
        frame.elapsed.as_secs_f64(),
        frame.rate,
        percentiles(frame.latencies),
        frame.failed,
        frame.dials,
        frame.status.policy,
        frame.status.swaps,
        frame.fallback_picks,
        shares.join("  "),
    )
}

/// Formats the median and the 99th percentile of latencies, which are in microseconds.
pub(super) fn percentiles(latencies: &Histogram<u64>) -> String {
    let ms = |quantile| {
        #[expect(clippy::cast_precision_loss, reason = "for display")]
        let micros = latencies.value_at_quantile(quantile) as f64;
        micros / 1000.0
    };
    format!("p50 {:.2} ms  p99 {:.2} ms", ms(0.5), ms(0.99))
}
