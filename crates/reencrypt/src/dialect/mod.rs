//! What the engine asks of a database system. One folder per system holds all SQL of it; nothing else does.

mod durable;
pub(crate) mod found;
mod mariadb;
mod polls;
mod postgres;
pub(crate) mod scratch;
#[cfg(feature = "simulation")]
pub(crate) mod simulated;
mod sqlite;

use async_trait::async_trait;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};

use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::pace::Lag;
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, Space};
use crate::sink::PageSink;
use crate::table::{Change, KeyRange, Row, Table};
use crate::targets::Exclude;
use crate::{DatabaseConfig, EngineError, Targets};
use found::Seen;
use scratch::{Scratch, ScratchNames};

pub(crate) use mariadb::{Mariadb, MariadbPlace};
pub(crate) use postgres::{Postgres, PostgresPlace};
pub use postgres::{libpq_fields, role_names};
pub(crate) use sqlite::{Sqlite, SqlitePlace};

/// How much one page of rows may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimit {
    pub(crate) rows_max: usize,
    /// A page ends before the row that would exceed it, but has one row at least.
    pub(crate) bytes_max: usize,
}

/// What a scan reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scan<'a> {
    pub(crate) table: &'a Table,
    pub(crate) range: &'a KeyRange,
    pub(crate) fields: Fields,
}

impl Scan<'_> {
    /// Whether all columns are read by a system whose rows have no version.
    pub(crate) const fn is_whole(&self) -> bool {
        !matches!(self.fields, Fields::Registered)
    }
}

/// What of each row is read beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fields {
    /// The registered columns.
    Registered,
    /// Every other column too, as [`Row::rest`].
    All,
    /// And [`Row::version`], where the system has it.
    AllAndVersion,
    /// [`Row::version`] alone where the system has it; else all columns.
    Version,
}

impl Fields {
    pub(crate) const fn has_rest(self) -> bool {
        matches!(self, Self::All | Self::AllAndVersion)
    }

    pub(crate) const fn has_version(self) -> bool {
        matches!(self, Self::AllAndVersion | Self::Version)
    }
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
    /// Rows to be updated where they are; with `into`, every row of the page, whole.
    pub(crate) changes: &'a [Change],
    /// The shadow into which rows are inserted with their new values (`Change::new`, and what `Row::values` has where
    /// that is `None`) and the other columns as `Row::rest` has them; else they are updated where they are.
    pub(crate) into: Option<&'a Table>,
}

/// What tables are looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Their rows are turned: everything that would be against it is a problem.
    Turn,
    /// Their values are read and nothing else.
    Read,
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

    /// Whether `auto` takes the shadow for a table that can have one; else the reason why updating is better here.
    fn auto_shadow(&self) -> Result<(), &'static str>;

    /// Whether a chunk that goes into a copy compares what it copies with what was read, which must then be kept for it.
    fn compares_copied(&self) -> bool {
        false
    }

    /// Opens a connection with the settings that the work needs, or takes one that was left for the next.
    async fn open(&self) -> Result<Box<dyn Session>, EngineError>;

    /// Opens a connection for measurements on scratch tables of these names.
    async fn scratch(&self, _names: ScratchNames) -> Result<Box<dyn Scratch>, EngineError> {
        Err(EngineError::Unsupported("this release measures nothing on this database".to_owned()))
    }

    /// Looks through every column of the database that the role may read, for values of devolutions-crypto. Reads
    /// everything, once; changes nothing.
    async fn see(&self) -> Result<Seen, EngineError> {
        Err(EngineError::Unsupported("this release cannot look through this database".to_owned()))
    }

    /// The excluded columns that do not exist, as `table.column`. What the role is shown nothing of counts as existing.
    async fn missing(&self, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
        if excludes.is_empty() { Ok(Vec::new()) } else { self.see().await.map(|_| Vec::new()) }
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

    /// The same for who reads registered values and changes nothing: only what is against reading them is a problem.
    async fn tables_to_read(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        self.tables(targets).await
    }

    /// Names every right and circumstance that the work will lack.
    async fn check_rights(&mut self) -> Result<(), EngineError>;

    /// Whether backups of this database are made and proved; else why not.
    async fn check_backups(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Names every right that a backup with this login would lack without a word of the database's own tool.
    async fn check_backup_rights(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// The next rows of the range in the order of their keys. An empty page, and nothing else, is the end.
    async fn page(&mut self, scan: &Scan<'_>, limit: PageLimit) -> Result<Vec<Row>, EngineError>;

    /// Puts the rows of the range, in the order of their keys, into the sink until the range ends or nobody takes them any
    /// more ([`sink::Closed`](crate::sink::Closed): then answer `Ok`, the stage behind has the error to report). A
    /// connection that is lost is an error, never the end of the range. Works inside a hold too.
    /// A row that is larger than a page is read only when the sink has
    /// [made room](crate::sink::PageSink::make_room) for it.
    async fn scan(&mut self, scan: &Scan<'_>, sink: &mut PageSink) -> Result<(), EngineError>;

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

    /// Gives the application's role its attributes back. Going forward, the header notes that it was let in.
    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Whether the application was let in going forward, so that it may have written under the new key.
    async fn was_let_in(&mut self, rotation: &RotationId) -> Result<bool, EngineError>;

    /// Closes the header, so that no work enters under this rotation any more.
    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Copies the whole database, as it is at one moment, into a file that is not there yet. For databases that are files.
    async fn copy_into(&mut self, _path: &std::path::Path) -> Result<(), EngineError> {
        Err(EngineError::Unsupported("this database is backed up by its own tools".to_owned()))
    }

    /// Sees that the file is whole, page by page and index by index. Nothing to do where a server looks after that.
    async fn check_file(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// All rotations that the ledger remembers, oldest first; none where there is no ledger. Changes nothing.
    async fn history(&mut self) -> Result<Vec<LedgerRotation>, EngineError>;

    /// Leaves a note about a node in the ledger; one that is there already stays. What only the way forward allows is
    /// refused, in the same transaction, once the ledger has been turned back or a recovery has begun.
    async fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError>;

    /// Makes this session the only one that mends rows, until it ends, and sees that no rotation is under way.
    async fn hold_repairs(&mut self) -> Result<(), EngineError> {
        Err(EngineError::Unsupported("this release repairs nothing on this database".to_owned()))
    }

    /// Writes rows outside any rotation, in one transaction, each only if it still holds what was read. Refused
    /// ([`EngineError::LedgerOpen`]) while a rotation is under way, which cannot begin as long as the transaction lasts.
    async fn mend(&mut self, _table: &Table, _changes: &[Change]) -> Result<Written, EngineError> {
        Err(EngineError::Unsupported("this release repairs nothing on this database".to_owned()))
    }

    /// How far the slowest standby is behind; `None` where there is none, or where it cannot be known. Asked about once a
    /// second while rows are written.
    async fn replication_lag(&mut self) -> Result<Option<Lag>, EngineError> {
        Ok(None)
    }

    /// Why this table cannot be re-encrypted by shadow; `None` if it can. May make the copy's definition in a transaction
    /// that is taken back, and compare everything that is attached to it with the original's. Changes nothing.
    async fn shadow_obstacle(&mut self, _table: &Table) -> Result<Option<String>, EngineError> {
        Ok(Some("shadows are not supported on this database".to_owned()))
    }

    /// The room that copies of these tables need, and what there is.
    async fn space(&mut self, _tables: &[Table]) -> Result<Space, EngineError> {
        Ok(Space::default())
    }

    /// The shadow of a table for this mark's rotation, as the ledger has it: made, empty and without indexes, and noted
    /// in the ledger as [`Building`](crate::shadow::ShadowState::Building), if there is none yet. Several agents may
    /// ask at once. An existing one is answered as it is, whatever its state.
    async fn shadow(&mut self, _mark: &LedgerMark, _table: &Table) -> Result<Shadow, EngineError> {
        Err(no_shadows())
    }

    /// All shadows of a rotation, by the ledger, in the order of their labels. None where there is no ledger.
    async fn shadows(&mut self, _rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        Ok(Vec::new())
    }

    /// What is still to be built on a filled shadow, in the order of stages; nothing when all is there.
    async fn build_steps(&mut self, _mark: &LedgerMark, _pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
        Err(no_shadows())
    }

    /// Builds one, in a transaction that holds the header shared. Built already is as good.
    async fn build(&mut self, _mark: &LedgerMark, _pair: &Pair, _step: &BuildStep) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// After the last step: sees that the shadow has everything that its table has, and records it as
    /// [`Built`](crate::shadow::ShadowState::Built). Built or swapped already is as good.
    async fn built(&mut self, _mark: &LedgerMark, _pair: &Pair) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Begins a transaction that holds the header alone (and checks and raises it), and originals and copies against
    /// every writer, until `swap`, `swap_back`, `release` or the end of the session. Ends the sessions of other workers
    /// first where it can. [`scan`](Session::scan) and [`shadows`](Session::shadows) of this session then see what is held.
    async fn hold_for_swap(&mut self, _mark: &LedgerMark, _pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        Err(no_shadows())
    }

    /// Swaps all of them in, records them as [`Swapped`](crate::shadow::ShadowState::Swapped), and commits the hold.
    /// Where data definition is not transactional, a crash in between must be told by `shadows` from the catalogue.
    async fn swap(&mut self, _mark: &LedgerMark, _pairs: &[Pair]) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Puts the originals of `back` under their names again (the copies are then
    /// [`Dropping`](crate::shadow::ShadowState::Dropping)), records those of `kept` as
    /// [`Kept`](crate::shadow::ShadowState::Kept), and commits the hold.
    async fn swap_back(&mut self, _mark: &LedgerMark, _back: &[Pair], _kept: &[Pair]) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Ends a hold without a change.
    async fn release(&mut self) -> Result<(), EngineError> {
        Err(no_shadows())
    }

    /// Drops what an undone rotation leaves: copies that were never swapped in or were swapped back, and, of those that
    /// were kept, the retained originals. Never a table that stands under its own name. The header is held alone. Dropped
    /// already is as good, also when the ledger is closed.
    async fn drop_shadows(&mut self, _mark: &LedgerMark) -> Result<(), EngineError> {
        Ok(())
    }

    /// Drops the originals that a rotation retained that is closed and went forward, and records them as
    /// [`Retired`](crate::shadow::ShadowState::Retired). Dropped already is as good; a rotation that is open, or went
    /// back, is refused.
    async fn retire(&mut self, _rotation: &RotationId) -> Result<(), EngineError> {
        Ok(())
    }

    /// Ends the connection, or keeps it for a short while for who opens one next, after a shard that is done. Nothing of
    /// that shard is left in it.
    async fn leave(self: Box<Self>) {
        self.end().await;
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
    let location = Location::parse(&config.url).map_err(EngineError::Url)?;
    if !config.replica_urls.is_empty() && !matches!(location, Location::Mariadb(_)) {
        let problem =
            "URLs of replicas are given, and only those of MariaDB and MySQL are asked after by URL".to_owned();
        return Err(EngineError::Configuration(problem));
    }
    Ok(match location {
        Location::Mariadb(options) => Box::new(Mariadb::new(*options, config)?),
        Location::Postgres(options) => Box::new(Postgres::new(*options, config)),
        Location::Sqlite(options) => Box::new(Sqlite::new(*options, config.sessions_wait)),
    })
}
