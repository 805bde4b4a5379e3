//! The fence: the application's role, everybody else's sessions, and the way back.

use reencrypt::LedgerMark;
use rotation::{Direction, FaultCode, RotationId};
use sqlx::Connection as _;

use crate::farm::{Place, Vault, on_both};

const ROLE: &str = "SELECT rolcanlogin::text || ' ' || rolconnlimit::text FROM pg_roles WHERE rolname = '";

async fn role(vault: &Vault) -> String {
    let Place::Postgres { application, .. } = &vault.place else { panic!("PostgreSQL only") };
    vault.text(&format!("{ROLE}{application}'")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_is_shut_out_and_let_in_again_exactly_as_it_was() {
    let vault = Vault::postgres().await;
    let engine = vault.engine().await;
    let mut session = vault.application().await.unwrap();
    assert_eq!(role(&vault).await, "true 7");
    let mark = vault.mark(1, Direction::Forward);
    engine.fence(&mark).await.unwrap();
    assert!(session.ping().await.is_err(), "its session was ended");
    assert!(vault.application().await.is_err(), "it cannot come back");
    assert_eq!(role(&vault).await, "false 7");
    // Asked again, as after a lost answer, the note is not overwritten by the fenced state.
    engine.fence(&mark).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(role(&vault).await, "true 7");
    vault.application().await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_shuts_the_application_out_again_after_it_was_let_in() {
    let vault = Vault::postgres().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    let mut session = vault.application().await.unwrap();
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    assert!(session.ping().await.is_err());
    assert_eq!(role(&vault).await, "false 7");
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(role(&vault).await, "true 7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_ledger_never_leaves_the_application_shut_out() {
    let vault = Vault::postgres().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.close(&vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(role(&vault).await, "true 7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_anybody_else_stops_the_fence_and_is_named() {
    let vault = Vault::postgres().await;
    let engine = vault.engine().await;
    let mut maintenance = vault.superuser().await;
    sqlx::raw_sql("SET application_name = 'nightly job'").execute(&mut maintenance).await.unwrap();
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    let message = error.fault().message;
    for expected in ["\"postgres\"", "\"nightly job\"", "client backend"] {
        assert!(message.contains(expected), "{message}");
    }
    maintenance.close().await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let mut config = vault.config.clone();
    config.allowed_session_users = vec!["postgres".to_owned()];
    let allowed = vault.superuser().await;
    let engine = reencrypt::Engine::connect(&config, vault.targets.clone()).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    allowed.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_stops_the_fence_and_is_named() {
    let vault = Vault::postgres().await;
    vault.run("BEGIN; INSERT INTO connections (id) VALUES (1); PREPARE TRANSACTION 'left behind';").await;
    let error = vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    assert!(error.fault().message.contains("prepared transaction \"left behind\""), "{error}");
    vault.run("ROLLBACK PREPARED 'left behind'").await;
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_application_role_the_proof_alone_is_required() {
    let vault = Vault::postgres().await;
    let mut config = vault.config.clone();
    config.application_role = None;
    let engine = reencrypt::Engine::connect(&config, vault.targets.clone()).await.unwrap();
    let session = vault.application().await.unwrap();
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    session.close().await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(3, Direction::Back)).await.unwrap();
    engine.close(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(role(&vault).await, "true 7");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_sqlite_a_process_that_has_the_file_open_stops_the_fence_and_is_named() {
    let vault = Vault::sqlite().await;
    let path = vault.config.url.strip_prefix("sqlite://").unwrap();
    let open = std::fs::File::open(path).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("600").stdin(open).spawn().unwrap();
    let engine = vault.engine().await;
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    assert!(error.fault().message.contains(&format!("process {} (sleep)", holder.id())), "{error}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
}

on_both! {
    async fn a_second_rotation_does_not_begin_while_another_is_open(vault) {
        vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let first = vault.rotation;
        let mut vault = vault;
        vault.rotation = rotation::RotationId::new(uuid::Uuid::new_v4());
        let engine = vault.engine().await;
        let error = engine.fence(&vault.mark(2, Direction::Forward)).await.unwrap_err();
        assert!(error.fault().message.contains(&first.to_string()), "{error}");
        let second = std::mem::replace(&mut vault.rotation, first);
        engine.close(&vault.mark(3, Direction::Forward)).await.unwrap();
        vault.rotation = second;
        engine.fence(&vault.mark(4, Direction::Forward)).await.unwrap();
    }

    async fn a_ledger_that_another_release_wrote_in_its_own_format_is_left_alone(vault) {
        vault.seed(100).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        let (before, header) = (vault.census().await, if vault.is_postgres() { "keyturn.rotation" } else { "keyturn_rotation" });
        vault.run(&format!("UPDATE {header} SET format = 99")).await;
        let refused = [
            vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap_err(),
            vault.verify_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap_err(),
            engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap_err(),
            engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap_err(),
            engine.close(&vault.mark(4, Direction::Forward)).await.unwrap_err(),
            engine.history().await.unwrap_err(),
        ];
        // Nor does a new rotation begin in it, or a recovery, when all of it is closed.
        vault.run(&format!("UPDATE {header} SET closed = (1 = 1)")).await;
        let another = LedgerMark { rotation: RotationId::new(uuid::Uuid::new_v4()), ..vault.mark(1, Direction::Forward) };
        let closed = [engine.fence(&another).await.unwrap_err(), engine.history().await.unwrap_err()];
        vault.run(&format!("UPDATE {header} SET closed = (1 = 0)")).await;
        for error in refused.into_iter().chain(closed) {
            assert!(error.fault().message.contains("format 99") && !error.is_retryable(), "{error:?}");
        }
        assert_eq!(vault.census().await, before);
        vault.run(&format!("UPDATE {header} SET format = 2")).await;
        vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    }

    async fn the_identity_is_the_same_for_all_who_mean_the_same_database_and_no_other(vault) {
        let identity = vault.engine().await.identity().await.unwrap();
        assert_eq!(vault.engine().await.identity().await.unwrap(), identity);
        let other = vault.another().await;
        assert_ne!(other.engine().await.identity().await.unwrap(), identity);
    }
}
