//! Workers that come late: after another lease, another epoch, an undo, the end. None of them changes anything.

use std::sync::atomic::{AtomicBool, Ordering};

use rotation::{Direction, FaultCode, Shard};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::cluster;
use crate::farm::{Census, Place, Vault, on_both, request, stand_still, turned, under};

/// Seeds one large table, fences, and gives the table's single shard.
async fn one_large_shard(vault: &Vault) -> Shard {
    vault.seed(6000).await;
    if vault.is_sqlite() {
        // A worker that stands still may stand in the middle of a read. In this journal mode that keeps no writer out;
        // in the others everybody else is told that the database is busy until it goes on.
        vault.run("PRAGMA journal_mode = WAL").await;
    }
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    survey.shards.into_iter().find(|shard| shard.table == "connections").unwrap()
}

/// Runs `meanwhile` once, on this thread, when the first chunk has been committed: the worker stands still then, with
/// pages read and turned in its memory, and goes on afterwards as a process does that SIGCONT wakes.
macro_rules! after_first_chunk {
    ($begun:ident, $meanwhile:expr) => {
        |_rows| {
            if !$begun.swap(true, Ordering::SeqCst) {
                stand_still($meanwhile);
            }
        }
    };
}

on_both! {
    async fn a_worker_that_wakes_after_the_undo_began_changes_nothing(vault) {
        let shard = one_large_shard(&vault).await;
        let seen: std::sync::Mutex<Option<Census>> = std::sync::Mutex::new(None);
        let engine = vault.engine().await;
        let other = vault.engine().await;
        let begun = AtomicBool::new(false);
        let meanwhile = after_first_chunk!(begun, async {
            other.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
            *seen.lock().unwrap() = Some(vault.census().await);
        });
        let job = vault.job(&shard, 1, vault.mark(2, Direction::Forward));
        let error = engine.reencrypt(&job, &meanwhile).await.unwrap_err();
        // PostgreSQL ended its session; asked again, it hears that it is late.
        assert!(error.code() == FaultCode::Superseded || error.is_retryable(), "{error:?}");
        let again = engine.reencrypt(&job, &|_| {}).await.unwrap_err();
        assert_eq!(again.code(), FaultCode::Superseded, "{again:?}");
        let at_undo = seen.lock().unwrap().take().unwrap();
        assert_eq!(vault.census().await, at_undo, "nothing changed since");
        let (old, new) = under(&at_undo);
        assert!(old > 0 && new > 0, "some rows were turned: {old} {new}");

        let back = vault.job(&shard, 2, vault.mark(4, Direction::Back));
        let tally = engine.reencrypt(&back, &|_| {}).await.unwrap();
        assert_eq!(tally.rows, 6000, "the tally counts all rows of the shard");
        assert!(tally.values > 0 && tally.values < 12_000, "only what had been turned was read");
        assert_eq!(under(&vault.census().await).1, 0);
        engine.verify(&back, &|_| {}).await.unwrap();
    }

    async fn a_worker_whose_shard_has_moved_changes_nothing(vault) {
        if vault.is_sqlite() {
            // The first worker may stand still in the middle of reading a page. With a rollback journal that alone would
            // keep everybody from committing, and nothing would be seen of what is asked here.
            vault.run("PRAGMA journal_mode = WAL").await;
        }
        let shard = one_large_shard(&vault).await;
        let before = vault.census().await;
        let engine = vault.engine().await;
        let other = vault.engine().await;
        let mark = vault.mark(2, Direction::Forward);
        let begun = AtomicBool::new(false);
        let meanwhile = after_first_chunk!(begun, async {
            // The other agent takes the shard over, and finishes it while the first one stands still.
            other.reencrypt(&vault.job(&shard, 2, mark), &|_| {}).await.unwrap();
        });
        let error = engine.reencrypt(&vault.job(&shard, 1, mark), &meanwhile).await.unwrap_err();
        // Its reader may meet what the other has turned before its writer hears that it is late.
        let late = [FaultCode::Superseded, FaultCode::UnexpectedKey].contains(&error.code());
        assert!(late || error.is_retryable(), "{error:?}");
        let again = engine.reencrypt(&vault.job(&shard, 1, mark), &|_| {}).await.unwrap_err();
        assert_eq!(again.code(), FaultCode::Superseded);
        let table = |census: &Census| -> Census {
            census.iter().filter(|((table, ..), _)| table == "connections").map(|(k, v)| (k.clone(), v.clone())).collect()
        };
        assert_eq!(table(&vault.census().await), table(&turned(&before)));
        let tally = engine.reencrypt(&vault.job(&shard, 2, mark), &|_| {}).await.unwrap();
        assert_eq!(tally, engine.verify(&vault.job(&shard, 3, vault.mark(3, Direction::Forward)), &|_| {}).await.unwrap());
    }

    async fn a_worker_that_wakes_in_the_middle_of_the_undo_changes_nothing(vault) {
        let shard = one_large_shard(&vault).await;
        let engine = vault.engine().await;
        engine.reencrypt(&vault.job(&shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
        engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
        let other = vault.engine().await;
        let begun = AtomicBool::new(false);
        let meanwhile = after_first_chunk!(begun, async {
            let late = vault.job(&shard, 1, vault.mark(2, Direction::Forward));
            assert_eq!(other.reencrypt(&late, &|_| {}).await.unwrap_err().code(), FaultCode::Superseded);
            assert_eq!(other.verify(&late, &|_| {}).await.unwrap_err().code(), FaultCode::Superseded);
            let fence = other.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
            assert_eq!(fence.code(), FaultCode::Superseded);
            let lift = other.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap_err();
            assert_eq!(lift.code(), FaultCode::Superseded);
            // A turn back that is itself late ends nobody's session.
            let turn = other.turn_back(&vault.mark(2, Direction::Back)).await.unwrap_err();
            assert_eq!(turn.code(), FaultCode::Superseded);
        });
        engine.reencrypt(&vault.job(&shard, 2, vault.mark(4, Direction::Back)), &meanwhile).await.unwrap();
        assert_eq!(under(&vault.census().await).1, 0);
    }

    async fn an_older_epoch_or_lease_enters_nowhere(vault) {
        vault.seed(100).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(5, Direction::Forward)).await.unwrap();
        let job = |lease, epoch| vault.job(&survey.shards[1], lease, vault.mark(epoch, Direction::Forward));
        engine.reencrypt(&job(3, 6), &|_| {}).await.unwrap();
        for late in [job(3, 5), job(2, 6)] {
            let error = engine.reencrypt(&late, &|_| {}).await.unwrap_err();
            assert_eq!(error.code(), FaultCode::Superseded, "{error:?}");
        }
        let error = engine.fence(&vault.mark(5, Direction::Forward)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Superseded);
        engine.close(&vault.mark(7, Direction::Forward)).await.unwrap();
        for closed in [job(4, 8), job(3, 6)] {
            assert_eq!(engine.reencrypt(&closed, &|_| {}).await.unwrap_err().code(), FaultCode::Superseded);
        }
        let turned = engine.turn_back(&vault.mark(9, Direction::Back)).await.unwrap_err();
        assert_eq!(turned.code(), FaultCode::Superseded, "what is closed is not undone");
    }

    async fn after_a_turn_back_without_a_fence_a_late_fence_changes_nothing(vault) {
        vault.seed(100).await;
        let engine = vault.engine().await;
        engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
        let error = engine.fence(&vault.mark(2, Direction::Forward)).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::Superseded);
        if vault.is_mariadb() {
            vault.user().await.unwrap().close().await.unwrap();
        } else if !vault.is_sqlite() {
            vault.application().await.unwrap().close().await.unwrap();
        }
        engine.lift_fence(&vault.mark(4, Direction::Back)).await.unwrap();
        engine.close(&vault.mark(5, Direction::Back)).await.unwrap();
    }
}

/// A worker that was stopped inside a transaction holds its locks for as long as it stays stopped. Here it is a session
/// that has locked all that a chunk locks, and says nothing more.
async fn stopped_in_a_transaction(vault: &Vault, shard: &Shard) -> sqlx::postgres::PgConnection {
    let Place::Postgres { cluster, database, agent, .. } = &vault.place else { panic!("PostgreSQL only") };
    let url = format!("{}?application_name=keyturn-agent/stopped", cluster.url(agent, database));
    let mut stopped = sqlx::postgres::PgConnection::connect(&url).await.unwrap();
    let sql = format!(
        "BEGIN; SELECT 1 FROM keyturn.rotation FOR SHARE;
         UPDATE keyturn.shard SET holder_pid = pg_backend_pid(), holder_start = (
             SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) WHERE shard = {};
         COMMIT; BEGIN; SELECT 1 FROM keyturn.rotation FOR SHARE;
         UPDATE keyturn.shard SET rows_done = rows_done WHERE shard = {};
         UPDATE public.connections SET password = NULL WHERE id = 0",
        shard.id, shard.id
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut stopped).await.unwrap();
    stopped
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_lease_ends_a_session_that_is_stopped_inside_its_chunk() {
    let vault = Vault::postgres().await;
    let shard = one_large_shard(&vault).await;
    let before = vault.census().await;
    let engine = vault.engine().await;
    let mark = vault.mark(2, Direction::Forward);
    // The first lease came as far as entering the ledger.
    let abandoned = vault.job(&shard, 1, mark);
    let entered = engine.reencrypt(&abandoned, &|_| {});
    drop(tokio::time::timeout(std::time::Duration::ZERO, entered).await);
    vault
        .run(&format!(
            "INSERT INTO keyturn.shard (rotation, shard, pass, epoch, lease, holder_pid, holder_start)
         VALUES ('{}', {}, 'reencrypt', 2, 1, 0, now()) ON CONFLICT DO NOTHING",
            vault.rotation, shard.id
        ))
        .await;
    let mut stopped = stopped_in_a_transaction(&vault, &shard).await;
    engine.reencrypt(&vault.job(&shard, 2, mark), &|_| {}).await.unwrap();
    assert!(sqlx::raw_sql("COMMIT").execute(&mut stopped).await.is_err(), "it woke to a lost connection");
    let census = vault.census().await;
    assert_eq!(
        census[&("connections".into(), "password".into(), "0".into())],
        turned(&before)[&("connections".into(), "password".into(), "0".into())]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_ends_a_session_that_is_stopped_inside_its_chunk() {
    let vault = Vault::postgres_on(cluster::shared()).await;
    let shard = one_large_shard(&vault).await;
    let engine = vault.engine().await;
    engine.reencrypt(&vault.job(&shard, 1, vault.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    let mut stopped = stopped_in_a_transaction(&vault, &shard).await;
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    assert!(sqlx::raw_sql("COMMIT").execute(&mut stopped).await.is_err(), "it woke to a lost connection");
    engine.reencrypt(&vault.job(&shard, 2, vault.mark(4, Direction::Back)), &|_| {}).await.unwrap();
    assert_eq!(under(&vault.census().await).1, 0);
}
