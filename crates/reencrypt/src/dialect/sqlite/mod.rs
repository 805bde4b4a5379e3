//! SQLite: one file on one host. Opening it with the settings that the work needs, and what the session answers.

mod bench;
mod catalog;
mod copy;
mod history;
mod ledger;
mod look;
mod mend;
mod others;
mod place;
mod rows;
mod shadow;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use place::SqlitePlace;

use async_trait::async_trait;
use fail_points::point;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::found::Seen;
use super::scratch::{Scratch, ScratchNames};
use super::{Chunk, Dialect, PageLimit, Scan, Session, Turn, Use, Written};
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, Space};
use crate::sink::PageSink;
use crate::table::{Change, KeyRange, Row, Table};
use crate::targets::Exclude;
use crate::{EngineError, Targets};

/// SQLite has one writer, whoever it is.
const WRITERS_MAX: u32 = 1;

/// How long to wait for the lock of another writer. A page's transaction takes milliseconds.
const BUSY_TIME_MAX: Duration = Duration::from_secs(5);

/// Rows that wait between SQLite's thread and ours. Few, since each may hold an attachment.
const ROWS_WAITING_MAX: usize = 16;

/// Statements kept prepared; a batch's has thousands of placeholders, so only few.
const STATEMENTS_KEPT_MAX: usize = 16;

pub(crate) struct Sqlite {
    options: SqliteConnectOptions,
    sessions_wait: Duration,
    writing: Arc<Mutex<()>>,
}

impl Sqlite {
    pub(crate) fn new(options: SqliteConnectOptions, sessions_wait: Duration) -> Self {
        // Foreign keys are not enforced while values change under them: no registered column is part of one.
        // Full synchronisation: what the ledger says must have survived when it is told to the coordinators.
        // The journal's mode belongs to the application and stays.
        let options = options
            .create_if_missing(false)
            .foreign_keys(false)
            .busy_timeout(BUSY_TIME_MAX)
            .synchronous(SqliteSynchronous::Full)
            .row_buffer_size(ROWS_WAITING_MAX)
            .statement_cache_capacity(STATEMENTS_KEPT_MAX);
        Self { options, sessions_wait, writing: Arc::default() }
    }
}

struct SqliteSession {
    connection: SqliteConnection,
    file: PathBuf,
    sessions_wait: Duration,
    /// Held by the one session of this process that is inside a transaction that writes, and for no longer. SQLite has
    /// one writer anyway, but whoever waits for its lock only looks again now and then, so that of two shards one may
    /// be passed over until it gives up. This queue is fair, and a turn lasts for one chunk. Other processes are still
    /// met at SQLite's lock. Nothing but the transaction is awaited while it is held, so nobody can wait for another
    /// in a circle.
    writing: Arc<Mutex<()>>,
    /// The lock of who repairs.
    repairs: Option<File>,
    /// The turn of a swap, which lasts over several calls.
    held: Option<OwnedMutexGuard<()>>,
}

#[async_trait]
impl Dialect for Sqlite {
    fn kind(&self) -> DatabaseKind {
        DatabaseKind::Sqlite
    }

    fn writers_max(&self) -> u32 {
        WRITERS_MAX
    }

    fn page_rows_max(&self, _table: &Table) -> usize {
        // A batch is written by as many statements as it takes.
        usize::MAX
    }

    fn auto_shadow(&self) -> Result<(), &'static str> {
        Err("updating in place is faster on SQLite")
    }

    async fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        let file = self.options.get_filename().to_owned();
        let connection =
            SqliteConnection::connect_with(&self.options).await.doing(|| format!("opening {}", file.display()))?;
        let writing = Arc::clone(&self.writing);
        let sessions_wait = self.sessions_wait;
        Ok(Box::new(SqliteSession { connection, file, sessions_wait, writing, repairs: None, held: None }))
    }

    async fn scratch(&self, names: ScratchNames) -> Result<Box<dyn Scratch>, EngineError> {
        Ok(Box::new(bench::SqliteScratch::open(&self.options, names).await?))
    }

    async fn see(&self) -> Result<Seen, EngineError> {
        look::see(&self.options).await
    }

    async fn missing(&self, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
        look::missing(&self.options, excludes).await
    }
}

impl SqliteSession {
    /// Device and inode of the file: the same on every node that means the same file, whatever its path.
    fn device_and_inode(&self) -> Result<(u64, u64), EngineError> {
        let metadata = std::fs::metadata(&self.file)
            .map_err(sqlx::Error::Io)
            .doing(|| format!("looking at {}", self.file.display()))?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

#[async_trait]
impl Session for SqliteSession {
    async fn identity(&mut self) -> Result<DatabaseIdentity, EngineError> {
        let (device, inode) = self.device_and_inode()?;
        Ok(DatabaseIdentity { kind: DatabaseKind::Sqlite, identity: format!("device {device} inode {inode}") })
    }

    async fn position(&mut self) -> Result<DatabasePosition, EngineError> {
        // SQLite has no history that could be compared; what it has committed is in the one file.
        Ok(DatabasePosition { identity: self.identity().await?, timeline: 0, position: 0 })
    }

    async fn tables(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, targets, Use::Turn).await
    }

    async fn tables_to_read(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, targets, Use::Read).await
    }

    async fn check_rights(&mut self) -> Result<(), EngineError> {
        let query_only = std::fs::metadata(&self.file).is_ok_and(|metadata| metadata.permissions().readonly());
        let problem = || format!("{} is not writable", self.file.display());
        if query_only { Err(EngineError::Rights(vec![problem()])) } else { Ok(()) }
    }

    async fn page(&mut self, scan: &Scan<'_>, limit: PageLimit) -> Result<Vec<Row>, EngineError> {
        rows::page(&mut self.connection, scan, limit).await
    }

    async fn scan(&mut self, scan: &Scan<'_>, sink: &mut PageSink) -> Result<(), EngineError> {
        rows::scan(&mut self.connection, scan, sink).await
    }

    async fn row(&mut self, table: &Table, key: &Key) -> Result<Option<Row>, EngineError> {
        rows::row(&mut self.connection, table, key).await
    }

    async fn count(&mut self, table: &Table, range: &KeyRange) -> Result<u64, EngineError> {
        rows::count(&mut self.connection, table, range).await
    }

    async fn enter(&mut self, claim: &Claim) -> Result<ShardRecord, EngineError> {
        let _turn = self.writing.lock().await;
        let done = ledger::enter(&mut self.connection, claim).await;
        others::blamed(&self.file, done)
    }

    async fn record(
        &mut self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError> {
        ledger::record(&mut self.connection, rotation, shard, pass).await
    }

    async fn commit(&mut self, chunk: &Chunk<'_>) -> Result<Written, EngineError> {
        let _turn = self.writing.lock().await;
        let done = durable::around(point!(CHUNK), ledger::commit(&mut self.connection, chunk)).await;
        others::blamed(&self.file, done)
    }

    async fn try_write(&mut self, table: &Table, key: &Key, turn: Turn<'_>) -> Result<bool, EngineError> {
        let _turn = self.writing.lock().await;
        ledger::try_write(&mut self.connection, table, key, turn).await
    }

    async fn fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        {
            let _turn = self.writing.lock().await;
            let done = ledger::fence(&mut self.connection, mark).await;
            others::blamed(&self.file, done)?;
        }
        let (device, inode) = self.device_and_inode()?;
        others::wait_until_alone(device, inode, self.sessions_wait).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        // Sessions of other processes cannot be ended. One that is stopped inside its transaction holds the database's
        // lock, and is named until it goes on or ends; with its next transaction it finds the ledger turned.
        let _turn = self.writing.lock().await;
        let done = ledger::turn_back(&mut self.connection, mark).await;
        others::blamed(&self.file, done)
    }

    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = ledger::lift_fence(&mut self.connection, mark).await;
        others::blamed(&self.file, done)
    }

    async fn was_let_in(&mut self, rotation: &RotationId) -> Result<bool, EngineError> {
        ledger::was_let_in(&mut self.connection, rotation).await
    }

    async fn shadow_obstacle(&mut self, table: &Table) -> Result<Option<String>, EngineError> {
        let _turn = self.writing.lock().await;
        shadow::obstacle(&mut self.connection, table).await
    }

    async fn space(&mut self, tables: &[Table]) -> Result<Space, EngineError> {
        shadow::space(&mut self.connection, &self.file, tables).await
    }

    async fn shadow(&mut self, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
        let _turn = self.writing.lock().await;
        let done = shadow::make(&mut self.connection, mark, table).await;
        others::blamed(&self.file, done)
    }

    async fn shadows(&mut self, rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        ledger::shadows::all(&mut self.connection, rotation).await
    }

    async fn build_steps(&mut self, _mark: &LedgerMark, pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
        shadow::build_steps(&mut self.connection, pair).await
    }

    async fn build(&mut self, mark: &LedgerMark, pair: &Pair, step: &BuildStep) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = shadow::build(&mut self.connection, mark, pair, step).await;
        others::blamed(&self.file, done)
    }

    async fn built(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = shadow::built(&mut self.connection, mark, pair).await;
        others::blamed(&self.file, done)
    }

    async fn hold_for_swap(&mut self, mark: &LedgerMark, _pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        let turn = Arc::clone(&self.writing).lock_owned().await;
        shadow::hold(&mut self.connection, mark).await?;
        self.held = Some(turn);
        Ok(HeldReaders::HolderOnly)
    }

    async fn swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
        shadow::swap(&mut self.connection, mark, pairs).await?;
        self.held = None;
        Ok(())
    }

    async fn swap_back(&mut self, mark: &LedgerMark, back: &[Pair], kept: &[Pair]) -> Result<(), EngineError> {
        shadow::swap_back(&mut self.connection, mark, back, kept).await?;
        self.held = None;
        Ok(())
    }

    async fn release(&mut self) -> Result<(), EngineError> {
        shadow::release(&mut self.connection).await?;
        self.held = None;
        Ok(())
    }

    async fn drop_shadows(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = shadow::drop_all(&mut self.connection, mark).await;
        others::blamed(&self.file, done)
    }

    async fn retire(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = shadow::retire(&mut self.connection, rotation).await;
        others::blamed(&self.file, done)
    }

    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = ledger::close(&mut self.connection, mark).await;
        others::blamed(&self.file, done)
    }

    async fn copy_into(&mut self, path: &std::path::Path) -> Result<(), EngineError> {
        copy::copy_into(&mut self.connection, path).await
    }

    async fn check_file(&mut self) -> Result<(), EngineError> {
        copy::check(&mut self.connection).await
    }

    async fn history(&mut self) -> Result<Vec<LedgerRotation>, EngineError> {
        history::history(&mut self.connection).await
    }

    async fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        let _turn = self.writing.lock().await;
        let done = history::note(&mut self.connection, rotation, kind, node).await;
        others::blamed(&self.file, done)
    }

    async fn hold_repairs(&mut self) -> Result<(), EngineError> {
        self.repairs = Some(mend::hold(&self.file)?);
        let _turn = self.writing.lock().await;
        ledger::create(&mut self.connection).await?;
        mend::refuse_rotation(&mut self.connection).await
    }

    async fn mend(&mut self, table: &Table, changes: &[Change]) -> Result<Written, EngineError> {
        let _turn = self.writing.lock().await;
        mend::mend(&mut self.connection, table, changes).await
    }

    async fn end(self: Box<Self>) {
        // The last connection also folds the write-ahead log into the file; an error there loses nothing.
        let _ = self.connection.close().await;
    }
}
