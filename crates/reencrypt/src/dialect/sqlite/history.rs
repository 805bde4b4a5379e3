//! What the ledger in SQLite remembers of whole rotations, and the notes that agents and recoveries leave in it.

use fail_points::point;
use rotation::RotationId;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::ledger;
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind, StoredRotation, recovery_begun};
use crate::ledger::SCRATCH_ROTATIONS;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS main.keyturn_note (
        rotation TEXT NOT NULL,
        note TEXT NOT NULL,
        node TEXT NOT NULL,
        noted_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
        PRIMARY KEY (rotation, note, node)
    ) WITHOUT ROWID;";

const ROTATIONS: &str = "
    SELECT r.rotation, r.direction, r.epoch, r.closed,
           (SELECT count(*) FROM main.keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'reencrypt' AND s.cursor_key IS NOT NULL),
           (SELECT count(*) FROM main.keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'verify' AND s.done),
           (SELECT count(*) FROM main.keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'verify-restored' AND s.done),
           (SELECT COALESCE(max(s.lease), 0) FROM main.keyturn_shard s WHERE s.rotation = r.rotation)
    FROM main.keyturn_rotation r WHERE r.rotation NOT LIKE ? ORDER BY r.rotation";

/// All rotations of the ledger, oldest first; none where there is no ledger.
pub(super) async fn history(connection: &mut SqliteConnection) -> Result<Vec<LedgerRotation>, EngineError> {
    let doing = || "reading the ledger's rotations".to_owned();
    // One state of the database: notes and headers must be of the same moment.
    let mut transaction = connection.begin().await.doing(doing)?;
    let notes = notes(&mut transaction).await?;
    let mut rotations = Vec::new();
    if ledger::exists(&mut transaction).await? {
        ledger::refuse_newer(&mut transaction).await?;
        let rows = sqlx::query(ROTATIONS).bind(SCRATCH_ROTATIONS).fetch_all(&mut *transaction).await.doing(doing)?;
        for row in &rows {
            rotations.push(read(row).doing(doing)?.read(&notes)?);
        }
    }
    transaction.commit().await.doing(doing)?;
    Ok(rotations)
}

fn read(row: &SqliteRow) -> Result<StoredRotation, sqlx::Error> {
    Ok(StoredRotation {
        rotation: row.try_get(0)?,
        direction: row.try_get(1)?,
        epoch: row.try_get(2)?,
        closed: row.try_get(3)?,
        role_fenced: false,
        role_saved: false,
        shards_turned: row.try_get(4)?,
        shards_verified: row.try_get(5)?,
        shards_restored: row.try_get(6)?,
        lease_max: row.try_get(7)?,
    })
}

async fn notes(connection: &mut SqliteConnection) -> Result<Vec<(String, String, String)>, EngineError> {
    let doing = || "reading the ledger's notes".to_owned();
    let exists: bool =
        sqlx::query("SELECT count(*) = 1 FROM main.sqlite_schema WHERE type = 'table' AND name = 'keyturn_note'")
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(doing)?;
    if !exists {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT rotation, note, node FROM main.keyturn_note ORDER BY rotation, note, node")
        .fetch_all(connection)
        .await
        .doing(doing)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, _>>()
        .doing(doing)
}

pub(super) async fn note(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
    kind: NoteKind,
    node: &str,
) -> Result<(), EngineError> {
    let doing = || "leaving a note in the ledger".to_owned();
    let mut transaction = ledger::begin(connection, doing).await?;
    sqlx::raw_sql(CREATE).execute(&mut *transaction).await.doing(doing)?;
    if kind.goes_forward() {
        let header = ledger::header(&mut transaction, rotation).await?;
        header.ok_or(EngineError::LedgerMissing(*rotation))?.still_forward(rotation)?;
        let begun: bool = sqlx::query(
            "SELECT total(note = 'offline') > 0 AND total(note = 'admitted') = 0
                 FROM main.keyturn_note WHERE rotation = ?",
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
    sqlx::query("INSERT INTO main.keyturn_note (rotation, note, node) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(rotation.to_string())
        .bind(kind.as_str())
        .bind(node)
        .execute(&mut *transaction)
        .await
        .doing(doing)?;
    durable::commit(point!(LEDGER_NOTE), transaction).await.doing(doing)
}
