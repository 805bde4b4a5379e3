//! Tables and settings that an application may have and that once stopped a rotation under way.

use std::sync::Arc;

use reencrypt::{Engine, Targets};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::farm::{Cell, Place, Vault};
use crate::mariadb::Server;
use crate::scan::{scan, see_all, survey};

const TARGETS: &str = "version = 1
    [[table]]
    name = 't'
    key = ['id']
    [[table.column]]
    name = 's'";

#[tokio::test]
async fn a_table_of_sqlite_turns_with_as_many_columns_as_can_be_read_and_is_refused_with_more() {
    let vault = Vault::sqlite_bare(TARGETS);
    let columns: Vec<String> = (0..1_990).map(|at| format!("c{at} INT DEFAULT {at}")).collect();
    vault.run(&format!("CREATE TABLE t (id INTEGER PRIMARY KEY, s BLOB, {})", columns.join(", "))).await;
    for id in 0..40 {
        vault.insert("t (id, s)", &[vec![Cell::Integer(id), vault.raw("one of many", "")]]).await;
    }
    assert_eq!(vault.there_and_back().await, 40);
    vault
        .run(
            "ALTER TABLE t ADD COLUMN c1990; ALTER TABLE t ADD COLUMN c1991; ALTER TABLE t ADD COLUMN c1992; \
               ALTER TABLE t ADD COLUMN c1993; ALTER TABLE t ADD COLUMN c1994; ALTER TABLE t ADD COLUMN c1995; \
               ALTER TABLE t ADD COLUMN c1996; ALTER TABLE t ADD COLUMN c1997",
        )
        .await;
    let refused = vault.engine().await.check_targets().await.unwrap_err().to_string();
    assert!(refused.contains("more columns than SQLite reads at once"), "{refused}");
}

#[tokio::test]
async fn an_index_of_sqlite_in_the_order_of_the_applications_own_keeps_no_rotation() {
    let vault = Vault::sqlite_bare(TARGETS);
    let Place::Sqlite { directory } = &vault.place else { panic!("it is SQLite") };
    let options = SqliteConnectOptions::new().filename(directory.path().join("vault.db"));
    let mut application =
        SqliteConnection::connect_with(&options.collation("backwards", |one, other| other.cmp(one))).await.unwrap();
    let rows: Vec<String> =
        (0..40).map(|id| format!("({id}, {}, 'name {id}')", vault.literal(&vault.raw("one", "")))).collect();
    let sql = format!(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, s BLOB, name TEXT COLLATE backwards); CREATE INDEX by_name ON t (name);
         INSERT INTO t VALUES {}",
        rows.join(", ")
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut application).await.unwrap();
    application.close().await.unwrap();
    assert_eq!(vault.there_and_back().await, 40);
}

#[tokio::test]
async fn a_server_of_mariadb_that_cannot_keep_the_ledger_says_so_before_anybody_is_offline() {
    let vault = Vault::mariadb_on(Arc::new(Server::start(""))).await;
    vault.seed(30).await;
    vault.run("SET GLOBAL enforce_storage_engine = 'Aria'").await;
    let refused = survey(&vault, &vault.targets).await.unwrap_err().fault();
    assert!(refused.message.contains("enforce_storage_engine"), "{refused:?}");
    vault.run("SET GLOBAL enforce_storage_engine = NULL").await;
    vault.there_and_back().await;
}

#[tokio::test]
async fn pages_of_mariadb_that_are_too_small_for_the_ledgers_keys_are_named() {
    let vault = Vault::mariadb_on(Arc::new(Server::start("--innodb-page-size=4k"))).await;
    vault.seed(30).await;
    let refused = survey(&vault, &vault.targets).await.unwrap_err().fault();
    assert!(refused.message.contains("innodb_page_size"), "{refused:?}");
}

#[tokio::test]
async fn a_table_of_mariadb_that_cannot_be_opened_keeps_the_others_from_nothing() {
    let vault = Vault::mariadb_bare(TARGETS).await;
    vault
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, s longblob);
             CREATE TABLE part (id int PRIMARY KEY, z blob) ENGINE = MyISAM;
             CREATE TABLE merged (id int, z blob) ENGINE = MERGE UNION = (part);
             DROP TABLE part",
        )
        .await;
    vault.insert("t", &[vec![Cell::Integer(1), vault.raw("one", "")]]).await;
    vault.grant("t", "id", "s").await;
    see_all(&vault).await;
    let report = scan(&vault).await;
    assert!(report.not_looked_into.iter().any(|unseen| unseen.table == "merged"), "{:?}", report.not_looked_into);
    let both = format!("{TARGETS}\n[[table]]\nname = 'merged'\nkey = ['id']\n[[table.column]]\nname = 'z'");
    let engine = Engine::connect(&vault.config, Targets::parse(&both).unwrap()).await.unwrap();
    let registered = engine.scan(&|_| {}).await.unwrap();
    assert!(registered.registered_problems.iter().any(|problem| problem.contains("merged")), "{registered:?}");
    assert_eq!(registered.found.len(), 1, "{registered:?}");
    assert_eq!(vault.there_and_back().await, 1);
}
