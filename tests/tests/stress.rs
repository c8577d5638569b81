//! Storms of everything that changes, for some seconds; the bench `stress` has more time.

use std::time::Duration;

use hotpick_tests::hostile::Run;
use hotpick_tests::stress;

#[test]
fn a_storm_loses_no_rpc_and_leaves_nothing_behind() {
    let report = stress::storm(Run::new(Duration::from_secs(15)));
    println!("{report}");
    assert!(report.findings.is_empty(), "{report}");
    assert!(report.served > 1000 && report.cancelled > 100 && report.channels > 50, "a storm: {report}");
}
