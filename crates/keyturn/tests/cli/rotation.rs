//! A whole rotation from the operator's side, with a real coordinator, agent, application and database: what the verbs ask,
//! refuse, print and exit with.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::db::sqlite;
use crate::support::Ran;
use crate::vault::{ROWS, VaultFarm};

#[test]
fn an_operator_plans_is_held_to_what_is_right_and_turns_the_keys() {
    let vault = VaultFarm::new(1);
    vault.rotation(&["start", "--bundle", "/nowhere", "--current-bundle", "/nowhere"]).failed(1, &["error[read-file]"]);
    vault.start_typing("new", "old", "demo\n").failed(1, &["error[", "next:"]);

    sqlite(vault.farm.path("vault.db").as_ref(), "CREATE VIRTUAL TABLE words USING fts5(c)");
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
    assert!(ran.stderr.contains("\nwords             it is a virtual table"), "{}", ran.stderr);
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

#[test]
fn a_plan_says_how_each_table_goes_and_why() {
    let vault = VaultFarm::new(1);
    let plan = vault.rotation(&["plan", "--strategy", "in-place", "-o", "json"]).json();
    for (name, table) in plan["plan"]["tables"].as_object().expect("tables") {
        assert_eq!(table["strategy"], "in-place", "{name}");
        assert!(table["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{name}: {table}");
        assert!(table["forecast_ms"].is_u64(), "{name}: {table}");
    }
    vault.rotation(&["abort"]).done();
    let text = vault.rotation(&["plan"]).done();
    for heading in ["STRATEGY", "FORECAST", "WHY"] {
        assert!(text.contains(heading), "{text}");
    }
    vault.rotation(&["plan", "--strategy", "by-hand"]).failed(2, &["in-place", "shadow", "auto"]);
}

#[test]
fn a_throttle_is_shown_and_taken_away_and_a_pause_goes_on() {
    let vault = VaultFarm::new(1);
    vault.rotation(&["throttle"]).failed(2, &["--rows-per-second"]);
    vault.rotation(&["throttle", "--rows-per-second", "0"]).failed(2, &["1.."]);
    vault.rotation(&["throttle", "--off"]).failed(1, &["error["]);
    vault.rotation(&["plan", "--strategy", "in-place", "--hold-at", "reencrypt"]).done();
    let throttled = vault.rotation(&["throttle", "--rows-per-second", "1000000", "-o", "json"]).json();
    assert_eq!(throttled["throttle_rows_per_second"], 1_000_000);
    let mut starting = vault.start("new", "old", &["--yes"]).spawn().expect("it runs");
    let mut progress = BufReader::new(starting.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("reencrypt, paused")), "it holds where it was told to");
    assert!(vault.rotation(&["status"]).done().contains("at most 1,000,000 rows a second"));
    let free = vault.rotation(&["throttle", "--off", "-o", "json"]).json();
    assert_eq!(free["throttle_rows_per_second"], Value::Null);
    vault.rotation(&["resume"]).done();
    progress.for_each(drop);
    let started: Ran = starting.wait_with_output().expect("it ends").into();
    assert_eq!(started.code, 0, "{}", started.stderr);
    vault.rotation(&["throttle", "--off"]).failed(1, &["error[no-rotation]"]);

    // Everything went in place, so nothing is kept.
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["kept_tables"], &report["retired_at_ms"]), (&Value::Array(Vec::new()), &Value::Null));
    assert_eq!(report["rest_digest_before"], report["rest_digest_after"]);
    vault.rotation(&["retire", "--yes"]).failed(1, &["error[nothing-kept]"]);
    let id = report["id"].as_str().expect("an id").to_owned();
    vault.rotation(&["retire", &id, "--yes"]).failed(1, &["error[nothing-kept]", "in place"]);
    vault.rotation(&["plan", "--strategy", "in-place"]).done();
    vault.rotation(&["abort"]).done();
    let list = vault.rotation(&["list", "-o", "json"]).json();
    let withdrawn = list[0]["id"].as_str().expect("an id").to_owned();
    vault.rotation(&["retire", &withdrawn, "--yes"]).failed(1, &["error[wrong-phase]", "withdrawn"]);
}

#[test]
fn copied_tables_are_kept_named_and_dropped_on_the_operators_word() {
    let vault = VaultFarm::new(1);
    let plan = vault.rotation(&["plan", "--strategy", "shadow", "-o", "json"]).json();
    let tables: Vec<String> = plan["plan"]["tables"].as_object().expect("tables").keys().cloned().collect();
    assert!(plan["plan"]["tables"].as_object().expect("tables").values().all(|table| table["strategy"] == "shadow"));
    vault.rotation(&["retire", "--yes"]).failed(1, &["error[nothing-kept]"]);
    let done = vault.turn();
    assert_eq!(done["kept_tables"], serde_json::json!(tables));
    assert!(vault.rotation(&["status"]).done().contains("keyturn rotation retire"));
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["adds_up"], &report["kept_tables"]), (&true.into(), &done["kept_tables"]));
    assert!(report["remains"][0]["place"].as_str().is_some_and(|place| place.contains("original tables")));

    // Not while another rotation is under way, and not when something else is typed.
    vault.rotation(&["plan"]).done();
    vault.rotation(&["retire", "--yes"]).failed(1, &["error[rotation-under-way]"]);
    vault.rotation(&["abort"]).done();
    vault.rotation(&["retire"]).failed(1, &["error[not-confirmed]", "nothing was dropped", tables[0].as_str()]);
    assert_eq!(
        vault.rotation(&["status", done["id"].as_str().expect("an id"), "-o", "json"]).json()["kept_tables"],
        done["kept_tables"]
    );

    let ran = vault.rotation(&["retire", "--yes", "-o", "json"]);
    let (old, new) = (done["old_key"].as_str().expect("a key"), done["new_key"].as_str().expect("a key"));
    for said in ["Warning:", old, new, tables[0].as_str(), "backups", "No value that the rotation turned", "excludes"] {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let retired = ran.json();
    assert_eq!((&retired["id"], &retired["kept_tables"]), (&done["id"], &Value::Array(Vec::new())));
    assert!(retired["retired_at_ms"].is_u64(), "{retired}");
    assert!(vault.rotation(&["report", done["id"].as_str().expect("an id")]).done().contains("were dropped"));
    vault.rotation(&["retire", "--yes"]).failed(1, &["error[nothing-kept]"]);
    vault.rotation(&["retire", done["id"].as_str().expect("an id"), "--yes"]).done();
}

/// A rotation in place with a budget of 40 seconds, which a throttle of five rows a second slows down once the farm is
/// offline: 20 seconds each to turn, and to read back, its hundred rows. Answers what `rotation start` ended with, and what
/// the status said while it was throttled.
fn throttled_with_a_budget(vault: &VaultFarm, on_budget: &str) -> (Ran, String) {
    let budget = ["--max-downtime", "40s", "--on-budget", on_budget];
    let plan = [&["plan", "--strategy", "in-place", "--hold-at", "reencrypt"], &budget[..]].concat();
    vault.rotation(&plan).done();
    vault.rotation(&["throttle", "--rows-per-second", "5"]).done();
    vault
        .start("new", "old", &["--yes"])
        .output()
        .map(Ran::from)
        .expect("it runs")
        .failed(1, &["error[downtime-budget]"]);
    vault.rotation(&["throttle", "--off"]).done();
    let mut starting = vault.start("new", "old", &["--yes"]).spawn().expect("it runs");
    let mut progress = BufReader::new(starting.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("It may be offline for 40")), "what is signed is said");
    assert!(progress.any(|line| line.contains("reencrypt, paused")), "it holds where it was told to");
    vault.rotation(&["throttle", "--rows-per-second", "5"]).done();
    let status = vault.rotation(&["status"]).done();
    vault.rotation(&["resume"]).done();
    progress.for_each(drop);
    (starting.wait_with_output().expect("it ends").into(), status)
}

#[test]
fn a_budget_is_signed_shown_and_turns_the_rotation_back_in_time() {
    let vault = VaultFarm::new(1);
    vault.rotation(&["plan", "--max-downtime", "forty"]).failed(2, &["1h30m"]);
    vault.rotation(&["plan", "--on-budget", "continue"]).failed(2, &["--max-downtime"]);
    vault.rotation(&["plan", "--max-downtime", "0s"]).failed(1, &["error[downtime-budget]"]);
    let refused = vault.rotation(&["plan", "--max-downtime", "3s"]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    for said in ["downtime-budget", "offline for about", "may be for 3 s", "--max-downtime"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    let planned = vault.rotation(&["plan", "--max-downtime", "40s", "-o", "json"]).json();
    let signed = serde_json::json!({"max_downtime_ms": 40_000, "on_budget": "undo"});
    assert_eq!((&planned["plan"]["budget"], &planned["plan"]["format"]), (&signed, &3.into()));
    assert_eq!((&planned["budget"]["used_ms"], &planned["budget"]["left_ms"]), (&0.into(), &40_000.into()));
    vault.rotation(&["abort"]).done();

    let (ended, status) = throttled_with_a_budget(&vault, "undo");
    assert!(status.contains("Budget") && status.contains("to go") && status.contains("back"), "{status}");
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!(report["faults"][0]["code"], "downtime-budget", "{report}");
    let budget = &report["budget"];
    assert!(budget["spent_at_ms"].is_u64(), "{report}");
    assert!(budget["used_ms"].as_u64().is_some_and(|used| used <= 40_000), "it is back within the budget: {report}");
    assert!(vault.rotation(&["report"]).done().contains("so it was undone"));
}

#[test]
fn a_budget_that_may_be_overrun_undoes_nothing_and_says_so() {
    let vault = VaultFarm::new(1);
    let (ended, _) = throttled_with_a_budget(&vault, "continue");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let report = vault.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["outcome"], &report["adds_up"]), (&"completed".into(), &true.into()));
    assert_eq!(report["faults"][0]["code"], "downtime-budget", "{report}");
    assert!(report["budget"]["spent_at_ms"].is_u64(), "{report}");
    assert!(vault.rotation(&["report"]).done().contains("going on as was asked for"));
}
