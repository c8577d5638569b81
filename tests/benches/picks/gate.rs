//! Instructions, which are the same on a busy machine: counted by valgrind, and compared with those that are written
//! down.

use std::collections::BTreeMap;
use std::path::Path;

use hotpick_tests::bench::instructions;

/// More than so much above what is written down is a fault.
const TOLERANCE: f64 = 1.05;

/// Of one of many picks: what [`Channel::pick`](super::Channel::pick) takes in this program, for so many.
fn per_pick(name: &str) -> f64 {
    const PICKS: u32 = 20_000;
    let own = std::env::current_exe().expect("a program");
    let program = [&own.to_string_lossy(), "count", name, &PICKS.to_string(), "1"].map(str::to_owned);
    let count = instructions(&program, "picks::Channel::pick").expect("there is valgrind");
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let count = count as f64;
    count / f64::from(PICKS)
}

/// Compares, or writes down if `HOTPICK_WRITE_INSTRUCTIONS` is set. Gives whether all is well.
pub(crate) fn holds(names: &[&str]) -> bool {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/picks/instructions.txt");
    let written: BTreeMap<String, f64> = std::fs::read_to_string(&file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(name, count)| (name.to_owned(), count.parse().expect("a number")))
        .collect();
    let (mut text, mut holds) = (String::new(), true);
    for name in names {
        let count = per_pick(name);
        text.push_str(&format!("{name}: {count:.0}\n"));
        let before = written.get(*name).copied();
        let ratio = before.map(|before| count / before);
        let is_well = ratio.is_some_and(|ratio| ratio <= TOLERANCE);
        holds &= is_well;
        let verdict = match ratio {
            None => "not written down".to_owned(),
            Some(ratio) => {
                format!("{:+.1} %{}", (ratio - 1.0) * 100.0, if is_well { "" } else { ": TOO MANY" })
            }
        };
        println!("{name}: {count:.0} instructions, {verdict}");
    }
    if std::env::var_os("HOTPICK_WRITE_INSTRUCTIONS").is_some() {
        std::fs::write(&file, text).expect("written");
        return true;
    }
    if !holds {
        println!("if that is as it must be: HOTPICK_WRITE_INSTRUCTIONS=1 writes the counts down");
    }
    holds
}
