//! Where a scan puts its rows: pages of bounded size, handed on one by one, so that who reads waits for who works.

use tokio::sync::mpsc;

use crate::dialect::PageLimit;
use crate::table::Row;

/// Collects rows into pages.
pub(crate) struct PageSink {
    pages: mpsc::Sender<Vec<Row>>,
    limit: PageLimit,
    page: Vec<Row>,
    bytes: usize,
}

/// Nobody takes pages any more: the stage behind has failed, and its error is the one to report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl PageSink {
    pub(crate) const fn new(pages: mpsc::Sender<Vec<Row>>, limit: PageLimit) -> Self {
        Self { pages, limit, page: Vec::new(), bytes: 0 }
    }

    /// Takes the next row, in the order of keys. Waits while the page before is not wanted yet.
    pub(crate) async fn row(&mut self, row: Row) -> Result<(), Closed> {
        let bytes = row.bytes();
        if !self.page.is_empty()
            && (self.page.len() >= self.limit.rows_max || self.bytes + bytes > self.limit.bytes_max)
        {
            self.flush().await?;
        }
        self.bytes += bytes;
        self.page.push(row);
        Ok(())
    }

    /// The range has come to its end: hands on what is left.
    pub(crate) async fn end(mut self) -> Result<(), Closed> {
        if self.page.is_empty() { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        self.bytes = 0;
        self.pages.send(std::mem::take(&mut self.page)).await.map_err(|_| Closed)
    }
}
