//! Where a scan puts its rows: pages of bounded size, handed on one by one, so that who reads waits for who works, and
//! no more than a bounded number of bytes is under way between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::EngineError;
use crate::dialect::PageLimit;
#[cfg(feature = "simulation")]
use crate::dialect::{Scan, Session};
use crate::key::Key;
use crate::table::{KeyRange, Row, Table};

/// Pages that wait between two stages. One keeps all stages busy; more only hold memory.
pub(crate) const PAGES_WAITING_MAX: usize = 1;

/// Stored bytes of all shards of an engine that are under way at once, from when a page is full to when it is written.
const BYTES_UNDER_WAY_MAX: usize = 36 * 1024 * 1024;

/// Bytes are counted in units of this, since a semaphore counts to less than a value may have.
const UNIT_BYTES: usize = 1024;

const UNITS_MAX: u32 = (BYTES_UNDER_WAY_MAX / UNIT_BYTES) as u32;

/// How large pages are to be at present. Who writes them steers it.
#[derive(Debug)]
pub(crate) struct PageSize {
    rows_max: AtomicUsize,
    bytes_max: usize,
}

impl PageSize {
    pub(crate) const fn new(limit: PageLimit) -> Self {
        Self { rows_max: AtomicUsize::new(limit.rows_max), bytes_max: limit.bytes_max }
    }

    pub(crate) fn limit(&self) -> PageLimit {
        PageLimit { rows_max: self.rows_max.load(Ordering::Relaxed), bytes_max: self.bytes_max }
    }

    /// From the next page on.
    pub(crate) fn set_rows_max(&self, rows: usize) {
        self.rows_max.store(rows, Ordering::Relaxed);
    }
}

/// The room that all shards of an engine share.
#[derive(Debug, Clone)]
pub(crate) struct Rooms(Arc<Semaphore>);

impl Rooms {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(UNITS_MAX as usize)))
    }
}

/// The room of a page.
#[derive(Debug)]
pub(crate) struct Room {
    _permit: OwnedSemaphorePermit,
    /// Tells the sink that it is given back.
    _given_back: oneshot::Sender<()>,
}

/// Rows in the order of their keys; never none.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    /// Dropped when nothing of the page is in memory any more.
    pub(crate) room: Room,
}

/// Collects rows into pages.
pub(crate) struct PageSink {
    pages: mpsc::Sender<Page>,
    size: Arc<PageSize>,
    rooms: Rooms,
    page: Vec<Row>,
    bytes: usize,
    /// All the room, for a row that is larger than a page and is being read.
    taken: Option<OwnedSemaphorePermit>,
}

/// Nobody takes pages any more: the stage behind has failed, and its error is the one to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl PageSink {
    pub(crate) fn new(size: Arc<PageSize>, rooms: &Rooms) -> (Self, mpsc::Receiver<Page>) {
        let (pages, taken) = mpsc::channel(PAGES_WAITING_MAX);
        (Self { pages, size, rooms: rooms.clone(), page: Vec::new(), bytes: 0, taken: None }, taken)
    }

    /// How large the present page may become.
    pub(crate) fn limit(&self) -> PageLimit {
        self.size.limit()
    }

    /// Before a row of so many bytes is read: one that is larger than a page waits until it can have all the room, so that
    /// nothing of it is in memory while others are.
    pub(crate) async fn make_room(&mut self, bytes: usize) -> Result<(), Closed> {
        if bytes > self.size.bytes_max && self.taken.is_none() {
            if !self.page.is_empty() {
                self.flush().await?;
            }
            self.taken = Some(self.room(UNITS_MAX).await?);
        }
        Ok(())
    }

    /// Takes the next row, in the order of keys. Waits while the page before is not wanted yet; after a row that alone
    /// is larger than a page may be, until it has gone all its way, so that such rows go singly.
    pub(crate) async fn row(&mut self, row: Row) -> Result<(), Closed> {
        let limit = self.size.limit();
        let bytes = row.bytes();
        if !self.page.is_empty() && (self.page.len() >= limit.rows_max || self.bytes + bytes > limit.bytes_max) {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.page.push(row);
        if bytes > limit.bytes_max {
            let given_back = self.flush().await?;
            // Never sent: its end is what is waited for.
            let _ = given_back.await;
        }
        Ok(())
    }

    /// The range has come to its end: hands on what is left.
    pub(crate) async fn end(mut self) -> Result<(), Closed> {
        if self.page.is_empty() { Ok(()) } else { self.flush().await.map(drop) }
    }

    async fn room(&self, units: u32) -> Result<OwnedSemaphorePermit, Closed> {
        Arc::clone(&self.rooms.0).acquire_many_owned(units).await.map_err(|_| Closed)
    }

    async fn flush(&mut self) -> Result<oneshot::Receiver<()>, Closed> {
        // A row that alone is larger than a page takes all the room, so that only one of them is copied about at a time.
        let units = if self.bytes > self.size.bytes_max { UNITS_MAX as usize } else { self.bytes / UNIT_BYTES };
        let units = u32::try_from(units).unwrap_or(UNITS_MAX).clamp(1, UNITS_MAX);
        let permit = match self.taken.take() {
            Some(permit) => permit,
            None => self.room(units).await?,
        };
        let capacity = self.page.len();
        let rows = std::mem::replace(&mut self.page, Vec::with_capacity(capacity));
        self.bytes = 0;
        let (given_back, is_given_back) = oneshot::channel();
        let room = Room { _permit: permit, _given_back: given_back };
        self.pages.send(Page { rows, room }).await.map_err(|_| Closed)?;
        Ok(is_given_back)
    }
}

/// A scan by single pages, for systems whose open readers would keep writers out.
#[cfg(feature = "simulation")]
pub(crate) async fn scan_by_pages(
    session: &mut dyn Session,
    scan: &Scan<'_>,
    sink: &mut PageSink,
) -> Result<(), EngineError> {
    let mut range = scan.range.clone();
    loop {
        let rows = session.page(&Scan { range: &range, ..*scan }, sink.limit()).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        advance(scan.table, &mut range, last.key.clone())?;
        for row in rows {
            if sink.row(row).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Goes on from this key; refuses to go on from the same one, which would read for ever.
pub(crate) fn advance(table: &Table, range: &mut KeyRange, last: Key) -> Result<(), EngineError> {
    if range.after.as_ref() == Some(&last) {
        let what = format!("the database answered row {last} again after it; its key's index may be damaged");
        return Err(EngineError::RowsChanged { table: table.label.clone(), what });
    }
    range.after = Some(last);
    Ok(())
}
