//! What the ledger in PostgreSQL remembers of whole rotations, and the notes that agents and recoveries leave in it.

use fail_points::point;
use rotation::RotationId;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Row as _};

use super::ledger::{self, Hold};
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind, StoredRotation, recovery_begun};
use crate::ledger::SCRATCH_ROTATIONS;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS keyturn.note (
        rotation text NOT NULL,
        note text NOT NULL,
        node text NOT NULL,
        noted_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (rotation, note, node)
    );";

const ROTATIONS: &str = "
    SELECT r.rotation, r.direction, r.epoch, r.closed, r.role_fenced, r.role_saved IS NOT NULL,
           count(*) FILTER (WHERE s.pass = 'reencrypt' AND s.cursor_key IS NOT NULL),
           count(*) FILTER (WHERE s.pass = 'verify' AND s.done),
           count(*) FILTER (WHERE s.pass = 'verify-restored' AND s.done),
           COALESCE(max(s.lease), 0)
    FROM keyturn.rotation r LEFT JOIN keyturn.shard s ON s.rotation = r.rotation
    WHERE r.rotation NOT LIKE $1
    GROUP BY r.rotation ORDER BY r.rotation";

/// All rotations of the ledger, oldest first; none where there is no ledger.
pub(super) async fn history(connection: &mut PgConnection) -> Result<Vec<LedgerRotation>, EngineError> {
    let doing = || "reading the ledger's rotations".to_owned();
    if !ledger::exists(connection).await? {
        return Ok(Vec::new());
    }
    ledger::refuse_newer(connection).await?;
    // Notes are read last: one that is written in between is seen rather than missed.
    let rows = sqlx::query(ROTATIONS).bind(SCRATCH_ROTATIONS).fetch_all(&mut *connection).await.doing(doing)?;
    let notes = notes(connection).await?;
    rows.iter().map(|row| read(row).doing(doing)?.read(&notes)).collect()
}

fn read(row: &PgRow) -> Result<StoredRotation, sqlx::Error> {
    Ok(StoredRotation {
        rotation: row.try_get(0)?,
        direction: row.try_get(1)?,
        epoch: row.try_get(2)?,
        closed: row.try_get(3)?,
        role_fenced: row.try_get(4)?,
        role_saved: row.try_get(5)?,
        shards_turned: row.try_get(6)?,
        shards_verified: row.try_get(7)?,
        shards_restored: row.try_get(8)?,
        lease_max: row.try_get(9)?,
    })
}

async fn exists(connection: &mut PgConnection) -> Result<bool, EngineError> {
    sqlx::query("SELECT to_regclass('keyturn.note') IS NOT NULL")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for the ledger's notes".to_owned())
}

async fn notes(connection: &mut PgConnection) -> Result<Vec<(String, String, String)>, EngineError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    let doing = || "reading the ledger's notes".to_owned();
    let rows = sqlx::query("SELECT rotation, note, node FROM keyturn.note ORDER BY rotation, note, node")
        .fetch_all(connection)
        .await
        .doing(doing)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, _>>()
        .doing(doing)
}

pub(super) async fn note(
    connection: &mut PgConnection,
    rotation: &RotationId,
    kind: NoteKind,
    node: &str,
) -> Result<(), EngineError> {
    ledger::create(connection).await?;
    let doing = || "leaving a note in the ledger".to_owned();
    if !exists(connection).await? {
        let mut transaction = connection.begin().await.doing(doing)?;
        ledger::lock_creation(&mut transaction).await.doing(doing)?;
        sqlx::raw_sql(CREATE).execute(&mut *transaction).await.doing(doing)?;
        transaction.commit().await.doing(doing)?;
    }
    let mut transaction = connection.begin().await.doing(doing)?;
    // Held until the commit: whoever turns the ledger back sees the note, or the note is refused. Notes are written one
    // after the other, so that of two that contradict each other the second is refused.
    let hold = if kind.goes_forward() || kind == NoteKind::Offline { Hold::Alone } else { Hold::Glance };
    let header = ledger::header(&mut transaction, rotation, hold).await?;
    if kind.goes_forward() {
        header.ok_or(EngineError::LedgerMissing(*rotation))?.still_forward(rotation)?;
        let begun: bool = sqlx::query(
            "SELECT COALESCE(bool_or(note = 'offline') AND NOT bool_or(note = 'admitted'), false)
                 FROM keyturn.note WHERE rotation = $1",
        )
        .bind(rotation.to_string())
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
        if begun {
            return Err(recovery_begun(rotation));
        }
    }
    sqlx::query("INSERT INTO keyturn.note (rotation, note, node) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(rotation.to_string())
        .bind(kind.as_str())
        .bind(node)
        .execute(&mut *transaction)
        .await
        .doing(doing)?;
    durable::commit(point!(LEDGER_NOTE), transaction).await.doing(doing)
}
