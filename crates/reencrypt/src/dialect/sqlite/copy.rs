//! A copy of the whole database while it is in use: one state of it, as a file of its own; and whether a file is whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use crate::EngineError;
use crate::error::Doing;

/// Copies into a file that must not be there yet, for its owner alone, and flushes it.
pub(super) async fn copy_into(connection: &mut SqliteConnection, path: &Path) -> Result<(), EngineError> {
    let doing = || format!("copying the database into {}", path.display());
    let text = path.to_str().ok_or_else(|| EngineError::Configuration(format!("{} is not UTF-8", path.display())))?;
    // Made beforehand and empty, which SQLite accepts, because it would make it readable for others.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(sqlx::Error::Io).doing(doing)?;
    sqlx::query("VACUUM main INTO ?").bind(text).execute(connection).await.doing(doing)?;
    File::open(path).and_then(|file| file.sync_all()).map_err(sqlx::Error::Io).doing(doing)
}

/// SQLite's own look at every page and every index.
pub(super) async fn check(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    let doing = || "looking whether the file is whole".to_owned();
    let row = sqlx::query("PRAGMA main.integrity_check(1)").fetch_one(connection).await.doing(doing)?;
    let found: String = row.try_get(0).doing(doing)?;
    if found == "ok" { Ok(()) } else { Err(EngineError::Damaged(found)) }
}
