//! Crashes, lost connections and workers that were stopped, on MariaDB and MySQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rotation::{Direction, FaultCode, Shard};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::farm::{Found, Place, Vault, request, stand_still, turned, under};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::{Make, Server, waits_for_a_row};

async fn one_large_shard(vault: &Vault, size: i64) -> Shard {
    vault.seed(size).await;
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    survey.shards.into_iter().find(|shard| shard.table == "connections").unwrap()
}

/// A row that is changed after it was read and before it is written. The writer is held up by a lock on the row until
/// the server says that it waits for it.
async fn a_row_changed_between_reading_and_writing_is_named_and_its_chunk_is_not_written(make: Make) {
    let vault = Vault::mariadb_on(Arc::new(Server::start_of(make, ""))).await;
    let shard = one_large_shard(&vault, 600).await;
    let before = vault.census().await;
    let mut intruder = vault.root().await;
    let mut transaction = intruder.begin().await.unwrap();
    sqlx::raw_sql("UPDATE connections SET password = NULL WHERE id = 0").execute(&mut *transaction).await.unwrap();
    let engine = vault.engine().await;
    let job = vault.job(&shard, 1, vault.mark(2, Direction::Forward));
    let work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
    let mut watcher = vault.root().await;
    while !waits_for_a_row(&mut watcher).await {
        assert!(!work.is_finished(), "{:?}", work.await);
    }
    transaction.commit().await.unwrap();
    let error = work.await.unwrap().unwrap_err();
    assert_eq!(error.code(), FaultCode::RowsChanged, "{error:?}");
    assert!(error.fault().message.contains("[\"i:0\"] changed"), "{error}");
    assert!(!error.is_retryable());
    let mut expected = before;
    expected.insert(("connections".into(), "password".into(), "0".into()), Found::Null);
    assert_eq!(vault.census().await, expected);
}

async fn a_row_that_stays_locked_is_a_fault_that_may_be_tried_again(make: Make) {
    let vault = Vault::made_by(make).await;
    vault.seed(100).await;
    let mut other = vault.root().await;
    let mut transaction = other.begin().await.unwrap();
    sqlx::query("UPDATE documents SET body = body || ''").execute(&mut *transaction).await.unwrap();
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let error = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (FaultCode::Database, true), "{error:?}");
    assert!(error.fault().message.contains("documents") && error.next_step().contains("lock"), "{error:?}");
    transaction.rollback().await.unwrap();
    vault.survey().await;
}

async fn an_interrupted_read_is_an_error_and_never_the_end_of_the_data(make: Make) {
    let vault = Vault::made_by(make).await;
    let shard = one_large_shard(&vault, 12_000).await;
    let engine = vault.engine().await;
    let mark = vault.mark(2, Direction::Forward);
    let cut = AtomicBool::new(false);
    // Ends the reader's session alone; the writer's, which has the name, could still say that all is done.
    let cut_reader = |_rows| {
        if !cut.swap(true, Ordering::SeqCst) {
            stand_still(async {
                let Place::Mariadb { agent, .. } = &vault.place else { panic!("MariaDB only") };
                let sql = format!(
                    "SELECT CAST(ID AS text) FROM information_schema.PROCESSLIST WHERE USER = '{agent}' AND ID NOT IN (
                         SELECT COALESCE(IS_USED_LOCK(holder), 0) FROM keyturn_shard)"
                );
                for row in vault.rows(&sql).await {
                    // One may have ended by itself.
                    let _ =
                        vault.try_run(&format!("KILL {}", String::from_utf8(row[0].clone().unwrap()).unwrap())).await;
                }
            });
        }
    };
    let error = engine.reencrypt(&vault.job(&shard, 1, mark), &cut_reader).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Database);
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(vault.text("SELECT CAST(max(done) AS text) FROM keyturn_shard").await, "0");
    let (old, new) = under(&vault.census().await);
    assert!(old > 0 && new > 0);
    let tally = engine.reencrypt(&vault.job(&shard, 1, mark), &|_| {}).await.unwrap();
    assert_eq!(tally.rows, 12_000);
    assert_eq!(tally, engine.verify(&vault.job(&shard, 2, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap());
}

async fn a_server_that_crashes_under_way_is_worked_on_again_from_the_last_chunk(make: Make) {
    let vault = Vault::mariadb_on(Arc::new(Server::start_of(make, ""))).await;
    let shard = one_large_shard(&vault, 12_000).await;
    let engine = vault.engine().await;
    let mark = vault.mark(2, Direction::Forward);
    let crashed = AtomicBool::new(false);
    let crash = |_rows| {
        if !crashed.swap(true, Ordering::SeqCst) {
            let Place::Mariadb { server, .. } = &vault.place else { panic!("MariaDB only") };
            server.crash_and_restart();
        }
    };
    let error = engine.reencrypt(&vault.job(&shard, 1, mark), &crash).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let tally = loop {
        match engine.reencrypt(&vault.job(&shard, 1, mark), &|_| {}).await {
            Ok(tally) => break tally,
            // It is still starting up.
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    };
    assert_eq!(tally.rows, 12_000);
    assert_eq!(tally, engine.verify(&vault.job(&shard, 2, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap());
    // The fence outlives the crash.
    assert!(vault.user().await.is_err());
}

async fn a_database_that_lost_history_or_is_another_one_is_told_by_its_position(make: Make) {
    let vault = Vault::made_by(make).await;
    let engine = vault.engine().await;
    let position = engine.position().await.unwrap();
    vault.seed(100).await;
    assert!(engine.position().await.unwrap().position > position.position, "what is written moves it on");
    engine.check_position(&position).await.unwrap();
    let mut ahead = position.clone();
    ahead.position += 1 << 30;
    let mut other = position.clone();
    other.identity = Vault::made_by(make).await.engine().await.identity().await.unwrap();
    for (lost, expected) in [(ahead, "history"), (other, "was")] {
        let error = engine.check_position(&lost).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DatabasePosition);
        assert!(error.fault().message.contains(expected), "{error}");
    }
}

/// A worker that was stopped inside a transaction holds its locks for as long as it stays stopped. Here it is a session
/// that has locked all that a chunk locks, and says nothing more.
async fn stopped_in_a_transaction(vault: &Vault, shard: &Shard) -> MySqlConnection {
    let Place::Mariadb { server, database, agent, .. } = &vault.place else { panic!("MariaDB only") };
    let mut stopped = MySqlConnection::connect(&server.url(agent, database)).await.unwrap();
    let sql = format!(
        "DO GET_LOCK('keyturn.stopped.{database}', 0);
         INSERT INTO keyturn_shard (rotation, shard, pass, epoch, lease, holder)
             VALUES ('{}', {}, 'reencrypt', 2, 1, '') ON DUPLICATE KEY UPDATE lease = lease;
         UPDATE keyturn_shard SET holder = 'keyturn.stopped.{database}' WHERE shard = {};
         BEGIN; SELECT 1 FROM keyturn_rotation LOCK IN SHARE MODE;
         UPDATE keyturn_shard SET rows_done = rows_done WHERE shard = {};
         UPDATE connections SET password = NULL WHERE id = 0",
        vault.rotation, shard.id, shard.id, shard.id
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut stopped).await.unwrap();
    stopped
}

async fn the_next_lease_ends_a_session_that_is_stopped_inside_its_chunk(make: Make) {
    let vault = Vault::made_by(make).await;
    let shard = one_large_shard(&vault, 6000).await;
    let before = vault.census().await;
    let engine = vault.engine().await;
    let mut stopped = stopped_in_a_transaction(&vault, &shard).await;
    engine.reencrypt(&vault.job(&shard, 2, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    assert!(sqlx::raw_sql("COMMIT").execute(&mut stopped).await.is_err(), "it woke to a lost connection");
    let row = &("connections".to_owned(), "password".to_owned(), "0".to_owned());
    assert_eq!(vault.census().await[row], turned(&before)[row]);
}

async fn an_undo_ends_a_session_that_is_stopped_inside_its_chunk(make: Make) {
    let vault = Vault::made_by(make).await;
    let shard = one_large_shard(&vault, 6000).await;
    let engine = vault.engine().await;
    engine.reencrypt(&vault.job(&shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    let mut stopped = stopped_in_a_transaction(&vault, &shard).await;
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    assert!(sqlx::raw_sql("COMMIT").execute(&mut stopped).await.is_err(), "it woke to a lost connection");
    engine.reencrypt(&vault.job(&shard, 2, vault.mark(4, Direction::Back)), &|_| {}).await.unwrap();
    assert_eq!(under(&vault.census().await).1, 0);
}

on_mariadb_and_mysql! {
    a_row_changed_between_reading_and_writing_is_named_and_its_chunk_is_not_written,
    a_row_that_stays_locked_is_a_fault_that_may_be_tried_again,
    an_interrupted_read_is_an_error_and_never_the_end_of_the_data,
    a_server_that_crashes_under_way_is_worked_on_again_from_the_last_chunk,
    a_database_that_lost_history_or_is_another_one_is_told_by_its_position,
    the_next_lease_ends_a_session_that_is_stopped_inside_its_chunk,
    an_undo_ends_a_session_that_is_stopped_inside_its_chunk,
}
