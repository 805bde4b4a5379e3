//! What the simulated database holds, and what each statement makes of it. Plain data, changed as a whole or not at all.

use std::collections::{BTreeMap, BTreeSet};

use rotation::{Direction, RotationId, ShardId};

use crate::EngineError;
use crate::dialect::{Chunk, Written};
use crate::history::{LedgerRotation, NoteKind, StoredRotation, recovery_begun};
use crate::key::Key;
use crate::ledger::{
    Claim, Header, LEDGER_FORMAT, LedgerMark, Pass, ShardRecord, StoredRecord, chunk_superseded, direction_text,
    epoch_number, number,
};
use crate::shadow::{Shadow, ShadowState};
use crate::table::{Change, KeyRange, Row, Stored};

/// One row of a user's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredRow {
    pub(super) values: Vec<Stored>,
    pub(super) rest: Vec<u8>,
}

pub(super) type Rows = BTreeMap<Key, StoredRow>;

/// A shard's row in the ledger, and which session holds it.
#[derive(Debug, Clone)]
pub(super) struct ShardRow {
    pub(super) stored: StoredRecord,
    pub(super) holder: u64,
}

/// Everything that is committed.
#[derive(Debug, Clone, Default)]
pub(super) struct Data {
    /// The user's tables and their copies, by name.
    pub(super) tables: BTreeMap<String, Rows>,
    pub(super) headers: BTreeMap<RotationId, Header>,
    pub(super) shards: BTreeMap<(RotationId, ShardId, &'static str), ShardRow>,
    pub(super) shadows: BTreeMap<(RotationId, String), Shadow>,
    pub(super) notes: BTreeSet<(String, String, String)>,
    /// The application's role may not log in.
    pub(super) role_fenced: bool,
}

impl Data {
    /// The rows of a range, in the order of their keys.
    pub(super) fn rows(&self, name: &str, range: &KeyRange) -> Result<Vec<Row>, EngineError> {
        let rows = self.tables.get(name).ok_or_else(|| EngineError::UnknownTable(name.to_owned()))?;
        let within = |key: &Key| {
            range.after.as_ref().is_none_or(|after| key > after)
                && range.through.as_ref().is_none_or(|through| key <= through)
        };
        Ok(rows
            .iter()
            .filter(|(key, _)| within(key))
            .map(|(key, row)| Row {
                key: key.clone(),
                values: row.values.clone(),
                rest: row.rest.clone(),
                version: None,
            })
            .collect())
    }

    pub(super) fn known_header(&mut self, rotation: &RotationId) -> Result<&mut Header, EngineError> {
        self.headers.get_mut(rotation).ok_or(EngineError::LedgerMissing(*rotation))
    }

    /// The header of a mark, raised to its epoch, if it admits it.
    fn enter_header(&mut self, mark: &LedgerMark) -> Result<&mut Header, EngineError> {
        let header = self.known_header(&mark.rotation)?;
        header.admit(mark)?;
        header.epoch = epoch_number(mark);
        Ok(header)
    }

    fn insert_header(&mut self, mark: &LedgerMark) {
        self.headers.entry(mark.rotation).or_insert_with(|| Header {
            format: LEDGER_FORMAT,
            direction: direction_text(mark.direction).to_owned(),
            epoch: epoch_number(mark),
            closed: false,
            role_saved: None,
            role_fenced: false,
            let_in: false,
        });
    }

    pub(super) fn fence(&mut self, mark: &LedgerMark, has_role: bool) -> Result<(), EngineError> {
        let others = self.headers.iter().find(|(rotation, header)| !header.closed && **rotation != mark.rotation);
        if let Some((open, _)) = others {
            return Err(EngineError::LedgerOpen(open.to_string()));
        }
        self.insert_header(mark);
        self.enter_header(mark)?;
        if has_role {
            self.shut(&mark.rotation)?;
        }
        Ok(())
    }

    fn shut(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        let header = self.known_header(rotation)?;
        header.role_saved = Some("the role may log in".to_owned());
        header.role_fenced = true;
        self.role_fenced = true;
        Ok(())
    }

    pub(super) fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        self.insert_header(mark);
        let header = self.known_header(&mark.rotation)?;
        header.admit_epoch(mark)?;
        header.epoch = epoch_number(mark);
        direction_text(mark.direction).clone_into(&mut header.direction);
        if header.role_saved.is_some() {
            self.shut(&mark.rotation)?;
        }
        Ok(())
    }

    fn give_back(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        let header = self.known_header(rotation)?;
        if header.role_saved.is_some() && header.role_fenced {
            header.role_fenced = false;
            self.role_fenced = false;
        }
        Ok(())
    }

    pub(super) fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let header = self.enter_header(mark)?;
        header.let_in |= mark.direction == Direction::Forward;
        self.give_back(&mark.rotation)
    }

    pub(super) fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let header = self.known_header(&mark.rotation)?;
        if header.closed && header.direction == direction_text(mark.direction) {
            return Ok(());
        }
        self.enter_header(mark)?.closed = true;
        self.give_back(&mark.rotation)?;
        let closed: BTreeSet<RotationId> =
            self.headers.iter().filter(|(_, header)| header.closed).map(|(rotation, _)| *rotation).collect();
        self.shards.retain(|(rotation, ..), _| *rotation == mark.rotation || !closed.contains(rotation));
        Ok(())
    }

    pub(super) fn enter(&mut self, claim: &Claim, session: u64) -> Result<ShardRecord, EngineError> {
        self.enter_header(&claim.mark)?;
        let key = (claim.mark.rotation, claim.shard, claim.pass.as_str());
        let record = match self.shards.get(&key) {
            Some(row) => row.stored.take_over(claim)?,
            None => ShardRecord::default(),
        };
        self.shards.insert(key, ShardRow { stored: stored(claim, &record), holder: session });
        Ok(record)
    }

    pub(super) fn record(
        &self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError> {
        if self.headers.is_empty() {
            return Err(EngineError::LedgerMissing(*rotation));
        }
        let row = self.shards.get(&(*rotation, shard, pass.as_str()));
        row.map(|row| row.stored.read(shard, pass)).transpose()
    }

    pub(super) fn commit(&mut self, chunk: &Chunk<'_>, session: u64) -> Result<Written, EngineError> {
        let claim = chunk.claim;
        self.known_header(&claim.mark.rotation)?.admit(&claim.mark)?;
        let key = (claim.mark.rotation, claim.shard, claim.pass.as_str());
        let row = self.shards.get_mut(&key).ok_or_else(|| chunk_superseded(claim))?;
        let now = &row.stored;
        let holds = now.epoch == epoch_number(&claim.mark)
            && now.lease == number(claim.lease.get())
            && !now.done
            && now.cursor == chunk.before.cursor.as_ref().map(ToString::to_string)
            && now.rows == number(chunk.before.tally.rows);
        if !holds {
            return Err(chunk_superseded(claim));
        }
        *row = ShardRow { stored: stored(claim, chunk.after), holder: session };
        match chunk.into {
            Some(into) => self.fill(claim, &into.from, chunk.changes),
            None => Ok(self.update(&chunk.table.from, chunk.changes)),
        }
    }

    /// Changes rows that still hold what was read.
    fn update(&mut self, name: &str, changes: &[Change]) -> Written {
        let Some(rows) = self.tables.get_mut(name) else { return Written::RowsDiffer };
        for change in changes {
            match rows.get_mut(&change.row.key) {
                Some(row) if row.values == change.row.values => row.values = turned(change),
                Some(_) | None => return Written::RowsDiffer,
            }
        }
        Written::Committed
    }

    fn fill(&mut self, claim: &Claim, name: &str, changes: &[Change]) -> Result<Written, EngineError> {
        let fits =
            |shadow: &Shadow| shadow.name == name && matches!(shadow.state, ShadowState::Building | ShadowState::Built);
        if !self.shadows.values().any(fits) {
            return Err(chunk_superseded(claim));
        }
        let Some(rows) = self.tables.get_mut(name) else { return Ok(Written::RowsDiffer) };
        for change in changes {
            let row = StoredRow { values: turned(change), rest: change.row.rest.clone() };
            if rows.insert(change.row.key.clone(), row).is_some() {
                return Ok(Written::RowsDiffer);
            }
        }
        Ok(Written::Committed)
    }

    pub(super) fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        if kind.goes_forward() {
            self.known_header(rotation)?.still_forward(rotation)?;
            let offline = NoteKind::Offline.as_str();
            if self.notes.iter().any(|(of, kind, _)| *of == rotation.to_string() && kind == offline) {
                return Err(recovery_begun(rotation));
            }
        }
        self.notes.insert((rotation.to_string(), kind.as_str().to_owned(), node.to_owned()));
        Ok(())
    }

    pub(super) fn history(&self) -> Result<Vec<LedgerRotation>, EngineError> {
        let notes: Vec<_> = self.notes.iter().cloned().collect();
        let read = |(rotation, header): (&RotationId, &Header)| {
            let count = |pass: Pass, wanted: fn(&StoredRecord) -> bool| {
                let own = self.shards.iter().filter(|((of, _, name), _)| of == rotation && *name == pass.as_str());
                number(own.filter(|(_, row)| wanted(&row.stored)).count() as u64)
            };
            let leases = self.shards.iter().filter(|((of, ..), _)| of == rotation).map(|(_, row)| row.stored.lease);
            StoredRotation {
                rotation: rotation.to_string(),
                direction: header.direction.clone(),
                epoch: header.epoch,
                closed: header.closed,
                role_fenced: header.role_fenced,
                role_saved: header.role_saved.is_some(),
                shards_turned: count(Pass::Reencrypt, |stored| stored.cursor.is_some()),
                shards_verified: count(Pass::Verify, |stored| stored.done),
                shards_restored: count(Pass::VerifyRestored, |stored| stored.done),
                lease_max: leases.max().unwrap_or(0),
            }
            .read(&notes)
        };
        self.headers.iter().map(read).collect()
    }
}

/// What a row holds after a change.
fn turned(change: &Change) -> Vec<Stored> {
    let value = |(old, new): (&Stored, &Option<Vec<u8>>)| new.clone().map_or_else(|| old.clone(), Stored::Bytes);
    change.row.values.iter().zip(&change.new).map(value).collect()
}

fn stored(claim: &Claim, record: &ShardRecord) -> StoredRecord {
    StoredRecord {
        epoch: epoch_number(&claim.mark),
        lease: number(claim.lease.get()),
        cursor: record.cursor.as_ref().map(ToString::to_string),
        rows: number(record.tally.rows),
        values: number(record.tally.values),
        undecryptable: number(record.tally.undecryptable),
        digest: record.tally.digest.to_string(),
        rest: record.tally.rest.to_string(),
        raw: record.raw.to_string(),
        done: record.done,
    }
}
