//! openraft's state machine: applies entries to the domain's [`State`] in memory and keeps snapshots of it on the disk.

use std::collections::BTreeSet;
use std::io::Cursor;

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use rotation::{Entry, State};
use tokio::sync::watch;

use super::log::blocking;
use super::store::{self, Store, StoreError};
use super::types::{
    Applied, LogEntry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIoError, StoredMembership, TypeConfig,
};

/// The state with what it stands for. Readers watch the state itself: they see it without copying, between entries.
pub(crate) struct Machine {
    store: Store,
    state: watch::Sender<State>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Machine {
    /// Starts from the last snapshot, if there is one; consensus applies again what the log has beyond it.
    pub(crate) fn open(store: Store) -> Result<Self, StoreError> {
        let (state, applied, membership) = match store.snapshot()? {
            Some((meta, frame)) => (store::decode_state(&frame)?, meta.last_log_id, meta.last_membership),
            None => Default::default(),
        };
        Ok(Self { store, state: watch::Sender::new(state), applied, membership })
    }

    /// The state as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut results = Vec::new();
        // The closure is synchronous, and a reader waits for at most one batch.
        self.state.send_if_modified(|state| {
            let mut modified = false;
            for entry in entries {
                self.applied = Some(entry.log_id);
                results.push(match entry.payload {
                    EntryPayload::Blank => Applied::Nothing,
                    EntryPayload::Membership(membership) => {
                        let before: BTreeSet<u64> = self.membership.nodes().map(|(id, _)| *id).collect();
                        let after: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
                        state.membership_changed(&before, &after);
                        modified = true;
                        self.membership = StoredMembership::new(Some(entry.log_id), membership);
                        Applied::Nothing
                    }
                    EntryPayload::Normal(entry) => {
                        modified = true;
                        apply(state, &entry)
                    }
                });
            }
            modified
        });
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let frame = store::encode_state(&self.state.borrow());
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            // The same log gives the same bytes on every replica, so its end names the snapshot.
            snapshot_id: self.applied.map_or_else(|| "empty".to_owned(), |id| id.to_string()),
        };
        Builder { store: self.store.clone(), meta, frame: Some(frame) }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed = |error| StorageIoError::write_snapshot(Some(meta.signature()), error);
        let frame = snapshot.into_inner();
        let state = store::decode_state(&frame).map_err(|error| failed(AnyError::new(&error)))?;
        let (store, saved) = (self.store.clone(), meta.clone());
        blocking(move || store.save_snapshot(&saved, &frame)).await.map_err(failed)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.state.send_replace(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let store = self.store.clone();
        let found =
            blocking(move || store.snapshot()).await.map_err(|error| StorageIoError::read_snapshot(None, error))?;
        Ok(found.map(|(meta, frame)| Snapshot { meta, snapshot: Box::new(Cursor::new(frame)) }))
    }
}

fn apply(state: &mut State, entry: &Entry) -> Applied {
    match rotation::apply(state, entry) {
        Ok(outcome) => Applied::Done(outcome),
        Err(rejection) => Applied::Refused(rejection),
    }
}

/// A snapshot that was taken and waits to be written.
pub(crate) struct Builder {
    store: Store,
    meta: SnapshotMeta,
    /// Taken by the first build; a builder is asked once.
    frame: Option<Result<Vec<u8>, StoreError>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let failed = |error| StorageIoError::write_snapshot(Some(self.meta.signature()), error);
        let frame = match self.frame.take() {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Err(failed(AnyError::new(&error)).into()),
            None => return Err(failed(AnyError::error("the snapshot was built already")).into()),
        };
        let (store, meta, saved) = (self.store.clone(), self.meta.clone(), frame.clone());
        blocking(move || store.save_snapshot(&meta, &saved)).await.map_err(failed)?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(frame)) })
    }
}
