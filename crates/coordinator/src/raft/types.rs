//! The types with which openraft is instantiated here, under short names.

use std::io::Cursor;

use rotation::{Entry, Outcome, Rejection};
use serde::{Deserialize, Serialize};

/// What applying one entry of the log led to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Applied {
    /// The entry was consensus's own: a blank one or a membership.
    Nothing,
    /// The domain took it.
    Done(Outcome),
    /// The domain refused it; the state is as it was.
    Refused(Rejection),
}

openraft::declare_raft_types!(
    /// Consensus over entries of the domain.
    pub(crate) TypeConfig:
        D = Entry,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type LogEntry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StorageIoError = openraft::StorageIOError<u64>;
