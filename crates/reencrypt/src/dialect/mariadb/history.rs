//! What the ledger in MariaDB and MySQL remembers of whole rotations, and the notes that agents and recoveries leave in it.

use fail_points::point;
use rotation::RotationId;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{Connection, Row as _};

use super::ground;
use super::ledger::{self, Hold};
use super::make::Make;
use crate::EngineError;
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind, StoredRotation, recovery_begun};
use crate::ledger::SCRATCH_ROTATIONS;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS keyturn_note (
        rotation VARCHAR(64) NOT NULL,
        note VARCHAR(16) NOT NULL,
        node VARCHAR(255) NOT NULL,
        noted_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
        PRIMARY KEY (rotation, note, node)
    ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin";

const ROTATIONS: &str = "
    SELECT r.rotation, r.direction, r.epoch, r.closed, r.role_fenced, r.role_saved IS NOT NULL,
           (SELECT COUNT(*) FROM keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'reencrypt' AND s.cursor_key IS NOT NULL),
           (SELECT COUNT(*) FROM keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'verify' AND s.done <> 0),
           (SELECT COUNT(*) FROM keyturn_shard s
            WHERE s.rotation = r.rotation AND s.pass = 'verify-restored' AND s.done <> 0),
           (SELECT COALESCE(MAX(s.lease), 0) FROM keyturn_shard s WHERE s.rotation = r.rotation)
    FROM keyturn_rotation r WHERE r.rotation NOT LIKE ? ORDER BY r.rotation";

/// All rotations of the ledger, oldest first; none where there is no ledger.
pub(super) async fn history(connection: &mut MySqlConnection) -> Result<Vec<LedgerRotation>, EngineError> {
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

fn read(row: &MySqlRow) -> Result<StoredRotation, sqlx::Error> {
    Ok(StoredRotation {
        rotation: row.try_get(0)?,
        direction: row.try_get(1)?,
        epoch: row.try_get(2)?,
        closed: row.try_get::<i64, _>(3)? != 0,
        role_fenced: row.try_get::<i64, _>(4)? != 0,
        role_saved: row.try_get::<i64, _>(5)? != 0,
        shards_turned: row.try_get(6)?,
        shards_verified: row.try_get(7)?,
        shards_restored: row.try_get(8)?,
        lease_max: row.try_get(9)?,
    })
}

async fn exists(connection: &mut MySqlConnection) -> Result<bool, EngineError> {
    ledger::are_there(connection, "keyturn_note").await
}

async fn notes(connection: &mut MySqlConnection) -> Result<Vec<(String, String, String)>, EngineError> {
    if !exists(connection).await? {
        return Ok(Vec::new());
    }
    let doing = || "reading the ledger's notes".to_owned();
    let rows = sqlx::query("SELECT rotation, note, node FROM keyturn_note ORDER BY rotation, note, node")
        .fetch_all(connection)
        .await
        .doing(doing)?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, _>>()
        .doing(doing)
}

pub(super) async fn note(
    connection: &mut MySqlConnection,
    make: Make,
    rotation: &RotationId,
    kind: NoteKind,
    node: &str,
) -> Result<(), EngineError> {
    ground::check_writable(connection, make).await?;
    // Before the transaction: making a table would end it. Two agents may do so at once.
    if !exists(connection).await? {
        ledger::create(connection).await?;
        sqlx::raw_sql(CREATE).execute(&mut *connection).await.doing(|| "leaving a note in the ledger".to_owned())?;
    }
    make.in_transaction(connection, async |connection| note_at_once(connection, rotation, kind, node).await).await
}

async fn note_at_once(
    connection: &mut MySqlConnection,
    rotation: &RotationId,
    kind: NoteKind,
    node: &str,
) -> Result<(), EngineError> {
    let doing = || "leaving a note in the ledger".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    // Held until the commit: whoever turns the ledger back sees the note, or the note is refused. Notes are written one
    // after the other, so that of two that contradict each other the second is refused.
    let hold = if kind.goes_forward() || kind == NoteKind::Offline { Hold::Alone } else { Hold::Glance };
    let header = ledger::header(&mut transaction, rotation, hold).await?;
    if kind.goes_forward() {
        header.ok_or(EngineError::LedgerMissing(*rotation))?.still_forward(rotation)?;
        let begun: i64 = sqlx::query(
            "SELECT COUNT(*) FROM keyturn_note WHERE rotation = ? AND note = 'offline' AND NOT EXISTS
             (SELECT 1 FROM keyturn_note a WHERE a.rotation = keyturn_note.rotation AND a.note = 'admitted')",
        )
        .bind(rotation.to_string())
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
        if begun > 0 {
            return Err(recovery_begun(rotation));
        }
    }
    sqlx::query(
        "INSERT INTO keyturn_note (rotation, note, node) VALUES (?, ?, ?)
         ON DUPLICATE KEY UPDATE node = keyturn_note.node",
    )
    .bind(rotation.to_string())
    .bind(kind.as_str())
    .bind(node)
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    durable::commit(point!(LEDGER_NOTE), transaction).await.doing(doing)
}
