//! What would make a write fail while the farm is offline is found out in Preflight, which tries one and leaves nothing.

use keys::KeySet;
use reencrypt::EngineError;
use rotation::FaultCode;
use sqlx::Connection as _;

use crate::farm::{Place, Vault, on_both, request};

async fn refusal(vault: &Vault) -> EngineError {
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let engine = vault.engine().await;
    engine.check_targets().await.unwrap();
    engine.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap_err()
}

/// The trial is refused for this reason and with this advice, and the rows are as they were.
async fn is_refused(vault: &Vault, table: &str, reason: &str, advice: &str) {
    let all = "SELECT password, notes FROM connections ORDER BY id";
    let before = vault.rows(all).await;
    let error = refusal(vault).await;
    let fault = error.fault();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Targets, false), "{error:?}");
    assert!(fault.message.contains(&format!("writing {table} was refused")), "{}", fault.message);
    assert_eq!(fault.message.matches(reason).count(), 1, "{}", fault.message);
    // Neither the lines of the server's source nor the contents of rows.
    assert!(!fault.message.contains("at line") && !fault.message.contains("Failing row"), "{}", fault.message);
    assert!(fault.next_step.contains(advice), "{}", fault.next_step);
    assert_eq!(vault.rows(all).await, before);
}

on_both! {
    async fn a_trial_leaves_every_row_and_trigger_as_it_was_and_no_ledger(vault) {
        vault.seed(300).await;
        if vault.is_sqlite() {
            vault.run("CREATE TRIGGER t AFTER UPDATE ON connections BEGIN DELETE FROM documents; END").await;
        }
        let objects = match vault.place {
            Place::Sqlite { .. } => "SELECT group_concat(name || coalesce(sql, '')) FROM sqlite_schema",
            Place::Postgres { .. } => "SELECT string_agg(relname || xmin, ',' ORDER BY oid) FROM pg_class",
            Place::Mariadb { .. } => {
                "SELECT group_concat(table_name || create_time) FROM information_schema.tables
                 WHERE table_schema = database()"
            }
        };
        let all = [
            objects,
            "SELECT password, notes, updated_at FROM connections ORDER BY id",
            "SELECT secret FROM \"User Entries\" ORDER BY owner, \"Seq\"",
            "SELECT body FROM documents ORDER BY \"Slug\"",
            "SELECT content FROM attachments ORDER BY entry_id, file_name",
        ];
        let mut before = Vec::new();
        for sql in all {
            before.push(vault.rows(sql).await);
        }
        vault.survey().await;
        for (sql, before) in all.iter().zip(before) {
            assert_eq!(vault.rows(sql).await, before, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_constraint_that_was_never_validated_is_refused_by_name() {
    let vault = Vault::postgres().await;
    vault.seed(100).await;
    vault
        .run(
            "ALTER TABLE connections ADD CONSTRAINT \"Short notes\" CHECK (length(notes) < 3) NOT VALID;
             CREATE DOMAIN ciphertext AS text;
             ALTER TABLE documents ALTER body TYPE ciphertext;
             ALTER DOMAIN ciphertext ADD CONSTRAINT of_domain CHECK (VALUE <> '') NOT VALID;",
        )
        .await;
    let fault = vault.engine().await.check_targets().await.unwrap_err().fault();
    assert_eq!(fault.code, FaultCode::Targets);
    for expected in ["connections has the constraint \"Short notes\"", "documents has the constraint of_domain"] {
        assert!(fault.message.contains(expected), "{}", fault.message);
    }
    vault.run("ALTER TABLE connections DROP CONSTRAINT \"Short notes\"").await;
    vault.run("ALTER DOMAIN ciphertext VALIDATE CONSTRAINT of_domain").await;
    vault.engine().await.check_targets().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_table_without_a_replica_identity_is_found_out() {
    let vault = Vault::postgres().await;
    vault.seed(100).await;
    vault.run("ALTER TABLE connections REPLICA IDENTITY NOTHING; CREATE PUBLICATION p FOR TABLE connections").await;
    is_refused(&vault, "connections", "does not have a replica identity", "REPLICA IDENTITY").await;
    vault.run("ALTER TABLE connections REPLICA IDENTITY DEFAULT").await;
    vault.survey().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_with_a_function_that_the_agent_may_not_execute_is_found_out() {
    let vault = Vault::postgres().await;
    vault.seed(100).await;
    vault
        .run(
            "CREATE FUNCTION sound(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
             ALTER TABLE connections ADD CHECK (public.sound(notes));
             REVOKE EXECUTE ON FUNCTION sound(text) FROM PUBLIC;",
        )
        .await;
    is_refused(&vault, "connections", "permission denied for function sound", "EXECUTE").await;
    vault.run(&vault.named("GRANT EXECUTE ON FUNCTION sound(text) TO keyturn_agent")).await;
    vault.survey().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_and_a_generated_column_that_need_another_search_path_are_found_out() {
    for user in [
        "CREATE INDEX ON connections (outer_one(notes))",
        "ALTER TABLE connections ADD COLUMN g text GENERATED ALWAYS AS (outer_one(notes)) STORED",
    ] {
        let vault = Vault::postgres().await;
        vault.seed(100).await;
        vault
            .run(
                "CREATE FUNCTION inner_one(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT left($1, 5)';
                 CREATE FUNCTION outer_one(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
                 AS 'BEGIN RETURN inner_one($1); END';",
            )
            .await;
        // Made by whoever has the function's schema in the path, as every session of the application has.
        vault.run(user).await;
        is_refused(&vault, "connections", "function inner_one(text) does not exist", "search_path").await;
        vault.run("ALTER FUNCTION outer_one(text) SET search_path = public").await;
        vault.survey().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_the_values_of_a_column_break_only_when_written_is_found_out_in_every_column() {
    // Only notes has a value here, in one row far behind.
    let vault = Vault::postgres().await;
    vault.seed(3000).await;
    vault
        .run(
            "UPDATE connections SET notes = NULL WHERE id < 5000;
             CREATE FUNCTION sound(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
                 'BEGIN IF $1 IS NOT NULL AND session_user <> ''postgres'' THEN RETURN false; END IF; RETURN true; END';
             ALTER TABLE connections ADD CONSTRAINT sound_notes CHECK (public.sound(notes));",
        )
        .await;
    is_refused(&vault, "connections", "\"sound_notes\"", "constraint").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_of_the_application_in_a_table_of_sqlite_are_found_out() {
    for (from, to) in [
        ("notes text", "notes text CHECK (sound_of_app(notes))"),
        ("updated_at text", "g text GENERATED ALWAYS AS (sound_of_app(notes)) STORED, updated_at text"),
    ] {
        let vault = Vault::sqlite().await;
        vault.seed(100).await;
        // As a program with this function has made it; without the function it can be made only so.
        let schema = format!(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, '{from}', '{to}') WHERE name = 'connections';"
        );
        vault.run(&schema).await;
        is_refused(&vault, "connections", "sound_of_app", "functions").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_stays_locked_is_a_fault_that_may_be_tried_again() {
    let vault = Vault::postgres().await;
    vault.seed(100).await;
    let mut other = vault.superuser().await;
    let mut transaction = other.begin().await.unwrap();
    sqlx::query("UPDATE documents SET body = body").execute(&mut *transaction).await.unwrap();
    let error = refusal(&vault).await;
    assert_eq!((error.code(), error.is_retryable()), (FaultCode::Database, true), "{error:?}");
    assert!(error.fault().message.contains("documents"), "{error:?}");
    transaction.rollback().await.unwrap();
    vault.survey().await;
}
