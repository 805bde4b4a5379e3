//! Crashes, lost connections, rows that change behind our back.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rotation::{Direction, FaultCode, Shard};
use sqlx::Connection as _;

use crate::cluster::Cluster;
use crate::farm::{Cell, Found, Vault, on_both, request, stand_still, turned, under};

async fn one_large_shard(vault: &Vault, size: i64) -> Shard {
    vault.seed(size).await;
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    survey.shards.into_iter().find(|shard| shard.table == "connections").unwrap()
}

on_both! {
    async fn a_pass_that_is_cut_off_goes_on_where_it_stopped_and_counts_every_row_once(vault) {
        let shard = one_large_shard(&vault, 6000).await;
        let before = vault.census().await;
        let engine = Arc::new(vault.engine().await);
        let mark = vault.mark(2, Direction::Forward);
        // Cut off after each chunk in turn, as often as it takes: each try gets one chunk further or to the end.
        let mut tries = 0;
        let tally = loop {
            tries += 1;
            let (cut, mut was_cut) = tokio::sync::mpsc::unbounded_channel();
            let job = vault.job(&shard, tries, mark);
            let worker = Arc::clone(&engine);
            let work = tokio::spawn(async move { worker.reencrypt(&job, &move |rows| { let _ = cut.send(rows); }).await });
            tokio::select! {
                Some(_) = was_cut.recv() => work.abort(),
                else => {}
            }
            match work.await {
                Ok(done) => break done.unwrap(),
                Err(error) => assert!(error.is_cancelled()),
            }
            // Whatever was cut off, every value opens under exactly one of the two keys.
            let census = vault.census().await;
            assert!(!census.values().any(|found| matches!(found, Found::Neither(_))));
            assert!(tries < 50, "it never came to its end");
        };
        assert_eq!(tally.rows, 6000);
        let census = vault.census().await;
        let expected = turned(&before);
        assert!(census.iter().filter(|((table, ..), _)| table == "connections").all(|(at, found)| expected[at] == *found));
        let verified = engine.verify(&vault.job(&shard, tries + 1, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap();
        assert_eq!(verified, tally);
    }

    async fn rows_inserted_or_deleted_while_nobody_may_are_seen_by_the_verification(vault) {
        vault.seed(400).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        vault.run("DELETE FROM documents WHERE \"Slug\" = (SELECT min(\"Slug\") FROM (SELECT * FROM documents) d)").await;
        let fewer = vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
        assert_eq!(fewer.rows, tally.rows - 1);
        assert_ne!(fewer.digest, tally.digest);
        vault.run("INSERT INTO documents VALUES ('between', NULL)").await;
        let replaced = vault.verify_all(&survey, 3, vault.mark(4, Direction::Forward)).await.unwrap();
        assert_eq!(replaced.rows, tally.rows, "the count alone would not tell");
        assert_ne!(replaced.digest, tally.digest);
    }

    async fn two_values_that_change_places_are_seen_by_the_digest(vault) {
        vault.seed(400).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        swap_first_two(&vault).await;
        let verified = vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
        assert_eq!((verified.rows, verified.values), (tally.rows, tally.values));
        assert_ne!(verified.digest, tally.digest);
    }

    async fn an_undo_that_does_not_bring_the_same_back_says_so_and_succeeds_once_healed(vault) {
        vault.seed(400).await;
        let before = vault.census().await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        swap_first_two(&vault).await;
        engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
        let back = vault.mark(4, Direction::Back);
        let error = vault.reencrypt_all(&survey, 2, back).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DigestDiffers, "{error:?}");
        let error = vault.reencrypt_all(&survey, 2, back).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DigestDiffers, "and again: {error:?}");
        swap_first_two(&vault).await;
        assert_eq!(vault.reencrypt_all(&survey, 2, back).await.unwrap(), tally);
        assert_eq!(vault.census().await, before);
        assert_eq!(vault.verify_all(&survey, 3, vault.mark(5, Direction::Back)).await.unwrap(), tally);
    }

    async fn a_value_corrupted_after_reencryption_stops_verification_and_undo_until_it_is_healed(vault) {
        vault.seed(400).await;
        let before = vault.census().await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        let healthy = vault.rows("SELECT password FROM connections WHERE id = 0").await[0][0].clone().unwrap();
        let mut corrupt = healthy.clone();
        corrupt[40] ^= 1;
        let set = |bytes: &[u8]| format!("UPDATE connections SET password = {} WHERE id = 0", vault.literal(&Cell::Bytes(bytes.to_vec())));
        vault.run(&set(&corrupt)).await;
        let error = vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Undecryptable);
        engine.turn_back(&vault.mark(4, Direction::Back)).await.unwrap();
        let error = vault.reencrypt_all(&survey, 3, vault.mark(5, Direction::Back)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Undecryptable);
        vault.run(&set(&healthy)).await;
        assert_eq!(vault.reencrypt_all(&survey, 3, vault.mark(5, Direction::Back)).await.unwrap(), tally);
        assert_eq!(vault.census().await, before);
    }

    async fn a_verification_begins_anew_in_another_epoch_and_is_not_repeated_in_the_same(vault) {
        vault.seed(400).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
        assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
        vault.run("UPDATE connections SET password = NULL").await;
        assert_eq!(vault.verify_all(&survey, 3, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
        assert_ne!(vault.verify_all(&survey, 4, vault.mark(4, Direction::Forward)).await.unwrap(), tally);
    }

    async fn a_database_that_lost_the_ledger_is_not_worked_on(vault) {
        vault.seed(100).await;
        let survey = vault.survey().await;
        let error = vault.reencrypt_all(&survey, 1, vault.mark(1, Direction::Forward)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DatabasePosition);
        assert_eq!(under(&vault.census().await).1, 0);
    }
}

/// Exchanges the passwords of the first two rows that have one.
async fn swap_first_two(vault: &Vault) {
    let rows = vault.rows("SELECT CAST(id AS text), password FROM connections ORDER BY id LIMIT 2").await;
    for (at, other) in [(0, 1), (1, 0)] {
        let id = String::from_utf8(rows[at][0].clone().unwrap()).unwrap();
        let value = vault.literal(&Cell::Bytes(rows[other][1].clone().unwrap()));
        vault.run(&format!("UPDATE connections SET password = {value} WHERE id = {id}")).await;
    }
}

/// A row that is changed after it was read and before it is written. The writer is held up by a lock on the row until
/// the server says that it waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_changed_between_reading_and_writing_is_named_and_its_chunk_is_not_written() {
    let vault = Vault::postgres().await;
    let shard = one_large_shard(&vault, 600).await;
    let before = vault.census().await;
    let mut intruder = vault.superuser().await;
    let mut transaction = intruder.begin().await.unwrap();
    sqlx::raw_sql("UPDATE connections SET password = NULL WHERE id = 0").execute(&mut *transaction).await.unwrap();
    let engine = vault.engine().await;
    let job = vault.job(&shard, 1, vault.mark(2, Direction::Forward));
    let work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
    let mut watcher = vault.superuser().await;
    let waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    while sqlx::raw_sql(waiting).fetch_optional(&mut watcher).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    transaction.commit().await.unwrap();
    let error = work.await.unwrap().unwrap_err();
    assert_eq!(error.code(), FaultCode::RowsChanged, "{error:?}");
    assert!(
        error.fault().message.contains("connections") && error.fault().message.contains("[\"i:0\"] changed"),
        "{error}"
    );
    assert!(!error.is_retryable());
    let mut expected = before;
    expected.insert(("connections".into(), "password".into(), "0".into()), Found::Null);
    assert_eq!(vault.census().await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_read_is_an_error_and_never_the_end_of_the_data() {
    let vault = Vault::postgres().await;
    let shard = one_large_shard(&vault, 12_000).await;
    let engine = vault.engine().await;
    let mark = vault.mark(2, Direction::Forward);
    let cut = AtomicBool::new(false);
    // Ends the reader's session alone; the writer's could still say that all is done.
    let cut_reader = |_rows| {
        if !cut.swap(true, Ordering::SeqCst) {
            stand_still(vault.run(
                "SELECT pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a
                     WHERE starts_with(a.application_name, 'keyturn-agent/') AND a.datname = current_database()
                       AND a.pid NOT IN (SELECT holder_pid FROM keyturn.shard)",
            ));
        }
    };
    let error = engine.reencrypt(&vault.job(&shard, 1, mark), &cut_reader).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Database);
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(vault.text("SELECT bool_or(done)::text FROM keyturn.shard").await, "false");
    let (old, new) = under(&vault.census().await);
    assert!(old > 0 && new > 0);
    let tally = engine.reencrypt(&vault.job(&shard, 1, mark), &|_| {}).await.unwrap();
    assert_eq!(tally.rows, 12_000);
    assert_eq!(tally, engine.verify(&vault.job(&shard, 2, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_way_is_worked_on_again_from_the_last_chunk() {
    let vault = Vault::postgres_on(Arc::new(Cluster::start())).await;
    let shard = one_large_shard(&vault, 12_000).await;
    let engine = vault.engine().await;
    let mark = vault.mark(2, Direction::Forward);
    let crashed = AtomicBool::new(false);
    let crash = |_rows| {
        if !crashed.swap(true, Ordering::SeqCst) {
            let crate::farm::Place::Postgres { cluster, .. } = &vault.place else { panic!("PostgreSQL only") };
            cluster.crash_and_restart();
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
    assert!(vault.application().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lost_history_or_is_another_one_is_told_by_its_position() {
    let vault = Vault::postgres().await;
    let engine = vault.engine().await;
    let position = engine.position().await.unwrap();
    engine.check_position(&position).await.unwrap();
    let mut ahead = position.clone();
    ahead.position += 1 << 30;
    let mut other_timeline = position.clone();
    other_timeline.timeline += 1;
    let mut other = position.clone();
    other.identity = Vault::postgres().await.engine().await.identity().await.unwrap();
    for (lost, expected) in [(ahead, "history"), (other_timeline, "timeline"), (other, "was")] {
        let error = engine.check_position(&lost).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DatabasePosition);
        assert!(error.fault().message.contains(expected), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_a_busy_database_is_tried_again_and_its_readers_do_not_stop_the_work() {
    let vault = Vault::sqlite().await;
    let shard = one_large_shard(&vault, 3000).await;
    // A reader that stands in the middle of the table, in the journal mode in which readers and writers meet.
    let mut reader = vault.sqlite_connection().await;
    sqlx::raw_sql("PRAGMA journal_mode = WAL").execute(&mut reader).await.unwrap();
    let transaction = reader.begin().await.unwrap();
    let engine = vault.engine().await;
    let tally = engine.reencrypt(&vault.job(&shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    assert_eq!(tally.rows, 3000);
    transaction.rollback().await.unwrap();
    // A writer that never ends.
    let writer = reader.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let error = engine.verify(&vault.job(&shard, 2, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    writer.rollback().await.unwrap();
    engine.verify(&vault.job(&shard, 2, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap();
}

/// Of the files that SQLite makes.
const PAGE: usize = 4096;

/// A file has no connection to lose; a part of it can be unreadable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_a_page_that_cannot_be_read_is_an_error_and_never_the_end_of_the_data() {
    let vault = Vault::sqlite().await;
    let shard = one_large_shard(&vault, 12_000).await;
    let path = vault.config.url.strip_prefix("sqlite://").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    // The page of a row in the middle.
    let (whole, row) = (std::fs::read(path).unwrap(), b"host 6000");
    let at = whole.windows(row.len()).position(|window| window == row).unwrap() / PAGE * PAGE;
    let (mut page, at) = (whole[at..at + PAGE].to_vec(), at as u64);
    let write = |bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
    let lost = [0; PAGE];
    let (forward, verify) = (vault.mark(2, Direction::Forward), vault.mark(3, Direction::Forward));
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);

    write(&lost);
    let error = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Database, "{error:?}");
    let error = engine.reencrypt(&vault.job(&shard, 1, forward), &|_| {}).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Database, "{error:?}");
    write(&page);
    let (old, new) = under(&vault.census().await);
    assert!(old > 0 && new > 0, "it came as far as that: {old} {new}");
    let tally = engine.reencrypt(&vault.job(&shard, 1, forward), &|_| {}).await.unwrap();
    assert_eq!(tally.rows, 12_000);
    file.read_exact_at(&mut page, at).unwrap();
    write(&lost);
    let error = engine.verify(&vault.job(&shard, 2, verify), &|_| {}).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Database, "{error:?}");
    write(&page);
    assert_eq!(engine.verify(&vault.job(&shard, 2, verify), &|_| {}).await.unwrap(), tally);
}
