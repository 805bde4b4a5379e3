//! A table that is copied and altered meanwhile, before every statement that a shard's copy takes: the alteration is in the
//! copy, or some step up to the swap tells of it by the table's name, and then the undo has every value as it was. The
//! alteration stays either way.

use reencrypt::{Engine, EngineError};
use rotation::{Direction, Shard, Strategy, Survey};

use crate::altered_in_a_chunk::altered;
use crate::farm::{Place, Vault, request, turned};
use crate::proxy::{Cut, ENDLESS, engine_behind};
use crate::shadow::undo;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'connections'\nkey = ['id']\n[[table.column]]\nname = 'notes'\n";

const CHANGES: [&str; 4] = [
    "ALTER TABLE connections ADD COLUMN extra integer DEFAULT 7",
    "ALTER TABLE connections DROP COLUMN other",
    "CREATE INDEX another ON connections (other)",
    "ALTER TABLE connections RENAME TO elsewhere",
];

async fn postgres() -> Vault {
    let mut vault = Vault::postgres_bare(TARGETS).await;
    let Place::Postgres { agent, application, .. } = &vault.place else { panic!("not PostgreSQL") };
    let owned =
        format!("GRANT {application} TO {agent}; ALTER SCHEMA public OWNER TO {application}; SET ROLE {application};");
    vault.run(&format!("{owned} CREATE TABLE connections (id integer PRIMARY KEY, other integer, notes bytea)")).await;
    fill(&mut vault).await;
    vault
}

async fn mariadb() -> Vault {
    let mut vault = Vault::mariadb_bare(TARGETS).await;
    vault.run("CREATE TABLE connections (id integer PRIMARY KEY, other integer, notes longblob)").await;
    vault.grant("connections", "", "notes").await;
    vault.grant_shadows().await;
    fill(&mut vault).await;
    vault
}

async fn fill(vault: &mut Vault) {
    vault.strategy = Strategy::Shadow;
    let row = |id: i32| format!("({id}, {id}, {})", vault.literal(&vault.raw(&format!("secret {id}"), "")));
    let rows: Vec<String> = (0..40).map(row).collect();
    vault.run(&format!("INSERT INTO connections VALUES {}", rows.join(","))).await;
}

async fn begun(vault: &Vault) -> (Survey, Shard) {
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let shard = survey.shards[0].clone();
    (survey, shard)
}

/// What comes after the shard's first attempt, up to the swap.
async fn the_rest(vault: &Vault, survey: &Survey, engine: &Engine) -> Result<(), EngineError> {
    let forward = |epoch| vault.mark(epoch, Direction::Forward);
    vault.reencrypt_all(survey, 3, forward(2)).await?;
    engine.finish_shadows(&forward(3), &|_| {}).await?;
    vault.verify_all(survey, 4, forward(4)).await?;
    engine.swap(&vault.swap_job(survey, forward(5)), &|_| {}).await
}

/// Everything that the tables' definitions say, and that the swap leaves as it is.
async fn definition(vault: &Vault) -> Vec<Vec<Option<Vec<u8>>>> {
    let (of_columns, of_indexes) = match vault.is_postgres() {
        true => (
            "SELECT table_name::text, column_name::text, data_type::text, column_default::text
             FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'keyturn%' ORDER BY 1, 2",
            "SELECT tablename::text, indexname::text FROM pg_indexes
             WHERE schemaname = 'public' AND tablename NOT LIKE 'keyturn%' ORDER BY 1, 2",
        ),
        false => (
            "SELECT TABLE_NAME, COLUMN_NAME, DATA_TYPE, COLUMN_DEFAULT FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME NOT LIKE 'keyturn%' ORDER BY 1, 2",
            "SELECT DISTINCT TABLE_NAME, INDEX_NAME FROM information_schema.STATISTICS
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME NOT LIKE 'keyturn%' ORDER BY 1, 2",
        ),
    };
    let mut definition = vault.rows(of_columns).await;
    definition.extend(vault.rows(of_indexes).await);
    definition
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The statement was not sent any more.
    NotReached,
    Swapped,
    Told,
}

async fn alter_before(statement: i64, change: &'static str, vault: Vault) -> Outcome {
    let (survey, shard) = begun(&vault).await;
    let before = vault.census().await;
    let (behind, proxy) = engine_behind(&vault, statement, Cut::Held).await;
    let job = vault.job(&shard, 2, vault.mark(2, Direction::Forward));
    let mut work = tokio::spawn(async move { behind.reencrypt(&job, &|_| {}).await });
    tokio::select! {
        () = proxy.last() => {}
        done = &mut work => {
            done.unwrap().unwrap();
            return Outcome::NotReached;
        }
    }
    let (alter, _) = altered(&vault, change).await;
    proxy.release();
    let first = work.await.unwrap();
    alter.await.unwrap();
    let (defined, engine) = (definition(&vault).await, vault.engine().await);
    let done = match first {
        Err(error) if !error.is_retryable() => Err(error),
        _ => the_rest(&vault, &survey, &engine).await,
    };
    let Err(error) = done else {
        assert!(vault.census().await == turned(&before), "{change}");
        assert_eq!(definition(&vault).await, defined, "{change}");
        return Outcome::Swapped;
    };
    let fault = error.fault();
    assert!(!fault.retryable && fault.message.contains("connections"), "{change}: {fault:?}");
    if change.contains("RENAME") {
        vault.run("ALTER TABLE elsewhere RENAME TO connections").await;
    }
    let defined = definition(&vault).await;
    undo(&vault, &survey, 10).await;
    assert!(vault.census().await == before, "{change}");
    assert_eq!(definition(&vault).await, defined, "{change}");
    Outcome::Told
}

async fn alter_before_every_statement(vault: impl AsyncFn() -> Vault) {
    let counted = vault().await;
    let (_, shard) = begun(&counted).await;
    let (engine, proxy) = engine_behind(&counted, ENDLESS, Cut::Held).await;
    engine.reencrypt(&counted.job(&shard, 2, counted.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    let mut outcomes = Vec::new();
    // Each statement with one of them, and each of them with every kind of statement.
    for (statement, change) in (1..=proxy.sent(ENDLESS)).zip(CHANGES.into_iter().cycle()) {
        outcomes.push(alter_before(statement, change, vault().await).await);
    }
    for wanted in [Outcome::Swapped, Outcome::Told] {
        assert!(outcomes.contains(&wanted), "{wanted:?} {outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_it_is_in_the_copy_or_told_before_the_swap() {
    alter_before_every_statement(postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb_it_is_in_the_copy_or_told_before_the_swap() {
    alter_before_every_statement(mariadb).await;
}
