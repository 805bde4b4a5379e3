//! openraft's log storage upon [`Store`]: the entries, the vote, what was purged and committed.

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};

use super::frame::{self, Kind};
use super::store::{Store, StoreError};
use super::types::{LogEntry, LogId, StorageError, StorageIoError, TypeConfig, Vote};

/// The log. Clones read the same one.
#[derive(Clone)]
pub(crate) struct Log {
    store: Store,
}

impl Log {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }
}

/// Runs what blocks on the disk where it holds nobody up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, AnyError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| AnyError::new(&error)),
        Err(join) => Err(AnyError::new(&join)),
    }
}

fn reading(source: AnyError) -> StorageError {
    StorageIoError::read_logs(source).into()
}

fn writing(source: AnyError) -> StorageError {
    StorageIoError::write_logs(source).into()
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        let store = self.store.clone();
        blocking(move || store.entries(range)).await.map_err(reading)
    }

    /// Bounded in bytes, so that a batch reaches a follower within a heartbeat; openraft asks again for the rest.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, StorageError> {
        let store = self.store.clone();
        blocking(move || store.entries_limited(start..end)).await.map_err(reading)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let store = self.store.clone();
        blocking(move || {
            let last_purged_log_id = store.purged()?;
            let last_log_id = store.last_entry()?.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        })
        .await
        .map_err(reading)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (store, vote) = (self.store.clone(), *vote);
        blocking(move || store.save_vote(&vote)).await.map_err(|error| StorageIoError::write_vote(error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let store = self.store.clone();
        blocking(move || store.vote()).await.map_err(|error| StorageIoError::read_vote(error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let store = self.store.clone();
        blocking(move || store.save_committed(&committed)).await.map_err(writing)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let store = self.store.clone();
        blocking(move || store.committed()).await.map_err(reading)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let frames = entries
            .into_iter()
            .map(|entry| Ok((entry.log_id.index, frame::encode(Kind::Entry, &entry)?)))
            .collect::<Result<Vec<_>, StoreError>>()
            .map_err(|error| writing(AnyError::new(&error)))?;
        let store = self.store.clone();
        let written = blocking(move || store.append(&frames)).await;
        // The entries are on the disk before anybody is told so.
        callback.log_io_completed(match &written {
            Ok(()) => Ok(()),
            Err(error) => Err(std::io::Error::other(error.to_string())),
        });
        written.map_err(writing)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let store = self.store.clone();
        blocking(move || store.truncate(log_id.index)).await.map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let store = self.store.clone();
        blocking(move || store.purge(&log_id)).await.map_err(writing)
    }
}
