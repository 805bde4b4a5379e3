//! The ledger in MariaDB and MySQL: its tables, entering a shard, and the transaction of a chunk.

use fail_points::point;
use rotation::{RotationId, ShardId};
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection, Row as _};

use super::super::{Chunk, Written};
use super::make::Make;
use super::{rows, sessions};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::{Doing, mariadb_number};
use crate::ledger::{
    Claim, Header, LEDGER_FORMAT, LedgerMark, Pass, SCRATCH_ROTATIONS, ShardRecord, StoredRecord, chunk_superseded,
    direction_text, epoch_number, number,
};

/// Everything in it is compared byte by byte. A chunk is one transaction over these tables and the user's, so all
/// are InnoDB's. `holder` names the lock that the session of the shard's worker holds for as long as it lives.
const CREATE: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS keyturn_rotation (
        rotation VARCHAR(64) NOT NULL PRIMARY KEY,
        format BIGINT NOT NULL,
        direction VARCHAR(16) NOT NULL CHECK (direction IN ('forward', 'back')),
        epoch BIGINT NOT NULL,
        closed TINYINT NOT NULL DEFAULT 0,
        role_saved LONGTEXT,
        role_fenced TINYINT NOT NULL DEFAULT 0,
        opened_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
        closed_at DATETIME(6),
        let_in TINYINT NOT NULL DEFAULT 0
    ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS keyturn_shard (
        rotation VARCHAR(64) NOT NULL,
        shard BIGINT NOT NULL,
        pass VARCHAR(32) NOT NULL,
        epoch BIGINT NOT NULL,
        lease BIGINT NOT NULL,
        cursor_key LONGTEXT,
        rows_done BIGINT NOT NULL DEFAULT 0,
        values_opened BIGINT NOT NULL DEFAULT 0,
        values_undecryptable BIGINT NOT NULL DEFAULT 0,
        content_digest VARCHAR(64) NOT NULL DEFAULT '00000000000000000000000000000000',
        rest_digest VARCHAR(64) NOT NULL DEFAULT '00000000000000000000000000000000',
        raw_digest VARCHAR(64) NOT NULL DEFAULT '00000000000000000000000000000000',
        done TINYINT NOT NULL DEFAULT 0,
        holder VARCHAR(64) NOT NULL,
        PRIMARY KEY (rotation, shard, pass)
    ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
    "CREATE TABLE IF NOT EXISTS keyturn_shadow (
        rotation VARCHAR(64) NOT NULL,
        label VARCHAR(255) NOT NULL,
        table_name VARCHAR(64) NOT NULL,
        shadow_name VARCHAR(64) NOT NULL,
        retained_name VARCHAR(64) NOT NULL,
        state VARCHAR(16) NOT NULL,
        epoch BIGINT NOT NULL,
        PRIMARY KEY (rotation, label)
    ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
];

/// With whether the server is to be written to, which MySQL leaves to us: see [`super::ground::check_writable`].
const HEADER: &str = "
    SELECT format, direction, epoch, closed, role_saved, role_fenced, let_in,
           /*M! 0 */ /*!80400 @@GLOBAL.read_only */
    FROM keyturn_rotation WHERE rotation = ?";

const SHARD: &str = "
    SELECT epoch, lease, cursor_key, rows_done, values_opened, values_undecryptable, content_digest, done,
           rest_digest, raw_digest
    FROM keyturn_shard WHERE rotation = ? AND shard = ? AND pass = ?";

/// What the server says of a table that is not there, and of what the account may not read, be it there or not.
const NO_SUCH_TABLE: u16 = 1146;
const TABLE_DENIED: u16 = 1142;
const COLUMN_DENIED: u16 = 1143;

/// Seconds in which a session that enters may say nothing: less than the next one waits for a lock.
const ENTERING: &str = "SET SESSION /*M! idle_transaction_timeout = 3 */ /*!80400 wait_timeout = 3 */";

/// What it is otherwise, as in the settings of every session.
const ENTERED: &str = "SET SESSION /*M! idle_transaction_timeout = 15 */ /*!80400 wait_timeout = 28800 */";

/// Whether the ledger's tables are there.
pub(super) async fn exists(connection: &mut MySqlConnection) -> Result<bool, EngineError> {
    are_there(connection, "keyturn_rotation, keyturn_shard, keyturn_shadow").await
}

/// Whether all of these are there. They are asked themselves: the catalog leaves out what the account has no right on, and an
/// account that lost its rights must not take the database for one without a ledger.
pub(super) async fn are_there(connection: &mut MySqlConnection, tables: &str) -> Result<bool, EngineError> {
    // Reviewed: constants only.
    let sql = AssertSqlSafe(format!("SELECT 1 FROM {tables} LIMIT 0"));
    let Err(error) = sqlx::raw_sql(sql).fetch_optional(&mut *connection).await else { return Ok(true) };
    match mariadb_number(&error) {
        Some(NO_SUCH_TABLE) => Ok(false),
        Some(TABLE_DENIED | COLUMN_DENIED) => {
            let said = error.as_database_error().map(|error| error.message().to_owned()).unwrap_or_default();
            let problem = format!("it may not read its own ledger, which may be there or not ({said})");
            Err(EngineError::Rights(vec![problem]))
        }
        _ => Err(error).doing(|| "looking for the ledger".to_owned()),
    }
}

/// Refuses a ledger of a later release.
pub(super) async fn refuse_newer(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    let newest: Option<i64> = sqlx::query("SELECT max(format) FROM keyturn_rotation")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for the ledger's format".to_owned())?;
    crate::ledger::refuse_newer(newest)
}

/// Makes the ledger's tables where they are missing. Two agents may do so at once.
pub(super) async fn create(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    if exists(connection).await? {
        return refuse_newer(connection).await;
    }
    for sql in CREATE {
        sqlx::raw_sql(sql).execute(&mut *connection).await.doing(|| "making the ledger's tables".to_owned())?;
    }
    Ok(())
}

/// How the header is to be held by the transaction that reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Not at all.
    Glance,
    /// Nobody may change it until the transaction ends.
    Shared,
    /// Nobody else may hold it.
    Alone,
}

/// The header, if there is one. Whoever holds it is about to write, and is refused on a server that is read-only.
pub(super) async fn header(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    hold: Hold,
) -> Result<Option<Header>, EngineError> {
    let sql = match hold {
        Hold::Glance => HEADER.to_owned(),
        Hold::Shared => format!("{HEADER} LOCK IN SHARE MODE"),
        Hold::Alone => format!("{HEADER} FOR UPDATE"),
    };
    let doing = || "reading the ledger's header".to_owned();
    // Reviewed: constants only.
    let row =
        sqlx::query(AssertSqlSafe(sql)).bind(rotation.to_string()).fetch_optional(connection).await.doing(doing)?;
    let Some(row) = row else { return Ok(None) };
    let read_only: i64 = row.try_get_unchecked(7).doing(doing)?;
    if read_only != 0 && hold != Hold::Glance {
        return Err(EngineError::ReadOnly);
    }
    read_header(&row).map(Some).doing(doing)
}

fn read_header(row: &MySqlRow) -> Result<Header, sqlx::Error> {
    Ok(Header {
        format: row.try_get(0)?,
        direction: row.try_get(1)?,
        epoch: row.try_get(2)?,
        closed: row.try_get::<i64, _>(3)? != 0,
        role_saved: row.try_get(4)?,
        role_fenced: row.try_get::<i64, _>(5)? != 0,
        let_in: row.try_get::<i64, _>(6)? != 0,
    })
}

/// Whether the application was let in going forward.
pub(super) async fn was_let_in(connection: &mut MySqlConnection, rotation: &RotationId) -> Result<bool, EngineError> {
    if !exists(connection).await? {
        return Ok(false);
    }
    Ok(header(connection, rotation, Hold::Glance).await?.is_some_and(|header| header.let_in))
}

/// A rotation whose header is open, if there is one other than this; measurements do not count.
pub(super) async fn open_rotation(
    connection: &mut MySqlConnection,
    rotation: Option<&RotationId>,
) -> Result<Option<String>, EngineError> {
    sqlx::query(
        "SELECT rotation FROM keyturn_rotation WHERE NOT closed AND rotation <> ? AND rotation NOT LIKE ? LIMIT 1",
    )
    .bind(rotation.map(ToString::to_string).unwrap_or_default())
    .bind(SCRATCH_ROTATIONS)
    .fetch_optional(connection)
    .await
    .and_then(|row| row.map(|row| row.try_get(0)).transpose())
    .doing(|| "looking for a rotation under way".to_owned())
}

/// Takes the ledger away again in which no rotation stands. One that begins at this very moment fails, and is tried again.
pub(super) async fn drop_unused(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    let doing = || "removing the ledger that only measurements used".to_owned();
    let used: i64 = sqlx::raw_sql("SELECT COUNT(*) FROM keyturn_rotation")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    if used == 0 {
        let sql = "DROP TABLE IF EXISTS keyturn_shadow, keyturn_shard, keyturn_rotation";
        sqlx::raw_sql(sql).execute(connection).await.doing(doing)?;
    }
    Ok(())
}

/// Inserts the header if there is none.
pub(super) async fn insert_header(connection: &mut MySqlConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    sqlx::query(
        "INSERT INTO keyturn_rotation (rotation, format, direction, epoch) VALUES (?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE rotation = keyturn_rotation.rotation",
    )
    .bind(mark.rotation.to_string())
    .bind(LEDGER_FORMAT)
    .bind(direction_text(mark.direction))
    .bind(epoch_number(mark))
    .execute(connection)
    .await
    .doing(|| "writing the ledger's header".to_owned())?;
    Ok(())
}

/// Sets what changes in a header that the transaction holds alone.
pub(super) async fn update_header(
    connection: &mut MySqlConnection,
    mark: &LedgerMark,
    header: &Header,
) -> Result<(), EngineError> {
    sqlx::query(
        "UPDATE keyturn_rotation
         SET direction = ?, epoch = ?, closed_at = CASE WHEN ? THEN COALESCE(closed_at, CURRENT_TIMESTAMP(6)) END,
             closed = ?, role_saved = ?, role_fenced = ?, let_in = ?
         WHERE rotation = ?",
    )
    .bind(&header.direction)
    .bind(header.epoch)
    .bind(header.closed)
    .bind(header.closed)
    .bind(&header.role_saved)
    .bind(header.role_fenced)
    .bind(header.let_in)
    .bind(mark.rotation.to_string())
    .execute(connection)
    .await
    .doing(|| "writing the ledger's header".to_owned())?;
    Ok(())
}

pub(super) async fn enter(connection: &mut MySqlConnection, claim: &Claim) -> Result<ShardRecord, EngineError> {
    let rotation = claim.mark.rotation;
    if !exists(connection).await? {
        return Err(EngineError::LedgerMissing(rotation));
    }
    let doing = || format!("entering shard {} in the ledger", claim.shard);
    let header = header(connection, &rotation, Hold::Glance).await?.ok_or(EngineError::LedgerMissing(rotation))?;
    header.admit(&claim.mark)?;
    end_earlier_holders(connection, claim).await?;
    // Raised by itself, before the header is held shared: two that enter at once would otherwise each wait for the
    // other to let go. It is raised in the same direction only.
    point!(HEADER_RAISED).before().map_err(sqlx::Error::Io).doing(doing)?;
    sqlx::query(
        "UPDATE keyturn_rotation SET epoch = ?
         WHERE rotation = ? AND epoch < ? AND direction = ? AND NOT closed AND format = ?
               /*!80400 AND NOT @@GLOBAL.read_only */",
    )
    .bind(epoch_number(&claim.mark))
    .bind(rotation.to_string())
    .bind(epoch_number(&claim.mark))
    .bind(direction_text(claim.mark.direction))
    .bind(LEDGER_FORMAT)
    .execute(&mut *connection)
    .await
    .doing(doing)?;
    point!(HEADER_RAISED).after().map_err(sqlx::Error::Io).doing(doing)?;
    let holder = sessions::take_name(connection).await?;
    // Until it has committed nobody can know its name, so one that stops in here is ended by the server, and soon.
    sqlx::raw_sql(ENTERING).execute(&mut *connection).await.doing(doing)?;
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = self::header(&mut transaction, &rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(rotation))?.admit(&claim.mark)?;
    sqlx::query(
        "INSERT INTO keyturn_shard (rotation, shard, pass, epoch, lease, holder) VALUES (?, ?, ?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE rotation = keyturn_shard.rotation",
    )
    .bind(rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .bind(&holder)
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    // Reviewed: constants only.
    let row = sqlx::query(AssertSqlSafe(format!("{SHARD} FOR UPDATE")))
        .bind(rotation.to_string())
        .bind(number(claim.shard.get()))
        .bind(claim.pass.as_str())
        .fetch_one(&mut *transaction)
        .await
        .doing(doing)?;
    let record = read_shard(&row).doing(doing)?.take_over(claim)?;
    write_shard(&mut transaction, claim, &record, Owner::Takes(&holder)).await?;
    durable::commit(point!(SHARD_ENTERED), transaction).await.doing(doing)?;
    sqlx::raw_sql(ENTERED).execute(connection).await.doing(doing)?;
    Ok(record)
}

/// Ends the sessions of whoever worked on the shard before, and of those that still work under an earlier epoch: one
/// may be stopped inside a transaction that holds the shard's row or the header, and wake when nobody expects it. The
/// leader gave their leases up, or it would not have given this one.
async fn end_earlier_holders(connection: &mut MySqlConnection, claim: &Claim) -> Result<(), EngineError> {
    let doing = || format!("ending the sessions of shard {}'s earlier holders", claim.shard);
    let rows = sqlx::query(
        "SELECT DISTINCT holder FROM keyturn_shard
         WHERE rotation = ? AND ((shard = ? AND pass = ? AND lease <= ?) OR epoch < ?)",
    )
    .bind(claim.mark.rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(number(claim.lease.get()))
    .bind(epoch_number(&claim.mark))
    .fetch_all(&mut *connection)
    .await
    .doing(doing)?;
    for row in rows {
        let holder: String = row.try_get(0).doing(doing)?;
        sessions::end_named(connection, &holder).await?;
    }
    Ok(())
}

pub(super) async fn record(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    shard: ShardId,
    pass: Pass,
) -> Result<Option<ShardRecord>, EngineError> {
    if !exists(connection).await? {
        return Err(EngineError::LedgerMissing(*rotation));
    }
    let doing = || format!("reading shard {shard} in the ledger");
    let row = sqlx::query(SHARD)
        .bind(rotation.to_string())
        .bind(number(shard.get()))
        .bind(pass.as_str())
        .fetch_optional(connection)
        .await
        .doing(doing)?;
    match row {
        Some(row) => Ok(Some(read_shard(&row).doing(doing)?.read(shard, pass)?)),
        None => Ok(None),
    }
}

pub(super) async fn commit(
    connection: &mut MySqlConnection,
    make: Make,
    chunk: &Chunk<'_>,
    packet_bytes_max: usize,
) -> Result<Written, EngineError> {
    make.in_transaction(connection, async |connection| commit_at_once(connection, chunk, packet_bytes_max).await).await
}

async fn commit_at_once(
    connection: &mut MySqlConnection,
    chunk: &Chunk<'_>,
    packet_bytes_max: usize,
) -> Result<Written, EngineError> {
    let claim = chunk.claim;
    let doing = || format!("committing a chunk of {}", chunk.table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    // The header first, held until the commit: whoever turns it back waits for us, or we for him.
    let header = header(&mut transaction, &claim.mark.rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(claim.mark.rotation))?.admit(&claim.mark)?;
    // Then the shard's row, before any row of the user's: of two that hold the same lease only one may go on.
    write_shard(&mut transaction, claim, chunk.after, Owner::Holds(chunk.before)).await?;
    if !chunk.changes.is_empty() {
        let written = match chunk.into {
            Some(into) => rows::copy(&mut transaction, (chunk.table, into), chunk.changes, packet_bytes_max).await?,
            None => rows::update(&mut transaction, chunk.table, chunk.changes, packet_bytes_max).await?,
        };
        if written != chunk.changes.len() as u64 {
            transaction.rollback().await.doing(doing)?;
            return Ok(Written::RowsDiffer);
        }
    }
    durable::commit(point!(CHUNK_COMMITTED), transaction).await.doing(doing)?;
    Ok(Written::Committed)
}

/// By what right a shard's row is written.
#[derive(Debug, Clone, Copy)]
enum Owner<'a> {
    /// It is taken over by the session of this name.
    Takes(&'a str),
    /// It is held, if it still is this and under this very claim.
    Holds(&'a ShardRecord),
}

async fn write_shard(
    connection: &mut MySqlConnection,
    claim: &Claim,
    record: &ShardRecord,
    owner: Owner<'_>,
) -> Result<(), EngineError> {
    let (holder, before) = match owner {
        Owner::Takes(holder) => (Some(holder), None),
        Owner::Holds(before) => (None, Some(before)),
    };
    let done = sqlx::query(
        "UPDATE keyturn_shard
         SET epoch = ?, lease = ?, cursor_key = ?, rows_done = ?, values_opened = ?, values_undecryptable = ?,
             content_digest = ?, rest_digest = ?, raw_digest = ?, done = ?, holder = COALESCE(?, holder)
         WHERE rotation = ? AND shard = ? AND pass = ?
           AND (NOT ? OR (epoch = ? AND lease = ? AND NOT done AND cursor_key <=> ? AND rows_done = ?))",
    )
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .bind(record.cursor.as_ref().map(ToString::to_string))
    .bind(number(record.tally.rows))
    .bind(number(record.tally.values))
    .bind(number(record.tally.undecryptable))
    .bind(record.tally.digest.to_string())
    .bind(record.tally.rest.to_string())
    .bind(record.raw.to_string())
    .bind(record.done)
    .bind(holder)
    .bind(claim.mark.rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(before.is_some())
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .bind(before.and_then(|before| before.cursor.as_ref()).map(ToString::to_string))
    .bind(before.map_or(0, |before| number(before.tally.rows)))
    .execute(connection)
    .await
    .doing(|| format!("writing shard {} in the ledger", claim.shard))?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(chunk_superseded(claim)) }
}

fn read_shard(row: &MySqlRow) -> Result<StoredRecord, sqlx::Error> {
    Ok(StoredRecord {
        epoch: row.try_get(0)?,
        lease: row.try_get(1)?,
        cursor: row.try_get(2)?,
        rows: row.try_get(3)?,
        values: row.try_get(4)?,
        undecryptable: row.try_get(5)?,
        digest: row.try_get(6)?,
        done: row.try_get::<i64, _>(7)? != 0,
        rest: row.try_get(8)?,
        raw: row.try_get(9)?,
    })
}
