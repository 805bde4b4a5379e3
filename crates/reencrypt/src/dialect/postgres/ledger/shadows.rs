//! What the ledger in PostgreSQL knows of shadows. Names are recorded here, and never taken apart.

use rotation::RotationId;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, epoch_number};
use crate::shadow::ShadowState;

/// A row of `keyturn.shadow`. Every name is unquoted; all three tables are in the one schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct ShadowRow {
    pub(in super::super) label: String,
    pub(in super::super) schema: String,
    pub(in super::super) table: String,
    pub(in super::super) shadow_name: String,
    pub(in super::super) retained_name: String,
    pub(in super::super) state: ShadowState,
}

const SELECT: &str = "
    SELECT label, schema_name, table_name, shadow_name, retained_name, state
    FROM keyturn.shadow WHERE rotation = $1 ORDER BY label COLLATE \"C\"";

/// All of a rotation, by label; none where there is no ledger.
pub(in super::super) async fn all(
    connection: &mut PgConnection,
    rotation: &RotationId,
) -> Result<Vec<ShadowRow>, EngineError> {
    if !super::exists(connection).await? {
        return Ok(Vec::new());
    }
    let doing = || "reading the shadows in the ledger".to_owned();
    let rows = sqlx::query(SELECT).bind(rotation.to_string()).fetch_all(connection).await.doing(doing)?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<ShadowRow, EngineError> {
    let text = |at: usize| row.try_get::<String, _>(at).doing(|| "reading a shadow in the ledger".to_owned());
    let label = text(0)?;
    let state = ShadowState::parse(&text(5)?)
        .ok_or_else(|| EngineError::LedgerUnreadable(format!("the shadow of {label} is in no known state")))?;
    Ok(ShadowRow { label, schema: text(1)?, table: text(2)?, shadow_name: text(3)?, retained_name: text(4)?, state })
}

/// Notes a new one. Two that note the same table at once wait for each other here, and the second is answered `false`.
pub(in super::super) async fn insert(
    connection: &mut PgConnection,
    mark: &LedgerMark,
    row: &ShadowRow,
) -> Result<bool, EngineError> {
    let done = sqlx::query(
        "INSERT INTO keyturn.shadow
             (rotation, label, schema_name, table_name, shadow_name, retained_name, state, epoch)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
    )
    .bind(mark.rotation.to_string())
    .bind(&row.label)
    .bind(&row.schema)
    .bind(&row.table)
    .bind(&row.shadow_name)
    .bind(&row.retained_name)
    .bind(row.state.as_str())
    .bind(epoch_number(mark))
    .execute(connection)
    .await
    .doing(|| format!("noting the shadow of {} in the ledger", row.label))?;
    Ok(done.rows_affected() == 1)
}

/// Moves one on.
pub(in super::super) async fn set_state(
    connection: &mut PgConnection,
    rotation: &RotationId,
    label: &str,
    state: ShadowState,
) -> Result<(), EngineError> {
    sqlx::query("UPDATE keyturn.shadow SET state = $3 WHERE rotation = $1 AND label = $2")
        .bind(rotation.to_string())
        .bind(label)
        .bind(state.as_str())
        .execute(connection)
        .await
        .doing(|| format!("noting in the ledger that the shadow of {label} is {}", state.as_str()))?;
    Ok(())
}
