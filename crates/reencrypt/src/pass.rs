//! One pass over one shard: a reader, a transformer and a writer work at once, each on its own page, and the ledger
//! follows the writer. The pass is done only when all three have said that they came to the end.

mod pacer;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rotation::{ContentDigest, ShardTally};
use tokio::sync::mpsc;

use crate::EngineError;
use crate::dialect::{Chunk, Fields, PageLimit, Scan, Session, Written};
use crate::engine::Progress;
use crate::key::Key;
use crate::ledger::{Claim, Pass, ShardRecord, plus};
use crate::offload::offload;
use crate::pace::{CHUNK_ROWS_FIRST, CHUNK_ROWS_FIRST_COPIED, CHUNK_ROWS_MAX, Limits};
use crate::sink::{PAGES_WAITING_MAX, Page, PageSink, PageSize, Room, Rooms};
use crate::table::{Change, KeyRange, Row, Table};
use crate::transform::{Batch, Transformer};
use pacer::Pacer;

/// Stored bytes of a page. A few pages are in memory for each shard, one that is written three times over (old, new, and
/// the driver's copy), so that a shard stays below 64 MiB unless a single value is larger than this.
pub(crate) const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Rows of a page that is only read.
pub(crate) const PAGE_ROWS_MAX: usize = 2000;

/// How long the database may take for one page before the work is given up and tried again elsewhere.
const PAGE_TIME_MAX: Duration = Duration::from_secs(60);

/// How often a pass that only reads notes how far it has come: what a crash makes it read again.
const READING_NOTED_EVERY: Duration = Duration::from_secs(1);

/// Keys named in a message about rows that changed.
const KEYS_NAMED_MAX: usize = 3;

/// What a pass works on.
pub(crate) struct Scope<'a> {
    pub(crate) claim: &'a Claim,
    /// What is read, and written unless `into` is.
    pub(crate) table: &'a Table,
    /// The shadow that is filled.
    pub(crate) into: Option<&'a Table>,
    pub(crate) range: KeyRange,
    pub(crate) fields: Fields,
    pub(crate) page_rows_max: usize,
    pub(crate) limits: Limits,
    pub(crate) rooms: &'a Rooms,
    /// Whether rows that are to be written still hold all that was read of them.
    pub(crate) keeps_read: bool,
    /// What must have been counted at the end; else the pass begins again when it is next tried.
    pub(crate) expected: Option<ShardTally>,
}

impl Scope<'_> {
    const fn is_written(&self) -> bool {
        matches!(self.claim.pass, Pass::Reencrypt | Pass::Restore)
    }

    fn page_limit(&self) -> PageLimit {
        let rows_max = match (self.is_written(), self.into) {
            (true, None) => CHUNK_ROWS_FIRST,
            (true, Some(_)) => CHUNK_ROWS_FIRST_COPIED,
            (false, _) => PAGE_ROWS_MAX,
        };
        PageLimit { rows_max: rows_max.min(self.page_rows_max), bytes_max: PAGE_BYTES_MAX }
    }

    async fn commit(
        &self,
        writer: &mut dyn Session,
        (before, after): (&ShardRecord, &ShardRecord),
        changes: &[Change],
        doing: &str,
    ) -> Result<Written, EngineError> {
        let chunk = Chunk { claim: self.claim, table: self.table, before, after, changes, into: self.into };
        in_time(self.table, doing, writer.commit(&chunk)).await
    }
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
    let size = Arc::new(PageSize::new(scope.page_limit()));
    let (mut sink, mut pages) = PageSink::new(Arc::clone(&size), scope.rooms);
    let (batches_in, mut batches) = mpsc::channel::<(Batch, Room)>(PAGES_WAITING_MAX);
    let start = record.cursor.clone().or_else(|| scope.range.after.clone());
    let rows_max = scope.page_rows_max.min(CHUNK_ROWS_MAX);
    let mut pacer = Pacer::new(scope.limits, size, rows_max);

    let read = async move {
        let range = KeyRange { after: start, through: scope.range.through.clone() };
        reader.scan(&Scan { table: scope.table, range: &range, fields: scope.fields }, &mut sink).await?;
        // Closed: the next stage has failed, and its error is the one to report.
        let _ = sink.end().await;
        Ok(())
    };
    let transform = async move {
        while let Some(Page { rows, room }) = next(scope.table, &mut pages).await? {
            let transformer = Arc::clone(&transformer);
            let batch = offload(rows, "turning", move |rows| transformer.batch(rows)).await??;
            if batches_in.send((batch, room)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    };
    let write = async {
        if scope.is_written() {
            while let Some((batch, room)) = batches.recv().await {
                let rows = batch.tally.rows;
                let after = record.after(batch.last, &batch.tally, batch.raw);
                let began = Instant::now();
                match scope.commit(writer, (&record, &after), &batch.changes, "writing").await? {
                    Written::Committed => {}
                    Written::RowsDiffer => return Err(rows_changed(scope, writer, &batch.changes).await),
                }
                record = after;
                drop((batch.changes, room));
                progress(record.tally.rows);
                pacer.wrote(rows, began.elapsed(), writer, || progress(record.tally.rows)).await;
            }
        } else {
            let mut noted = Instant::now();
            let mut read = Read::default();
            while let Some((batch, _room)) = batches.recv().await {
                read.add(batch);
                progress(record.tally.rows + read.tally.rows);
                if noted.elapsed() >= READING_NOTED_EVERY {
                    read.note(scope, &mut record, writer).await?;
                    noted = Instant::now();
                }
            }
            read.note(scope, &mut record, writer).await?;
        }
        Ok(())
    };
    // An error of any stage ends all of them here. Only when each has come to its end is the shard done, so that an
    // interrupted read is never taken for the end of the data.
    tokio::try_join!(read, transform, write)?;

    if scope.expected.is_some_and(|expected| expected != record.tally) {
        let anew = ShardRecord::default();
        scope.commit(writer, (&record, &anew), &[], "beginning a shard anew").await?;
        return Ok(record);
    }
    let done = ShardRecord { done: true, ..record.clone() };
    scope.commit(writer, (&record, &done), &[], "closing a shard").await?;
    Ok(done)
}

/// What was read and is not noted in the ledger yet.
#[derive(Default)]
struct Read {
    last: Option<Key>,
    tally: ShardTally,
    raw: ContentDigest,
}

impl Read {
    fn add(&mut self, batch: Batch) {
        self.last = Some(batch.last);
        self.tally = plus(&self.tally, &batch.tally);
        self.raw = self.raw.plus(batch.raw);
    }

    async fn note(
        &mut self,
        scope: &Scope<'_>,
        record: &mut ShardRecord,
        writer: &mut dyn Session,
    ) -> Result<(), EngineError> {
        let Self { last, tally, raw } = std::mem::take(self);
        let Some(last) = last else { return Ok(()) };
        let after = record.after(last, &tally, raw);
        scope.commit(writer, (record, &after), &[], "noting what was read of").await?;
        *record = after;
        Ok(())
    }
}

/// Digests the rows of a page.
type PageDigest = Arc<dyn Fn(&[Row]) -> ContentDigest + Send + Sync>;

/// The digest of the rows of a range as they stand now.
pub(crate) async fn raw_digest(
    session: &mut dyn Session,
    (table, range): (&Table, &KeyRange),
    rooms: &Rooms,
    digest: PageDigest,
    progress: impl Fn(u64) + Send + Sync,
) -> Result<ContentDigest, EngineError> {
    let limit = PageLimit { rows_max: PAGE_ROWS_MAX, bytes_max: PAGE_BYTES_MAX };
    let (mut sink, mut pages) = PageSink::new(Arc::new(PageSize::new(limit)), rooms);
    let read = async move {
        session.scan(&Scan { table, range, fields: Fields::Version }, &mut sink).await?;
        let _ = sink.end().await;
        Ok(())
    };
    let hash = async {
        let mut sum = ContentDigest::default();
        while let Some(page) = next(table, &mut pages).await? {
            let Page { rows, room: _room } = page;
            let (digest, count) = (Arc::clone(&digest), rows.len());
            sum = sum.plus(offload(rows, "hashing", move |rows| digest(&rows)).await?);
            progress(count as u64);
        }
        Ok(sum)
    };
    let ((), sum) = tokio::try_join!(read, hash)?;
    Ok(sum)
}

/// The next page, in time: whoever reads has nothing else to wait for.
async fn next(table: &Table, pages: &mut mpsc::Receiver<Page>) -> Result<Option<Page>, EngineError> {
    in_time(table, "reading", async { Ok(pages.recv().await) }).await
}

/// Says which rows no longer hold what was read. The transaction is rolled back, so they can be looked at.
async fn rows_changed(scope: &Scope<'_>, session: &mut dyn Session, changes: &[Change]) -> EngineError {
    let mut named = Vec::new();
    let mut count = 0_usize;
    for change in changes {
        match session.row(scope.table, &change.row.key).await {
            // Of a row that is copied, the old values may not have been kept.
            Ok(Some(row)) if is_still(change, &row) || !scope.keeps_read => {}
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

fn is_still(change: &Change, row: &Row) -> bool {
    change.row.values.iter().zip(&row.values).all(|(read, found)| read.is_still(found))
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
