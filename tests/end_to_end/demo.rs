//! The demo completes on both databases and prints the object of the contract.

use serde_json::Value;

use crate::support::Demo;

/// Rows with which some of the vault's tables are large enough to be copied, and some are not.
const LARGE: &str = "50000";

#[track_caller]
fn check_completed(demo: &Demo, database: &str, strategy: &str) {
    demo.assert_whole();
    let shown = format!("{}\n{}", demo.json, demo.stderr);
    assert_eq!(demo.json["outcome"], "completed", "{shown}");
    assert!(demo.number("rows_total") >= 20_000, "{shown}");
    assert_eq!(demo.number("rows_verified"), demo.number("rows_total"), "{shown}");
    assert_eq!(demo.number("rows_reencrypted"), demo.number("rows_total"), "{shown}");
    assert_eq!(demo.number("rows_undecryptable"), 0, "{shown}");
    assert_eq!(demo.number("leader_changes"), 0, "{shown}");
    assert!(demo.number("downtime_ms") > 0, "{shown}");
    assert!(demo.json["requests_refused"].is_u64(), "{shown}");
    let object = &demo.json["database"];
    assert_eq!(object["kind"], database, "{shown}");
    assert_eq!(object["strategy"], strategy, "{shown}");
    assert!(object["rows_per_second"].as_f64().is_some_and(|speed| speed > 0.0), "{shown}");
    let digest = object["content_digest_before"].as_str().expect("a digest");
    assert!(!digest.is_empty() && object["content_digest_after"] == digest, "{shown}");
    let names = |phase: &Value| phase["phase"].as_str().expect("a name").to_owned();
    let phases: Vec<String> = demo.json["phases"].as_array().expect("a list").iter().map(names).collect();
    assert_eq!(
        phases,
        [
            "preflight",
            "approval",
            "distribute",
            "quiesce",
            "reencrypt",
            "verify",
            "activate",
            "start",
            "admit",
            "completed"
        ],
        "{shown}"
    );
    for phase in demo.json["phases"].as_array().expect("a list") {
        assert!(phase["started_ms"].as_u64() <= phase["ended_ms"].as_u64(), "{shown}");
    }
    for node in demo.json["nodes"].as_array().expect("a list") {
        assert!(node["downtime_ms"].as_u64().is_some_and(|ms| ms > 0), "{shown}");
    }
}

#[test]
fn a_farm_on_sqlite_rotates_its_key_under_load() {
    let demo = Demo::run(&[]);
    check_completed(&demo, "sqlite", "in-place");
    crate::oracle::check(&demo);
}

#[test]
fn a_farm_on_mariadb_rotates_its_key_under_load() {
    check_completed(&Demo::run(&["--database", "mariadb"]), "mariadb", "in-place");
}

#[test]
fn a_farm_on_postgresql_rotates_its_key_under_load() {
    check_completed(&Demo::run(&["--database", "postgres"]), "postgres", "in-place");
}

#[test]
fn large_tables_on_postgresql_are_copied_and_swapped_in() {
    check_completed(&Demo::run(&["--database", "postgres", "--rows", LARGE]), "postgres", "in-place, shadow");
}

#[test]
fn what_was_swapped_in_is_swapped_back_when_an_instance_cannot_start() {
    let demo = Demo::run(&["--database", "postgres", "--rows", LARGE, "--fail", "instance@start"]);
    demo.assert_whole();
    let outcome = demo.json["outcome"].as_str().expect("an outcome");
    assert!(["completed", "rolled_back"].contains(&outcome), "{}\n{}", demo.json, demo.stderr);
}
