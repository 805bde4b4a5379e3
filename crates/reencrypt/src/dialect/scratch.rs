//! What a measurement asks of a database: scratch tables of Keyturn's own, and the floors that no re-encryption can go
//! below. Nothing of the user's is touched.

use async_trait::async_trait;
use rotation::{Direction, Epoch, RotationId};

use crate::EngineError;
use crate::ledger::LedgerMark;
use crate::targets::TableTarget;

/// What the scratch tables are called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScratchNames {
    /// Filled once; every measurement begins with a fresh copy of it.
    pub(crate) source: &'static str,
    /// What is measured.
    pub(crate) work: &'static str,
    /// The database's own copy.
    pub(crate) copy: &'static str,
    /// Whether every other session of this client's name belongs to the measurement, and may be ended with it.
    pub(crate) ends_sessions: bool,
}

impl ScratchNames {
    /// Those of `keyturn db bench`.
    pub(crate) const BENCH: Self = Self {
        source: "keyturn_bench_source",
        work: "keyturn_bench_work",
        copy: "keyturn_bench_copy",
        ends_sessions: true,
    };
    /// Those of the sample that Preflight's forecast takes.
    pub(crate) const SAMPLE: Self = Self {
        source: "keyturn_sample_source",
        work: "keyturn_sample_work",
        copy: "keyturn_sample_copy",
        ends_sessions: false,
    };

    pub(crate) const fn all(self) -> [&'static str; 3] {
        [self.source, self.work, self.copy]
    }
}

/// The mark of a measurement on its way back. It goes forward at epoch 1.
pub(crate) fn back(rotation: RotationId) -> LedgerMark {
    LedgerMark { rotation, epoch: Epoch::new(2), direction: Direction::Back }
}

/// A row as an application might keep it: a key, two more columns that are indexed, and a ciphertext.
#[derive(Debug, Clone)]
pub(crate) struct ScratchRow {
    pub(crate) id: i64,
    /// In the form of a UUID, in no order.
    pub(crate) token: String,
    /// Seconds since the Unix epoch, in no order.
    pub(crate) changed_s: i64,
    pub(crate) value: Vec<u8>,
}

/// Whether the ledger was there before the scratch tables were; else it goes with them. The schema too, but never one that
/// an administrator made beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LedgerBefore {
    /// Not even its schema, where it has one.
    NoSchema,
    Absent,
    Present,
}

/// One connection with the settings that the database itself would have, not those of the engine's sessions; but commits
/// are as durable as the engine's.
#[async_trait]
pub(crate) trait Scratch: Send {
    /// Makes the source, empty. Refuses when a name is taken, or while a rotation is under way.
    async fn make(&mut self) -> Result<LedgerBefore, EngineError>;

    /// Adds rows to the source.
    async fn fill(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError>;

    /// Makes the work table anew from the source, with its primary key and two more indexes, as if it had been there for
    /// long: analyzed, nothing to clean up, everything written to the disk.
    async fn renew(&mut self) -> Result<(), EngineError>;

    /// One statement that gives every row of the work table another value of the same size.
    async fn update_floor(&mut self) -> Result<(), EngineError>;

    /// The database's own copy of the work table with the same three indexes.
    async fn copy_floor(&mut self) -> Result<(), EngineError>;

    /// Drops the copy.
    async fn drop_copy(&mut self) -> Result<(), EngineError>;

    /// The value of one row of the work table, in a transaction of its own.
    async fn read(&mut self, id: i64) -> Result<Vec<u8>, EngineError>;

    /// Sets it, in a transaction of its own.
    async fn write(&mut self, id: i64, value: &[u8]) -> Result<(), EngineError>;

    /// The work table as targets.toml would register it.
    fn target(&self) -> TableTarget;

    /// Writes a header under which the engine may work, without fencing anybody.
    async fn open_ledger(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Turns the header back without ending anybody's session; answers the mark under which shadows may be dropped.
    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<LedgerMark, EngineError>;

    /// The marks of measurements that have not removed their headers, turned back.
    async fn left(&mut self) -> Result<Vec<LedgerMark>, EngineError>;

    /// Removes the header and its shards.
    async fn forget(&mut self, mark: &LedgerMark) -> Result<(), EngineError>;

    /// Ends the other sessions of this measurement, which may still be at work on what was given up.
    async fn end_sessions(&mut self) -> Result<(), EngineError>;

    /// Removes the tables and headers of every measurement under these names, whoever left them.
    async fn remove(&mut self, ledger: LedgerBefore) -> Result<(), EngineError>;

    /// Ends the connection in an orderly way.
    async fn end(self: Box<Self>);
}
