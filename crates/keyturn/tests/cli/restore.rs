//! `keyturn recover --backup`: a database that cannot be undone is put back from the backup that the rotation made, on real
//! farms of which everything of Keyturn's was killed.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use serde_json::Value;
use sqlx::Connection as _;

use crate::recover::{
    assert_ends_rolled_back, assert_rows_under, assert_serving, bundle_of, hold, kill_at_each, killed, recover, states,
};
use crate::support::{run, text};
use crate::vault::VaultFarm;

/// The same with a folder for backups on the first node, killed at this phase; and the backup that Preflight made.
fn killed_with_backup(mut vault: VaultFarm, phase: &str) -> (VaultFarm, PathBuf) {
    vault.configure(0, "[backup]\ndirectory = \"backups\"\n");
    let vault = killed(vault, phase);
    let backup = only_backup(&vault);
    (vault, backup)
}

/// The backup that lies in the first node's folder.
pub(crate) fn only_backup(vault: &VaultFarm) -> PathBuf {
    let entries = std::fs::read_dir(vault.farm.path("backups")).expect("a folder");
    let mut backups = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ["db", "dump", "sql"].contains(&text(ending.as_ref()))));
    backups.next().expect("a backup was made")
}

/// What is behind the first page is gone, as after a failing disk, and so is the log.
fn damage_file(vault: &VaultFarm) {
    for (name, from) in [("vault.db", 4096), ("vault.db-wal", 0)] {
        let Ok(file) = std::fs::File::options().write(true).open(vault.farm.path(name)) else { continue };
        let bytes = file.metadata().expect("metadata").len();
        let garbage = vec![0x5a; usize::try_from(bytes.saturating_sub(from)).expect("it is small")];
        file.write_all_at(&garbage, from).expect("written");
    }
}

fn asks(vault: &VaultFarm, more: &[&str]) -> Value {
    serde_json::from_str(&recover(vault, 0, more).stdout).expect("JSON")
}

#[test]
fn a_damaged_file_is_moved_aside_and_the_backup_takes_its_place() {
    let (mut vault, backup) = killed_with_backup(VaultFarm::new(2), "verify");
    damage_file(&vault);
    let damaged = std::fs::read(vault.farm.path("vault.db")).expect("readable");
    let lost = recover(&vault, 0, &[]);
    assert_ne!(lost.code, 0, "it cannot be undone");

    // What the other node does nobody can say any more.
    let restore = ["--backup", text(&backup)];
    let waits = recover(&vault, 0, &restore);
    assert_eq!(waits.code, 4, "{}", waits.stderr);
    let waits: Value = serde_json::from_str(&waits.stdout).expect("JSON");
    assert_eq!(
        (&waits["verdict"], states(&waits, "done")),
        (&"wait".into(), vec!["take-offline".to_owned()]),
        "{waits}"
    );
    assert_eq!(std::fs::read(vault.farm.path("vault.db")).expect("readable"), damaged, "nothing was changed");

    let seen = [&restore[..], &["--others-offline"]].concat();
    let done = recover(&vault, 0, &seen).json();
    let all = [
        "take-offline",
        "load-backup",
        "put-in-place",
        "prove-key",
        "turn-back",
        "end-ledger",
        "start-instance",
        "admit-instance",
        "leave-mark",
        "discard-pending",
    ];
    assert_eq!(states(&done, "done"), all, "{done}");
    let aside = std::fs::read_dir(vault.farm.path("")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_log = |path: &str| path.ends_with("-wal") || path.ends_with("-shm");
    let mut aside = aside.filter(|path| text(path).contains("vault.db.damaged-") && !is_log(text(path)));
    assert_eq!(std::fs::read(aside.next().expect("it is kept")).expect("readable"), damaged);
    assert_rows_under(&vault, "old");
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");
    // The same again finds it in its place, and does not put it back a second time.
    let again = asks(&vault, &seen);
    assert_eq!((&again["verdict"], &again["steps"]), (&"whole".into(), &Value::Array(Vec::new())), "{again}");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn a_restore_that_was_killed_between_any_steps_goes_on() {
    goes_on_after_any_step(VaultFarm::new(1), damage_file);
}

#[test]
fn a_restore_on_mariadb_that_was_killed_between_any_steps_goes_on() {
    goes_on_after_any_step(VaultFarm::on_mariadb(1), |vault| {
        let lost = async {
            let mut connection = sqlx::MySqlConnection::connect(&vault.urls.agent).await?;
            sqlx::raw_sql("DROP TABLE connections, keyturn_rotation").execute(&mut connection).await?;
            connection.close().await
        };
        tokio::runtime::Runtime::new().expect("a runtime").block_on(lost).expect("dropped");
    });
}

fn goes_on_after_any_step(vault: VaultFarm, damage: impl Fn(&VaultFarm)) {
    let (mut vault, backup) = killed_with_backup(vault, "start");
    damage(&vault);
    let steps = ["load-backup", "put-in-place", "turn-back", "end-ledger", "put-file-back", "start-instance"];
    kill_at_each(&steps, &vault, &["--backup", text(&backup)]);
    recover(&vault, 0, &["--backup", text(&backup)]).done();
    assert_rows_under(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn a_backup_that_was_made_with_nobody_in_the_database_ends_the_rotation_that_is_open_in_it() {
    let mut vault = VaultFarm::new(1);
    hold(&vault, "reencrypt", &[]);
    let folder = vault.farm.path("backups");
    let made = run(["db", "backup", "--config", &vault.config(0), "--output-dir", &folder, "-o", "json"]).json();
    vault.kill_keyturn();
    damage_file(&vault);
    let done = recover(&vault, 0, &["--backup", made["path"].as_str().expect("a path")]).json();
    assert_eq!(done["verdict"], "back", "{done}");
    assert_rows_under(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn on_postgresql_the_two_databases_change_names_and_everybody_s_rights_are_as_before() {
    let (mut vault, backup) = killed_with_backup(VaultFarm::on_postgres(2), "verify");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let sql = |sql: &'static str| {
        runtime.block_on(async {
            let mut connection = sqlx::PgConnection::connect(&vault.urls.agent).await.expect("connected");
            let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("good SQL");
            connection.close().await.expect("closed");
            rows
        })
    };
    let rights = "SELECT tablename || ' ' || tableowner FROM pg_tables WHERE schemaname = 'public'
                  UNION ALL SELECT 'database ' || COALESCE(datacl::text, '') FROM pg_database WHERE datname = current_database()
                  ORDER BY 1";
    sql("ALTER DATABASE vault SET search_path = public, \"$user\"");
    let before = sql(rights);
    // Values that open under no key: the undo finds out in the middle.
    sql("UPDATE user_vault_entries SET password = 'DQwCAAAAAgBk' || md5(id::text) RETURNING 'x'");
    let stuck = recover(&vault, 0, &[]);
    assert_eq!(stuck.code, 4, "{}", stuck.stderr);

    let done = recover(&vault, 0, &["--backup", text(&backup)]).json();
    assert!(states(&done, "done").contains(&"put-in-place".to_owned()), "{done}");
    assert_rows_under(&vault, "old");
    assert_eq!(sql(rights), before);
    assert_eq!(sql("SHOW search_path"), ["public, \"$user\""]);
    let aside = sql("SELECT datname::text FROM pg_database WHERE datname LIKE 'vault_damaged_%'");
    assert_eq!(aside.len(), 1, "the damaged one is kept: {aside:?}");
    assert_eq!(sql("SELECT datname::text FROM pg_database WHERE datname LIKE 'keyturn_%'"), Vec::<String>::new());
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn on_mariadb_the_tables_change_places_and_what_is_none_is_as_before() {
    let vault = VaultFarm::on_mariadb(2);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let url = vault.urls.agent.clone();
    let sql = |sql: &'static str| {
        runtime.block_on(async {
            let mut connection = sqlx::MySqlConnection::connect(&url).await.expect("connected");
            let rows: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.expect("good SQL");
            connection.close().await.expect("closed");
            rows
        })
    };
    sql("CREATE VIEW named AS SELECT id, name FROM connections");
    sql("CREATE TRIGGER stays BEFORE INSERT ON connections FOR EACH ROW SET NEW.id = NEW.id");
    let (mut vault, backup) = killed_with_backup(vault, "verify");
    let things = "SELECT CONCAT(TABLE_NAME, ' ', TABLE_TYPE) FROM information_schema.TABLES
                  WHERE TABLE_SCHEMA = 'vault' AND TABLE_NAME NOT LIKE 'keyturn_%'
                  UNION ALL SELECT TRIGGER_NAME FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = 'vault' ORDER BY 1";
    let before = sql(things);
    assert!(before.len() >= 6, "{before:?}");
    // Values that open under no key: the undo finds out in the middle.
    sql("UPDATE user_vault_entries SET password = CONCAT('DQwCAAAAAgBk', MD5(id))");
    sql("DROP TRIGGER stays");
    let stuck = recover(&vault, 0, &[]);
    assert_eq!(stuck.code, 4, "{}", stuck.stderr);

    let done = recover(&vault, 0, &["--backup", text(&backup)]).json();
    assert!(states(&done, "done").contains(&"put-in-place".to_owned()), "{done}");
    assert_rows_under(&vault, "old");
    assert_eq!(sql(things), before);
    assert_eq!(sql("SELECT name FROM named LIMIT 1").len(), 1);
    let made = "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'vault_damaged_%'
                OR SCHEMA_NAME LIKE 'keyturn_%'";
    let aside = sql(made);
    assert!(aside.len() == 1 && aside[0].starts_with("vault_damaged_"), "the damaged one alone is kept: {aside:?}");
    // Ended before its last statement, it goes on with that.
    sql(format!("CREATE DATABASE {}", aside[0].replace("vault_damaged_", "keyturn_restored_")).leak());
    let done = recover(&vault, 0, &["--backup", text(&backup)]).json();
    assert!(states(&done, "done").contains(&"clear-up".to_owned()), "{done}");
    assert_eq!(sql(made), aside);
    recover(&vault, 1, &[]).done();
    assert_serving(&vault, "old");
    assert_ends_rolled_back(&mut vault);
}

#[test]
fn a_damaged_or_foreign_backup_is_refused_by_name_and_changes_nothing() {
    let (vault, backup) = killed_with_backup(VaultFarm::new(1), "verify");
    let whole = std::fs::read(&backup).expect("readable");
    // Whoever looks folds the log into the file.
    run(["recover", "--look", "--config", &vault.config(0)]).done();
    let before = std::fs::read(vault.farm.path("vault.db")).expect("readable");
    let refused = |what: &str, path: &str| {
        recover(&vault, 0, &["--backup", path]).failed(1, &["error[backup]", what, "nothing was changed", "next:"]);
        assert_eq!(std::fs::read(vault.farm.path("vault.db")).expect("readable"), before, "{what}");
    };
    std::fs::write(&backup, &whole[..whole.len() - 100]).expect("written");
    refused("it was cut off", text(&backup));
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 4;
    std::fs::write(&backup, &flipped).expect("written");
    refused("bytes in it changed", text(&backup));
    std::fs::write(&backup, &whole).expect("written");
    refused("cannot be found", &vault.farm.path("no.db"));

    let other = VaultFarm::new(1);
    let folder = other.farm.path("backups");
    let foreign = run(["db", "backup", "--config", &other.config(0), "--output-dir", &folder, "-o", "json"]).json();
    let foreign = foreign["path"].as_str().expect("a path");
    refused("is of database", foreign);
    std::fs::remove_file(format!("{foreign}.json")).expect("removed");
    refused("opens with a key of this node", foreign);
    // With a key that the backup is not under, too.
    let new = bundle_of(&vault, "new").active().secret.id().to_string();
    recover(&vault, 0, &["--backup", text(&backup), "--key", &new]).failed(1, &["opens with a key of this node"]);
    let look = recover(&vault, 0, &["--look", "--backup", text(&backup)]);
    assert_eq!(look.code, 2, "--yes and --look contradict each other: {}", look.stderr);
    let look = run(["recover", "--look", "-o", "json", "--config", &vault.config(0), "--backup", text(&backup)]).json();
    assert_eq!((&look["verdict"], states(&look, "planned").len()), (&"restore".into(), 3), "{look}");
    assert_eq!(std::fs::read(vault.farm.path("vault.db")).expect("readable"), before);
}
