//! One farm, rotation after rotation, random faults: nothing is lost, and what came of it is counted.

use std::process::Command;

use serde_json::Value;

#[test]
fn random_faults_lose_nothing() {
    // A seed of its own each time: whichever fails is printed, and can be run again.
    let output = Command::new(env!("CARGO_BIN_EXE_keyturn"))
        .args(["soak", "--for", "60s", "--rows", "2000", "-o", "json"])
        .output()
        .expect("the binary runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let shown = format!("{stdout}\n{stderr}");
    assert_eq!(output.status.code(), Some(0), "{shown}");
    let soak: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {shown}"));
    for nothing in ["rotations_stuck", "requests_wrong", "rows_lost", "checks_failed"] {
        assert_eq!(soak[nothing], 0, "{nothing}: {shown}");
    }
    let count = |field: &str| soak[field].as_u64().unwrap_or_else(|| panic!("{field}: {shown}"));
    assert!(count("rotations_completed") + count("rotations_rolled_back") >= 2, "{shown}");
    assert!(count("requests_ok") > 0 && count("checks") > 20 && count("rows") >= 2_000, "{shown}");
    assert!(stderr.contains(&format!("soak: seed {}\n", count("seed"))), "the seed is printed: {shown}");
    assert!(stderr.lines().all(|line| !line.starts_with("demo: ")), "it tells under its own name: {shown}");
}
