//! The world's database: rows under one key or another, copies of them and kept originals, and the ledger that lets late
//! workers change nothing.

use std::collections::BTreeMap;

use rotation::{Direction, Epoch, KeyId, LeaseNumber, RotationId, ShardId, WorkKind};

use crate::support::{SHARDS, rows_of};

/// A worker that is too late.
#[derive(Debug)]
pub(crate) struct Superseded;

#[derive(Debug, Clone)]
struct Header {
    epoch: Epoch,
    direction: Direction,
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    lease: LeaseNumber,
    /// Rows from the first on that the forward pass has turned.
    cursor: usize,
    /// Rows from the first on that were turned back.
    back: usize,
    /// Every row was read back under the new key.
    verified: bool,
}

/// The tables of one rotation that copies and swaps.
#[derive(Debug, Clone, Default)]
struct Copies {
    /// The copies, as far as they have come; the originals, once swapped.
    aside: BTreeMap<ShardId, Vec<KeyId>>,
    finished: bool,
    swapped: bool,
    /// The application wrote to the copies, so that they can no longer be given up for the originals.
    written: bool,
}

/// Rows, ledger, and whether the application may log in.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) rows: BTreeMap<ShardId, Vec<KeyId>>,
    pub(crate) open: bool,
    headers: BTreeMap<RotationId, Header>,
    parts: BTreeMap<(RotationId, ShardId), Part>,
    copies: BTreeMap<RotationId, Copies>,
}

impl Database {
    pub(crate) fn new(key: KeyId) -> Self {
        let rows = (0..SHARDS).map(ShardId::new).map(|shard| {
            let count = usize::try_from(rows_of(shard)).expect("few rows");
            (shard, vec![key; count])
        });
        Self {
            rows: rows.collect(),
            open: true,
            headers: BTreeMap::new(),
            parts: BTreeMap::new(),
            copies: BTreeMap::new(),
        }
    }

    /// The keys that rows are under.
    pub(crate) fn keys(&self) -> Vec<KeyId> {
        let mut keys: Vec<KeyId> = self.rows.values().flatten().copied().collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Enters the ledger with an epoch and a direction, as every assignment on the database does first.
    pub(crate) fn enter(
        &mut self,
        rotation: RotationId,
        epoch: Epoch,
        direction: Direction,
        kind: WorkKind,
    ) -> Result<(), Superseded> {
        let Some(header) = self.headers.get_mut(&rotation) else {
            if matches!(kind, WorkKind::FenceDatabase | WorkKind::TurnBack) {
                self.headers.insert(rotation, Header { epoch, direction, closed: false });
                return Ok(());
            }
            return Err(Superseded);
        };
        let turns = kind == WorkKind::TurnBack;
        if header.epoch > epoch
            || (header.direction != direction && !turns)
            || (header.closed && kind != WorkKind::CloseLedger)
        {
            return Err(Superseded);
        }
        header.epoch = epoch;
        header.direction = direction;
        header.closed = kind == WorkKind::CloseLedger;
        Ok(())
    }

    /// Takes up a lease on a shard, unless a later one is taken up already.
    pub(crate) fn lease(&mut self, rotation: RotationId, shard: ShardId, lease: LeaseNumber) -> Result<(), Superseded> {
        let part = self.parts.entry((rotation, shard)).or_default();
        if part.lease > lease {
            return Err(Superseded);
        }
        part.lease = lease;
        Ok(())
    }

    /// One chunk, one row: one transaction with its ledger row. True when the shard is through.
    pub(crate) fn turn_row(
        &mut self,
        rotation: RotationId,
        shard: ShardId,
        lease: LeaseNumber,
        direction: Direction,
        (old, new): (KeyId, KeyId),
        shadows: bool,
    ) -> Result<bool, Superseded> {
        self.lease(rotation, shard, lease)?;
        let rows = self.rows.get_mut(&shard).expect("a known shard");
        let part = self.parts.get_mut(&(rotation, shard)).expect("its lease was taken up");
        match direction {
            Direction::Forward => {
                if part.cursor < rows.len() {
                    assert_eq!(rows[part.cursor], old, "a row ahead of the cursor must be under the old key");
                    if shadows {
                        self.copies.entry(rotation).or_default().aside.entry(shard).or_default().push(new);
                    } else {
                        rows[part.cursor] = new;
                    }
                    part.cursor += 1;
                }
                Ok(part.cursor == rows.len())
            }
            // The original stands in its place: nothing of it was ever changed.
            Direction::Back if shadows && !self.copies.get(&rotation).is_some_and(|copies| copies.swapped) => Ok(true),
            Direction::Back => {
                if part.back < part.cursor {
                    assert_eq!(rows[part.back], new, "a row behind the cursor must be under the new key");
                    rows[part.back] = old;
                    part.back += 1;
                }
                Ok(part.back == part.cursor)
            }
        }
    }

    /// Reads a shard back: its copy when going forward, if there is one that is not swapped yet. Whether every row is
    /// under the key that it must be under.
    pub(crate) fn verify(&mut self, rotation: RotationId, shard: ShardId, direction: Direction, must: KeyId) -> bool {
        let live = &self.rows[&shard];
        let copy = self.copies.get(&rotation).filter(|copies| direction == Direction::Forward && !copies.swapped);
        let read = copy.and_then(|copies| copies.aside.get(&shard)).unwrap_or(live);
        let holds = read.len() == live.len() && read.iter().all(|key| *key == must);
        if direction == Direction::Forward {
            self.parts.entry((rotation, shard)).or_default().verified |= holds;
        }
        holds
    }

    /// Lets the application in. Now and then it writes.
    pub(crate) fn lift_fence(&mut self, rotation: RotationId, epoch: Epoch, direction: Direction) {
        self.open = true;
        if let Some(copies) = self.copies.get_mut(&rotation)
            && direction == Direction::Forward
        {
            assert!(copies.swapped, "the application is let in beside copies that are not swapped");
            copies.written = epoch.get().is_multiple_of(2);
        }
    }

    pub(crate) fn finish_shadows(&mut self, rotation: RotationId) {
        self.copies.entry(rotation).or_default().finished = true;
    }

    /// Puts the copies in the originals' place; again changes nothing.
    pub(crate) fn swap(&mut self, rotation: RotationId) {
        let copies = self.copies.get_mut(&rotation).expect("a swap has copies");
        if copies.swapped {
            return;
        }
        assert!(copies.finished, "copies without their indexes were swapped");
        for (shard, rows) in &mut self.rows {
            let part = self.parts.get(&(rotation, *shard)).copied().unwrap_or_default();
            assert!(part.verified, "shard {shard} was swapped before it was verified");
            if !rows.is_empty() {
                std::mem::swap(rows, copies.aside.get_mut(shard).expect("a copy of every row"));
            }
        }
        copies.swapped = true;
    }

    /// Puts the originals back, unless the application wrote to the copies.
    pub(crate) fn swap_back(&mut self, rotation: RotationId) {
        let Some(copies) = self.copies.get_mut(&rotation).filter(|copies| copies.swapped && !copies.written) else {
            return;
        };
        for (shard, rows) in &mut copies.aside {
            std::mem::swap(rows, self.rows.get_mut(shard).expect("a known shard"));
        }
        copies.swapped = false;
    }

    /// Drops copies that did not come to their place, or originals that are not what is gone back to.
    pub(crate) fn drop_shadows(&mut self, rotation: RotationId) {
        let kept = self.headers.get(&rotation).is_some_and(|header| header.direction == Direction::Forward);
        if !kept {
            self.copies.remove(&rotation);
        }
    }

    /// Drops the originals that a completed rotation kept.
    pub(crate) fn retire(&mut self, rotation: RotationId) -> Result<(), Superseded> {
        let header = self.headers.get(&rotation).ok_or(Superseded)?;
        if !header.closed || header.direction != Direction::Forward {
            return Err(Superseded);
        }
        self.copies.remove(&rotation);
        Ok(())
    }

    /// Whether this rotation's copies stand in their originals' place.
    pub(crate) fn is_swapped(&self, rotation: RotationId) -> bool {
        self.copies.get(&rotation).is_some_and(|copies| copies.swapped)
    }

    /// The rotations whose originals are kept.
    pub(crate) fn kept(&self) -> Vec<RotationId> {
        self.copies.iter().filter(|(_, copies)| copies.swapped).map(|(id, _)| *id).collect()
    }
}
