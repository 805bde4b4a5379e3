//! Writes single rows outside any rotation, and keeps rotations and other repairs away meanwhile.

use sqlx::mysql::MySqlConnection;
use sqlx::{Connection as _, Row as _};

use super::super::Written;
use super::make::Make;
use super::{ground, ledger, rows};
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table};

/// One lock for all that repair this database, held by the session.
const HOLD: &str = "SELECT GET_LOCK(CONCAT('keyturn repairs ',
    /*M! MD5(DATABASE()) */ /*!80400 LEFT(SHA2(DATABASE(), 256), 32) */), 0)";

/// The next transaction alone keeps what it has read from changing, and rows from being added to it.
const REPEATABLE: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ";

pub(super) async fn hold(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    ledger::create(connection).await?;
    if let Some(open) = ledger::open_rotation(connection, None).await? {
        return Err(EngineError::LedgerOpen(open));
    }
    let held: Option<i64> = sqlx::query(HOLD)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get_unchecked(0))
        .doing(|| "looking for another repair".to_owned())?;
    if held == Some(1) { Ok(()) } else { Err(EngineError::RepairUnderWay) }
}

pub(super) async fn mend(
    connection: &mut MySqlConnection,
    make: Make,
    table: &Table,
    changes: &[Change],
    packet_bytes_max: usize,
) -> Result<Written, EngineError> {
    ground::check_writable(connection, make).await?;
    make.in_transaction(connection, async |connection| mend_at_once(connection, table, changes, packet_bytes_max).await)
        .await
}

async fn mend_at_once(
    connection: &mut MySqlConnection,
    table: &Table,
    changes: &[Change],
    packet_bytes_max: usize,
) -> Result<Written, EngineError> {
    let doing = || format!("repairing rows of {}", table.label);
    sqlx::raw_sql(REPEATABLE).execute(&mut *connection).await.doing(doing)?;
    let mut transaction = connection.begin().await.doing(doing)?;
    // Every header and the gaps between them: whoever would open one waits for us; whoever has is seen.
    sqlx::raw_sql("SELECT rotation FROM keyturn_rotation LOCK IN SHARE MODE")
        .fetch_all(&mut *transaction)
        .await
        .doing(doing)?;
    if let Some(open) = ledger::open_rotation(&mut transaction, None).await? {
        return Err(EngineError::LedgerOpen(open));
    }
    let written = rows::update(&mut transaction, table, changes, packet_bytes_max).await?;
    if written != changes.len() as u64 {
        transaction.rollback().await.doing(doing)?;
        return Ok(Written::RowsDiffer);
    }
    transaction.commit().await.doing(doing)?;
    Ok(Written::Committed)
}
