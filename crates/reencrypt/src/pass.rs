//! One pass over one shard: a reader, a transformer and a writer work at once, each on its own page, and the ledger
//! follows the writer. The pass is done only when all three have said that they came to the end.

use std::sync::Arc;
use std::time::Duration;

use rotation::ShardTally;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::EngineError;
use crate::dialect::{Chunk, PageLimit, Scan, Session, Written};
use crate::engine::Progress;
use crate::ledger::{Claim, ShardRecord};
use crate::sink::{PAGES_WAITING_MAX, Page, PageSink, PageSize};
use crate::table::{Change, KeyRange, Table};
use crate::transform::{Batch, Transformer};

/// Rows of a page. More gain nothing: at this size the round trips of a transaction are a tenth of its time.
pub(crate) const PAGE_ROWS_MAX: usize = 1000;

/// Stored bytes of a page. Five pages are in memory for each shard, a written one three times over (old, new, and
/// the driver's copy), so that a shard stays below 64 MiB unless a single value is larger than this.
pub(crate) const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long the database may take for one page before the work is given up and tried again elsewhere.
const PAGE_TIME_MAX: Duration = Duration::from_secs(60);

/// Keys named in a message about rows that changed.
const KEYS_NAMED_MAX: usize = 3;

/// What a pass works on.
pub(crate) struct Scope<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) table: &'a Table,
    pub(crate) range: KeyRange,
    pub(crate) page_rows_max: usize,
    /// What must have been counted at the end; else the pass begins again when it is next tried.
    pub(crate) expected: Option<ShardTally>,
}

/// Reads the range from where the ledger says to its end, and returns what was counted.
pub(crate) async fn run(
    scope: &Scope<'_>,
    transformer: Arc<Transformer>,
    mut record: ShardRecord,
    reader: &mut dyn Session,
    writer: &mut dyn Session,
    progress: Progress<'_>,
) -> Result<ShardRecord, EngineError> {
    if record.done {
        return Ok(record);
    }
    let page_size = PageLimit { rows_max: scope.page_rows_max.min(PAGE_ROWS_MAX), bytes_max: PAGE_BYTES_MAX };
    let (mut sink, mut pages) = PageSink::new(Arc::new(PageSize::new(page_size)));
    let (batches_in, mut batches) = mpsc::channel::<(Batch, OwnedSemaphorePermit)>(PAGES_WAITING_MAX);
    let start = record.cursor.clone().or_else(|| scope.range.after.clone());

    let read = async move {
        let range = KeyRange { after: start, through: scope.range.through.clone() };
        reader.scan(&Scan { table: scope.table, range: &range, whole: false }, &mut sink).await?;
        // Closed: the next stage has failed, and its error is the one to report.
        let _ = sink.end().await;
        Ok(())
    };
    let transform = async move {
        while let Some(Page { rows, room }) = pages.recv().await {
            let transformer = Arc::clone(&transformer);
            let batch = tokio::task::spawn_blocking(move || transformer.batch(rows))
                .await
                .map_err(|error| EngineError::Internal(format!("turning a page ended early: {error}")))??;
            if batches_in.send((batch, room)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let write = async {
        while let Some((batch, room)) = batches.recv().await {
            let after = record.after(batch.last, &batch.tally);
            let chunk = Chunk {
                claim: scope.claim,
                table: scope.table,
                before: &record,
                after: &after,
                changes: &batch.changes,
                into: None,
            };
            match in_time(scope.table, "writing", writer.commit(&chunk)).await? {
                Written::Committed => {}
                Written::RowsDiffer => return Err(rows_changed(scope, writer, &batch.changes).await),
            }
            progress(after.tally.rows);
            record = after;
            drop((batch.changes, room));
        }
        Ok(())
    };
    // An error of any stage ends all of them here. Only when each has come to its end is the shard done, so that an
    // interrupted read is never taken for the end of the data.
    tokio::try_join!(read, transform, write)?;

    if scope.expected.is_some_and(|expected| expected != record.tally) {
        let anew = ShardRecord::default();
        let chunk =
            Chunk { claim: scope.claim, table: scope.table, before: &record, after: &anew, changes: &[], into: None };
        in_time(scope.table, "beginning a shard anew", writer.commit(&chunk)).await?;
        return Ok(record);
    }
    let done = ShardRecord { done: true, ..record.clone() };
    let chunk =
        Chunk { claim: scope.claim, table: scope.table, before: &record, after: &done, changes: &[], into: None };
    in_time(scope.table, "closing a shard", writer.commit(&chunk)).await?;
    Ok(done)
}

/// Says which rows no longer hold what was read. The transaction is rolled back, so they can be looked at.
async fn rows_changed(scope: &Scope<'_>, session: &mut dyn Session, changes: &[Change]) -> EngineError {
    let mut named = Vec::new();
    let mut count = 0_usize;
    for change in changes {
        match session.row(scope.table, &change.row.key).await {
            Ok(Some(row)) if row.values == change.row.values => {}
            Ok(found) => {
                count += 1;
                if named.len() < KEYS_NAMED_MAX {
                    let how = if found.is_some() { "changed" } else { "vanished" };
                    named.push(format!("row {} {how}", change.row.key));
                }
            }
            Err(error) => return error,
        }
        if named.len() == KEYS_NAMED_MAX {
            break;
        }
    }
    let what = match count {
        0 => "a row changed between reading and writing it, and changed back".to_owned(),
        _ => named.join(", "),
    };
    EngineError::RowsChanged { table: scope.table.label.clone(), what }
}

async fn in_time<T>(
    table: &Table,
    doing: &str,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    match tokio::time::timeout(PAGE_TIME_MAX, work).await {
        Ok(result) => result,
        Err(_) => {
            Err(EngineError::TimedOut { doing: format!("{doing} {}", table.label), seconds: PAGE_TIME_MAX.as_secs() })
        }
    }
}

/// The tally of a finished pass with another count of rows.
pub(crate) fn with_rows(tally: &ShardTally, rows: u64) -> ShardTally {
    ShardTally { rows, ..*tally }
}
