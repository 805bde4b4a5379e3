//! The world's database: rows under one key or another, and the ledger that lets late workers change nothing.

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
}

/// Rows, ledger, and whether the application may log in.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    pub(crate) rows: BTreeMap<ShardId, Vec<KeyId>>,
    pub(crate) open: bool,
    headers: BTreeMap<RotationId, Header>,
    parts: BTreeMap<(RotationId, ShardId), Part>,
}

impl Database {
    pub(crate) fn new(key: KeyId) -> Self {
        let rows = (0..SHARDS).map(ShardId::new).map(|shard| {
            let count = usize::try_from(rows_of(shard)).expect("few rows");
            (shard, vec![key; count])
        });
        Self { rows: rows.collect(), open: true, headers: BTreeMap::new(), parts: BTreeMap::new() }
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
        old: KeyId,
        new: KeyId,
    ) -> Result<bool, Superseded> {
        self.lease(rotation, shard, lease)?;
        let rows = self.rows.get_mut(&shard).expect("a known shard");
        let part = self.parts.get_mut(&(rotation, shard)).expect("its lease was taken up");
        match direction {
            Direction::Forward => {
                if part.cursor < rows.len() {
                    assert_eq!(rows[part.cursor], old, "a row ahead of the cursor must be under the old key");
                    rows[part.cursor] = new;
                    part.cursor += 1;
                }
                Ok(part.cursor == rows.len())
            }
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
}
