//! Which key opens what: every registered value, or those of a sample of rows, tried with each of some keys. For whoever
//! has to find out under which key a database is, without trusting names, dates or ledgers.

use std::collections::BTreeMap;
use std::sync::Arc;

use keys::SecretKey;
use keys::value::Cipher;
use rotation::{KeyId, Shard, UndecryptableValue};

use crate::EngineError;
use crate::dialect::{Fields, PageLimit, Scan, Session};
use crate::engine::{Progress, range as shard_range};
use crate::pass::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use crate::table::{KeyRange, Row, Stored, Table};
use crate::transform::Accepted;

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub struct CensusRequest<'a> {
    /// The keys, the likeliest first: each value is counted for the first that opens it.
    pub keys: &'a [SecretKey],
    /// Values that may open under none of them.
    pub accepted: &'a [UndecryptableValue],
    /// So many rows from the beginning of each of `shards`, or of a table that has none; every row without it.
    pub sample_rows: Option<u64>,
    /// From what samples are taken; those of a table cover all of it.
    pub shards: &'a [Shard],
}

/// What opens what in one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableCensus {
    /// The table as targets.toml names it.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// How many of them were read.
    pub rows_read: u64,
    /// Values by the key that opens them.
    pub by_key: BTreeMap<KeyId, u64>,
    /// Values that open under none of the keys and that nobody accepted.
    pub unopened: u64,
    /// Values that open under none of the keys and were accepted.
    pub accepted: u64,
    /// Column and primary key of the first that does not open.
    pub first_unopened: Option<String>,
}

impl TableCensus {
    /// Whether every value that was read opens under this key.
    pub fn is_under(&self, key: KeyId) -> bool {
        self.unopened == 0 && self.by_key.iter().all(|(id, values)| *id == key || *values == 0)
    }
}

/// How a census is taken.
pub(crate) struct CensusTaker<'a> {
    pub(crate) request: &'a CensusRequest<'a>,
    pub(crate) page_rows_max: &'a (dyn Fn(&Table) -> usize + Send + Sync),
}

impl CensusTaker<'_> {
    pub(crate) async fn take(
        &self,
        tables: &[Table],
        session: &mut dyn Session,
        progress: Progress<'_>,
    ) -> Result<Vec<TableCensus>, EngineError> {
        let mut found = Vec::with_capacity(tables.len());
        let mut rows_done = 0;
        for table in tables {
            let rows = session.count(table, &KeyRange::default()).await?;
            let mut census = TableCensus { table: table.label.clone(), rows, ..TableCensus::default() };
            let opener = Arc::new(Opener::new(table, self.request));
            let sample = self.request.sample_rows.filter(|sample| *sample < rows);
            for range in self.ranges(table, sample.is_some())? {
                let limit = sample.unwrap_or(u64::MAX);
                self.read(table, range, limit, session, &opener, &mut census, |read| progress(rows_done + read))
                    .await?;
            }
            rows_done += census.rows_read;
            found.push(census);
        }
        Ok(found)
    }

    /// What to read: the whole table, and for a sample each shard by itself, so that no row is counted twice.
    fn ranges(&self, table: &Table, sampled: bool) -> Result<Vec<KeyRange>, EngineError> {
        let shards = self.request.shards.iter().filter(|shard| sampled && shard.table == table.label);
        let ranges = shards.map(|shard| shard_range(shard, table)).collect::<Result<Vec<_>, _>>()?;
        Ok(if ranges.is_empty() { vec![KeyRange::default()] } else { ranges })
    }

    #[expect(clippy::too_many_arguments, reason = "one inner loop, called from one place")]
    async fn read(
        &self,
        table: &Table,
        mut range: KeyRange,
        rows_max: u64,
        session: &mut dyn Session,
        opener: &Arc<Opener>,
        census: &mut TableCensus,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), EngineError> {
        let page_rows = (self.page_rows_max)(table).min(PAGE_ROWS_MAX);
        let mut left = rows_max;
        while left > 0 {
            let rows_max = page_rows.min(usize::try_from(left).unwrap_or(usize::MAX));
            let limit = PageLimit { rows_max, bytes_max: PAGE_BYTES_MAX };
            let rows = session.page(&Scan { table, range: &range, fields: Fields::Registered }, limit).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            range.after = Some(last.key.clone());
            left = left.saturating_sub(rows.len() as u64);
            let opener = Arc::clone(opener);
            let page = tokio::task::spawn_blocking(move || opener.page(&rows))
                .await
                .map_err(|error| EngineError::Internal(format!("opening a page ended early: {error}")))?;
            census.add(page);
            progress(census.rows_read);
        }
        Ok(())
    }
}

impl TableCensus {
    fn add(&mut self, page: Self) {
        self.rows_read += page.rows_read;
        for (key, values) in page.by_key {
            *self.by_key.entry(key).or_default() += values;
        }
        self.unopened += page.unopened;
        self.accepted += page.accepted;
        if self.first_unopened.is_none() {
            self.first_unopened = page.first_unopened;
        }
    }
}

/// Opens the values of one table with any of the keys.
struct Opener {
    table: Table,
    ciphers: Vec<(KeyId, Cipher)>,
    accepted: Accepted,
}

impl Opener {
    fn new(table: &Table, request: &CensusRequest<'_>) -> Self {
        let ciphers = request.keys.iter().map(|key| (key.id(), Cipher::new(key))).collect();
        Self { table: table.clone(), ciphers, accepted: Accepted::new(request.accepted) }
    }

    fn page(&self, rows: &[Row]) -> TableCensus {
        let mut page = TableCensus { rows_read: rows.len() as u64, ..TableCensus::default() };
        for row in rows {
            for (column, stored) in self.table.columns.iter().zip(&row.values) {
                let raw = match stored.bytes() {
                    None | Some([]) => continue,
                    Some(raw) => raw,
                };
                let opens = |cipher: &Cipher| {
                    matches!(stored, Stored::Bytes(_))
                        && cipher.open(raw, column.encoding, column.aad.as_bytes()).is_ok()
                };
                if let Some((id, _)) = self.ciphers.iter().find(|(_, cipher)| opens(cipher)) {
                    *page.by_key.entry(*id).or_default() += 1;
                } else if self.accepted.holds(&self.table.label, &column.name, &row.key.to_string(), raw) {
                    page.accepted += 1;
                } else {
                    page.unopened += 1;
                    page.first_unopened.get_or_insert_with(|| format!("{} of row {}", column.name, row.key));
                }
            }
        }
        page
    }
}
