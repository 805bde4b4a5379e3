//! The ledger in PostgreSQL: its tables, entering a shard, and the transaction of a chunk.

use fail_points::point;
use rotation::{RotationId, ShardId};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row as _};

use super::super::{Chunk, Written};
use super::layout::Layout;
use super::{load, rows};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::ledger::{
    Claim, Header, LEDGER_FORMAT, LedgerMark, Pass, SCRATCH_ROTATIONS, ShardRecord, StoredRecord, chunk_superseded,
    direction_text, epoch_number, number,
};

/// One lock for all that make the ledger's tables, so that two agents do not make them at once. Any number will do.
const LEDGER_LOCK: i64 = 0x6b65_7974_7572_6e31;

/// How long the session of an earlier holder may take to end.
const TERMINATE_MS: i64 = 5_000;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS keyturn.rotation (
        rotation text PRIMARY KEY,
        format bigint NOT NULL,
        direction text NOT NULL CHECK (direction IN ('forward', 'back')),
        epoch bigint NOT NULL,
        closed boolean NOT NULL DEFAULT false,
        role_saved text,
        role_fenced boolean NOT NULL DEFAULT false,
        opened_at timestamptz NOT NULL DEFAULT now(),
        closed_at timestamptz,
        let_in boolean NOT NULL DEFAULT false
    );
    CREATE TABLE IF NOT EXISTS keyturn.shard (
        rotation text NOT NULL REFERENCES keyturn.rotation ON DELETE CASCADE,
        shard bigint NOT NULL,
        pass text NOT NULL,
        epoch bigint NOT NULL,
        lease bigint NOT NULL,
        cursor_key text,
        rows_done bigint NOT NULL DEFAULT 0,
        values_opened bigint NOT NULL DEFAULT 0,
        values_undecryptable bigint NOT NULL DEFAULT 0,
        content_digest text NOT NULL DEFAULT '00000000000000000000000000000000',
        done boolean NOT NULL DEFAULT false,
        holder_pid integer NOT NULL,
        holder_start timestamptz NOT NULL,
        rest_digest text NOT NULL DEFAULT '00000000000000000000000000000000',
        raw_digest text NOT NULL DEFAULT '00000000000000000000000000000000',
        PRIMARY KEY (rotation, shard, pass)
    );";

/// What format 2 has beyond format 1, besides the shadows.
const UPGRADE: &str = "
    ALTER TABLE keyturn.rotation ADD COLUMN let_in boolean NOT NULL DEFAULT false;
    ALTER TABLE keyturn.shard
        ADD COLUMN rest_digest text NOT NULL DEFAULT '00000000000000000000000000000000',
        ADD COLUMN raw_digest text NOT NULL DEFAULT '00000000000000000000000000000000';
    UPDATE keyturn.rotation SET format = 2;";

const HEADER: &str = "
    SELECT format, direction, epoch, closed, role_saved, role_fenced, let_in FROM keyturn.rotation WHERE rotation = $1";

const SHARD: &str = "
    SELECT epoch, lease, cursor_key, rows_done, values_opened, values_undecryptable, content_digest, done,
           rest_digest, raw_digest
    FROM keyturn.shard WHERE rotation = $1 AND shard = $2 AND pass = $3";

/// A session that may go on with another shard must not be ended for one that is done: nobody holds that.
const TAKE_SHARD: &str = "
    UPDATE keyturn.shard s
    SET epoch = $4, lease = $5, cursor_key = $6, rows_done = $7, values_opened = $8, values_undecryptable = $9,
        content_digest = $10, done = $11, rest_digest = $12, raw_digest = $13,
        holder_pid = CASE WHEN $11 THEN 0 ELSE a.pid END, holder_start = a.backend_start
    FROM pg_stat_activity a
    WHERE s.rotation = $1 AND s.shard = $2 AND s.pass = $3 AND a.pid = pg_backend_pid()";

const WRITE_SHARD: &str = "
    UPDATE keyturn.shard
    SET cursor_key = $6, rows_done = $7, values_opened = $8, values_undecryptable = $9,
        content_digest = $10, done = $11, rest_digest = $12, raw_digest = $13,
        holder_pid = CASE WHEN $11 THEN 0 ELSE holder_pid END
    WHERE rotation = $1 AND shard = $2 AND pass = $3 AND epoch = $4 AND lease = $5 AND NOT done
      AND cursor_key IS NOT DISTINCT FROM $14 AND rows_done = $15";

/// Whether the ledger is there in this release's form. One of an earlier form in which all is closed knows nothing of
/// any rotation that could be asked about; one in which a rotation is open is that release's.
pub(super) async fn exists(connection: &mut PgConnection) -> Result<bool, EngineError> {
    let doing = || "looking for the ledger".to_owned();
    let tables: i64 = sqlx::query(
        "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'keyturn' AND c.relname IN ('rotation', 'shard', 'shadow') AND c.relkind = 'r'",
    )
    .fetch_one(&mut *connection)
    .await
    .and_then(|row| row.try_get(0))
    .doing(doing)?;
    if tables != 2 {
        return Ok(tables == 3);
    }
    let open: Option<String> = sqlx::query("SELECT rotation FROM keyturn.rotation WHERE NOT closed LIMIT 1")
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
pub(super) async fn refuse_newer(connection: &mut PgConnection) -> Result<(), EngineError> {
    let newest: Option<i64> = sqlx::query("SELECT max(format) FROM keyturn.rotation")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for the ledger's format".to_owned())?;
    crate::ledger::refuse_newer(newest)
}

/// Keeps others from making tables of the ledger until the transaction ends.
pub(super) async fn lock_creation(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LEDGER_LOCK).execute(connection).await.map(|_| ())
}

/// Makes the ledger's schema and tables where they are missing. An administrator may make the schema beforehand, so
/// that the agent's role needs no right to make schemas. Tables of an earlier form are brought to this one.
pub(super) async fn create(connection: &mut PgConnection) -> Result<(), EngineError> {
    if exists(connection).await? {
        return refuse_newer(connection).await;
    }
    let doing = || "making the ledger's tables".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    lock_creation(&mut transaction).await.doing(doing)?;
    // Somebody else may have made them while we waited.
    if exists(&mut transaction).await? {
        return Ok(());
    }
    let row = sqlx::query(
        "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'keyturn'),
                EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = 'keyturn' AND c.relname = 'rotation')",
    )
    .fetch_one(&mut *transaction)
    .await
    .doing(doing)?;
    let (schema, old): (bool, bool) = (row.try_get(0).doing(doing)?, row.try_get(1).doing(doing)?);
    if !schema {
        sqlx::raw_sql("CREATE SCHEMA keyturn").execute(&mut *transaction).await.doing(doing)?;
    }
    sqlx::raw_sql(if old { UPGRADE } else { CREATE }).execute(&mut *transaction).await.doing(doing)?;
    sqlx::raw_sql(super::shadow::CREATE).execute(&mut *transaction).await.doing(doing)?;
    transaction.commit().await.doing(doing)
}

/// A rotation whose header is open, if there is one; measurements do not count.
pub(super) async fn open_rotation(connection: &mut PgConnection) -> Result<Option<String>, EngineError> {
    sqlx::query("SELECT rotation FROM keyturn.rotation WHERE NOT closed AND rotation NOT LIKE $1 LIMIT 1")
        .bind(SCRATCH_ROTATIONS)
        .fetch_optional(connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .doing(|| "looking for a rotation under way".to_owned())
}

/// Whether the ledger's schema is there.
pub(super) async fn has_schema(connection: &mut PgConnection) -> Result<bool, EngineError> {
    sqlx::query("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = 'keyturn')")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for the ledger".to_owned())
}

/// Takes the ledger away again in which no rotation stands, and on request its schema, unless something else stands in it.
pub(super) async fn drop_unused(connection: &mut PgConnection, schema_too: bool) -> Result<(), EngineError> {
    let doing = || "removing the ledger that only measurements used".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    sqlx::raw_sql("LOCK TABLE keyturn.rotation IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await
        .doing(doing)?;
    let used: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM keyturn.rotation)")
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    if used {
        return Ok(());
    }
    // By name: whatever else stands in the schema is somebody else's.
    sqlx::raw_sql("DROP TABLE IF EXISTS keyturn.note, keyturn.shadow, keyturn.shard, keyturn.rotation")
        .execute(&mut *transaction)
        .await
        .doing(doing)?;
    transaction.commit().await.doing(doing)?;
    if schema_too {
        let _ = sqlx::raw_sql("DROP SCHEMA keyturn").execute(connection).await;
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

pub(super) async fn header(
    connection: &mut PgConnection,
    rotation: &RotationId,
    hold: Hold,
) -> Result<Option<Header>, EngineError> {
    let sql = match hold {
        Hold::Glance => HEADER.to_owned(),
        Hold::Shared => format!("{HEADER} FOR SHARE"),
        Hold::Alone => format!("{HEADER} FOR UPDATE"),
    };
    let doing = || "reading the ledger's header".to_owned();
    // Reviewed: constants only.
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(rotation.to_string())
        .fetch_optional(connection)
        .await
        .doing(doing)?;
    row.map(|row| read_header(&row)).transpose().doing(doing)
}

fn read_header(row: &PgRow) -> Result<Header, sqlx::Error> {
    Ok(Header {
        format: row.try_get(0)?,
        direction: row.try_get(1)?,
        epoch: row.try_get(2)?,
        closed: row.try_get(3)?,
        role_saved: row.try_get(4)?,
        role_fenced: row.try_get(5)?,
        let_in: row.try_get(6)?,
    })
}

/// Whether the application was let in going forward.
pub(super) async fn was_let_in(connection: &mut PgConnection, rotation: &RotationId) -> Result<bool, EngineError> {
    if !exists(connection).await? {
        return Ok(false);
    }
    Ok(header(connection, rotation, Hold::Glance).await?.is_some_and(|header| header.let_in))
}

/// Inserts the header if there is none.
pub(super) async fn insert_header(connection: &mut PgConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    sqlx::query(
        "INSERT INTO keyturn.rotation (rotation, format, direction, epoch) VALUES ($1, $2, $3, $4)
         ON CONFLICT DO NOTHING",
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
    connection: &mut PgConnection,
    mark: &LedgerMark,
    header: &Header,
) -> Result<(), EngineError> {
    sqlx::query(
        "UPDATE keyturn.rotation
         SET direction = $2, epoch = $3, closed = $4, role_saved = $5, role_fenced = $6, let_in = $7,
             closed_at = CASE WHEN $4 THEN COALESCE(closed_at, now()) END
         WHERE rotation = $1",
    )
    .bind(mark.rotation.to_string())
    .bind(&header.direction)
    .bind(header.epoch)
    .bind(header.closed)
    .bind(&header.role_saved)
    .bind(header.role_fenced)
    .bind(header.let_in)
    .execute(connection)
    .await
    .doing(|| "writing the ledger's header".to_owned())?;
    Ok(())
}

pub(super) async fn enter(connection: &mut PgConnection, claim: &Claim) -> Result<ShardRecord, EngineError> {
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
        "UPDATE keyturn.rotation SET epoch = $2
         WHERE rotation = $1 AND epoch < $2 AND direction = $3 AND NOT closed AND format = $4",
    )
    .bind(rotation.to_string())
    .bind(epoch_number(&claim.mark))
    .bind(direction_text(claim.mark.direction))
    .bind(LEDGER_FORMAT)
    .execute(&mut *connection)
    .await
    .doing(doing)?;
    point!(HEADER_RAISED).after().map_err(sqlx::Error::Io).doing(doing)?;

    let mut transaction = connection.begin().await.doing(doing)?;
    let header = self::header(&mut transaction, &rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(rotation))?.admit(&claim.mark)?;
    sqlx::query(
        "INSERT INTO keyturn.shard (rotation, shard, pass, epoch, lease, holder_pid, holder_start)
         SELECT $1, $2, $3, $4, $5, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()
         ON CONFLICT DO NOTHING",
    )
    .bind(rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(epoch_number(&claim.mark))
    .bind(number(claim.lease.get()))
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    // Reviewed: constants only.
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{SHARD} FOR UPDATE")))
        .bind(rotation.to_string())
        .bind(number(claim.shard.get()))
        .bind(claim.pass.as_str())
        .fetch_one(&mut *transaction)
        .await
        .doing(doing)?;
    let record = read_shard(&row).doing(doing)?.take_over(claim)?;
    write_shard(&mut transaction, claim, &record, None).await?;
    durable::commit(point!(SHARD_ENTERED), transaction).await.doing(doing)?;
    Ok(record)
}

/// Ends the sessions of whoever worked on the shard before, and of those that still work under an earlier epoch: one
/// may be stopped inside a transaction that holds the shard's row or the header, and wake when nobody expects it. The
/// leader gave their leases up, or it would not have given this one.
async fn end_earlier_holders(connection: &mut PgConnection, claim: &Claim) -> Result<(), EngineError> {
    sqlx::query(
        "SELECT pg_terminate_backend(a.pid, $6)
         FROM keyturn.shard s JOIN pg_stat_activity a ON a.pid = s.holder_pid AND a.backend_start = s.holder_start
         WHERE s.rotation = $1 AND ((s.shard = $2 AND s.pass = $3 AND s.lease <= $4) OR s.epoch < $5)
           AND a.pid <> pg_backend_pid() AND a.usename = session_user",
    )
    .bind(claim.mark.rotation.to_string())
    .bind(number(claim.shard.get()))
    .bind(claim.pass.as_str())
    .bind(number(claim.lease.get()))
    .bind(epoch_number(&claim.mark))
    .bind(TERMINATE_MS)
    .execute(connection)
    .await
    .doing(|| format!("ending the sessions of shard {}'s earlier holders", claim.shard))?;
    Ok(())
}

pub(super) async fn record(
    connection: &mut PgConnection,
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

/// A commit that need not be on disk when it answers: rows and ledger are lost together or not at all, and whoever goes
/// on finds the ledger's cursor where the rows are. Only the end of a shard is told to anybody, and its commit is
/// durable; the log is one, so everything before it is durable with it. (docs/decisions/0009)
const BEGIN_CHUNK: &str = "BEGIN; SET LOCAL synchronous_commit = off";

/// A commit that is told: on disk, and on standbys if the server is set up so.
const BEGIN_DURABLE: &str = "BEGIN; SET LOCAL synchronous_commit = on";

/// Writes rows and the shard's row. `layout` says how rows travel where they go into a copy.
pub(super) async fn commit(
    connection: &mut PgConnection,
    chunk: &Chunk<'_>,
    layout: Option<&Layout>,
) -> Result<Written, EngineError> {
    let claim = chunk.claim;
    let doing = || format!("committing a chunk of {}", chunk.table.label);
    let begin = if chunk.after.done || chunk.after.cursor.is_none() { BEGIN_DURABLE } else { BEGIN_CHUNK };
    let mut transaction = connection.begin_with(begin).await.doing(doing)?;
    // The header first, held until the commit: whoever turns it back waits for us, or we for him.
    let header = header(&mut transaction, &claim.mark.rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(claim.mark.rotation))?.admit(&claim.mark)?;
    // Then the shard's row, before any row of the user's: of two that hold the same lease only one may go on.
    write_shard(&mut transaction, claim, chunk.after, Some(chunk.before)).await?;
    if !chunk.changes.is_empty() {
        let written = match (chunk.into, layout) {
            (Some(into), Some(layout)) => {
                super::shadow::act_as_owner_of(&mut transaction, into).await?;
                load::insert(&mut transaction, chunk.table, into, layout, chunk.changes).await?
            }
            (None, _) | (_, None) => rows::update(&mut transaction, chunk.table, chunk.changes).await?,
        };
        if written != chunk.changes.len() as u64 {
            transaction.rollback().await.doing(doing)?;
            return Ok(Written::RowsDiffer);
        }
    }
    durable::commit(point!(CHUNK_COMMITTED), transaction).await.doing(doing)?;
    Ok(Written::Committed)
}

/// Writes the shard's row. With `before`, only if the row is still that and under this very claim; without, the
/// claim takes it over, and this session is the shard's holder until the shard is done.
async fn write_shard(
    connection: &mut PgConnection,
    claim: &Claim,
    record: &ShardRecord,
    before: Option<&ShardRecord>,
) -> Result<(), EngineError> {
    let sql = if before.is_some() { WRITE_SHARD } else { TAKE_SHARD };
    let mut query = sqlx::query(sql)
        .bind(claim.mark.rotation.to_string())
        .bind(number(claim.shard.get()))
        .bind(claim.pass.as_str())
        .bind(epoch_number(&claim.mark))
        .bind(number(claim.lease.get()))
        .bind(record.cursor.as_ref().map(ToString::to_string))
        .bind(number(record.tally.rows))
        .bind(number(record.tally.values))
        .bind(number(record.tally.undecryptable))
        .bind(record.tally.digest.to_string())
        .bind(record.done)
        .bind(record.tally.rest.to_string())
        .bind(record.raw.to_string());
    if let Some(before) = before {
        query = query.bind(before.cursor.as_ref().map(ToString::to_string)).bind(number(before.tally.rows));
    }
    let done = query.execute(connection).await.doing(|| format!("writing shard {} in the ledger", claim.shard))?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(chunk_superseded(claim)) }
}

fn read_shard(row: &PgRow) -> Result<StoredRecord, sqlx::Error> {
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
