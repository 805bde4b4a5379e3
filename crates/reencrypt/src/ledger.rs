//! The ledger inside the target database: the mark with which work enters it, and what it remembers of a shard.

use rotation::{ContentDigest, Direction, Epoch, LeaseNumber, RotationId, ShardId, ShardTally};

use crate::EngineError;
use crate::key::Key;

/// With what right work touches the database: its rotation, epoch and direction. The ledger's header must agree,
/// or the work is [`Superseded`](crate::EngineError::Superseded).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerMark {
    /// The rotation.
    pub rotation: RotationId,
    /// The epoch of the assignment.
    pub epoch: Epoch,
    /// Which way rows are turned.
    pub direction: Direction,
}

/// The version of the ledger's tables, in every header row.
pub(crate) const LEDGER_FORMAT: i64 = 2;

/// Refuses tables that a later release has brought to its own form: what they say may mean something else there.
pub(crate) fn refuse_newer(format_max: Option<i64>) -> Result<(), EngineError> {
    match format_max {
        Some(found) if found > LEDGER_FORMAT => Err(of_format(found)),
        Some(_) | None => Ok(()),
    }
}

fn of_format(found: i64) -> EngineError {
    EngineError::LedgerUnreadable(format!("it has format {found}, and this release reads format {LEDGER_FORMAT}"))
}

/// Rotations that are none: the ids under which a measurement works on scratch tables, as a pattern of SQL. One that was
/// left open by a crash keeps no rotation from beginning.
pub(crate) const SCRATCH_ROTATIONS: &str = "6b657974-7572-8e62-8%";

/// An id among [`SCRATCH_ROTATIONS`].
pub(crate) fn scratch_rotation(number: u64) -> RotationId {
    let id = format!("6b657974-7572-8e62-8{:03x}-{:012x}", number >> 48 & 0xfff, number & 0xffff_ffff_ffff);
    id.parse().expect("these are the digits of a UUID")
}

/// One reading of a shard from its beginning to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Old key to new.
    Reencrypt,
    /// Every value opened under the new key.
    Verify,
    /// New key to old, as far as the first had come.
    Restore,
    /// Every value opened under the old key.
    VerifyRestored,
}

impl Pass {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Reencrypt => "reencrypt",
            Self::Verify => "verify",
            Self::Restore => "restore",
            Self::VerifyRestored => "verify-restored",
        }
    }

    /// Whether it begins anew in another epoch. What was verified before a failure was looked into says nothing
    /// afterwards; what was turned stays turned.
    pub(crate) const fn begins_anew_with_epoch(self) -> bool {
        match self {
            Self::Verify | Self::VerifyRestored => true,
            Self::Reencrypt | Self::Restore => false,
        }
    }
}

/// Which shard, in which pass, under which lease, with what right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) mark: LedgerMark,
    pub(crate) shard: ShardId,
    pub(crate) pass: Pass,
    pub(crate) lease: LeaseNumber,
}

/// What the ledger remembers of one shard in one pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ShardRecord {
    /// The last key that is done; `None` before the first chunk.
    pub(crate) cursor: Option<Key>,
    /// What was counted up to it.
    pub(crate) tally: ShardTally,
    /// The digest of the rows that were read as they are stored. What is written meanwhile is not in it.
    pub(crate) raw: ContentDigest,
    /// The pass has reached the shard's end.
    pub(crate) done: bool,
}

impl ShardRecord {
    /// The record after a chunk that ended at `cursor`.
    pub(crate) fn after(&self, cursor: Key, chunk: &ShardTally, raw: ContentDigest) -> Self {
        Self { cursor: Some(cursor), tally: plus(&self.tally, chunk), raw: self.raw.plus(raw), done: false }
    }
}

pub(crate) fn plus(a: &ShardTally, b: &ShardTally) -> ShardTally {
    ShardTally {
        rows: a.rows + b.rows,
        values: a.values + b.values,
        undecryptable: a.undecryptable + b.undecryptable,
        digest: a.digest.plus(b.digest),
        rest: a.rest.plus(b.rest),
    }
}

/// The text of a direction in the header row.
pub(crate) const fn direction_text(direction: Direction) -> &'static str {
    match direction {
        Direction::Forward => "forward",
        Direction::Back => "back",
    }
}

/// The header row of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) format: i64,
    pub(crate) direction: String,
    pub(crate) epoch: i64,
    pub(crate) closed: bool,
    /// The application's role as it was before it was fenced, JSON.
    pub(crate) role_saved: Option<String>,
    /// Whether it is fenced now.
    pub(crate) role_fenced: bool,
    /// The fence was lifted going forward: the application may have written under the new key.
    pub(crate) let_in: bool,
}

impl Header {
    /// Refuses a mark that the header has gone past, or whose direction is not the header's.
    pub(crate) fn admit(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        self.admit_epoch(mark)?;
        if self.direction != direction_text(mark.direction) {
            if mark.direction == Direction::Back {
                // Nobody is told to go back before the ledger is; so the database has lost that since.
                return Err(EngineError::Position(format!(
                    "its ledger no longer says that rotation {} was turned back",
                    mark.rotation
                )));
            }
            return Err(EngineError::Superseded(format!(
                "it goes {}, and the ledger of rotation {} goes {}",
                direction_text(mark.direction),
                mark.rotation,
                self.direction
            )));
        }
        Ok(())
    }

    /// Refuses what only the way forward allows once the application was let in, open or closed.
    pub(crate) fn still_forward(&self, rotation: &RotationId) -> Result<(), EngineError> {
        if self.direction != direction_text(Direction::Forward) {
            return Err(EngineError::Superseded(format!("the ledger of rotation {rotation} goes {}", self.direction)));
        }
        // Told of what was committed; so the database has lost it since, and perhaps rows before it.
        if !self.let_in {
            return Err(EngineError::Position(format!(
                "its ledger no longer says that the application was let in by rotation {rotation}"
            )));
        }
        Ok(())
    }

    /// Refuses a mark that the header has gone past, whatever its direction.
    pub(crate) fn admit_epoch(&self, mark: &LedgerMark) -> Result<(), EngineError> {
        if self.format != LEDGER_FORMAT {
            return Err(of_format(self.format));
        }
        if self.closed {
            return Err(EngineError::Superseded(format!("the ledger of rotation {} is closed", mark.rotation)));
        }
        if self.epoch > epoch_number(mark) {
            return Err(EngineError::Superseded(format!(
                "it is of epoch {}, and the ledger of rotation {} is at epoch {}",
                mark.epoch, mark.rotation, self.epoch
            )));
        }
        Ok(())
    }
}

/// The epoch as databases store it; they have no unsigned numbers.
pub(crate) fn epoch_number(mark: &LedgerMark) -> i64 {
    number(mark.epoch.get())
}

/// A count or number as databases store it. None of ours comes near the limit: an epoch a second for a lifetime is
/// below 2^32.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A shard's record as its row has it.
#[derive(Debug, Clone)]
pub(crate) struct StoredRecord {
    pub(crate) epoch: i64,
    pub(crate) lease: i64,
    pub(crate) cursor: Option<String>,
    pub(crate) rows: i64,
    pub(crate) values: i64,
    pub(crate) undecryptable: i64,
    pub(crate) digest: String,
    pub(crate) rest: String,
    pub(crate) raw: String,
    pub(crate) done: bool,
}

impl StoredRecord {
    /// The record with which this claim goes on, or that it has come too late.
    pub(crate) fn take_over(&self, claim: &Claim) -> Result<ShardRecord, EngineError> {
        // A later epoch supersedes every lease of an earlier one; the header lets no earlier epoch in.
        if self.epoch >= epoch_number(&claim.mark) && self.lease > number(claim.lease.get()) {
            return Err(EngineError::Superseded(format!(
                "it holds lease {} of shard {}, and the ledger is at lease {}",
                claim.lease, claim.shard, self.lease
            )));
        }
        if claim.pass.begins_anew_with_epoch() && self.epoch < epoch_number(&claim.mark) {
            return Ok(ShardRecord::default());
        }
        self.read(claim.shard, claim.pass)
    }

    /// The record, if this release can read it.
    pub(crate) fn read(&self, shard: ShardId, pass: Pass) -> Result<ShardRecord, EngineError> {
        let unreadable = |what: &str| {
            EngineError::LedgerUnreadable(format!("in its row of shard {shard}, pass {}, {what}", pass.as_str()))
        };
        let count = |number: i64| u64::try_from(number).map_err(|_| unreadable("a count is negative"));
        let cursor = match &self.cursor {
            Some(text) => Some(Key::parse(text).map_err(|_| unreadable("the cursor is no key"))?),
            None => None,
        };
        let digest = |text: &str| text.parse::<ContentDigest>().map_err(|_| unreadable("a digest is none"));
        let tally = ShardTally {
            rows: count(self.rows)?,
            values: count(self.values)?,
            undecryptable: count(self.undecryptable)?,
            digest: digest(&self.digest)?,
            rest: digest(&self.rest)?,
        };
        Ok(ShardRecord { cursor, tally, raw: digest(&self.raw)?, done: self.done })
    }
}

/// The claim of a chunk no longer holds; which part of it does not matter to anybody any more.
pub(crate) fn chunk_superseded(claim: &Claim) -> EngineError {
    EngineError::Superseded(format!(
        "shard {} went on without lease {} of epoch {}",
        claim.shard, claim.lease, claim.mark.epoch
    ))
}
