//! Values around the limit of 100 MiB: one above it is named with its row and the limit, and stays as it is; one just below
//! turns.

use std::sync::Arc;

use keys::value::Encoding;
use reencrypt::ShardJob;
use rotation::{Direction, FaultCode, ShardTally, Survey};
use sqlx::Connection as _;

use crate::farm::{Place, Vault, add};
use crate::mariadb::Server;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'files'\nkey = ['id']\n[[table.column]]\nname = 'content'\n";

const MIB: usize = 1 << 20;

/// The least that is too much.
const TOO_LARGE: usize = 100 * MIB + 1;

async fn insert(vault: &Vault, id: i64, content: Vec<u8>) {
    match &vault.place {
        Place::Sqlite { .. } => {
            let mut connection = vault.sqlite_connection().await;
            let query = sqlx::query("INSERT INTO files VALUES (?, ?)").bind(id).bind(content);
            query.execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
        Place::Postgres { .. } => {
            let query = sqlx::query("INSERT INTO files VALUES ($1, $2)").bind(id).bind(content);
            query.execute(&mut vault.superuser().await).await.unwrap();
        }
        Place::Mariadb { .. } => {
            let query = sqlx::query("INSERT INTO files VALUES (?, ?)").bind(id).bind(content);
            query.execute(&mut vault.root().await).await.unwrap();
        }
    }
}

async fn pass(vault: &Vault, survey: &Survey, epoch: u64, accepts: bool) -> Result<ShardTally, reencrypt::EngineError> {
    let (engine, mark) = (vault.engine().await, vault.mark(epoch, Direction::Forward));
    let mut sum = ShardTally::default();
    for shard in &survey.shards {
        let accepted = if accepts { survey.undecryptable.clone() } else { Vec::new() };
        let job = ShardJob { accepted, ..vault.job(shard, epoch, mark) };
        let turned = engine.reencrypt(&job, &|_| {}).await?;
        sum = add(&sum, &turned);
        assert_eq!(engine.verify(&job, &|_| {}).await?, turned);
    }
    Ok(sum)
}

/// `zeros` is such a value, in SQL.
async fn around_the_limit(vault: Vault, zeros: &str) {
    vault.run(&vault.types("CREATE TABLE files (id {bigint} PRIMARY KEY, content {blob})")).await;
    match &vault.place {
        Place::Sqlite { .. } => {}
        Place::Postgres { .. } => vault.run(&vault.named("GRANT USAGE ON SCHEMA public TO keyturn_agent")).await,
        Place::Mariadb { .. } => {}
    }
    if !vault.is_sqlite() {
        vault.grant("files", "id", "content").await;
    }
    let encrypt = |bytes: usize| vault.encrypt(&vault.old, &vec![b'x'; bytes], Encoding::Raw, "");
    insert(&vault, 1, encrypt(10)).await;
    insert(&vault, 2, encrypt(99 * MIB)).await;
    vault.run(&format!("INSERT INTO files VALUES (3, {zeros})")).await;
    insert(&vault, 4, encrypt(10)).await;

    let survey = vault.survey().await;
    assert_eq!(survey.undecryptable_total, 1);
    let named = &survey.undecryptable[0];
    assert_eq!((named.column.as_str(), named.key.0.as_str()), ("content", "[\"i:3\"]"));
    let limit = format!("the value has {TOO_LARGE} bytes, and at most 104857600 (100 MiB) are read");
    assert_eq!(named.reason, limit);

    vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let fault = pass(&vault, &survey, 2, false).await.unwrap_err().fault();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Undecryptable, false));
    assert!(fault.message.contains(&format!("files.content of row [\"i:3\"]: {limit}")), "{fault:?}");

    let tally = pass(&vault, &survey, 3, true).await.unwrap();
    assert_eq!((tally.rows, tally.values, tally.undecryptable), (4, 3, 1));
    let stays = match &vault.place {
        Place::Sqlite { .. } => format!("SELECT CAST(content = {zeros} AS text) FROM files WHERE id = 3"),
        Place::Postgres { .. } | Place::Mariadb { .. } => {
            format!("SELECT CAST(CASE WHEN content = {zeros} THEN 1 END AS text) FROM files WHERE id = 3")
        }
    };
    assert_eq!(vault.text(&stays).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_above_is_named_and_stays_and_one_below_turns_on_sqlite() {
    around_the_limit(Vault::sqlite_bare(TARGETS), &format!("zeroblob({TOO_LARGE})")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_above_is_named_and_stays_and_one_below_turns_on_postgres() {
    let zeros = format!("convert_to(repeat('0', {TOO_LARGE}), 'UTF8')");
    around_the_limit(Vault::postgres_bare(TARGETS).await, &zeros).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_above_is_named_and_stays_and_one_below_turns_on_mariadb() {
    let server = Arc::new(Server::start("--max-allowed-packet=256M --innodb-log-file-size=1G"));
    around_the_limit(Vault::mariadb_bare_on(server, TARGETS).await, &format!("REPEAT('0', {TOO_LARGE})")).await;
}
