//! The swap in SQLite: under the database's one lock, the first pages of tables and indexes change places in the schema.

use fail_points::point;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::same;
use crate::EngineError;
use crate::dialect::durable;
use crate::dialect::sqlite::ledger::{self, shadows};
use crate::error::Doing;
use crate::ledger::LedgerMark;
use crate::shadow::{Pair, ShadowState};

/// Begins the transaction, which nobody else's may stand beside.
pub(in super::super) async fn hold(connection: &mut SqliteConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    run(connection, "BEGIN IMMEDIATE", "taking the lock for the swap").await?;
    let entered = async {
        ledger::known_header(connection, mark).await?.admit(mark)?;
        ledger::write_header(connection, mark, false).await
    };
    match entered.await {
        Ok(()) => Ok(()),
        Err(error) => {
            // On a full disk SQLite has taken the transaction back itself.
            let _ = release(connection).await;
            Err(error)
        }
    }
}

pub(in super::super) async fn release(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    run(connection, "ROLLBACK", "giving the lock for the swap back").await
}

pub(in super::super) async fn swap(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    pairs: &[Pair],
) -> Result<(), EngineError> {
    for pair in pairs {
        shadows::set_state(connection, &mark.rotation, &pair.shadow.label, ShadowState::Swapped).await?;
    }
    exchange(connection, pairs).await?;
    durable::around(point!(TABLES_SWAPPED), run(connection, "COMMIT", "committing the swap")).await
}

pub(in super::super) async fn swap_back(
    connection: &mut SqliteConnection,
    mark: &LedgerMark,
    back: &[Pair],
    kept: &[Pair],
) -> Result<(), EngineError> {
    let (mut as_swapped, mut kept) = (Vec::new(), kept.to_vec());
    for pair in back {
        match same(connection, pair).await {
            Ok(_) => as_swapped.push(pair.clone()),
            Err(EngineError::ShadowState { table, problem }) => {
                tracing::warn!(table, problem, "it was altered since it was swapped in; it goes back in place");
                kept.push(pair.clone());
            }
            Err(error) => return Err(error),
        }
    }
    let back = as_swapped;
    for (pairs, state) in [(&back, ShadowState::Dropping), (&kept, ShadowState::Kept)] {
        for pair in pairs {
            shadows::set_state(connection, &mark.rotation, &pair.shadow.label, state).await?;
        }
    }
    exchange(connection, &back).await?;
    durable::around(point!(TABLES_SWAPPED_BACK), run(connection, "COMMIT", "committing the swap back")).await
}

/// Changes the pages, and has every connection read the schema anew, this one too. It is how SQLite's documentation
/// edits definitions: `writable_schema` and another `schema_version` in one transaction. The trees themselves are
/// compared beforehand: they are stored alike, or nothing is changed.
async fn exchange(connection: &mut SqliteConnection, pairs: &[Pair]) -> Result<(), EngineError> {
    if pairs.is_empty() {
        return Ok(());
    }
    let doing = || "swapping tables".to_owned();
    let mut changes = Vec::new();
    for pair in pairs {
        let (original, copy) = same(connection, pair).await?;
        for [(kind, name, page), (_, twin, twin_page)] in original.root_pages(&copy) {
            changes.push((kind, name.to_owned(), twin_page));
            changes.push((kind, twin.to_owned(), page));
        }
    }
    let version: i64 = sqlx::query("PRAGMA main.schema_version")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    run(connection, "PRAGMA writable_schema = ON", "swapping tables").await?;
    for (kind, name, page) in &changes {
        let done = sqlx::query("UPDATE main.sqlite_schema SET rootpage = ? WHERE type = ? AND name = ?")
            .bind(page)
            .bind(kind)
            .bind(name)
            .execute(&mut *connection)
            .await
            .doing(doing)?;
        if done.rows_affected() != 1 {
            return Err(EngineError::Internal(format!(
                "{kind} {name} is in the schema {} times",
                done.rows_affected()
            )));
        }
    }
    // Reviewed: a number.
    let sql = format!("PRAGMA main.schema_version = {}", version.wrapping_add(1));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await.doing(doing)?;
    run(connection, "PRAGMA writable_schema = RESET", "swapping tables").await?;
    for pair in pairs {
        same(connection, pair).await?;
    }
    Ok(())
}

async fn run(connection: &mut SqliteConnection, sql: &'static str, doing: &str) -> Result<(), EngineError> {
    sqlx::raw_sql(sql).execute(connection).await.map(drop).doing(|| doing.to_owned())
}
