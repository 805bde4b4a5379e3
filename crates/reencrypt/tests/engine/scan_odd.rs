//! Looking through a whole database for what stands where nobody would look: behind what only begins like a header, as text,
//! in what rows were, in what a virtual table keeps; and what is found and cannot be registered.

use keys::KeySet;
use reencrypt::scan::{ColumnState, targets_file};
use reencrypt::{Engine, Targets};

use crate::farm::{Cell, TARGETS, Vault, on_both};
use crate::scan::{found, groups, scan, see_all, survey};

on_both! {
    async fn what_begins_like_a_header_by_chance_hides_none_behind_it(vault) {
        vault.run("CREATE TABLE odd (id integer PRIMARY KEY, t text);").await;
        let Cell::Text(text) = vault.base64("behind it") else { panic!("base64 values are text") };
        let texts = [
            format!("{{\"x\": \"ADQwzz\", \"p\": \"{text}\"}}"),
            format!("{{\"x\": \"DQwzz\", \"p\": \"{text}\"}}"),
            format!("{{\"id\": \"xDQw1\", \"p\": \"{text}\"}}"),
            format!("DQwReference99 {text}"),
            format!("DQwReference99 DQwCAAAAAA ADQwDQwDQw DQw,{text}"),
            "DQwReference99 and no value".to_owned(),
            format!("within{text}"),
        ];
        for (id, text) in (1..).zip(texts) {
            vault.insert("odd", &[vec![Cell::Integer(id), Cell::Text(text)]]).await;
        }
        see_all(&vault).await;
        assert_eq!(groups(found(&scan(&vault).await, "odd", "t")), ["symmetric ciphertext 2 within other text 5"]);
    }

    async fn a_text_full_of_beginnings_of_headers_stops_no_scan_and_hides_no_other_value(vault) {
        let long = if vault.is_mariadb() { "longtext" } else { "text" };
        vault.run(&format!("CREATE TABLE odd (id integer PRIMARY KEY, t {long});")).await;
        let Cell::Text(text) = vault.base64("behind it") else { panic!("base64 values are text") };
        let full = format!("{} {text}", "DQw".repeat(700_000));
        let nearly = format!("DQw{} {text}", " DQwCAAEAAX".repeat(50_000));
        for (id, text) in (1..).zip([full, nearly, text]) {
            vault.insert("odd", &[vec![Cell::Integer(id), Cell::Text(text)]]).await;
        }
        see_all(&vault).await;
        let report = scan(&vault).await;
        let groups = groups(found(&report, "odd", "t"));
        assert!(groups.contains(&"symmetric ciphertext 2 base64 1".to_owned()), "{groups:?}");
        // MySQL may give such texts up; then the column is named.
        let given_up = vault.is_mysql() && report.not_looked_into.iter().any(|unseen| unseen.table == "odd");
        assert!(given_up || groups.contains(&"symmetric ciphertext 2 within other text 2".to_owned()), "{groups:?}");
    }

    async fn what_is_registered_and_is_not_there_is_named(vault) {
        see_all(&vault).await;
        assert_eq!(scan(&vault).await.registered_problems, [""; 0]);
        let gone = "version = 1
            [[table]]
            name = \"connections\"
            key = [\"id\"]
            [[table.column]]
            name = \"pasword\"
            [[table]]
            name = \"conections\"
            key = [\"id\"]
            [[table.column]]
            name = \"password\"";
        let engine = Engine::connect(&vault.config, Targets::parse(gone).unwrap()).await.unwrap();
        let problems = engine.scan(&|_| {}).await.unwrap().registered_problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("table conections does not exist")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("\"pasword\"")), "{problems:?}");
    }

    async fn the_file_that_a_scan_writes_registers_nothing_that_is_refused(vault) {
        let blob = vault.types("{blob}");
        let keyed = if vault.is_mariadb() { "varchar(300)" } else { "text" };
        let columns: Vec<String> = (0..40).map(|at| format!("c{at} {blob}")).collect();
        vault.run(&format!("CREATE TABLE wide (id integer PRIMARY KEY, {});
                            CREATE TABLE keyed (secret {keyed} PRIMARY KEY);", columns.join(", "))).await;
        vault.insert("wide", &[[vec![Cell::Integer(1)], vec![vault.raw("one", ""); 40]].concat()]).await;
        vault.insert("keyed", &[vec![vault.base64("a key")]]).await;
        see_all(&vault).await;
        let report = scan(&vault).await;
        let obstacle = |table: &str, column: &str| found(&report, table, column).obstacle.clone().unwrap_or_default();
        assert!(obstacle("keyed", "secret").contains("both in its key and as an encrypted column"), "{}", obstacle("keyed", "secret"));
        let wide = report.found.iter().filter(|found| found.table == "wide");
        assert_eq!(wide.clone().filter(|found| found.obstacle.is_none()).count(), 32);
        assert!(wide.filter_map(|found| found.obstacle.clone()).all(|why| why.contains("32 columns")));
        let written = Targets::parse(&targets_file(&report, &Targets::none())).unwrap();
        assert_eq!(written.table("wide").unwrap().columns.len(), 32);
    }
}

#[tokio::test]
async fn what_a_full_text_table_of_sqlite_keeps_its_data_in_is_found_and_never_written() {
    let vault = Vault::sqlite_bare(TARGETS);
    let value = vault.literal(&vault.base64("in an index"));
    vault
        .run(&format!("CREATE VIRTUAL TABLE docs USING fts5(title, secret); INSERT INTO docs VALUES ('one', {value})"))
        .await;
    let report = scan(&vault).await;
    let content = found(&report, "docs_content", "c1");
    assert!(content.obstacle.as_ref().is_some_and(|why| why.contains("virtual table keeps its data")), "{content:?}");
    let by_hand = "version = 1\n[[table]]\nname = 'docs_content'\nkey = ['id']\n[[table.column]]\nname = 'c1'\nencoding = 'base64'";
    let refused = survey(&vault, &Targets::parse(by_hand).unwrap()).await.unwrap_err();
    assert!(refused.to_string().contains("virtual table keeps its data"), "{refused}");
}

/// As a driver leaves it that binds everything as text.
#[tokio::test]
async fn raw_values_that_sqlite_stores_as_text_are_found() {
    let vault = Vault::sqlite_bare(TARGETS);
    vault
        .run("CREATE TABLE bound (id INTEGER PRIMARY KEY, s BLOB); CREATE TABLE reals (id REAL PRIMARY KEY, s BLOB)")
        .await;
    let value = vault.literal(&vault.raw("bound as text", ""));
    vault
        .run(&format!("INSERT INTO bound VALUES (1, CAST({value} AS TEXT)); INSERT INTO reals VALUES (1.5, {value})"))
        .await;
    let report = scan(&vault).await;
    assert_eq!(groups(found(&report, "bound", "s")), ["symmetric ciphertext 2 raw 1"]);
    assert!(found(&report, "bound", "s").obstacle.is_none());
    let reals = found(&report, "reals", "s").obstacle.clone().unwrap_or_default();
    assert!(reals.contains("floating-point"), "{reals}");
}

#[tokio::test]
async fn a_sqlite_file_in_another_encoding_is_refused_by_whoever_looks() {
    let vault = Vault::sqlite_bare("version = 1\n[[table]]\nname = 't'\nkey = ['id']\n[[table.column]]\nname = 's'");
    vault.run("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT)").await;
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let engine = vault.engine().await;
    for refused in [
        engine.scan(&|_| {}).await.unwrap_err(),
        engine.doctor(&ring, &[], false, &|_| {}).await.unwrap_err(),
        survey(&vault, &vault.targets).await.unwrap_err(),
    ] {
        assert!(refused.to_string().contains("stores text as UTF-16le"), "{refused}");
    }
}

#[tokio::test]
async fn of_mariadb_raw_values_in_text_and_what_rows_were_are_found() {
    let vault = Vault::mariadb_bare(TARGETS).await;
    let (raw, text) = (vault.literal(&vault.raw("as text", "")), vault.literal(&vault.base64("gone")));
    vault
        .run(&format!(
            "CREATE TABLE latin (id int PRIMARY KEY, s varchar(300), t text, c char(200)) CHARACTER SET latin1;
             INSERT INTO latin VALUES (1, {raw}, {raw}, {raw});
             CREATE TABLE versioned (id int PRIMARY KEY, s text) WITH SYSTEM VERSIONING;
             INSERT INTO versioned VALUES (1, {text}); DELETE FROM versioned;"
        ))
        .await;
    see_all(&vault).await;
    let report = scan(&vault).await;
    for column in ["s", "t", "c"] {
        let found = found(&report, "latin", column);
        assert_eq!(groups(found), ["symmetric ciphertext 2 raw 1"]);
        assert!(found.obstacle.is_some(), "{found:?}");
    }
    let versioned = found(&report, "versioned", "s");
    assert_eq!(groups(versioned), ["symmetric ciphertext 2 base64 1"]);
    assert!(versioned.obstacle.is_some(), "{versioned:?}");
    survey(&vault, &vault.targets).await.unwrap_err();
}

#[tokio::test]
async fn the_databases_own_name_may_stand_for_the_schema_in_mariadb() {
    let vault = Vault::mariadb_bare(TARGETS).await;
    let value = vault.literal(&vault.raw("one", ""));
    vault
        .run(&format!(
            "CREATE TABLE a (id int PRIMARY KEY, s longblob); INSERT INTO a VALUES (1, {value});
             CREATE TABLE b (id int PRIMARY KEY, s longblob); INSERT INTO b VALUES (1, {value});"
        ))
        .await;
    see_all(&vault).await;
    vault.grant("a", "id", "s").await;
    let schema = vault.text("SELECT DATABASE()").await;
    let targets = Targets::parse(&format!(
        "version = 1\n[[table]]\nschema = '{schema}'\nname = 'a'\nkey = ['id']\n[[table.column]]\nname = 's'\n
         [[exclude]]\nschema = '{schema}'\ntable = 'b'\ncolumns = ['s']\nreason = 'r'"
    ))
    .unwrap();
    survey(&vault, &targets).await.unwrap();
    let report = Engine::connect(&vault.config, targets.clone()).await.unwrap().scan(&|_| {}).await.unwrap();
    let states: Vec<ColumnState> = report.found.iter().map(|found| found.state).collect();
    assert_eq!(states, [ColumnState::Registered, ColumnState::Excluded], "{:?}", report.found);
    assert_eq!(Targets::parse(&targets_file(&report, &targets)).unwrap().digest(), targets.digest());
}
