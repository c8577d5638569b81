//! Output of the demo: a picture that is redrawn on a terminal, plain lines elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use hotpick::channel::ChannelStatus;

/// The state of the demo at one moment.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) elapsed: Duration,
    pub(super) status: &'a ChannelStatus,
    /// RPCs per second, over about the last second.
    pub(super) rate: f64,
    pub(super) latencies: &'a Histogram<u64>,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) dials: u64,
    /// Name of each backend, and its share of the RPCs of about the last second (0 to 1).
    pub(super) shares: &'a [(String, f64)],
}

#[derive(Debug)]
pub(super) struct Screen {
    live: bool,
    /// Number of lines of the picture that is on the screen; 0 if there is none.
    drawn: usize,
}

const BAR: usize = 40;

impl Screen {
    pub(super) fn new(live: bool) -> Self {
        Self { live, drawn: 0 }
    }

    /// Returns the interval between two frames.
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(if self.live { 250 } else { 1000 })
    }

    /// Prints a line that stays on the screen.
    pub(super) fn say(&mut self, elapsed: Duration, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.erase(&mut out)?;
        writeln!(out, "{:5.1} s  {text}", elapsed.as_secs_f64())?;
        out.flush()
    }

    pub(super) fn draw(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let text = if self.live { picture(frame) } else { line(frame) };
        let mut out = io::stdout().lock();
        self.erase(&mut out)?;
        out.write_all(text.as_bytes())?;
        if self.live {
            self.drawn = text.lines().count();
        }
        out.flush()
    }

    fn erase(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        match std::mem::take(&mut self.drawn) {
            0 => Ok(()),
            // Moves up by this number of lines, and clears everything below.
            lines => write!(out, "\x1b[{lines}F\x1b[J"),
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
        frame.status.faults.fallback_picks,
        shares.join("  "),
    )
}

fn picture(frame: &Frame<'_>) -> String {
    let Frame { status, .. } = frame;
    let mut text = String::new();
    let seconds = frame.elapsed.as_secs_f64();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n  {seconds:5.1} s   policy {}   swaps {}", status.policy, status.swaps);
    let _ = writeln!(
        text,
        "  {:7.0} RPC/s   {}   {} ok   {} failed   {} dials",
        frame.rate,
        percentiles(frame.latencies),
        frame.succeeded,
        frame.failed,
        frame.dials
    );
    let faults = &status.faults;
    let last = faults.last.as_deref().map(|last| format!(": {last}")).unwrap_or_default();
    let _ = writeln!(text, "  {} faults, {} fallback picks{last}", faults.count, faults.fallback_picks);
    for (name, share) in frame.shares {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to BAR")]
        let filled = (share * BAR as f64).round() as usize;
        let bar = format!("{}{}", "█".repeat(filled.min(BAR)), "·".repeat(BAR.saturating_sub(filled)));
        let _ = writeln!(text, "  {name:10} {bar} {:5.1} %", share * 100.0);
    }
    text
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
