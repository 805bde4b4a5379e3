//! The fence in MariaDB and MySQL: the application's accounts, everybody else's sessions, and the way back.

use std::sync::Arc;

use rotation::{Direction, FaultCode};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::farm::{Place, Vault};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::{Make, Server};

/// The accounts of the application as the administrator sees them.
async fn accounts(vault: &Vault) -> Vec<String> {
    let Place::Mariadb { application, .. } = &vault.place else { panic!("MariaDB only") };
    let sql = format!(
        "SELECT Host || ' ' || /*M! COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') FROM mysql.global_priv */
                                /*!80400 CAST(account_locked = 'Y' AS CHAR) FROM mysql.user */
         WHERE User = '{application}' ORDER BY Host"
    );
    vault.rows(&sql).await.into_iter().map(|row| String::from_utf8(row[0].clone().unwrap()).unwrap()).collect()
}

/// With two accounts of the application's user besides its own: one that is locked, one that is not.
async fn vault_of_three_accounts(make: Make) -> Vault {
    let vault = Vault::made_by(make).await;
    let sql =
        "CREATE USER vault_app@'10.%' ACCOUNT LOCK; CREATE USER vault_app@'o''hara.example' PASSWORD EXPIRE NEVER";
    vault.run(&vault.named(sql)).await;
    vault
}

const BEFORE: [&str; 3] = ["10.% 1", "localhost 0", "o'hara.example 0"];
const FENCED: [&str; 3] = ["10.% 1", "localhost 1", "o'hara.example 1"];

async fn every_account_of_the_application_is_shut_out_and_let_in_again_exactly_as_it_was(make: Make) {
    let vault = vault_of_three_accounts(make).await;
    let engine = vault.engine().await;
    let mut session = vault.user().await.unwrap();
    assert_eq!(accounts(&vault).await, BEFORE);
    let mark = vault.mark(1, Direction::Forward);
    engine.fence(&mark).await.unwrap();
    assert!(session.ping().await.is_err(), "its session was ended");
    assert!(vault.user().await.is_err(), "it cannot come back");
    assert_eq!(accounts(&vault).await, FENCED);
    // Asked again, as after a lost answer, the note is not overwritten by the fenced state. An account that was made
    // meanwhile is shut out as well, and let in.
    vault.run(&vault.named("CREATE USER vault_app@'192.%'")).await;
    engine.fence(&mark).await.unwrap();
    assert_eq!(accounts(&vault).await, ["10.% 1", "192.% 1", "localhost 1", "o'hara.example 1"]);
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(accounts(&vault).await, ["10.% 1", "192.% 0", "localhost 0", "o'hara.example 0"]);
    vault.user().await.unwrap().close().await.unwrap();
}

async fn an_undo_shuts_the_application_out_again_after_it_was_let_in(make: Make) {
    let vault = vault_of_three_accounts(make).await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    let mut session = vault.user().await.unwrap();
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    assert!(session.ping().await.is_err());
    assert_eq!(accounts(&vault).await, FENCED);
    engine.turn_back(&vault.mark(3, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(accounts(&vault).await, BEFORE);
}

async fn closing_the_ledger_never_leaves_the_application_shut_out(make: Make) {
    let vault = vault_of_three_accounts(make).await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.close(&vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(accounts(&vault).await, BEFORE);
}

async fn one_that_is_stopped_while_it_may_alter_accounts_is_ended_by_the_next(make: Make) {
    let vault = vault_of_three_accounts(make).await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let Place::Mariadb { server, database, agent, .. } = &vault.place else { panic!("MariaDB only") };
    let mut stopped = sqlx::MySqlConnection::connect(&server.url(agent, database)).await.unwrap();
    let turn = "SELECT GET_LOCK(CONCAT('keyturn.turn.', /*M! MD5(DATABASE()) */
                                                            /*!80400 LEFT(SHA2(DATABASE(), 256), 32) */), 0)";
    sqlx::raw_sql(turn).execute(&mut stopped).await.unwrap();
    engine.lift_fence(&vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(accounts(&vault).await, BEFORE);
    let late = vault.named("ALTER USER vault_app@localhost ACCOUNT LOCK");
    assert!(sqlx::raw_sql(AssertSqlSafe(late)).execute(&mut stopped).await.is_err(), "it woke to a lost connection");
    assert_eq!(accounts(&vault).await, BEFORE);
}

async fn a_session_of_anybody_else_stops_the_fence_and_is_named(make: Make) {
    let vault = Vault::made_by(make).await;
    let engine = vault.engine().await;
    let maintenance = vault.root().await;
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    let message = error.fault().message;
    for expected in ["user \"root\"", "database \"vault_", "a local socket", "Sleep"] {
        assert!(message.contains(expected), "{message}");
    }
    maintenance.close().await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let mut config = vault.config.clone();
    config.allowed_session_users = vec!["root".to_owned()];
    let allowed = vault.root().await;
    let engine = reencrypt::Engine::connect(&config, vault.targets.clone()).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    allowed.close().await.unwrap();
}

/// On a server of its own: such a transaction says nothing of its database, and stops everybody's fence.
async fn prepared_transactions_and_events_stop_the_fence_and_are_named(make: Make) {
    let vault = Vault::mariadb_on(Arc::new(Server::start_of(make, "--event-scheduler=ON"))).await;
    if make == Make::MySql {
        // There it is on by default, so that the right is among the documented ones.
        vault.run(&vault.named("REVOKE EVENT ON vault.* FROM keyturn_agent@'%'")).await;
    }
    let missing = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(missing.contains("GRANT EVENT ON `vault_"), "{missing}");
    vault.run(&vault.named("GRANT EVENT ON vault.* TO keyturn_agent@'%'")).await;
    vault.engine().await.check_targets().await.unwrap();
    vault
        .run(
            "CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM connections;
             XA START 'left behind'; INSERT INTO connections (id) VALUES (1); XA END 'left behind'; XA PREPARE 'left behind'",
        )
        .await;
    let error = vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    let message = error.fault().message;
    assert!(
        message.contains("prepared transaction \"left behind\"") && message.contains("event \"nightly\""),
        "{message}"
    );
    vault.run("XA ROLLBACK 'left behind'; ALTER EVENT nightly DISABLE").await;
    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
}

async fn without_an_application_role_the_proof_alone_is_required(make: Make) {
    let vault = Vault::made_by(make).await;
    let end = if make == Make::MySql { "CONNECTION_ADMIN" } else { "CONNECTION ADMIN" };
    vault.run(&vault.named(&format!("REVOKE {end}, CREATE USER ON *.* FROM keyturn_agent@'%'"))).await;
    let mut config = vault.config.clone();
    config.application_role = None;
    let engine = reencrypt::Engine::connect(&config, vault.targets.clone()).await.unwrap();
    engine.check_targets().await.unwrap();
    let session = vault.user().await.unwrap();
    let error = engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::SessionsRemain);
    session.close().await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    engine.turn_back(&vault.mark(2, Direction::Back)).await.unwrap();
    engine.lift_fence(&vault.mark(3, Direction::Back)).await.unwrap();
    engine.close(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(accounts(&vault).await, ["localhost 0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_that_the_agents_account_lacks_is_named_with_the_statement_that_grants_it() {
    let vault = Vault::mariadb().await;
    let Place::Mariadb { agent, database, .. } = &vault.place else { panic!("MariaDB only") };
    let account = format!("`{agent}`@`%`");
    let take = format!(
        "REVOKE PROCESS, CONNECTION ADMIN, CREATE USER ON *.* FROM {agent}@'%';
         REVOKE SELECT (Host, User, Priv) ON mysql.global_priv FROM {agent}@'%';
         REVOKE INSERT, CREATE ON {database}.keyturn_rotation FROM {agent}@'%';"
    );
    vault.run(&take).await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    for expected in [
        format!("GRANT PROCESS ON *.* TO {account}"),
        format!("GRANT CONNECTION ADMIN ON *.* TO {account}"),
        format!("GRANT CREATE USER ON *.* TO {account}"),
        format!("GRANT SELECT (Host, User, Priv) ON mysql.global_priv TO {account}"),
        format!("GRANT INSERT, CREATE ON `{database}`.keyturn_rotation TO {account}"),
    ] {
        assert!(message.contains(&expected), "{message}");
    }
    let mut config = vault.config.clone();
    for (application, expected) in
        [(agent.as_str(), "is the agent's own user"), ("nobody", "\"nobody\" does not exist")]
    {
        config.application_role = Some(application.to_owned());
        vault.run(&vault.named("GRANT SELECT (Host, User, Priv) ON mysql.global_priv TO keyturn_agent@'%'")).await;
        let engine = reencrypt::Engine::connect(&config, vault.targets.clone()).await.unwrap();
        let message = engine.check_targets().await.unwrap_err().fault().message;
        assert!(message.contains(expected), "{message}");
    }
}

on_mariadb_and_mysql! {
    every_account_of_the_application_is_shut_out_and_let_in_again_exactly_as_it_was,
    an_undo_shuts_the_application_out_again_after_it_was_let_in,
    closing_the_ledger_never_leaves_the_application_shut_out,
    one_that_is_stopped_while_it_may_alter_accounts_is_ended_by_the_next,
    a_session_of_anybody_else_stops_the_fence_and_is_named,
    prepared_transactions_and_events_stop_the_fence_and_are_named,
    without_an_application_role_the_proof_alone_is_required,
}
