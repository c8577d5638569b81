//! A storm of changes and RPCs for a few seconds. The benchmark `stress` runs longer.

use std::time::Duration;

use hotpick_tests::hostile::Run;
use hotpick_tests::stress;

#[test]
fn a_storm_loses_no_rpc_and_leaves_nothing_behind() {
    let report = stress::storm(Run::new(Duration::from_secs(15)));
    println!("{report}");
    assert!(report.findings.is_empty(), "{report}");
    assert!(
        report.served > 1000 && report.cancelled > 100 && report.channels > 50,
        "too little happened: {report}"
    );
}
