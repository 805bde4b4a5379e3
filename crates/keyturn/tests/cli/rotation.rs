//! A whole rotation from the operator's side, with a real coordinator, agent, application and database: what the verbs ask,
//! refuse, print and exit with.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::support::Ran;
use crate::vault::{ROWS, VaultFarm};

#[test]
fn an_operator_plans_is_held_to_what_is_right_and_turns_the_keys() {
    let vault = VaultFarm::new(1);
    vault.rotation(&["start", "--bundle", "/nowhere", "--current-bundle", "/nowhere"]).failed(1, &["error[read-file]"]);
    vault.start_typing("new", "old", "demo\n").failed(1, &["error[", "next:"]);

    let planned = vault.rotation(&["plan", "-o", "json"]).json();
    assert_eq!((&planned["outcome"], &planned["phase"]), (&"running".into(), &"approval".into()));
    assert_eq!(planned["plan"]["tables"]["connections"]["rows"], 35);
    assert_eq!(planned["undecryptable"], Value::Array(Vec::new()));
    vault.rotation(&["plan"]).failed(1, &["error[rotation-under-way]"]);
    let report = vault.rotation(&["report"]).done();
    assert!(report.contains("none: the rotation is not finished"), "{report}");

    vault.start_typing("new", "old", "another farm\n").failed(1, &["error[not-confirmed]", "nothing was started"]);
    vault.start_typing("new", "old", "").failed(1, &["error[not-confirmed]"]);
    vault.start_typing("old", "new", "demo\n").failed(1, &["error[wrong-current-bundle]", "node-1"]);
    vault.start_typing("old", "old", "demo\n").failed(1, &["error[same-key]"]);
    assert_eq!(vault.rotation(&["status", "-o", "json"]).json()["phase"], "approval", "nothing was started");

    let ran = vault.start_typing("new", "old", "demo\n");
    assert!(ran.stderr.contains("Warning:") && ran.stderr.contains("quiesce"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("Nodes: node-1\nTables: attachments, connections, documentation, user_vault_entries\n"),
        "{}",
        ran.stderr
    );
    assert!(!ran.stderr.contains('\x1b'), "no colour and no cursor movements off a terminal");
    let done = ran.json();
    assert_eq!((&done["outcome"], &done["id"]), (&"completed".into(), &planned["id"]));
    assert_eq!(done["nodes"][0]["key_after"], done["new_key"]);

    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["adds_up"], &report["rows_verified"]), (&true.into(), &ROWS.into()));
    assert_eq!(report["remains"][0]["opened_by"], done["old_key"]);
    assert!(vault.rotation(&["report"]).done().contains("in encryption.2"));
    assert_eq!(vault.rotation(&["list", "-o", "json"]).json()[0]["outcome"], "completed");
    assert_eq!(vault.farm.as_operator(&["node", "list", "-o", "json"]).json()[0]["key"], done["new_key"]);
    assert_eq!(vault.rotation(&["watch", "-o", "json"]).json()["outcome"], "completed");
}

#[test]
fn an_abort_is_seen_as_one_by_whoever_waits() {
    let vault = VaultFarm::new(1);
    let planned = vault.rotation(&["plan", "--hold-at", "verify", "-o", "json"]).json();
    let mut starting = vault.start("new", "old", &["--yes"]).spawn().expect("it runs");
    let mut progress = BufReader::new(starting.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("verify, paused")), "it holds where it was told to");

    vault.rotation(&["retry"]).failed(1, &["error[not-stuck]"]);
    vault.start_typing("third", "old", "demo\n").failed(1, &["error[already-started]"]);
    let aborted = vault.rotation(&["abort", "--wait", "-o", "json"]);
    assert_eq!(aborted.code, 3, "{}", aborted.stderr);
    assert!(progress.any(|line| line.contains("undo:restore-rows")), "the undo is shown");
    // To the end, or the process would write into a closed pipe.
    progress.for_each(drop);
    let started: Ran = starting.wait_with_output().expect("it ends").into();
    assert_eq!(started.code, 3);
    let end: Value = serde_json::from_str(&started.stdout).expect("JSON");
    assert_eq!((&end["outcome"], &end["id"]), (&"rolled_back".into(), &planned["id"]));
    assert_eq!(end["faults"][0]["code"], "aborted");

    vault.rotation(&["abort"]).failed(1, &["error[no-rotation]"]);
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["outcome"], &report["adds_up"]), (&"rolled_back".into(), &false.into()));
    assert_eq!(report["remains"][0]["opened_by"], end["new_key"]);
}

#[test]
fn plan_and_report_say_what_a_clone_of_the_machine_could_open() {
    let vault = VaultFarm::new(1);
    let worth = "a clone of it, opens everything";
    let planned = vault.rotation(&["plan"]).done();
    assert!(planned.contains("Protector") && planned.contains(worth), "{planned}");
    vault.turn();
    let report = vault.rotation(&["report"]).done();
    assert!(report.contains("Protector") && report.contains(worth), "{report}");
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert!(report["nodes"][0]["protector"].as_str().is_some_and(|said| said.contains(worth)), "{report}");
}
