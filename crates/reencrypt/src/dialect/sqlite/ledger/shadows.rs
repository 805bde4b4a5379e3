//! What the ledger in SQLite knows of shadows. Names are recorded here, and never taken apart.

use rotation::RotationId;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::{Shadow, ShadowState};
use crate::table::quote;

/// All of a rotation, by label; none where there is no ledger.
pub(in super::super) async fn all(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
) -> Result<Vec<Shadow>, EngineError> {
    if !super::exists(connection).await? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(
        "SELECT label, shadow_name, retained_name, state FROM main.keyturn_shadow WHERE rotation = ? ORDER BY label",
    )
    .bind(rotation.to_string())
    .fetch_all(connection)
    .await
    .doing(|| "reading the shadows in the ledger".to_owned())?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Shadow, EngineError> {
    let text = |at: usize| row.try_get::<String, _>(at).doing(|| "reading a shadow in the ledger".to_owned());
    let (label, name) = (text(0)?, text(1)?);
    let state = ShadowState::parse(&text(3)?)
        .ok_or_else(|| EngineError::LedgerUnreadable(format!("the shadow of {label} is in no known state")))?;
    let from = format!("\"main\".{}", quote(&name));
    Ok(Shadow { label, name, from, retained_name: text(2)?, state })
}

/// Notes a new one.
pub(in super::super) async fn insert(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    table: &str,
    shadow: &Shadow,
) -> Result<(), EngineError> {
    sqlx::query(
        "INSERT INTO main.keyturn_shadow (rotation, label, table_name, shadow_name, retained_name, state, epoch)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(mark.rotation.to_string())
    .bind(&shadow.label)
    .bind(table)
    .bind(&shadow.name)
    .bind(&shadow.retained_name)
    .bind(shadow.state.as_str())
    .bind(epoch_number(mark))
    .execute(connection)
    .await
    .doing(|| format!("noting the shadow of {} in the ledger", shadow.label))?;
    Ok(())
}

/// Moves one on.
pub(in super::super) async fn set_state(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
    label: &str,
    state: ShadowState,
) -> Result<(), EngineError> {
    sqlx::query("UPDATE main.keyturn_shadow SET state = ? WHERE rotation = ? AND label = ?")
        .bind(state.as_str())
        .bind(rotation.to_string())
        .bind(label)
        .execute(connection)
        .await
        .doing(|| format!("noting in the ledger that the shadow of {label} is {}", state.as_str()))?;
    Ok(())
}

/// Forgets one that was dropped.
pub(in super::super) async fn remove(
    connection: &mut SqliteConnection,
    rotation: &RotationId,
    label: &str,
) -> Result<(), EngineError> {
    sqlx::query("DELETE FROM main.keyturn_shadow WHERE rotation = ? AND label = ?")
        .bind(rotation.to_string())
        .bind(label)
        .execute(connection)
        .await
        .doing(|| format!("removing the shadow of {label} from the ledger"))?;
    Ok(())
}
