//! The replica's one file: log, vote, pointers and snapshot in a redb database, each write durable when it returns.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::ops::RangeBounds;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use rotation::State;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::frame::{self, FrameError, Kind};
use super::types::{LogEntry, LogId, SnapshotMeta, Vote};

/// Entries by index.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything of which there is one.
const SINGLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("single");

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot-meta";
const SNAPSHOT_STATE: &str = "snapshot-state";
/// Present while this replica, having come back without its log, has not caught up.
const REJOINING: &str = "rejoining";
/// Farm and number of the replica, so that one replica's directory is not taken for another's.
const OWNER: &str = "owner";

/// The log names every node and holds sealed bundles: nothing for other users of the machine.
const DIRECTORY_MODE: u32 = 0o700;
/// The same for the file, since the directory may have been made by somebody else.
const FILE_MODE: u32 = 0o600;

/// Bytes of entries that one read for replication answers at most, so that a batch goes over within a heartbeat.
const READ_BYTES_MAX: usize = 256 * 1024;

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The directory cannot be made.
    #[error("the data directory {path} cannot be created; check its parent's permissions")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a database, damaged, or open in another process.
    #[error("the log {path} cannot be opened; see that no other coordinator uses this data_dir")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// No room, not even for what a start writes.
    #[error("there is no room for the log {path}: the disk is full; make room where data_dir lies and start again")]
    Full {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// Another replica's directory.
    #[error("the log {path} belongs to {found}, and this is {expected}; correct farm, id or data_dir")]
    ForeignReplica {
        /// The file.
        path: PathBuf,
        /// Farm and replica in the file.
        found: String,
        /// Farm and replica in the configuration.
        expected: String,
    },
}

/// Reading or writing the database failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the log's database failed")]
    Database(#[source] Box<redb::Error>),
    /// Nothing is half-written by that: what was acknowledged stands in the file, and is found at the next start.
    #[error("the disk is full; make room where data_dir lies, then start this coordinator again")]
    Full(#[source] Box<redb::Error>),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        let error = error.into();
        if is_full(&error) { Self::Full(Box::new(error)) } else { Self::Database(Box::new(error)) }
    }
}

/// Whether the disk, or the share of it that this process may use, is used up.
fn is_full(error: &redb::Error) -> bool {
    let full = [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];
    matches!(error, redb::Error::Io(source) if full.contains(&source.kind()))
}

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A handle to the database; clones share it. Its functions block for as long as the disk does.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    /// Dropped after the database, and so tells that its file is free again.
    closed: DropGuard,
}

impl Store {
    /// Opens or creates the database of this replica in its data directory.
    pub(crate) fn open(directory: &Path, farm: &str, replica: u64) -> Result<Self, OpenStoreError> {
        let in_directory = |source| OpenStoreError::Directory { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(in_directory)?;
        let path = directory.join("raft.redb");
        let failed = |source: redb::Error| {
            let (path, full, source) = (path.clone(), is_full(&source), Box::new(source));
            if full { OpenStoreError::Full { path, source } } else { OpenStoreError::Open { path, source } }
        };
        make_private(&path).map_err(|error| failed(redb::Error::Io(error)))?;
        let database = Database::create(&path).map_err(|error| failed(error.into()))?;
        // Or the file itself could be gone after a loss of power, however durable its content.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(in_directory)?;
        let store = Self::with_database(database).map_err(|error| failed(into_redb(error)))?;
        let expected = format!("replica {replica} of the farm {farm}");
        let found = store.claim(&expected).map_err(|error| failed(into_redb(error)))?;
        if found == expected { Ok(store) } else { Err(OpenStoreError::ForeignReplica { path, found, expected }) }
    }

    /// Takes a database that is open already and sees that its tables exist.
    pub(crate) fn with_database(database: Database) -> Result<Self> {
        let transaction = database.begin_write()?;
        transaction.open_table(LOG)?;
        transaction.open_table(SINGLE)?;
        transaction.commit()?;
        let closed = CancellationToken::new().drop_guard();
        Ok(Self { inner: Arc::new(Inner { database, closed }) })
    }

    /// Is cancelled when the last handle is gone and the file is closed.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.inner.closed.token().clone()
    }

    /// Writes whose directory it is unless that stands there; answers what stands there.
    fn claim(&self, owner: &str) -> Result<String> {
        let transaction = self.inner.database.begin_write()?;
        let found = {
            let mut table = transaction.open_table(SINGLE)?;
            let found = table.get(OWNER)?.map(|value| String::from_utf8_lossy(value.value()).into_owned());
            match found {
                Some(found) => found,
                None => {
                    table.insert(OWNER, owner.as_bytes())?;
                    owner.to_owned()
                }
            }
        };
        transaction.commit()?;
        Ok(found)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, name: &str, kind: Kind) -> Result<Option<T>> {
        let transaction = self.inner.database.begin_read()?;
        let table = transaction.open_table(SINGLE)?;
        let value = table.get(name)?;
        value.map(|value| Ok(frame::decode(kind, value.value())?)).transpose()
    }

    fn put(&self, name: &str, value: &[u8], durability: Durability) -> Result<()> {
        let mut transaction = self.inner.database.begin_write()?;
        transaction.set_durability(durability)?;
        transaction.open_table(SINGLE)?.insert(name, value)?;
        Ok(transaction.commit()?)
    }

    pub(crate) fn save_vote(&self, vote: &Vote) -> Result<()> {
        self.put(VOTE, &frame::encode(Kind::Vote, vote)?, Durability::Immediate)
    }

    pub(crate) fn vote(&self) -> Result<Option<Vote>> {
        self.get(VOTE, Kind::Vote)
    }

    /// A hint for a faster start, so it may be lost: it goes to disk with the next write that must.
    pub(crate) fn save_committed(&self, committed: &Option<LogId>) -> Result<()> {
        self.put(COMMITTED, &frame::encode(Kind::LogId, committed)?, Durability::None)
    }

    pub(crate) fn committed(&self) -> Result<Option<LogId>> {
        Ok(self.get::<Option<LogId>>(COMMITTED, Kind::LogId)?.flatten())
    }

    pub(crate) fn purged(&self) -> Result<Option<LogId>> {
        self.get(PURGED, Kind::LogId)
    }

    pub(crate) fn last_entry(&self) -> Result<Option<LogEntry>> {
        let transaction = self.inner.database.begin_read()?;
        let table = transaction.open_table(LOG)?;
        let last = table.last()?;
        last.map(|(_, value)| Ok(frame::decode(Kind::Entry, value.value())?)).transpose()
    }

    /// The entries of a range, all of them.
    pub(crate) fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<LogEntry>> {
        self.read(range, usize::MAX)
    }

    /// The first entries of a range: at least one if there is any, then up to a bound in bytes.
    pub(crate) fn entries_limited(&self, range: impl RangeBounds<u64>) -> Result<Vec<LogEntry>> {
        self.read(range, READ_BYTES_MAX)
    }

    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Result<Vec<LogEntry>> {
        let transaction = self.inner.database.begin_read()?;
        let table = transaction.open_table(LOG)?;
        let (mut entries, mut bytes) = (Vec::new(), 0_usize);
        for item in table.range((range.start_bound().cloned(), range.end_bound().cloned()))? {
            let (_, value) = item?;
            bytes = bytes.saturating_add(value.value().len());
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(frame::decode(Kind::Entry, value.value())?);
        }
        Ok(entries)
    }

    /// Writes entries that were framed before.
    pub(crate) fn append(&self, frames: &[(u64, Vec<u8>)]) -> Result<()> {
        let transaction = self.inner.database.begin_write()?;
        {
            let mut table = transaction.open_table(LOG)?;
            for (index, frame) in frames {
                table.insert(index, frame.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// Deletes the entries from this index on.
    pub(crate) fn truncate(&self, from: u64) -> Result<()> {
        let transaction = self.inner.database.begin_write()?;
        transaction.open_table(LOG)?.retain_in::<u64, _>(from.., |_, _| false)?;
        Ok(transaction.commit()?)
    }

    /// Deletes the entries up to and including this one, and remembers it.
    pub(crate) fn purge(&self, through: &LogId) -> Result<()> {
        let transaction = self.inner.database.begin_write()?;
        transaction.open_table(LOG)?.retain_in::<u64, _>(..=through.index, |_, _| false)?;
        transaction.open_table(SINGLE)?.insert(PURGED, frame::encode(Kind::LogId, through)?.as_slice())?;
        Ok(transaction.commit()?)
    }

    /// Replaces the snapshot. `state` is a frame of kind [`Kind::State`].
    pub(crate) fn save_snapshot(&self, meta: &SnapshotMeta, state: &[u8]) -> Result<()> {
        let transaction = self.inner.database.begin_write()?;
        {
            let mut table = transaction.open_table(SINGLE)?;
            table.insert(SNAPSHOT_META, frame::encode(Kind::SnapshotMeta, meta)?.as_slice())?;
            table.insert(SNAPSHOT_STATE, state)?;
        }
        Ok(transaction.commit()?)
    }

    /// The snapshot's description and the frame with its state.
    pub(crate) fn snapshot(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let transaction = self.inner.database.begin_read()?;
        let table = transaction.open_table(SINGLE)?;
        let (Some(meta), Some(state)) = (table.get(SNAPSHOT_META)?, table.get(SNAPSHOT_STATE)?) else {
            return Ok(None);
        };
        Ok(Some((frame::decode(Kind::SnapshotMeta, meta.value())?, state.value().to_owned())))
    }

    /// Whether this replica ever voted or wrote: if not, it is new or has lost its disk.
    pub(crate) fn is_pristine(&self) -> Result<bool> {
        Ok(self.vote()?.is_none() && self.purged()?.is_none() && self.last_entry()?.is_none())
    }

    pub(crate) fn is_rejoining(&self) -> Result<bool> {
        let transaction = self.inner.database.begin_read()?;
        Ok(transaction.open_table(SINGLE)?.get(REJOINING)?.is_some())
    }

    pub(crate) fn set_rejoining(&self, rejoining: bool) -> Result<()> {
        let transaction = self.inner.database.begin_write()?;
        {
            let mut table = transaction.open_table(SINGLE)?;
            if rejoining {
                table.insert(REJOINING, [].as_slice())?;
            } else {
                table.remove(REJOINING)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

/// Sees that a file is there which its owner alone may read, whatever it was before.
fn make_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))
}

/// Frames the state for a snapshot.
pub(crate) fn encode_state(state: &State) -> Result<Vec<u8>> {
    Ok(frame::encode(Kind::State, state)?)
}

/// Reads the state of a snapshot.
pub(crate) fn decode_state(bytes: &[u8]) -> Result<State> {
    Ok(frame::decode(Kind::State, bytes)?)
}

fn into_redb(error: StoreError) -> redb::Error {
    match error {
        StoreError::Database(error) | StoreError::Full(error) => *error,
        StoreError::Frame(error) => redb::Error::Corrupted(error.to_string()),
    }
}
