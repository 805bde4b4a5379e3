//! What the engine asks of a database system. One folder per system holds all SQL of it; nothing else does.

mod mariadb;
mod postgres;
mod sqlite;

use async_trait::async_trait;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};

use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::table::{Change, KeyRange, Row, Table};
use crate::{DatabaseConfig, EngineError, Targets};

pub(crate) use mariadb::Mariadb;
pub(crate) use postgres::Postgres;
pub(crate) use sqlite::Sqlite;

/// How much one page of rows may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    pub(crate) rows_max: usize,
    /// A page ends before the row that would exceed it, but has one row at least.
    pub(crate) bytes_max: usize,
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

    /// Ends the connection in an orderly way.
    async fn end(self: Box<Self>);
}

/// The dialect that the configured URL names.
pub(crate) fn of(config: &DatabaseConfig) -> Result<Box<dyn Dialect>, EngineError> {
    use crate::config::Location;
    Ok(match Location::parse(&config.url).map_err(EngineError::Url)? {
        Location::Mariadb(options) => Box::new(Mariadb::new(*options, config)),
        Location::Postgres(options) => Box::new(Postgres::new(*options, config)),
        Location::Sqlite(options) => Box::new(Sqlite::new(*options, config.sessions_wait)),
    })
}
