//! What cannot be seen from outside the engine: the plan of a batch, the limits of a page, a row that changes between
//! reading and writing.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;

use super::super::{Chunk, Dialect as _, Fields, PageLimit, Scan, Session, Use, Written};
use super::{Sqlite, catalog, ledger, rows};
use crate::Targets;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::table::{Change, KeyRange, Table};
use rotation::{ContentDigest, Direction, Epoch, LeaseNumber, RotationId, ShardId, ShardTally};

const ALL: PageLimit = PageLimit { rows_max: 1000, bytes_max: 1 << 20 };

async fn open(definition: &str, key: &[&str]) -> (TempDir, SqliteConnection, Table) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(directory.path().join("t.db")).create_if_missing(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(definition.to_owned())).execute(&mut connection).await.unwrap();
    let targets = format!("version = 1\n[[table]]\nname = 't'\nkey = {key:?}\n[[table.column]]\nname = 'c'\n");
    let targets = Targets::parse(&targets).unwrap();
    let table = catalog::tables(&mut connection, &targets, Use::Turn).await.unwrap().pop().unwrap();
    (directory, connection, table)
}

#[tokio::test]
async fn a_batch_finds_each_row_by_its_key_and_never_reads_the_whole_table() {
    for (definition, key) in [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB)", &["id"][..]),
        ("CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, c BLOB)", &["k"]),
        ("CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, c BLOB)", &["k"]),
        ("CREATE TABLE t (k TEXT COLLATE NOCASE NOT NULL, c BLOB, PRIMARY KEY (k COLLATE BINARY))", &["k"]),
        ("CREATE TABLE t (k BLOB PRIMARY KEY, c BLOB) WITHOUT ROWID", &["k"]),
        ("CREATE TABLE t (a INT NOT NULL, b TEXT NOT NULL, c BLOB, PRIMARY KEY (a, b))", &["a", "b"]),
        ("CREATE TABLE t (a INT, b TEXT, c BLOB, PRIMARY KEY (b, a)) WITHOUT ROWID", &["b", "a"]),
    ] {
        let (_directory, mut connection, table) = open(definition, key).await;
        let sql = format!("EXPLAIN QUERY PLAN {}", rows::update_sql(&table, 1000));
        let plan = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().any(|step| step.starts_with("SEARCH t USING")), "{definition}: {plan:?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN t") || step.contains("AUTOMATIC")), "{plan:?}");
    }
}

#[tokio::test]
async fn a_page_ends_before_its_byte_limit_but_has_one_row_at_least() {
    let (_directory, mut connection, table) = open(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB);
         INSERT INTO t VALUES (1, zeroblob(600)), (2, zeroblob(300)), (3, zeroblob(200)), (4, zeroblob(5000)), (5, NULL)",
        &["id"],
    )
    .await;
    let limit = PageLimit { rows_max: 4, bytes_max: 1000 };
    let mut range = KeyRange::default();
    let mut pages = Vec::new();
    loop {
        let page =
            rows::page(&mut connection, &Scan { table: &table, range: &range, fields: Fields::Registered }, limit)
                .await
                .unwrap();
        let Some(last) = page.last() else { break };
        range.after = Some(last.key.clone());
        pages.push(page.len());
    }
    assert_eq!(pages, [2, 1, 1, 1]);
}

#[tokio::test]
async fn a_row_that_changed_since_it_was_read_keeps_the_whole_chunk_from_being_written() {
    let (_directory, mut connection, table) =
        open("CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB); INSERT INTO t VALUES (1, 'a'), (2, 'b')", &["id"]).await;
    let rotation: RotationId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let mark = LedgerMark { rotation, epoch: Epoch::new(1), direction: Direction::Forward };
    let claim = Claim { mark, shard: ShardId::new(0), pass: Pass::Reencrypt, lease: LeaseNumber::new(1) };
    ledger::fence(&mut connection, &mark).await.unwrap();
    let before = ledger::enter(&mut connection, &claim).await.unwrap();
    let page = rows::page(
        &mut connection,
        &Scan { table: &table, range: &KeyRange::default(), fields: Fields::Registered },
        ALL,
    )
    .await
    .unwrap();
    let cursor = page[1].key.clone();
    let change = |row| Change { row, new: vec![Some(b"new".to_vec())] };
    let changes: Vec<Change> = page.into_iter().map(change).collect();
    let after = before.after(cursor, &ShardTally { rows: 2, ..ShardTally::default() }, ContentDigest::default());
    let chunk = Chunk { claim: &claim, table: &table, before: &before, after: &after, changes: &changes, into: None };
    for intrusion in
        ["UPDATE t SET c = 'z' WHERE id = 2", "UPDATE t SET c = NULL WHERE id = 2", "DELETE FROM t WHERE id = 2"]
    {
        sqlx::query(intrusion).execute(&mut connection).await.unwrap();
        assert_eq!(ledger::commit(&mut connection, &chunk).await.unwrap(), Written::RowsDiffer);
        let first: String =
            sqlx::query("SELECT c FROM t WHERE id = 1").fetch_one(&mut connection).await.unwrap().get(0);
        assert_eq!(first, "a", "nothing of the chunk is written");
        let record = ledger::record(&mut connection, &rotation, claim.shard, claim.pass).await.unwrap();
        assert_eq!(record, Some(ShardRecord::default()), "and the ledger stays");
    }
    sqlx::query("INSERT INTO t VALUES (2, 'b')").execute(&mut connection).await.unwrap();
    assert_eq!(ledger::commit(&mut connection, &chunk).await.unwrap(), Written::Committed);
    // The same chunk again is a second worker's: it no longer finds the ledger where it left it.
    assert!(ledger::commit(&mut connection, &chunk).await.is_err());
}

#[tokio::test]
async fn sessions_of_one_process_take_turns_at_writing_and_never_meet_a_locked_database() {
    let (directory, mut connection, _) = open("CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB)", &["id"]).await;
    let rotation: RotationId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let mark = LedgerMark { rotation, epoch: Epoch::new(1), direction: Direction::Forward };
    ledger::fence(&mut connection, &mark).await.unwrap();
    // The journal mode in which only writers meet each other. This connection stays open, as the last one to close
    // would lock everybody out for a moment.
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut connection).await.unwrap();
    let options = SqliteConnectOptions::new().filename(directory.path().join("t.db"));
    let mut dialect = Sqlite::new(options, Duration::ZERO);
    // So that whoever meets the lock fails at once.
    dialect.options = dialect.options.busy_timeout(Duration::ZERO);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(dialect.open().await.unwrap());
    }
    let write = async |mut session: Box<dyn Session>| {
        for _ in 0..100 {
            session.lift_fence(&mark).await.unwrap();
        }
    };
    let [first, second, third] = <[_; 3]>::try_from(sessions).map_err(drop).expect("three were opened");
    tokio::join!(write(first), write(second), write(third));
}
