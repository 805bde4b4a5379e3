//! `keyturn recover` after everything of Keyturn's was killed for good: on each node the rows, `encryption.config` and the
//! instance come back under the old key, and coordinators that return end the rotation as rolled back.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use keys::{KeySet, Password, bundle};
use reencrypt::{DatabaseConfig, Engine, SurveyRequest, Targets};
use rotation::StrategyChoice;
use serde_json::Value;

use crate::sample_vault::TARGETS;
use crate::support::{Ran, keyturn, mode, run};
use crate::vault::{ROWS, VaultFarm};

/// How long a rotation may take to end once everybody is back.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Every table as a copy that is swapped in.
const SHADOW: [&str; 2] = ["--strategy", "shadow"];

/// A farm of two nodes whose rotation stood at this phase when the coordinator and all agents were killed.
fn killed_at(phase: &str) -> VaultFarm {
    killed(VaultFarm::new(2), phase)
}

pub(crate) fn killed(vault: VaultFarm, phase: &str) -> VaultFarm {
    killed_with(vault, phase, &[])
}

fn killed_with(mut vault: VaultFarm, phase: &str, more: &[&str]) -> VaultFarm {
    hold(&vault, phase, more);
    vault.kill_keyturn();
    vault
}

/// A rotation that is held as it enters this phase.
pub(crate) fn hold(vault: &VaultFarm, phase: &str, more: &[&str]) {
    vault.rotation(&[&["plan", "--hold-at", phase], more].concat()).done();
    let mut starting = vault.start("new", "old", &["--yes"]).spawn().expect("it runs");
    let mut progress = BufReader::new(starting.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let held = format!("{phase}, paused");
    assert!(progress.any(|line| line.contains(&held)), "it holds at {phase}");
    starting.kill().expect("it can be ended");
    starting.wait().expect("it ends");
}

/// Recovers the first node again and again, killed while the named step begins, each time a later one; the step itself may
/// or may not be done.
pub(crate) fn kill_at_each(steps: &[&str], vault: &VaultFarm, more: &[&str]) {
    let mut announced: Vec<String> = Vec::new();
    for step in steps {
        let begins = format!("] {step}:");
        // Before the kill reached it, it may have come further than it was to.
        if announced.iter().any(|line| line.contains(&begins)) {
            continue;
        }
        let mut recovering = keyturn()
            .args(["recover", "--yes", "--config", &vault.config(0)])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut lines = BufReader::new(recovering.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let begun = lines.any(|line| line.contains(&begins));
        recovering.kill().expect("it can be killed");
        recovering.wait().expect("it ends");
        assert!(begun, "{step} was still to be done");
        announced.extend(lines);
    }
}

pub(crate) fn recover(vault: &VaultFarm, number: usize, more: &[&str]) -> Ran {
    run([&["recover", "--yes", "-o", "json", "--config", &vault.config(number)], more].concat())
}

/// The farm's key, from the bundle and not from any node.
pub(crate) fn bundle_of(vault: &VaultFarm, name: &str) -> KeySet {
    let password = Password::from_file_bytes(b"correct horse\n".to_vec()).expect("a password");
    bundle::open(&std::fs::read(vault.farm.path(name)).expect("a bundle"), &password).expect("it opens")
}

/// Every registered value opens under the key of this bundle.
#[track_caller]
pub(crate) fn assert_rows_under(vault: &VaultFarm, bundle: &str) {
    let ring = bundle_of(vault, bundle);
    let config = DatabaseConfig::new(&vault.urls.agent);
    let survey = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let engine = Engine::connect(&config, Targets::parse(TARGETS).expect("targets")).await.expect("an engine");
        let request =
            SurveyRequest { ring: &ring, accepted: &[], shards_wanted: 1, strategy: StrategyChoice::Auto, agents: 1 };
        engine.survey(&request, &|_| {}).await.expect("read")
    });
    assert!(survey.tables.iter().map(|(_, table)| table.values).sum::<u64>() > 50, "there are values");
    assert_eq!(survey.undecryptable_total, 0, "{:?}", survey.undecryptable.first());
}

/// Every instance serves, and every store holds the key of this bundle.
#[track_caller]
pub(crate) fn assert_serving(vault: &VaultFarm, bundle: &str) {
    let key = bundle_of(vault, bundle).active().secret.id().to_string();
    for number in 0..2 {
        let observed = run(["sample-vault", "observe", "--dir", &vault.instance(number)]).done();
        assert_eq!(observed.trim(), "online", "node {number}");
        let look = run(["recover", "--look", "-o", "json", "--config", &vault.config(number)]).json();
        assert_eq!(look["files"][0]["name"], "encryption.config");
        assert_eq!(look["files"][0]["active_key"], key.as_str());
        assert_eq!((&look["verdict"], &look["steps"]), (&"whole".into(), &Value::Array(Vec::new())), "{look}");
    }
}

/// Coordinators that come back find the rotation recovered.
#[track_caller]
pub(crate) fn assert_ends_rolled_back(vault: &mut VaultFarm) {
    vault.revive_keyturn();
    let deadline = Instant::now() + END_LIMIT;
    // It was held when all died; the operator lets it go on, or ends it, and either way it hears of the recovery.
    loop {
        let aborted = vault.rotation(&["abort"]);
        match aborted.code {
            0 => break,
            5 => assert!(Instant::now() < deadline, "nobody leads: {}", aborted.stderr),
            _ => {
                assert!(aborted.stderr.contains("point-of-no-return"), "{}", aborted.stderr);
                vault.rotation(&["resume"]).done();
                break;
            }
        }
    }
    let ended = vault.rotation(&["watch", "-o", "json"]);
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let ended: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(ended["outcome"], "rolled_back", "{ended}");
    let key = bundle_of(vault, "old").active().secret.id().to_string();
    loop {
        let nodes = vault.farm.as_operator(&["node", "list", "-o", "json"]).json();
        let free = nodes.as_array().expect("a list").iter().all(|node| node["held_by_rotation"].is_null());
        let under = nodes.as_array().expect("a list").iter().all(|node| node["key"] == key.as_str());
        if free && under {
            break;
        }
        assert!(Instant::now() < deadline, "a node is still held: {nodes}");
    }
    vault.turn();
}

fn store(vault: &VaultFarm, number: usize) -> PathBuf {
    PathBuf::from(vault.farm.path(&format!("node-{}/store", number + 1)))
}

fn names(vault: &VaultFarm, number: usize) -> Vec<String> {
    let entries = std::fs::read_dir(store(vault, number)).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

#[track_caller]
pub(crate) fn states(json: &Value, state: &str) -> Vec<String> {
    let steps = json["steps"].as_array().expect("a list").iter();
    steps.filter(|step| step["state"] == state).map(|step| step["name"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn killed_in_verify_every_row_and_instance_comes_back() {
    let mut vault = killed_at("verify");
    assert_rows_under(&vault, "new");
    let first = recover(&vault, 0, &[]).json();
    assert_eq!(first["verdict"], "back");
    let all = [
        "take-offline",
        "note-offline",
        "turn-back",
        "restore-rows",
        "verify-rows",
        "end-ledger",
        "start-instance",
        "admit-instance",
        "leave-mark",
        "discard-pending",
    ];
    assert_eq!(states(&first, "done"), all);
    assert_rows_under(&vault, "old");
    // The second node finds the database undone, and only comes after.
    let second = recover(&vault, 1, &[]).json();
    assert_eq!(
        states(&second, "done"),
        ["prove-key", "start-instance", "admit-instance", "leave-mark", "discard-pending"]
    );
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn killed_after_the_files_were_switched_the_right_one_is_found_whatever_it_is_called() {
    let mut vault = killed_at("start");
    for number in 0..2 {
        let dated =
            names(&vault, number).into_iter().find(|name| name.starts_with("encryption.2")).expect("it is there");
        // Its name says another time, and a newer-looking file holds the key that must not come back.
        let store = store(&vault, number);
        std::fs::rename(store.join(&dated), store.join("encryption.20200101-000000.config")).expect("renamed");
        std::fs::copy(store.join("encryption.config"), store.join("encryption.20991231-235959.config"))
            .expect("copied");
    }
    for number in 0..2 {
        let done = recover(&vault, number, &[]).json();
        assert!(states(&done, "done").contains(&"put-file-back".to_owned()), "{done}");
        let expected = ["encryption.20991231-235959.config", "encryption.config", "encryption.config.bak"];
        assert_eq!(names(&vault, number), expected, "nothing is lost");
    }
    assert_rows_under(&vault, "old");
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn killed_with_instances_started_each_is_stopped_before_rows_go_back() {
    let mut vault = killed_at("admit");
    let waiting = recover(&vault, 0, &[]);
    assert_eq!(waiting.code, 4, "the other instance runs with the new key: {}", waiting.stderr);
    let waiting: Value = serde_json::from_str(&waiting.stdout).expect("JSON");
    assert_eq!((&waiting["verdict"], states(&waiting, "done").len()), (&"wait".into(), 2), "{waiting}");
    assert_rows_under(&vault, "new");
    recover(&vault, 1, &[]).done();
    assert_rows_under(&vault, "old");
    recover(&vault, 0, &[]).done();
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[track_caller]
fn comes_back_before_any_row_was_turned(vault: VaultFarm) {
    let mut vault = killed(vault, "reencrypt");
    for number in 0..2 {
        let done = recover(&vault, number, &[]).json();
        assert!(!states(&done, "done").contains(&"restore-rows".to_owned()), "{done}");
    }
    assert_rows_under(&vault, "old");
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn killed_before_any_row_was_turned_only_the_farm_is_let_in_again_on_postgresql() {
    comes_back_before_any_row_was_turned(VaultFarm::on_postgres(2));
}

#[test]
fn killed_before_any_row_was_turned_only_the_farm_is_let_in_again_on_mariadb() {
    comes_back_before_any_row_was_turned(VaultFarm::on_mariadb(2));
}

#[track_caller]
fn comes_back_with_instances_started(vault: VaultFarm, kind: &str) {
    let mut vault = killed(vault, "admit");
    assert_rows_under(&vault, "new");
    assert_eq!(recover(&vault, 0, &[]).code, 4, "the other instance runs with the new key");
    recover(&vault, 1, &[]).done();
    recover(&vault, 0, &[]).done();
    assert_rows_under(&vault, "old");
    assert_serving(&vault, "old");
    let folder = vault.farm.path("backups");
    let made = run(["db", "backup", "--config", &vault.config(0), "--output-dir", &folder, "-o", "json"]).json();
    assert_eq!(made["database"], kind);
    let names = std::fs::read_dir(&folder).expect("a folder").count();
    assert_eq!(names, 4, "the dump, its description, the archive and the lock, and no file with a password is left");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn killed_with_instances_started_on_postgresql_all_comes_back() {
    comes_back_with_instances_started(VaultFarm::on_postgres(2), "postgres");
}

#[test]
fn killed_with_instances_started_on_mariadb_all_comes_back() {
    comes_back_with_instances_started(VaultFarm::on_mariadb(2), "mariadb");
}

#[test]
fn killed_after_the_swap_the_originals_come_back() {
    for vault in [VaultFarm::new(2), VaultFarm::on_postgres(2), VaultFarm::on_mariadb(2)] {
        let mut vault = killed_with(vault, "start", &SHADOW);
        assert_rows_under(&vault, "new");
        for number in 0..2 {
            recover(&vault, number, &[]).done();
        }
        assert_rows_under(&vault, "old");
        assert_serving(&vault, "old");
        assert_ends_rolled_back(&mut vault);
    }
}

#[test]
fn past_the_point_of_no_return_it_goes_forward() {
    goes_forward(VaultFarm::new(2));
}

#[test]
fn past_the_point_of_no_return_it_goes_forward_on_mariadb() {
    goes_forward(VaultFarm::on_mariadb(2));
}

fn goes_forward(mut vault: VaultFarm) {
    hold(&vault, "admit", &SHADOW);
    // One node is admitted and the other cannot be reached, when everything dies.
    vault.kill_agent(1);
    vault.rotation(&["resume"]).done();
    let deadline = Instant::now() + END_LIMIT;
    while run(["sample-vault", "observe", "--dir", &vault.instance(0)]).done().trim() != "online" {
        assert!(Instant::now() < deadline, "it is not admitted");
    }
    vault.kill_keyturn();
    // The other one first: it must not go back.
    let second = recover(&vault, 1, &[]).json();
    assert_eq!(second["verdict"], "forward", "{second}");
    assert_eq!(recover(&vault, 0, &[]).json()["verdict"], "whole");
    assert_rows_under(&vault, "new");
    assert_serving(&vault, "new");
    vault.revive_keyturn();
    let ended = loop {
        let ended = vault.rotation(&["watch", "-o", "json"]);
        if ended.code != 5 {
            break ended;
        }
        assert!(Instant::now() < deadline + END_LIMIT, "nobody leads: {}", ended.stderr);
    };
    assert_eq!(ended.json()["outcome"], "completed");
}

#[test]
fn one_node_recovered_by_hand_the_other_follows_by_itself() {
    let mut vault = killed_at("verify");
    recover(&vault, 0, &[]).done();
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn a_recovery_that_was_killed_between_any_steps_goes_on() {
    let mut vault = killed_at("start");
    let steps =
        ["turn-back", "restore-rows", "verify-rows", "end-ledger", "put-file-back", "start-instance", "admit-instance"];
    kill_at_each(&steps, &vault, &[]);
    for number in 0..2 {
        recover(&vault, number, &[]).done();
    }
    assert_rows_under(&vault, "old");
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn an_older_backup_is_taken_with_the_key_that_was_named() {
    let mut vault = VaultFarm::new(2);
    let folder = vault.farm.path("backups");
    let made = run(["db", "backup", "--config", &vault.config(0), "--output-dir", &folder, "-o", "json"]).json();
    let backup = made["path"].as_str().expect("a path").to_owned();
    vault.turn();
    vault.kill_keyturn();
    for number in 0..2 {
        run(["sample-vault", "offline", "--dir", &vault.instance(number)]).done();
    }
    std::fs::remove_file(vault.farm.path("vault.db-wal")).ok();
    std::fs::remove_file(vault.farm.path("vault.db-shm")).ok();
    std::fs::copy(&backup, vault.farm.path("vault.db")).expect("copied");
    let old = bundle_of(&vault, "old").active().secret.id().to_string();
    let new = bundle_of(&vault, "new").active().secret.id().to_string();
    let refused = recover(&vault, 0, &["--key", &new]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    for number in 0..2 {
        let done = recover(&vault, number, &["--key", &old]).json();
        assert!(states(&done, "done").contains(&"put-file-back".to_owned()), "{done}");
    }
    assert_rows_under(&vault, "old");
    for number in 0..2 {
        let observed = run(["sample-vault", "observe", "--dir", &vault.instance(number)]).done();
        assert_eq!(observed.trim(), "online", "node {number}");
    }
}

#[test]
fn the_agent_must_be_stopped_and_the_farm_s_name_typed() {
    let mut vault = VaultFarm::new(1);
    recover(&vault, 0, &[]).failed(1, &["error[agent-running]", "next:"]);
    vault.stop_agent(0);
    let whole = recover(&vault, 0, &[]).json();
    assert_eq!((&whole["verdict"], &whole["steps"]), (&"whole".into(), &Value::Array(Vec::new())), "{whole}");

    run(["sample-vault", "offline", "--dir", &vault.instance(0)]).done();
    let observed = || run(["sample-vault", "observe", "--dir", &vault.instance(0)]).done().trim().to_owned();
    let typing = |typed: &str| {
        let mut command = keyturn();
        command.args(["recover", "--config", &vault.config(0)]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut recovering = command.stderr(Stdio::piped()).spawn().expect("it runs");
        recovering.stdin.take().expect("a pipe").write_all(typed.as_bytes()).expect("it reads");
        Ran::from(recovering.wait_with_output().expect("it ends"))
    };
    typing("").failed(2, &["nobody types the farm's name", "--yes"]);
    typing("another\n").failed(1, &["error[not-confirmed]", "demo"]);
    assert_eq!(observed(), "offline", "nothing was changed");
    typing("demo\n").done();
    assert_eq!(observed(), "online");
}

#[test]
fn a_backup_is_proved_made_for_its_owner_alone_and_holds_no_plaintext() {
    let vault = VaultFarm::new(1);
    let folder = vault.farm.path("backups");
    let arguments = ["db", "backup", "--config", &vault.config(0), "--output-dir", &folder, "-o", "json"];
    let made = run(arguments).json();
    assert_eq!(mode(Path::new(&folder)), 0o700);
    for file in [&made["path"], &made["folder_archive"]] {
        assert_eq!(mode(Path::new(file.as_str().expect("a path"))), 0o600, "{file}");
    }
    let tables = made["tables"].as_array().expect("a list");
    let sum = |field: &str| tables.iter().map(|table| table[field].as_u64().expect("a count")).sum::<u64>();
    assert_eq!((sum("rows"), sum("rows_restored"), sum("rows_opened")), (ROWS, ROWS, ROWS), "{made}");
    assert!(sum("values_opened") > 50, "{made}");
    assert_eq!(made["key"], bundle_of(&vault, "old").active().secret.id().to_string());

    // A folder that others may enter is refused, and so is a configuration that says nothing of one.
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("changed");
    run(arguments).failed(1, &["error[folder-exposed]"]);
    run(["db", "backup", "--config", &vault.config(0)]).failed(2, &["[backup] directory"]);
}
