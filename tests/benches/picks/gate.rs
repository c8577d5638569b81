//! Compares the instructions of a pick, counted by valgrind, with recorded counts. Unlike times, instruction counts are
//! the same on a busy machine.

use std::collections::BTreeMap;
use std::path::Path;

use hotpick_tests::bench::instructions;

/// Largest accepted ratio of a count to the recorded count.
const TOLERANCE: f64 = 1.05;

/// Returns the instructions of one pick: those of [`Channel::pick`](super::Channel::pick) in this program, divided by
/// the number of picks.
fn per_pick(name: &str) -> f64 {
    const PICKS: u32 = 20_000;
    let own = std::env::current_exe().expect("a program");
    let program = [&own.to_string_lossy(), "count", name, &PICKS.to_string(), "1"].map(str::to_owned);
    let count = instructions(&program, "picks::Channel::pick").expect("valgrind is installed");
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let count = count as f64;
    count / f64::from(PICKS)
}

/// Compares the counts with the recorded ones, or records them if `HOTPICK_WRITE_INSTRUCTIONS` is set. Returns whether
/// all counts are within the tolerance.
pub(crate) fn holds(names: &[&str]) -> bool {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/picks/instructions.txt");
    let recorded: BTreeMap<String, f64> = std::fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
        .collect();
    let (mut text, mut holds) = (String::new(), true);
    for name in names {
        let count = per_pick(name);
        text.push_str(&format!("{name}: {count:.0}\n"));
        let before = recorded.get(*name).copied();
        let ratio = before.map(|before| count / before);
        let is_within = ratio.is_some_and(|ratio| ratio <= TOLERANCE);
        holds &= is_within;
        let verdict = match ratio {
            None => "not recorded".to_owned(),
            Some(ratio) => {
                format!("{:+.1} %{}", (ratio - 1.0) * 100.0, if is_within { "" } else { ": TOO MANY" })
            }
        };
        println!("{name}: {count:.0} instructions, {verdict}");
    }
    if std::env::var_os("HOTPICK_WRITE_INSTRUCTIONS").is_some() {
        std::fs::write(&file, text).expect("written");
        return true;
    }
    if !holds {
        println!("to accept these counts, run again with HOTPICK_WRITE_INSTRUCTIONS=1, which records them");
    }
    holds
}
