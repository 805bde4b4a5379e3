//! The ledger in SQLite: its tables, entering a shard, and the transaction of a chunk. Every transaction that may
//! write takes the database's one lock at its beginning, so what it reads stays true until it ends.

pub(super) mod shadows;

use fail_points::point;
use rotation::{Direction, RotationId, ShardId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, Row as _, Sqlite, Transaction};

use super::super::{Chunk, Turn, Written};
use super::rows;
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::key::Key;
use crate::ledger::{
    Claim, Header, LEDGER_FORMAT, LedgerMark, Pass, SCRATCH_ROTATIONS, ShardRecord, StoredRecord, chunk_superseded,
    direction_text, epoch_number, number,
};
use crate::shadow::{Shadow, ShadowState};
use crate::table::{Change, Table, quote};

/// SQLite's primary code for a lock that another connection holds.
const SQLITE_BUSY: i32 = 5;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS main.keyturn_rotation (
        rotation TEXT NOT NULL PRIMARY KEY,
        format INTEGER NOT NULL,
        direction TEXT NOT NULL CHECK (direction IN ('forward', 'back')),
        epoch INTEGER NOT NULL,
        closed INTEGER NOT NULL DEFAULT 0,
        opened_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        closed_at TEXT,
        let_in INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS main.keyturn_shard (
        rotation TEXT NOT NULL,
        shard INTEGER NOT NULL,
        pass TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        lease INTEGER NOT NULL,
        cursor_key TEXT,
        rows_done INTEGER NOT NULL DEFAULT 0,
        values_opened INTEGER NOT NULL DEFAULT 0,
        values_undecryptable INTEGER NOT NULL DEFAULT 0,
        content_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000',
        done INTEGER NOT NULL DEFAULT 0,
        rest_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000',
        raw_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000',
        PRIMARY KEY (rotation, shard, pass)
    ) WITHOUT ROWID;";

const CREATE_SHADOW: &str = "
    CREATE TABLE main.keyturn_shadow (
        rotation TEXT NOT NULL,
        label TEXT NOT NULL,
        table_name TEXT NOT NULL,
        shadow_name TEXT NOT NULL,
        retained_name TEXT NOT NULL,
        state TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        PRIMARY KEY (rotation, label)
    ) WITHOUT ROWID;";

/// What format 2 has beyond format 1, besides the shadows.
const UPGRADE: &str = "
    ALTER TABLE main.keyturn_rotation ADD COLUMN let_in INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE main.keyturn_shard
        ADD COLUMN rest_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
    ALTER TABLE main.keyturn_shard
        ADD COLUMN raw_digest TEXT NOT NULL DEFAULT '00000000000000000000000000000000';
    UPDATE main.keyturn_rotation SET format = 2;";

const SHARD: &str = "
    SELECT epoch, lease, cursor_key, rows_done, values_opened, values_undecryptable, content_digest, done,
           rest_digest, raw_digest
    FROM main.keyturn_shard WHERE rotation = ? AND shard = ? AND pass = ?";

pub(super) async fn begin<'c>(
    connection: &'c mut SqliteConnection,
    doing: impl FnOnce() -> String,
) -> Result<Transaction<'c, Sqlite>, EngineError> {
    match connection.begin_with("BEGIN IMMEDIATE").await {
        Err(error) if is_busy(&error) => Err(EngineError::Busy { doing: doing(), by: Vec::new(), source: error }),
        begun => begun.doing(doing),
    }
}

fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code()).and_then(|code| code.parse::<i32>().ok());
    code.is_some_and(|code| code & 0xff == SQLITE_BUSY)
}

/// Whether the ledger is there in this release's form. One of an earlier form in which all is closed knows nothing of
/// any rotation that could be asked about; one in which a rotation is open is that release's.
pub(super) async fn exists(connection: &mut SqliteConnection) -> Result<bool, EngineError> {
    let doing = || "looking for the ledger".to_owned();
    let tables: i64 = sqlx::query(
        "SELECT count(*) FROM main.sqlite_schema
         WHERE type = 'table' AND name IN ('keyturn_rotation', 'keyturn_shard', 'keyturn_shadow')",
    )
    .fetch_one(&mut *connection)
    .await
    .and_then(|row| row.try_get(0))
    .doing(doing)?;
    if tables != 2 {
        return Ok(tables == 3);
    }
    let open: Option<String> = sqlx::query("SELECT rotation FROM main.keyturn_rotation WHERE NOT closed LIMIT 1")
        .fetch_optional(connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .doing(doing)?;
    match open {
        Some(open) => Err(EngineError::LedgerOld(open)),
        None => Ok(false),
    }
}

/// Refuses a ledger of a later release.
pub(super) async fn refuse_newer(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    let newest: Option<i64> = sqlx::query("SELECT max(format) FROM main.keyturn_rotation")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for the ledger's format".to_owned())?;
    crate::ledger::refuse_newer(newest)
}

/// Makes the ledger's tables, or brings those of an earlier form to this one.
async fn make_tables(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    if exists(connection).await? {
        return refuse_newer(connection).await;
    }
    let doing = || "making the ledger's tables".to_owned();
    let old: bool = sqlx::query("SELECT count(*) FROM main.sqlite_schema WHERE name = 'keyturn_rotation'")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    sqlx::raw_sql(if old { UPGRADE } else { CREATE }).execute(&mut *connection).await.doing(doing)?;
    sqlx::raw_sql(CREATE_SHADOW).execute(connection).await.doing(doing)?;
    Ok(())
}

pub(super) async fn header(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
) -> Result<Option<Header>, EngineError> {
    if !exists(connection).await? {
        return Ok(None);
    }
    let doing = || "reading the ledger's header".to_owned();
    let row =
        sqlx::query("SELECT format, direction, epoch, closed, let_in FROM main.keyturn_rotation WHERE rotation = ?")
            .bind(rotation.to_string())
            .fetch_optional(connection)
            .await
            .doing(doing)?;
    let read = |row: SqliteRow| {
        Ok(Header {
            format: row.try_get(0)?,
            direction: row.try_get(1)?,
            epoch: row.try_get(2)?,
            closed: row.try_get(3)?,
            role_saved: None,
            role_fenced: false,
            let_in: row.try_get(4)?,
        })
    };
    row.map(read).transpose().doing(doing)
}

pub(super) async fn known_header(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<Header, EngineError> {
    header(connection, &mark.rotation).await?.ok_or(EngineError::LedgerMissing(mark.rotation))
}

/// Writes the header as the mark has it.
pub(super) async fn write_header(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    closed: bool,
) -> Result<(), EngineError> {
    sqlx::query(
        "INSERT INTO main.keyturn_rotation (rotation, format, direction, epoch, closed) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (rotation) DO UPDATE SET direction = ?3, epoch = ?4, closed = ?5,
             closed_at = CASE WHEN ?5 THEN CURRENT_TIMESTAMP END",
    )
    .bind(mark.rotation.to_string())
    .bind(LEDGER_FORMAT)
    .bind(direction_text(mark.direction))
    .bind(epoch_number(mark))
    .bind(closed)
    .execute(connection)
    .await
    .doing(|| "writing the ledger's header".to_owned())?;
    Ok(())
}

pub(super) async fn fence(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "opening the ledger".to_owned();
    let mut transaction = begin(connection, doing).await?;
    make_tables(&mut transaction).await?;
    let open: Option<String> = sqlx::query(
        "SELECT rotation FROM main.keyturn_rotation WHERE NOT closed AND rotation <> ? AND rotation NOT LIKE ? LIMIT 1",
    )
    .bind(mark.rotation.to_string())
    .bind(SCRATCH_ROTATIONS)
    .fetch_optional(&mut *transaction)
    .await
    .and_then(|row| row.map(|row| row.try_get(0)).transpose())
    .doing(doing)?;
    if let Some(open) = open {
        return Err(EngineError::LedgerOpen(open));
    }
    if let Some(header) = header(&mut transaction, &mark.rotation).await? {
        header.admit(mark)?;
    }
    write_header(&mut transaction, mark, false).await?;
    durable::commit(point!(LEDGER_OPENED), transaction).await.doing(doing)
}

/// Makes the ledger's tables where they are missing.
pub(super) async fn create(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    let doing = || "making the ledger's tables".to_owned();
    let mut transaction = begin(connection, doing).await?;
    make_tables(&mut transaction).await?;
    transaction.commit().await.doing(doing)
}

/// A rotation whose header is open, if there is one; measurements do not count.
pub(super) async fn open_rotation(connection: &mut SqliteConnection) -> Result<Option<String>, EngineError> {
    sqlx::query("SELECT rotation FROM main.keyturn_rotation WHERE NOT closed AND rotation NOT LIKE ? LIMIT 1")
        .bind(SCRATCH_ROTATIONS)
        .fetch_optional(connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .doing(|| "looking for a rotation under way".to_owned())
}

/// Writes the header of a measurement, which looks for nobody else.
pub(super) async fn open(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "opening the ledger".to_owned();
    let mut transaction = begin(connection, doing).await?;
    write_header(&mut transaction, mark, false).await?;
    transaction.commit().await.doing(doing)
}

/// Removes headers whose ids are like this, and their shards.
pub(super) async fn forget(connection: &mut SqliteConnection, rotations: &str) -> Result<(), EngineError> {
    let doing = || "removing a measurement from the ledger".to_owned();
    let mut transaction = begin(connection, doing).await?;
    for sql in [
        "DELETE FROM main.keyturn_shadow WHERE rotation LIKE ?",
        "DELETE FROM main.keyturn_shard WHERE rotation LIKE ?",
        "DELETE FROM main.keyturn_rotation WHERE rotation LIKE ?",
    ] {
        sqlx::query(sql).bind(rotations).execute(&mut *transaction).await.doing(doing)?;
    }
    transaction.commit().await.doing(doing)
}

/// Takes the ledger away again in which no rotation stands.
pub(super) async fn drop_unused(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    let doing = || "removing the ledger that only measurements used".to_owned();
    let mut transaction = begin(connection, doing).await?;
    let used: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM main.keyturn_rotation)")
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    if used {
        return Ok(());
    }
    let tables: Vec<String> = sqlx::query(
        "SELECT name FROM main.sqlite_schema
         WHERE type = 'table' AND name IN ('keyturn_shard', 'keyturn_shadow', 'keyturn_rotation')",
    )
    .fetch_all(&mut *transaction)
    .await
    .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
    .doing(doing)?;
    for table in tables {
        run(&mut transaction, format!("DROP TABLE main.{}", quote(&table))).await.doing(doing)?;
    }
    transaction.commit().await.doing(doing)
}

pub(super) async fn turn_back(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "turning the ledger back".to_owned();
    let mut transaction = begin(connection, doing).await?;
    make_tables(&mut transaction).await?;
    if let Some(header) = header(&mut transaction, &mark.rotation).await? {
        header.admit_epoch(mark)?;
    }
    write_header(&mut transaction, mark, false).await?;
    durable::commit(point!(LEDGER_TURNED_BACK), transaction).await.doing(doing)
}

/// There is no role; the header alone is raised, so that a late worker learns that it is late, and notes that the
/// application is let in.
pub(super) async fn lift_fence(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "lifting the fence".to_owned();
    let mut transaction = begin(connection, doing).await?;
    known_header(&mut transaction, mark).await?.admit(mark)?;
    write_header(&mut transaction, mark, false).await?;
    if mark.direction == Direction::Forward {
        sqlx::query("UPDATE main.keyturn_rotation SET let_in = 1 WHERE rotation = ?")
            .bind(mark.rotation.to_string())
            .execute(&mut *transaction)
            .await
            .doing(doing)?;
    }
    durable::commit(point!(FENCE_LIFTED), transaction).await.doing(doing)
}

/// Whether the application was let in going forward.
pub(super) async fn was_let_in(connection: &mut SqliteConnection, rotation: &RotationId) -> Result<bool, EngineError> {
    Ok(header(connection, rotation).await?.is_some_and(|header| header.let_in))
}

pub(super) async fn close(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || "closing the ledger".to_owned();
    let mut transaction = begin(connection, doing).await?;
    let header = known_header(&mut transaction, mark).await?;
    if header.closed && header.direction == direction_text(mark.direction) {
        return Ok(());
    }
    header.admit(mark)?;
    write_header(&mut transaction, mark, true).await?;
    // The shards of this rotation stay as evidence; those of earlier ones have served.
    sqlx::query(
        "DELETE FROM main.keyturn_shard
         WHERE rotation <> ? AND rotation IN (SELECT rotation FROM main.keyturn_rotation WHERE closed)",
    )
    .bind(mark.rotation.to_string())
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    durable::commit(point!(LEDGER_CLOSED), transaction).await.doing(doing)
}

pub(super) async fn enter(connection: &mut SqliteConnection, claim: &Claim) -> Result<ShardRecord, EngineError> {
    let doing = || format!("entering shard {} in the ledger", claim.shard);
    let mut transaction = begin(connection, doing).await?;
    known_header(&mut transaction, &claim.mark).await?.admit(&claim.mark)?;
    write_header(&mut transaction, &claim.mark, false).await?;
    sqlx::query(
        "INSERT INTO main.keyturn_shard (rotation, shard, pass, epoch, lease) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT DO NOTHING",
    )
    .bind(claim.mark.rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    let stored = shard(&mut transaction, &claim.mark.rotation, claim.shard, claim.pass).await?;
    let record = match stored {
        Some(stored) => stored.take_over(claim)?,
        None => return Err(EngineError::Internal(format!("shard {} vanished from the ledger", claim.shard))),
    };
    write_shard(&mut transaction, claim, &record).await?;
    durable::commit(point!(SHARD_ENTERED), transaction).await.doing(doing)?;
    Ok(record)
}

pub(super) async fn record(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
    shard: ShardId,
    pass: Pass,
) -> Result<Option<ShardRecord>, EngineError> {
    if !exists(connection).await? {
        return Err(EngineError::LedgerMissing(*rotation));
    }
    match self::shard(connection, rotation, shard, pass).await? {
        Some(stored) => stored.read(shard, pass).map(Some),
        None => Ok(None),
    }
}

pub(super) async fn commit(connection: &mut SqliteConnection, chunk: &Chunk<'_>) -> Result<Written, EngineError> {
    let claim = chunk.claim;
    let doing = || format!("committing a chunk of {}", chunk.table.label);
    let mut transaction = begin(connection, doing).await?;
    known_header(&mut transaction, &claim.mark).await?.admit(&claim.mark)?;
    let stored = shard(&mut transaction, &claim.mark.rotation, claim.shard, claim.pass).await?;
    let holds = |stored: &StoredRecord| {
        stored.epoch == epoch_number(&claim.mark)
            && stored.lease == number(claim.lease.get())
            && stored.read(claim.shard, claim.pass).is_ok_and(|record| record == *chunk.before)
    };
    if !stored.as_ref().is_some_and(holds) {
        return Err(chunk_superseded(claim));
    }
    write_shard(&mut transaction, claim, chunk.after).await?;
    if !chunk.changes.is_empty() {
        let written = match chunk.into {
            Some(into) => {
                may_be_filled(&mut transaction, chunk, into).await?;
                rows::insert(&mut transaction, chunk.table, into, chunk.changes).await?
            }
            None => write(&mut transaction, chunk.table, chunk.changes).await?,
        };
        if written != chunk.changes.len() as u64 {
            transaction.rollback().await.doing(doing)?;
            return Ok(Written::RowsDiffer);
        }
    }
    durable::commit(point!(CHUNK_COMMITTED), transaction).await.doing(doing)?;
    Ok(Written::Committed)
}

/// The copy must still be one: once it is swapped in, its name is that of the retained original.
async fn may_be_filled(connection: &mut SqliteConnection, chunk: &Chunk<'_>, into: &Table) -> Result<(), EngineError> {
    let shadows = shadows::all(connection, &chunk.claim.mark.rotation).await?;
    let fits = |shadow: &Shadow| {
        shadow.from == into.from && matches!(shadow.state, ShadowState::Building | ShadowState::Built)
    };
    if shadows.iter().any(fits) { Ok(()) } else { Err(chunk_superseded(chunk.claim)) }
}

/// Writes one row in a transaction that is always rolled back.
pub(super) async fn try_write(
    connection: &mut SqliteConnection,
    table: &Table,
    key: &Key,
    turn: Turn<'_>,
) -> Result<bool, EngineError> {
    let doing = || format!("trying to write {}", table.label);
    let mut transaction = begin(connection, doing).await?;
    let written = match rows::row(&mut transaction, table, key).await.map(|row| row.and_then(turn)) {
        Ok(Some(change)) => write(&mut transaction, table, &[change]).await.map(|rows| rows == 1),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    transaction.rollback().await.doing(doing)?;
    written.map_err(|error| error.of_trial(&table.label))
}

/// Writes the changes without the table's triggers, and says how many rows still held what was read.
///
/// SQLite cannot keep triggers from firing. They are taken away and made again in the caller's transaction, so that
/// no other connection ever sees the table without them.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    let doing = || format!("keeping the triggers of {} from firing", table.label);
    for trigger in &table.triggers {
        run(connection, format!("DROP TRIGGER main.{}", trigger.sql)).await.doing(doing)?;
    }
    let written = rows::update(connection, table, changes).await?;
    for trigger in &table.triggers {
        run(connection, trigger.definition.clone()).await.doing(doing)?;
    }
    Ok(written)
}

/// Reviewed: what is run is a quoted identifier, or a definition as the schema itself holds it.
async fn run(connection: &mut SqliteConnection, sql: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

async fn shard(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
    shard: ShardId,
    pass: Pass,
) -> Result<Option<StoredRecord>, EngineError> {
    let doing = || format!("reading shard {shard} in the ledger");
    let row = sqlx::query(SHARD)
        .bind(rotation.to_string())
        .bind(number(shard.get()))
        .bind(pass.as_str())
        .fetch_optional(connection)
        .await
        .doing(doing)?;
    row.map(|row| read_shard(&row)).transpose().doing(doing)
}

async fn write_shard(
    connection: &mut SqliteConnection,
    claim: &Claim,
    record: &ShardRecord,
) -> Result<(), EngineError> {
    sqlx::query(
        "UPDATE main.keyturn_shard
         SET epoch = ?, lease = ?, cursor_key = ?, rows_done = ?, values_opened = ?, values_undecryptable = ?,
             content_digest = ?, done = ?, rest_digest = ?, raw_digest = ?
         WHERE rotation = ? AND shard = ? AND pass = ?",
    )
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .bind(record.cursor.as_ref().map(ToString::to_string))
    .bind(number(record.tally.rows))
    .bind(number(record.tally.values))
    .bind(number(record.tally.undecryptable))
    .bind(record.tally.digest.to_string())
    .bind(record.done)
    .bind(record.tally.rest.to_string())
    .bind(record.raw.to_string())
    .bind(claim.mark.rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .execute(connection)
    .await
    .doing(|| format!("writing shard {} in the ledger", claim.shard))?;
    Ok(())
}

fn read_shard(row: &SqliteRow) -> Result<StoredRecord, sqlx::Error> {
    Ok(StoredRecord {
        epoch: row.try_get(0)?,
        lease: row.try_get(1)?,
        cursor: row.try_get(2)?,
        rows: row.try_get(3)?,
        values: row.try_get(4)?,
        undecryptable: row.try_get(5)?,
        digest: row.try_get(6)?,
        done: row.try_get(7)?,
        rest: row.try_get(8)?,
        raw: row.try_get(9)?,
    })
}
