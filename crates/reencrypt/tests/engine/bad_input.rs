//! What cannot be worked on is refused before anything is changed, and every problem is named.

use reencrypt::{DatabaseConfig, Engine, Targets};
use rotation::FaultCode;

use crate::farm::{Place, Vault, on_both, request};

/// The refusal's message for one table.
async fn refusal(vault: &Vault, name: &str, key: &str, column: &str) -> String {
    let targets =
        format!("version = 1\n[[table]]\nname = '{name}'\nkey = [{key}]\n[[table.column]]\nname = '{column}'\n");
    refusal_of(vault, &targets).await
}

async fn refusal_of(vault: &Vault, targets: &str) -> String {
    let engine = Engine::connect(&vault.config, Targets::parse(targets).unwrap()).await.unwrap();
    let error = engine.check_targets().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Targets, "{error:?}");
    assert!(!error.is_retryable() && !error.next_step().is_empty());
    error.fault().message
}

on_both! {
    async fn tables_and_columns_that_do_not_fit_are_refused_by_name(vault) {
        let vault = vault;
        vault.run(&vault.types(
            "CREATE TABLE keyless (id integer, c text);
             CREATE VIEW shown AS SELECT id, password FROM connections;
             CREATE TABLE referred (id integer PRIMARY KEY, c {name} UNIQUE, d text);
             CREATE TABLE referring (id integer PRIMARY KEY, c {name} REFERENCES referred (c));
             CREATE TABLE computed (id integer PRIMARY KEY, c text, g text GENERATED ALWAYS AS (c || 'x') STORED);",
        )).await;
        if vault.is_mariadb() {
            // It shows nothing of what one may do nothing with.
            vault.run(&vault.named("GRANT SELECT, UPDATE, TRIGGER ON vault.* TO keyturn_agent@'%'")).await;
        }
        for (name, key, column, expected) in [
            ("nowhere", "'id'", "c", "table nowhere does not exist"),
            ("Connections", "'id'", "c", "table Connections does not exist"),
            ("connections", "'id'", "nothing", "table connections has no column \"nothing\""),
            ("connections", "'nothing'", "password", "has no column \"nothing\""),
            ("connections", "'name'", "password", "has the primary key [\"id\"], and targets.toml says [\"name\"]"),
            ("attachments", "'file_name', 'entry_id'", "content", "has the primary key [\"entry_id\", \"file_name\"]"),
            ("attachments", "'entry_id'", "content", "has the primary key"),
            ("keyless", "'id'", "c", "table keyless has no primary key"),
            ("shown", "'id'", "password", "table shown is a view"),
            ("computed", "'id'", "g", "column \"g\", which is generated"),
            ("referred", "'id'", "c", "foreign key"),
            ("referring", "'id'", "c", "foreign key"),
        ] {
            let message = refusal(&vault, name, key, column).await;
            assert!(message.contains(expected), "{name}.{column}: {message}");
        }
    }

    async fn every_problem_is_named_at_once(vault) {
        let targets = "version = 1
            [[table]]\nname = 'nowhere'\nkey = ['id']\n[[table.column]]\nname = 'c'
            [[table]]\nname = 'connections'\nkey = ['id']\n[[table.column]]\nname = 'x'\n[[table.column]]\nname = 'y'";
        let message = refusal_of(&vault, targets).await;
        for expected in ["nowhere", "\"x\"", "\"y\""] {
            assert!(message.contains(expected), "{message}");
        }
    }

    async fn one_table_under_two_names_is_refused(vault) {
        let schema = match &vault.place {
            Place::Sqlite { .. } => "main",
            Place::Postgres { .. } => "public",
            Place::Mariadb { database, .. } => database,
        };
        let targets = format!("version = 1
            [[table]]\nname = 'connections'\nkey = ['id']\n[[table.column]]\nname = 'password'
            [[table]]\nschema = '{schema}'\nname = 'connections'\nkey = ['id']\n[[table.column]]\nname = 'password'");
        assert!(refusal_of(&vault, &targets).await.contains("is the same table as connections"));
    }

    async fn a_shard_of_an_unregistered_table_or_with_foreign_bounds_is_refused(vault) {
        vault.seed(100).await;
        let survey = vault.survey().await;
        let engine = vault.engine().await;
        let mark = vault.mark(1, rotation::Direction::Forward);
        engine.fence(&mark).await.unwrap();
        let mut foreign = survey.shards[0].clone();
        foreign.table = "elsewhere".to_owned();
        let error = engine.reencrypt(&vault.job(&foreign, 1, mark), &|_| {}).await.unwrap_err();
        assert!(error.fault().message.contains("elsewhere"));
        let mut bounds = survey.shards[0].clone();
        for bound in ["[\"i:1\",\"i:2\",\"i:3\"]", "[]", "no key"] {
            bounds.range.after = Some(rotation::KeyBound(bound.to_owned()));
            let error = engine.reencrypt(&vault.job(&bounds, 1, mark), &|_| {}).await.unwrap_err();
            assert_eq!(error.code(), FaultCode::Internal, "{error:?}");
        }
    }
}

#[tokio::test]
async fn null_keys_and_numbers_in_keys_of_sqlite_are_refused() {
    let vault = Vault::sqlite().await;
    vault
        .run("CREATE TABLE loose (k TEXT PRIMARY KEY, c BLOB); INSERT INTO loose VALUES (NULL, NULL), (NULL, NULL)")
        .await;
    assert!(refusal(&vault, "loose", "'k'", "c").await.contains("has 2 rows with NULL in their primary key"));
    vault.run("CREATE TABLE real (k REAL PRIMARY KEY NOT NULL, c BLOB); INSERT INTO real VALUES (0.5, NULL)").await;
    let targets = "version = 1\n[[table]]\nname = 'real'\nkey = ['k']\n[[table.column]]\nname = 'c'\n";
    let engine = Engine::connect(&vault.config, Targets::parse(targets).unwrap()).await.unwrap();
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let error = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Targets);
    assert!(error.fault().message.contains("floating-point"), "{error}");
}

#[tokio::test]
async fn virtual_tables_and_schemas_of_sqlite_are_refused() {
    let vault = Vault::sqlite().await;
    let targets = "version = 1\n[[table]]\nschema = 'other'\nname = 'connections'\nkey = ['id']\n[[table.column]]\nname = 'password'\n";
    assert!(refusal_of(&vault, targets).await.contains("SQLite has only \"main\""));
    vault.run("CREATE VIRTUAL TABLE words USING fts5(c)").await;
    assert!(refusal(&vault, "words", "'rowid'", "c").await.contains("is a virtual table"));
}

#[tokio::test]
async fn a_database_that_is_not_there_or_cannot_be_reached_is_an_error_and_is_not_made() {
    let vault = Vault::sqlite().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing.db");
    let engine = Engine::connect(&DatabaseConfig::new(format!("sqlite://{}", path.display())), vault.targets.clone())
        .await
        .unwrap();
    let error = engine.identity().await.unwrap_err();
    assert!(error.fault().message.contains("missing.db"), "{error}");
    assert!(!path.exists());
    let url = format!("postgres://a@{}/b", directory.path().display().to_string().replace('/', "%2F"));
    let engine = Engine::connect(&DatabaseConfig::new(url), vault.targets.clone()).await.unwrap();
    assert!(engine.identity().await.unwrap_err().is_retryable(), "a server may come back");
}

#[tokio::test]
async fn types_triggers_and_row_security_of_postgres_that_would_do_harm_are_refused() {
    let vault = Vault::postgres().await;
    vault
        .run(&vault.named(
            "CREATE TABLE odd (id boolean PRIMARY KEY, c bytea, t text, j json);
         CREATE TYPE colour AS ENUM ('red', 'green'); CREATE TABLE coloured (id colour PRIMARY KEY, c bytea);
         CREATE TABLE padded (id char(9) PRIMARY KEY, c bytea); CREATE TABLE floating (id double precision PRIMARY KEY, c bytea);
         CREATE TABLE filled (id int PRIMARY KEY, c char(400));
         CREATE TABLE parts (id int PRIMARY KEY, c bytea) PARTITION BY HASH (id);
         CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
         CREATE TABLE parent (id int PRIMARY KEY, c bytea); CREATE TABLE child () INHERITS (parent);
         CREATE TABLE hidden (id int PRIMARY KEY, c bytea); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
         CREATE TABLE ungranted (id int PRIMARY KEY, c bytea);
         CREATE TABLE always (id int PRIMARY KEY, c bytea);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER stubborn BEFORE UPDATE ON always FOR EACH ROW EXECUTE FUNCTION f();
         ALTER TABLE always ENABLE ALWAYS TRIGGER stubborn;
         GRANT SELECT, UPDATE ON odd, coloured, padded, floating, filled, parts, parts_0, parent, hidden, always TO keyturn_agent;",
        ))
        .await;
    for (name, column, expected) in [
        ("odd", "c", "key column \"id\" of type boolean"),
        ("coloured", "c", "key column \"id\" of type public.colour"),
        ("padded", "c", "key column \"id\" of type character"),
        ("floating", "c", "key column \"id\" of type double precision"),
        ("filled", "c", "column \"c\" of type character"),
        ("odd", "t", "its encoding must be \"base64\""),
        ("odd", "j", "column \"j\" of type json"),
        ("parts_0", "c", "is a partition"),
        ("parent", "c", "inherit from it"),
        ("hidden", "c", "row level security"),
        ("ungranted", "c", "may not UPDATE"),
        ("always", "c", "has trigger stubborn, which is set to fire even in replica sessions"),
    ] {
        let message = refusal(&vault, name, "'id'", column).await;
        assert!(message.contains(expected), "{name}.{column}: {message}");
    }
}

#[tokio::test]
async fn each_right_that_the_agents_role_lacks_is_named_with_the_statement_that_grants_it() {
    let vault = Vault::postgres().await;
    let Place::Postgres { agent, application, .. } = &vault.place else { panic!("PostgreSQL only") };
    let take = format!(
        "ALTER ROLE {agent} NOCREATEROLE; REVOKE pg_signal_backend, pg_read_all_stats FROM {agent}; DROP SCHEMA keyturn;"
    );
    vault.run(&take).await;
    let error = vault.engine().await.check_targets().await.unwrap_err();
    let message = error.fault().message;
    for expected in [
        format!("ALTER ROLE {agent} CREATEROLE"),
        format!("GRANT pg_signal_backend TO {agent}"),
        format!("GRANT pg_read_all_stats TO {agent}"),
        format!("CREATE SCHEMA keyturn AUTHORIZATION {agent}"),
    ] {
        assert!(message.contains(&expected), "{message}");
    }
    let mut config = vault.config.clone();
    config.application_role = Some(agent.clone());
    let engine = Engine::connect(&config, vault.targets.clone()).await.unwrap();
    assert!(engine.check_targets().await.unwrap_err().fault().message.contains("is the agent's own role"));
    config.application_role = Some("nobody_at_all".to_owned());
    let engine = Engine::connect(&config, vault.targets.clone()).await.unwrap();
    assert!(engine.check_targets().await.unwrap_err().fault().message.contains("\"nobody_at_all\" does not exist"));
    vault.run(&format!("ALTER ROLE {application} SUPERUSER")).await;
    assert!(
        vault
            .engine()
            .await
            .check_targets()
            .await
            .unwrap_err()
            .fault()
            .message
            .contains("only a superuser can fence it")
    );
}

#[tokio::test]
async fn too_few_connections_are_refused_at_once() {
    let mut config = DatabaseConfig::new("sqlite:///nowhere");
    config.connections_max = 1;
    let targets = Vault::sqlite().await.targets;
    assert!(Engine::connect(&config, targets).await.unwrap_err().fault().message.contains("connections_max is 1"));
}
