//! A table that goes in place and is altered while a chunk of it is written, between the statements of one transaction: the
//! alteration waits for the chunk, or the chunk finds it and is told by name. Either way rows and ledger stay together,
//! and once the table is mended the work comes to its end.

use reencrypt::EngineError;
use rotation::{ContentDigest, Direction, FaultCode, Shard, ShardTally, Survey};
use sqlx::{AssertSqlSafe, Connection as _};
use tokio::task::JoinHandle;

use crate::farm::{Vault, request, turned, under};
use crate::proxy::{Cut, ENDLESS, engine_behind};

/// As many statements as a chunk's transaction and the end of the shard take, and some of what comes before.
const STATEMENTS: i64 = 12;

/// A change of the table, and how it is mended.
fn alterations(vault: &Vault) -> Vec<(&'static str, &'static str)> {
    let (type_changed, mended) = match vault.is_postgres() {
        true => (
            "ALTER TABLE connections ALTER COLUMN notes TYPE varchar(4000)",
            "ALTER TABLE connections ALTER COLUMN notes TYPE text",
        ),
        false => (
            "ALTER TABLE connections MODIFY COLUMN notes varchar(4000)",
            "ALTER TABLE connections MODIFY COLUMN notes text",
        ),
    };
    vec![
        ("ALTER TABLE connections ADD COLUMN extra integer", "ALTER TABLE connections DROP COLUMN extra"),
        (type_changed, mended),
        (
            "ALTER TABLE connections RENAME COLUMN notes TO remarks",
            "ALTER TABLE connections RENAME COLUMN remarks TO notes",
        ),
        ("ALTER TABLE connections RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO connections"),
        (
            "ALTER TABLE connections DROP COLUMN updated_at",
            "ALTER TABLE connections ADD COLUMN updated_at text DEFAULT ('then')",
        ),
    ]
}

async fn begun(vault: &Vault) -> (Survey, Shard) {
    vault.seed(60).await;
    let engine = vault.engine().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let shard = survey.shards.iter().find(|shard| shard.table == "connections").unwrap().clone();
    (survey, shard)
}

/// Rows are turned all or not at all; and then the work comes to its end.
async fn comes_to_its_end(vault: &Vault, survey: &Survey) {
    let of_table = async || {
        let mut census = vault.census().await;
        census.retain(|(table, ..), _| table == "connections");
        under(&census)
    };
    let (old, new) = of_table().await;
    assert!(old == 0 || new == 0, "{old} and {new}");
    // What else the rows hold is what the alteration and its mending made of it.
    let values = |tally: ShardTally| ShardTally { rest: ContentDigest::default(), ..tally };
    let tally = vault.reencrypt_all(survey, 3, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(tally.rows, survey.shards.iter().map(|shard| shard.rows_estimated).sum::<u64>());
    let verified = vault.verify_all(survey, 4, vault.mark(3, Direction::Forward)).await.unwrap();
    assert_eq!(values(verified), values(tally));
    assert_eq!(of_table().await.0, 0);
}

/// Alters it in a session of its own, and comes back when that is done or waits.
pub(crate) async fn altered(vault: &Vault, change: &'static str) -> (JoinHandle<()>, bool) {
    let waiting = match vault.is_postgres() {
        true => {
            "SELECT count(*)::text FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE d.datname = current_database() AND NOT l.granted AND l.mode IN ('AccessExclusiveLock', 'ShareLock')"
        }
        false => {
            "SELECT CAST(COUNT(*) AS CHAR) FROM information_schema.PROCESSLIST
             WHERE DB = DATABASE() AND (INFO LIKE 'ALTER%' OR INFO LIKE 'CREATE%') AND STATE LIKE 'Waiting for table%'"
        }
    };
    let alter = if vault.is_postgres() {
        let mut session = vault.superuser().await;
        tokio::spawn(async move {
            sqlx::raw_sql(change).execute(&mut session).await.unwrap();
        })
    } else {
        let mut session = vault.root().await;
        tokio::spawn(async move {
            sqlx::raw_sql(change).execute(&mut session).await.unwrap();
        })
    };
    loop {
        if alter.is_finished() {
            return (alter, false);
        }
        if vault.text(waiting).await != "0" {
            return (alter, true);
        }
    }
}

/// What came of one alteration before one statement.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The statement was not sent any more.
    NotReached,
    /// The chunk was written, and the alteration came before it or waited for it.
    Done {
        waited: bool,
    },
    Told,
}

async fn alter_before(statement: i64, at: usize, vault: Vault) -> Outcome {
    let (change, mend) = alterations(&vault)[at];
    let (survey, shard) = begun(&vault).await;
    let before = vault.census().await;
    let (engine, proxy) = engine_behind(&vault, statement, Cut::Held).await;
    let job = vault.job(&shard, 2, vault.mark(2, Direction::Forward));
    let mut work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
    tokio::select! {
        () = proxy.last() => {}
        done = &mut work => {
            done.unwrap().unwrap();
            return Outcome::NotReached;
        }
    }
    let (alter, waited) = altered(&vault, change).await;
    proxy.release();
    let done: Result<_, EngineError> = work.await.unwrap();
    alter.await.unwrap();
    vault.run(mend).await;
    let outcome = match done {
        Ok(_) => Outcome::Done { waited },
        Err(error) => {
            let fault = error.fault();
            assert!(matches!(fault.code, FaultCode::Targets | FaultCode::Database), "{change}: {fault:?}");
            assert!(fault.message.contains("connections"), "{change}: {fault:?}");
            Outcome::Told
        }
    };
    comes_to_its_end(&vault, &survey).await;
    assert!(vault.census().await == turned(&before), "{change}");
    outcome
}

async fn alter_before_every_statement(vault: impl AsyncFn() -> Vault) {
    let counted = vault().await;
    let (_, shard) = begun(&counted).await;
    let (engine, proxy) = engine_behind(&counted, ENDLESS, Cut::Held).await;
    engine.reencrypt(&counted.job(&shard, 2, counted.mark(2, Direction::Forward)), &|_| {}).await.unwrap();
    let statements = proxy.sent(ENDLESS);
    let mut outcomes = Vec::new();
    for statement in (statements - STATEMENTS).max(1)..=statements {
        for at in 0..alterations(&counted).len() {
            outcomes.push(alter_before(statement, at, vault().await).await);
        }
    }
    for wanted in [Outcome::Done { waited: true }, Outcome::Done { waited: false }, Outcome::Told] {
        assert!(outcomes.contains(&wanted), "{wanted:?} {outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_it_waits_for_the_chunk_or_is_told_by_name() {
    alter_before_every_statement(Vault::postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb_it_waits_for_the_chunk_or_is_told_by_name() {
    alter_before_every_statement(Vault::mariadb).await;
}

/// The chunk cannot commit while somebody reads, and nobody alters while it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_it_waits_until_the_chunk_is_committed() {
    let vault = Vault::sqlite().await;
    let (survey, shard) = begun(&vault).await;
    let mut reader = vault.sqlite_connection().await;
    sqlx::raw_sql("PRAGMA journal_mode = DELETE").execute(&mut reader).await.unwrap();
    let engine = vault.engine().await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM documents").execute(&mut reader).await.unwrap();
    let job = vault.job(&shard, 2, vault.mark(2, Direction::Forward));
    let work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
    let mut other = vault.sqlite_connection().await;
    sqlx::raw_sql("PRAGMA busy_timeout = 0").execute(&mut other).await.unwrap();
    let changes = ["ADD COLUMN extra integer", "RENAME COLUMN notes TO remarks", "RENAME TO elsewhere"];
    let alter = |change: &str| AssertSqlSafe(format!("BEGIN; ALTER TABLE connections {change}; ROLLBACK"));
    let mut refused = 0;
    while refused < changes.len() {
        assert!(!work.is_finished(), "{:?}", work.await);
        // Between chunks it may be done, and is undone at once.
        match sqlx::raw_sql(alter(changes[refused])).execute(&mut other).await {
            Ok(_) => {}
            Err(error) => {
                assert!(error.to_string().contains("locked"), "{error}");
                let _ = sqlx::raw_sql("ROLLBACK").execute(&mut other).await;
                refused += 1;
            }
        }
    }
    sqlx::raw_sql("PRAGMA busy_timeout = 20000").execute(&mut other).await.unwrap();
    let altering = tokio::spawn(async move {
        sqlx::raw_sql("ALTER TABLE connections RENAME COLUMN notes TO remarks").execute(&mut other).await.unwrap();
        other.close().await.unwrap();
    });
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    let done = work.await.unwrap();
    altering.await.unwrap();
    if let Err(error) = done {
        let fault = error.fault();
        assert!(fault.message.contains("connections"), "{fault:?}");
    }
    vault.run("ALTER TABLE connections RENAME COLUMN remarks TO notes").await;
    comes_to_its_end(&vault, &survey).await;
}
