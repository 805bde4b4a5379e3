//! What is durable when it returns, with a fail point on either side.

use std::future::Future;

use fail_points::Point;
use sqlx::{Database, Transaction};

use crate::EngineError;
use crate::error::Doing;

/// Commits. Before the point's write, everything is written and the transaction is still open.
pub(crate) async fn commit<DB: Database>(point: Point, transaction: Transaction<'_, DB>) -> Result<(), sqlx::Error> {
    point.before().map_err(sqlx::Error::Io)?;
    transaction.commit().await?;
    point.after().map_err(sqlx::Error::Io)
}

/// A change that is its own transaction, or several.
pub(crate) async fn around<T>(
    point: Point,
    change: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let doing = || "changing the database".to_owned();
    point.before().map_err(sqlx::Error::Io).doing(doing)?;
    let done = change.await?;
    point.after().map_err(sqlx::Error::Io).doing(doing)?;
    Ok(done)
}
