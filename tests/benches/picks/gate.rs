//! Instructions, which are the same on a busy machine: counted by valgrind, and compared with those that are written
//! down.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// More than so much above what is written down is a fault.
const TOLERANCE: f64 = 1.05;

/// What more picks take more, by this program that is told how many.
fn per_pick(name: &str) -> f64 {
    const FEW: u32 = 2_000;
    const MANY: u32 = 12_000;
    let total = |picks: u32| -> f64 {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        command.arg(std::env::current_exe().expect("a program"));
        command.args(["count", name, &picks.to_string(), "1"]);
        let output = command.output().expect("valgrind runs");
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text.lines().find_map(|line| line.split_once("Collected : "));
        let (_, count) = collected.unwrap_or_else(|| panic!("no count: {text}"));
        count.trim().parse().expect("a number")
    };
    (total(MANY) - total(FEW)) / f64::from(MANY - FEW)
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
