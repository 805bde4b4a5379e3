//! Writes single rows outside any rotation, and keeps rotations and other repairs away meanwhile.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

use super::super::Written;
use super::{ledger, rows};
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table};

/// One lock for all that repair, held by the session. Any number will do.
const REPAIRS_LOCK: i64 = 0x6b65_7974_7572_6e32;

pub(super) async fn hold(connection: &mut PgConnection) -> Result<(), EngineError> {
    ledger::create(connection).await?;
    if let Some(open) = ledger::open_rotation(connection).await? {
        return Err(EngineError::LedgerOpen(open));
    }
    let held: bool = sqlx::query("SELECT pg_try_advisory_lock($1)")
        .bind(REPAIRS_LOCK)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "looking for another repair".to_owned())?;
    if held { Ok(()) } else { Err(EngineError::RepairUnderWay) }
}

pub(super) async fn mend(
    connection: &mut PgConnection,
    table: &Table,
    changes: &[Change],
) -> Result<Written, EngineError> {
    let doing = || format!("repairing rows of {}", table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    // Whoever would open a header waits for us; whoever has is seen.
    sqlx::raw_sql("LOCK TABLE keyturn.rotation IN SHARE MODE").execute(&mut *transaction).await.doing(doing)?;
    if let Some(open) = ledger::open_rotation(&mut transaction).await? {
        return Err(EngineError::LedgerOpen(open));
    }
    let written = rows::update(&mut transaction, table, changes).await?;
    if written != changes.len() as u64 {
        transaction.rollback().await.doing(doing)?;
        return Ok(Written::RowsDiffer);
    }
    transaction.commit().await.doing(doing)?;
    Ok(Written::Committed)
}
