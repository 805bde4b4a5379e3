//! Writes single rows outside any rotation, and keeps rotations and other repairs away meanwhile.

use std::fs::{File, TryLockError};
use std::path::Path;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use super::super::Written;
use super::ledger;
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table};

/// The lock of who repairs: on the folder of the file, since closing a second descriptor of the file itself would take
/// SQLite's own locks away. The kernel lets it go with the process.
pub(super) fn hold(file: &Path) -> Result<File, EngineError> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let doing = || format!("locking {} against another repair", folder.display());
    let folder = File::open(folder).map_err(sqlx::Error::Io).doing(doing)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err(EngineError::RepairUnderWay),
        Err(TryLockError::Error(error)) => Err(sqlx::Error::Io(error)).doing(doing),
    }
}

pub(super) async fn refuse_rotation(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    match ledger::open_rotation(connection).await? {
        Some(open) => Err(EngineError::LedgerOpen(open)),
        None => Ok(()),
    }
}

pub(super) async fn mend(
    connection: &mut SqliteConnection,
    table: &Table,
    changes: &[Change],
) -> Result<Written, EngineError> {
    let doing = || format!("repairing rows of {}", table.label);
    // The database's one lock: no header is opened until the transaction ends.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.doing(doing)?;
    refuse_rotation(&mut transaction).await?;
    let written = ledger::write(&mut transaction, table, changes).await?;
    if written != changes.len() as u64 {
        transaction.rollback().await.doing(doing)?;
        return Ok(Written::RowsDiffer);
    }
    transaction.commit().await.doing(doing)?;
    Ok(Written::Committed)
}
