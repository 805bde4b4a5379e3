//! A standby of PostgreSQL takes the server's place without the last of what was committed: rows and ledger have gone back
//! together, to the same moment, and the work goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use reencrypt::{DatabaseConfig, Engine, NoteKind};
use rotation::{Direction, FaultCode};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use crate::cluster::Cluster;
use crate::farm::{Found, Place, Vault, request, stand_still, turned, under};

const ROWS: i64 = 9_000;

/// Waits until it is so.
async fn until(session: &mut PgConnection, sql: &str) {
    while !sqlx::query(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut *session)
        .await
        .and_then(|row| row.try_get::<bool, _>(0))
        .unwrap()
    {
        tokio::task::yield_now().await;
    }
}

/// From now on the standby hears nothing of what is committed. What was committed before, it has.
async fn stop_following(standby: &Cluster, primary: &Cluster) {
    let mut session = primary.superuser("postgres").await;
    // Chunks do not wait for the log to be written out, and only what is written out is sent; this does.
    sqlx::raw_sql("SELECT pg_logical_emit_message(true, '', '')").execute(&mut session).await.unwrap();
    let behind = "SELECT COALESCE(bool_and(replay_lsn >= pg_current_wal_lsn()), false) FROM pg_stat_replication";
    until(&mut session, behind).await;
    let mut session = standby.superuser("postgres").await;
    sqlx::raw_sql("ALTER SYSTEM SET primary_conninfo = ''").execute(&mut session).await.unwrap();
    sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut session).await.unwrap();
    until(&mut session, "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)").await;
}

/// The standby is the server from now on.
async fn promote(vault: &mut Vault, standby: Arc<Cluster>) {
    let mut session = standby.superuser("postgres").await;
    sqlx::raw_sql("SELECT pg_promote()").execute(&mut session).await.unwrap();
    until(&mut session, "SELECT NOT pg_is_in_recovery()").await;
    session.close().await.unwrap();
    let Place::Postgres { cluster, database, agent, .. } = &mut vault.place else { panic!("PostgreSQL only") };
    vault.config = DatabaseConfig { url: standby.url(agent, database), ..vault.config.clone() };
    *cluster = standby;
}

fn primary(vault: &Vault) -> Arc<Cluster> {
    let Place::Postgres { cluster, .. } = &vault.place else { panic!("PostgreSQL only") };
    Arc::clone(cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_and_ledger_go_back_together_and_the_pass_goes_on_where_they_are() {
    let mut vault = Vault::postgres_on(Arc::new(Cluster::start())).await;
    vault.seed(ROWS).await;
    let before = vault.census().await;
    // One shard for each table, so that the large one has several chunks.
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = vault.engine().await.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let mark = vault.mark(2, Direction::Forward);
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap();
    let (old_server, standby) = (primary(&vault), Arc::new(primary(&vault).standby()));
    let calls = AtomicU32::new(0);
    // Some chunks reach the standby, some do not; then the connection is gone in the middle of one.
    let lose = |_rows| match calls.fetch_add(1, Ordering::SeqCst) {
        1 => stand_still(stop_following(&standby, &old_server)),
        3 => stand_still(async {
            let mut session = old_server.superuser("postgres").await;
            let all = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                       WHERE starts_with(application_name, 'keyturn-agent/')";
            sqlx::raw_sql(all).execute(&mut session).await.unwrap();
        }),
        _ => {}
    };
    let error = engine.reencrypt(&vault.job(shard, 1, mark), &lose).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let (_, turned_before) = under(&vault.census().await);
    promote(&mut vault, standby).await;
    let found = vault.census().await;
    assert!(!found.values().any(|found| matches!(found, Found::Neither(_))));
    let (old, new) = under(&found);
    assert!(old > 0 && new > 0 && new < turned_before, "a tail was lost: {new} of {turned_before} are left");

    // Under the same lease, as after any lost connection.
    vault.engine().await.reencrypt(&vault.job(shard, 1, mark), &|_| {}).await.unwrap();
    let all = vault.reencrypt_all(&survey, 2, mark).await.unwrap();
    assert_eq!(all, vault.verify_all(&survey, 3, vault.mark(3, Direction::Forward)).await.unwrap());
    assert!(vault.census().await == turned(&before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lost_after_verify_is_told_at_every_door_and_can_be_undone() {
    let mut vault = Vault::postgres_on(Arc::new(Cluster::start())).await;
    vault.seed(300).await;
    let before = vault.census().await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    let standby = Arc::new(primary(&vault).standby());
    stop_following(&standby, &primary(&vault)).await;
    vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap();
    let position = engine.position().await.unwrap();
    engine.lift_fence(&vault.mark(4, Direction::Forward)).await.unwrap();
    engine.note(&vault.rotation, NoteKind::Started, "node-1").await.unwrap();

    let old_server = primary(&vault);
    promote(&mut vault, standby).await;
    drop(old_server);
    let engine: Engine = vault.engine().await;
    let error = engine.check_position(&position).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::DatabasePosition, "{error:?}");
    // The ledger forgot that the application was let in, and its role is shut out as it was then.
    for kind in [NoteKind::Started, NoteKind::Admitted] {
        let error = engine.note(&vault.rotation, kind, "node-1").await.unwrap_err();
        assert_eq!(error.code(), FaultCode::DatabasePosition, "{error:?}");
        assert!(!error.is_retryable());
    }
    assert!(vault.application().await.is_err());
    let unverified = engine.unverified(&vault.rotation, survey.shards.iter().map(|shard| shard.id)).await.unwrap();
    assert!(unverified.is_some(), "the verification is lost too");

    engine.turn_back(&vault.mark(5, Direction::Back)).await.unwrap();
    vault.reencrypt_all(&survey, 3, vault.mark(6, Direction::Back)).await.unwrap();
    vault.verify_all(&survey, 4, vault.mark(7, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(8, Direction::Back)).await.unwrap();
    engine.close(&vault.mark(9, Direction::Back)).await.unwrap();
    assert!(vault.census().await == before);
    vault.application().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_not_promoted_yet_is_tried_again() {
    let mut vault = Vault::postgres_on(Arc::new(Cluster::start())).await;
    vault.seed(100).await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let standby = Arc::new(primary(&vault).standby());
    stop_following(&standby, &primary(&vault)).await;
    let Place::Postgres { database, agent, .. } = &vault.place else { panic!("PostgreSQL only") };
    let config = DatabaseConfig { url: standby.url(agent, database), ..vault.config.clone() };
    let early = Engine::connect(&config, vault.targets.clone()).await.unwrap();
    let job = vault.job(&survey.shards[0], 1, vault.mark(2, Direction::Forward));
    let fault = early.reencrypt(&job, &|_| {}).await.unwrap_err().fault();
    assert!(fault.retryable && fault.next_step.contains("primary"), "{fault:?}");
    promote(&mut vault, standby).await;
    early.reencrypt(&job, &|_| {}).await.unwrap();
}
