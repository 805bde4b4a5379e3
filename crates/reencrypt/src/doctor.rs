//! Looks at every registered value: which key it is under, and whether any opens it. On request, turns those under an
//! older key of the node to the active one, outside any rotation and while the farm serves.

use std::collections::BTreeMap;
use std::sync::Arc;

use keys::value::{Cipher, Rewrapper, ValueError};
use keys::{KeySet, KeyState};
use rotation::{KeyId, UndecryptableValue};
use serde::Serialize;

use crate::EngineError;
use crate::dialect::{Fields, PageLimit, Scan, Session, Written};
use crate::engine::Progress;
use crate::pass::{PAGE_BYTES_MAX, PAGE_ROWS_MAX};
use crate::table::{Change, KeyRange, Row, Stored, Table, ValueColumn};
use crate::transform::{Accepted, raw_digest};

/// Undecryptable values that are named; all are counted. As many as a plan takes for accepted.
const UNDECRYPTABLE_NAMED_MAX: usize = 1000;

/// How often a row is tried that the application changes meanwhile. One that it writes all the time has, the first time it
/// is written, become one under the active key.
const ROW_TRIES_MAX: u32 = 3;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DoctorReport {
    /// `postgres`, `mariadb` or `sqlite`.
    pub database: String,
    /// The key under which every value should be.
    pub active_key: String,
    /// Whether every value is, but for accepted ones.
    pub well: bool,
    /// Values under each key, for each registered column.
    pub columns: Vec<CheckedColumn>,
    /// How many values open under none, and nobody accepted them.
    pub undecryptable_total: u64,
    /// How many open under none, as was accepted.
    pub accepted_total: u64,
    /// The first of those that nobody accepted.
    pub undecryptable: Vec<UndecryptableValue>,
    /// Values that were turned to the active key.
    pub repaired: u64,
}

/// One registered column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedColumn {
    /// As plan and messages call the table.
    pub table: String,
    /// The column.
    pub column: String,
    /// How many values are under each key that the node has.
    pub keys: BTreeMap<String, u64>,
    /// How many are NULL or empty.
    pub empty: u64,
    /// How many open under none, and nobody accepted them.
    pub undecryptable: u64,
    /// How many open under none, as was accepted.
    pub accepted: u64,
}

/// The look itself.
pub(crate) struct Doctor<'a> {
    pub(crate) tables: &'a [Table],
    pub(crate) ring: &'a KeySet,
    pub(crate) accepted: Accepted,
    pub(crate) page_rows_max: &'a (dyn Fn(&Table) -> usize + Send + Sync),
}

impl Doctor<'_> {
    /// Reads every value. With `repair`, turns what it can and then reads everything again; what is told is what stands
    /// at the end.
    pub(crate) async fn run(
        &self,
        session: &mut dyn Session,
        repair: bool,
        progress: Progress<'_>,
    ) -> Result<Findings, EngineError> {
        if !repair {
            return self.look(session, false, progress).await;
        }
        session.hold_repairs().await?;
        let repaired = self.look(session, true, progress).await?.repaired;
        let after = self.look(session, false, progress).await?;
        Ok(Findings { repaired, ..after })
    }

    async fn look(
        &self,
        session: &mut dyn Session,
        repair: bool,
        progress: Progress<'_>,
    ) -> Result<Findings, EngineError> {
        let mut findings = Findings::default();
        let mut rows_before = 0;
        for table in self.tables {
            let patient = Arc::new(Patient::new(table, self.ring, self.accepted.clone()));
            let rows_max = (self.page_rows_max)(table).min(PAGE_ROWS_MAX);
            let limit = PageLimit { rows_max, bytes_max: PAGE_BYTES_MAX };
            let mut range = KeyRange::default();
            let mut counted = Counted::of(table);
            loop {
                let rows = session.page(&Scan { table, range: &range, fields: Fields::Registered }, limit).await?;
                let Some(last) = rows.last() else { break };
                range.after = Some(last.key.clone());
                rows_before += rows.len() as u64;
                let page_patient = Arc::clone(&patient);
                let page = tokio::task::spawn_blocking(move || page_patient.page(rows, repair))
                    .await
                    .map_err(|error| EngineError::Internal(format!("reading a page ended early: {error}")))??;
                counted.add(&page.counted);
                findings.undecryptable_total += page.undecryptable.len() as u64;
                let room = UNDECRYPTABLE_NAMED_MAX.saturating_sub(findings.undecryptable.len());
                findings.undecryptable.extend(page.undecryptable.into_iter().take(room));
                findings.repaired += mend(session, table, &patient, page.changes).await?;
                progress(rows_before);
            }
            findings.accepted_total += counted.columns.iter().map(|column| column.accepted).sum::<u64>();
            findings.columns.extend(counted.columns);
        }
        Ok(findings)
    }
}

/// What was found, before it is told.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    columns: Vec<CheckedColumn>,
    undecryptable_total: u64,
    accepted_total: u64,
    undecryptable: Vec<UndecryptableValue>,
    repaired: u64,
}

impl Findings {
    pub(crate) fn report(self, database: String, active: KeyId) -> DoctorReport {
        let active_key = active.to_string();
        let older = |column: &CheckedColumn| column.keys.keys().any(|key| *key != active_key);
        let well = self.undecryptable_total == 0 && !self.columns.iter().any(older);
        DoctorReport {
            database,
            active_key,
            well,
            columns: self.columns,
            undecryptable_total: self.undecryptable_total,
            accepted_total: self.accepted_total,
            undecryptable: self.undecryptable,
            repaired: self.repaired,
        }
    }
}

/// Writes the changes of a page, all at once, or one by one when the application has changed a row meanwhile. Answers how
/// many values were turned.
async fn mend(
    session: &mut dyn Session,
    table: &Table,
    patient: &Patient,
    changes: Vec<Change>,
) -> Result<u64, EngineError> {
    let values = |change: &Change| change.new.iter().flatten().count() as u64;
    if changes.is_empty() {
        return Ok(0);
    }
    if session.mend(table, &changes).await? == Written::Committed {
        return Ok(changes.iter().map(values).sum());
    }
    let mut repaired = 0;
    for change in changes {
        let mut next = Some(change);
        for _ in 0..ROW_TRIES_MAX {
            let Some(change) = next.take() else { break };
            let written = session.mend(table, std::slice::from_ref(&change)).await?;
            if written == Written::Committed {
                repaired += values(&change);
                break;
            }
            if let Some(row) = session.row(table, &change.row.key).await? {
                next = patient.page(vec![row], true)?.changes.pop();
            }
        }
    }
    Ok(repaired)
}

/// The values of one table, and the keys that may open them.
struct Patient {
    table: Table,
    active: (KeyId, Cipher),
    older: Vec<(KeyId, Rewrapper, Cipher)>,
    accepted: Accepted,
}

/// What was found on a page.
struct Page {
    counted: Counted,
    undecryptable: Vec<UndecryptableValue>,
    changes: Vec<Change>,
}

struct Counted {
    columns: Vec<CheckedColumn>,
}

impl Counted {
    fn of(table: &Table) -> Self {
        let column = |column: &ValueColumn| CheckedColumn {
            table: table.label.clone(),
            column: column.name.clone(),
            keys: BTreeMap::new(),
            empty: 0,
            undecryptable: 0,
            accepted: 0,
        };
        Self { columns: table.columns.iter().map(column).collect() }
    }

    fn add(&mut self, page: &Self) {
        for (sum, column) in self.columns.iter_mut().zip(&page.columns) {
            sum.empty += column.empty;
            sum.undecryptable += column.undecryptable;
            sum.accepted += column.accepted;
            for (key, count) in &column.keys {
                *sum.keys.entry(key.clone()).or_default() += count;
            }
        }
    }
}

/// What one value is.
enum State {
    Empty,
    Active,
    Older(KeyId, Option<Vec<u8>>),
    Undecryptable(String),
}

impl Patient {
    fn new(table: &Table, ring: &KeySet, accepted: Accepted) -> Self {
        let active = &ring.active().secret;
        let older = ring
            .entries()
            .filter(|entry| entry.state == KeyState::DecryptOnly)
            .map(|entry| (entry.secret.id(), Rewrapper::new(&entry.secret, active), Cipher::new(&entry.secret)))
            .collect();
        Self { table: table.clone(), active: (active.id(), Cipher::new(active)), older, accepted }
    }

    fn page(&self, rows: Vec<Row>, repair: bool) -> Result<Page, EngineError> {
        let mut page = Page { counted: Counted::of(&self.table), undecryptable: Vec::new(), changes: Vec::new() };
        for row in rows {
            let mut new = Vec::with_capacity(row.values.len());
            for (at, (column, stored)) in self.table.columns.iter().zip(&row.values).enumerate() {
                let counted = &mut page.counted.columns[at];
                let mut turned = None;
                match self.state(column, stored, repair)? {
                    State::Empty => counted.empty += 1,
                    State::Active => *counted.keys.entry(self.active.0.to_string()).or_default() += 1,
                    State::Older(id, value) => {
                        *counted.keys.entry(id.to_string()).or_default() += 1;
                        turned = value;
                    }
                    State::Undecryptable(reason) => {
                        let (key, raw) = (row.key.bound(), stored.bytes().unwrap_or_default());
                        if self.accepted.holds(&self.table.label, &column.name, &key.0, raw) {
                            counted.accepted += 1;
                        } else {
                            counted.undecryptable += 1;
                            page.undecryptable.push(UndecryptableValue {
                                table: self.table.label.clone(),
                                column: column.name.clone(),
                                key,
                                raw_digest: raw_digest(raw),
                                reason,
                            });
                        }
                    }
                }
                new.push(turned);
            }
            if new.iter().any(Option::is_some) {
                page.changes.push(Change { row, new });
            }
        }
        Ok(page)
    }

    fn state(&self, column: &ValueColumn, stored: &Stored, repair: bool) -> Result<State, EngineError> {
        let raw = match stored {
            Stored::Null => return Ok(State::Empty),
            Stored::Bytes(raw) if raw.is_empty() => return Ok(State::Empty),
            Stored::Number(_) | Stored::Digest(_) => {
                return Ok(State::Undecryptable("it is stored as a number".to_owned()));
            }
            Stored::Bytes(raw) => raw,
        };
        let aad = column.aad.as_bytes();
        match self.active.1.open(raw, column.encoding, aad) {
            Ok(_) => return Ok(State::Active),
            Err(ValueError::NoKnownKey) => {}
            Err(error) => return Ok(State::Undecryptable(error.to_string())),
        }
        for (id, rewrapper, cipher) in &self.older {
            let Ok(opened) = cipher.open(raw, column.encoding, aad) else { continue };
            if !repair {
                return Ok(State::Older(*id, None));
            }
            let unturned = || EngineError::Internal(format!("a value of {} did not turn", self.table.label));
            let turned = rewrapper.rewrap(raw, column.encoding, aad).map_err(|_| unturned())?;
            // Seen before it is written: what will stand there opens under the active key, and says the same.
            let again = self.active.1.open(&turned.stored, column.encoding, aad).map_err(|_| unturned())?;
            if again.plaintext != opened.plaintext {
                return Err(unturned());
            }
            return Ok(State::Older(*id, Some(turned.stored)));
        }
        Ok(State::Undecryptable(ValueError::NoKnownKey.to_string()))
    }
}
