//! The survey of Preflight: reads every registered value while the farm still serves, opens it with the current
//! key, names what does not open, and sets the bounds of the shards.

mod offline;
mod strategy;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use keys::KeySet;
use keys::value::{Cipher, Rewrapper, ValueError};
use rotation::{KeyId, PlanTable, StrategyChoice, Survey, UndecryptableValue, Unseen};

use crate::EngineError;
use crate::dialect::{Dialect, Fields, PageLimit, Scan, Session};
use crate::engine::Progress;
use crate::key::Key;
use crate::offload::offload;
use crate::pass::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use crate::sink::{Page, PageSink, PageSize, Rooms};
use crate::split::{Marks, split};
use crate::table::{Change, KeyRange, Row, Stored, Table, ValueColumn};
use crate::transform::{Accepted, raw_digest};
use offline::{Forecaster, Size};
use strategy::Chosen;

/// Undecryptable values that a survey names; all are counted. More would not be read by anybody, and they travel in
/// the coordinators' log.
const UNDECRYPTABLE_NAMED_MAX: usize = 1000;

/// What the instances take for going offline and coming back, besides the rows.
const INSTANCES_OFFLINE: Duration = Duration::from_secs(10);

/// How often a trial of writing is tried that met a lock. The farm serves, so locks come and go; one that stays for
/// all of them is told as a fault that may be tried again.
const TRIAL_TRIES_MAX: u32 = 3;

/// How a survey is made.
pub(crate) struct Surveyor<'a> {
    pub(crate) tables: &'a [Table],
    pub(crate) ring: &'a KeySet,
    pub(crate) accepted: Accepted,
    pub(crate) shards_wanted: u32,
    pub(crate) choice: StrategyChoice,
    pub(crate) agents: u32,
    pub(crate) dialect: &'a Arc<dyn Dialect>,
    pub(crate) rooms: &'a Rooms,
    pub(crate) unseen: Unseen,
}

impl Surveyor<'_> {
    /// Reads by one session and tries by the other.
    pub(crate) async fn survey(
        &self,
        reader: &mut dyn Session,
        trier: &mut dyn Session,
        progress: Progress<'_>,
    ) -> Result<Survey, EngineError> {
        let mut found = Found::default();
        let mut marked = Vec::new();
        let mut counted = Vec::new();
        let mut rows_done = 0;
        for table in self.tables {
            let began = Instant::now();
            let mut marks = Marks::new();
            let say = |rows| progress(rows_done + rows);
            let counts = self.table(table, reader, trier, &mut marks, &mut found, say).await?;
            rows_done += counts.rows;
            marked.push((table.label.clone(), marks));
            let size = Size { rows: counts.rows, bytes: counts.bytes, surveyed_in: began.elapsed() };
            counted.push((table, counts, size));
        }
        let rows: Vec<_> = counted.iter().map(|(table, counts, _)| (*table, counts.rows)).collect();
        let chosen = strategy::choose(trier, &rows, self.choice, self.dialect.auto_shadow()).await?;
        let sizes: Vec<Size> = counted.iter().map(|(_, _, size)| *size).collect();
        let forecaster = Forecaster::new(self.dialect, self.agents, &sizes).await;
        let mut offline = INSTANCES_OFFLINE;
        let mut tables = Vec::new();
        for ((table, counts, size), Chosen { strategy, reason }) in counted.into_iter().zip(chosen) {
            let forecast = forecaster.forecast(&size, strategy);
            offline = offline.saturating_add(forecast);
            let plan = PlanTable {
                columns: table.columns.iter().map(|column| column.name.clone()).collect(),
                strategy,
                reason,
                forecast_ms: milliseconds(forecast),
                rows: counts.rows,
                values: counts.values,
                bytes: counts.bytes,
            };
            tables.push((table.label.clone(), plan));
        }
        Ok(Survey {
            kind: self.dialect.kind(),
            tables,
            shards: split(&marked, self.shards_wanted),
            writers_max: self.dialect.writers_max(),
            undecryptable_total: found.total,
            undecryptable: found.named(),
            downtime_forecast_ms: milliseconds(offline),
            unseen: self.unseen.clone(),
        })
    }

    async fn table(
        &self,
        table: &Table,
        reader: &mut dyn Session,
        trier: &mut dyn Session,
        marks: &mut Marks,
        found: &mut Found,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<Counts, EngineError> {
        let opener = Arc::new(Opener::new(table, self.ring, self.accepted.clone()));
        let limit = PageLimit { rows_max: PAGE_ROWS_MAX, bytes_max: PAGE_BYTES_MAX };
        let (mut sink, mut pages) = PageSink::new(Arc::new(PageSize::new(limit)), self.rooms);
        let mut counts = Counts::default();
        let mut untried = vec![true; table.columns.len()];
        let read = async move {
            let range = KeyRange::default();
            reader.scan(&Scan { table, range: &range, fields: Fields::Registered }, &mut sink).await?;
            let _ = sink.end().await;
            Ok(())
        };
        let open = async {
            while let Some(Page { rows, room: _room }) = pages.recv().await {
                let (page_opener, wanted) = (Arc::clone(&opener), untried.clone());
                let page = offload(rows, "opening", move |rows| page_opener.page(rows, wanted)).await?;
                for (key, bytes) in page.rows {
                    marks.add(key, bytes);
                    counts.rows += 1;
                    counts.bytes += bytes;
                }
                for key in &page.trials {
                    try_write(table, trier, key, &opener, &mut untried).await?;
                }
                counts.values += page.values;
                found.add(page.found);
                progress(counts.rows);
            }
            Ok(())
        };
        tokio::try_join!(read, open)?;
        Ok(counts)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Tries on one row what the chunks will do, with the settings that they will have. What a table's definition holds
/// against it would otherwise be found out while the farm is offline. The columns that were written are marked.
async fn try_write(
    table: &Table,
    session: &mut dyn Session,
    key: &Key,
    opener: &Opener,
    untried: &mut [bool],
) -> Result<(), EngineError> {
    let mut tries = 1;
    loop {
        let turned = Mutex::new(Vec::new());
        let turn = |row| {
            let change = opener.turn(row)?;
            let columns = change.new.iter().map(Option::is_some).collect();
            *turned.lock().unwrap_or_else(PoisonError::into_inner) = columns;
            Some(change)
        };
        match session.try_write(table, key, &turn).await {
            Ok(true) => {
                let turned = turned.into_inner().unwrap_or_else(PoisonError::into_inner);
                for (untried, turned) in untried.iter_mut().zip(turned) {
                    *untried &= !turned;
                }
                return Ok(());
            }
            // The application has taken the row away meanwhile; a later page brings another.
            Ok(false) => return Ok(()),
            Err(error) if error.is_retryable() && tries < TRIAL_TRIES_MAX => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

#[derive(Default)]
struct Counts {
    rows: u64,
    values: u64,
    bytes: u64,
}

/// Values that did not open. Those that nobody has accepted are named first.
#[derive(Default)]
struct Found {
    total: u64,
    unaccepted: Vec<UndecryptableValue>,
    accepted: Vec<UndecryptableValue>,
}

impl Found {
    fn value(&mut self, value: UndecryptableValue, accepted: bool) {
        self.total += 1;
        let list = if accepted { &mut self.accepted } else { &mut self.unaccepted };
        if list.len() < UNDECRYPTABLE_NAMED_MAX {
            list.push(value);
        }
    }

    fn add(&mut self, mut page: Self) {
        self.total += page.total;
        self.unaccepted.append(&mut page.unaccepted);
        self.unaccepted.truncate(UNDECRYPTABLE_NAMED_MAX);
        self.accepted.append(&mut page.accepted);
        self.accepted.truncate(UNDECRYPTABLE_NAMED_MAX);
    }

    fn named(mut self) -> Vec<UndecryptableValue> {
        self.unaccepted.append(&mut self.accepted);
        self.unaccepted.truncate(UNDECRYPTABLE_NAMED_MAX);
        self.unaccepted
    }
}

/// Opens the values of one table with the keys of the farm.
struct Opener {
    table: Table,
    active: Cipher,
    /// Under the same key anew: a trial needs other bytes, and no other key is there yet.
    again: Rewrapper,
    older: Vec<(KeyId, Cipher)>,
    accepted: Accepted,
}

/// What was found on a page.
struct OpenedPage {
    /// Key and stored bytes of each row.
    rows: Vec<(Key, u64)>,
    values: u64,
    found: Found,
    /// Rows that hold a value in a column that nothing has been tried on yet.
    trials: Vec<Key>,
}

impl Opener {
    fn new(table: &Table, ring: &KeySet, accepted: Accepted) -> Self {
        let active = ring.active().secret.id();
        let older = ring
            .entries()
            .map(|entry| (entry.secret.id(), Cipher::new(&entry.secret)))
            .filter(|(id, _)| *id != active)
            .collect();
        let secret = &ring.active().secret;
        let (active, again) = (Cipher::new(secret), Rewrapper::new(secret, secret));
        Self { table: table.clone(), active, again, older, accepted }
    }

    /// The row's change that writes every value that opens anew under the key it has.
    fn turn(&self, row: Row) -> Option<Change> {
        let again = |(column, stored): (&ValueColumn, &Stored)| match stored {
            Stored::Bytes(raw) => self.again.turn(raw, column.encoding, column.aad.as_bytes(), |_| {}).ok(),
            Stored::Null | Stored::Number(_) | Stored::Digest(_) => None,
        };
        let new: Vec<_> = self.table.columns.iter().zip(&row.values).map(again).collect();
        new.iter().any(Option::is_some).then(|| {
            let mut change = Change { row, new };
            change.let_go();
            change
        })
    }

    fn page(&self, rows: Vec<Row>, mut untried: Vec<bool>) -> OpenedPage {
        let mut page =
            OpenedPage { rows: Vec::with_capacity(rows.len()), values: 0, found: Found::default(), trials: Vec::new() };
        for row in rows {
            let mut try_it = false;
            for ((column, stored), untried) in self.table.columns.iter().zip(&row.values).zip(&mut untried) {
                let raw = match stored.bytes() {
                    None | Some([]) => continue,
                    Some(raw) => raw,
                };
                page.values += 1;
                if let Some(reason) = self.problem(column, stored, raw) {
                    let key = row.key.bound();
                    let accepted = self.accepted.holds(&self.table.label, &column.name, &key.0, raw);
                    let value = UndecryptableValue {
                        table: self.table.label.clone(),
                        column: column.name.clone(),
                        key,
                        raw_digest: raw_digest(raw),
                        reason,
                    };
                    page.found.value(value, accepted);
                } else {
                    try_it |= std::mem::take(untried);
                }
            }
            if try_it {
                page.trials.push(row.key.clone());
            }
            let bytes = row.bytes() as u64;
            page.rows.push((row.key, bytes));
        }
        page
    }

    fn problem(&self, column: &ValueColumn, stored: &Stored, raw: &[u8]) -> Option<String> {
        if matches!(stored, Stored::Number(_)) {
            return Some("it is stored as a number".to_owned());
        }
        let open = |cipher: &Cipher| cipher.open(raw, column.encoding, column.aad.as_bytes());
        match open(&self.active) {
            Ok(_) => None,
            Err(ValueError::NoKnownKey) => match self.older.iter().find(|(_, cipher)| open(cipher).is_ok()) {
                Some((id, _)) => Some(format!("it opens only under the older key {id}, not under the active one")),
                None => Some(ValueError::NoKnownKey.to_string()),
            },
            Err(error) => Some(error.to_string()),
        }
    }
}
