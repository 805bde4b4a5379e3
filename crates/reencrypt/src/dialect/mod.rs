//! What the engine asks of a database system. One folder per system holds all SQL of it; nothing else does.

mod postgres;
pub(crate) mod scratch;
mod sqlite;

use async_trait::async_trait;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};

use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, Space};
use crate::sink::PageSink;
use crate::table::{Change, KeyRange, Row, Table};
use crate::{DatabaseConfig, EngineError, Targets};
use scratch::{Scratch, ScratchNames};

pub(crate) use postgres::Postgres;
pub(crate) use sqlite::Sqlite;

/// How much one page of rows may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    pub(crate) rows_max: usize,
    /// A page ends before the row that would exceed it, but has one row at least.
    pub(crate) bytes_max: usize,
}

/// What a scan reads.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    pub(crate) table: &'a Table,
    pub(crate) range: &'a KeyRange,
    /// The columns that are not registered too, as [`Row::rest`].
    pub(crate) whole: bool,
}

/// Rows of one page that are to be written, with the ledger's row of their shard.
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) table: &'a Table,
    /// What the ledger holds now; anything else means that somebody else has worked on the shard.
    pub(crate) before: &'a ShardRecord,
    /// What it is to hold.
    pub(crate) after: &'a ShardRecord,
    pub(crate) changes: &'a [Change],
    /// Rows are inserted here with their new values, every row of the page; else they are updated where they are.
    pub(crate) into: Option<&'a Table>,
}

/// Makes the change of a row for a trial; nothing, if no value of the row can be turned.
pub(crate) type Turn<'a> = &'a (dyn Fn(Row) -> Option<Change> + Send + Sync);

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// Rows and ledger are committed.
    Committed,
    /// Nothing is written: fewer rows than expected still held what was read.
    RowsDiffer,
}

/// A database system.
#[async_trait]
pub(crate) trait Dialect: Send + Sync {
    /// Which one.
    fn kind(&self) -> DatabaseKind;

    /// How many agents may write at once.
    fn writers_max(&self) -> u32;

    /// How many rows a page may have, so that a batch of this table stays below the driver's limits.
    fn page_rows_max(&self, table: &Table) -> usize;

    /// Opens a connection with the settings that the work needs.
    async fn open(&self) -> Result<Box<dyn Session>, EngineError>;

    /// Opens a connection for measurements on scratch tables of these names.
    async fn scratch(&self, _names: ScratchNames) -> Result<Box<dyn Scratch>, EngineError> {
        Err(EngineError::Unsupported("this release measures nothing on this database".to_owned()))
    }
}

/// One connection. Every method either does all of what it says or nothing.
#[async_trait]
pub(crate) trait Session: Send {
    /// Which database this is.
    async fn identity(&mut self) -> Result<DatabaseIdentity, EngineError>;

    /// Where its history stands.
    async fn position(&mut self) -> Result<DatabasePosition, EngineError>;

    /// Finds every registered table, or names every problem with them.
    async fn tables(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError>;

    /// Names every right and circumstance that the work will lack.
    async fn check_rights(&mut self) -> Result<(), EngineError>;

    /// The next rows of the range in the order of their keys. An empty page, and nothing else, is the end.
    async fn page(&mut self, table: &Table, range: &KeyRange, limit: PageLimit) -> Result<Vec<Row>, EngineError>;

    /// Puts the rows of the range, in the order of their keys, into the sink until the range ends or nobody takes them any
    /// more. A connection that is lost is an error, never the end of the range.
    async fn scan(&mut self, _scan: &Scan<'_>, _sink: &mut PageSink) -> Result<(), EngineError> {
        Err(EngineError::Internal("scans are not supported on this database".to_owned()))
    }

    /// The row with exactly this key.
    async fn row(&mut self, table: &Table, key: &Key) -> Result<Option<Row>, EngineError>;

    /// How many rows the range has.
    async fn count(&mut self, table: &Table, range: &KeyRange) -> Result<u64, EngineError>;

    /// Takes a shard over under this claim, ending the session of whoever held it, and says how far it has come.
    async fn enter(&mut self, claim: &Claim) -> Result<ShardRecord, EngineError>;

    /// What the ledger remembers of a shard in a pass.
    async fn record(
        &mut self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError>;

    /// Writes rows and the ledger's row in one transaction, if the claim still holds.
    async fn commit(&mut self, chunk: &Chunk<'_>) -> Result<Written, EngineError>;

    /// Writes one row the way a chunk does, as `turn` would have it, and takes everything back. Says whether there
    /// was anything to write; what the database says against it is [`EngineError::Trial`].
    async fn try_write(&mut self, table: &Table, key: &Key, turn: Turn<'_>) -> Result<bool, EngineError>;

    /// Writes the ledger's header, fences the application and proves that no session of anybody else is left.
    async fn fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Turns the header back, ends the sessions of other workers, and fences the application again if it was.
    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Gives the application's role its attributes back.
    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Closes the header, so that no work enters under this rotation any more.
    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Why this table cannot be re-encrypted by shadow; `None` if it can. Makes the copy's definition in a transaction
    /// that is taken back, and compares everything that is attached to it with the original's.
    async fn shadow_obstacle(&mut self, _table: &Table) -> Result<Option<String>, EngineError> {
        Ok(Some("shadows are not supported on this database".to_owned()))
    }

    /// The room that copies of these tables need, and what there is.
    async fn space(&mut self, _tables: &[Table]) -> Result<Space, EngineError> {
        Ok(Space::default())
    }

    /// The shadow of a table under this mark: made, empty and without indexes, if it is not there yet. Described as a
    /// table whose `from` is the copy.
    async fn shadow(&mut self, _mark: &LedgerMark, _table: &Table) -> Result<Table, EngineError> {
        Err(no_shadows())
    }

    /// All shadows of a rotation, by the ledger.
    async fn shadows(&mut self, _rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        Ok(Vec::new())
    }

    /// What is still to be built on a filled shadow; nothing when it is built. The last step's success makes it so.
    async fn build_steps(&mut self, _mark: &LedgerMark, _table: &Table) -> Result<Vec<BuildStep>, EngineError> {
        Err(no_shadows())
    }

    /// Builds one. Built already is as good.
    async fn build(&mut self, _mark: &LedgerMark, _table: &Table, _step: &BuildStep) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Records that everything of a shadow is built.
    async fn built(&mut self, _mark: &LedgerMark, _table: &Table) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Begins a transaction that holds originals and copies against every writer, header and all, until `swap`,
    /// `swap_back` or `release`. Ends the sessions of other workers first.
    async fn hold_for_swap(&mut self, _mark: &LedgerMark, _pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        Err(no_shadows())
    }

    /// Swaps all of them in, under the hold, and commits.
    async fn swap(&mut self, _mark: &LedgerMark, _pairs: &[Pair]) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Puts the originals of these back and records that the copies of `kept` stay, under the hold, and commits.
    async fn swap_back(&mut self, _mark: &LedgerMark, _back: &[Pair], _kept: &[Pair]) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Ends a hold without a change.
    async fn release(&mut self) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Drops the copies of a rotation that was undone; never a table that stands under its own name.
    async fn drop_shadows(&mut self, _mark: &LedgerMark) -> Result<(), EngineError> {
        Ok(())
    }

    /// Drops the originals that a completed rotation retained. Dropped already is as good.
    async fn retire(&mut self, _rotation: &RotationId) -> Result<(), EngineError> {
        Ok(())
    }

    /// Ends the connection in an orderly way.
    async fn end(self: Box<Self>);
}

fn no_shadows() -> EngineError {
    EngineError::Internal("shadows are not supported on this database".to_owned())
}

/// The dialect that the configured URL names.
pub(crate) fn of(config: &DatabaseConfig) -> Result<Box<dyn Dialect>, EngineError> {
    use crate::config::Location;
    Ok(match Location::parse(&config.url).map_err(EngineError::Url)? {
        Location::Postgres(options) => Box::new(Postgres::new(*options, config)),
        Location::Sqlite(options) => Box::new(Sqlite::new(*options, config.sessions_wait)),
    })
}
