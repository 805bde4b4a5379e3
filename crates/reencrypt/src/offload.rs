//! Where the computing on a page is done: on a thread of its own, so that it overlaps with reading and writing, unless the
//! page is so small that the way there would take longer.

use crate::EngineError;
use crate::table::Row;

/// Stored bytes of a page that is computed on where it is: some tenth of a millisecond, which is what the runtime bears
/// between two waits.
const HERE_BYTES_MAX: usize = 16 * 1024;

/// Does the work on these rows. `doing` names it should its thread end early.
pub(crate) async fn offload<T: Send + 'static>(
    rows: Vec<Row>,
    doing: &str,
    work: impl FnOnce(Vec<Row>) -> T + Send + 'static,
) -> Result<T, EngineError> {
    if rows.iter().map(Row::bytes).sum::<usize>() <= HERE_BYTES_MAX {
        return Ok(work(rows));
    }
    tokio::task::spawn_blocking(move || work(rows))
        .await
        .map_err(|error| EngineError::Internal(format!("{doing} a page ended early: {error}")))
}
