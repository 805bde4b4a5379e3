//! The store under openraft's own suite, and what that suite does not see: what is left after the power went.

use std::sync::{Arc, Mutex};
use std::{fmt, io};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use redb::{Builder, Database, StorageBackend};
use rotation::{ClusterId, Entry, Event, Millis};

use super::log::Log;
use super::machine::Machine;
use super::store::Store;
use super::types::{Applied, LogEntry, LogId, StorageError, TypeConfig, Vote};

struct OnDisk;

impl StoreBuilder<TypeConfig, Log, Machine> for OnDisk {
    async fn build(&self) -> Result<((), Log, Machine), StorageError> {
        let store = Disk::default().open();
        let machine = Machine::open(store.clone()).expect("opens");
        Ok(((), Log::new(store), machine))
    }
}

#[test]
fn openraft_finds_nothing_wrong_with_the_store() {
    Suite::test_all(OnDisk).expect("the suite passes");
}

/// A disk whose unsynced writes can be lost.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<Images>>);

#[derive(Default)]
struct Images {
    /// What the process sees.
    seen: Vec<u8>,
    /// What is left when the power goes.
    safe: Vec<u8>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// What another process finds after this one lost its power now.
    fn after_power_loss(&self) -> Self {
        let safe = self.0.lock().expect("not poisoned").safe.clone();
        Self(Arc::new(Mutex::new(Images { seen: safe.clone(), safe })))
    }

    fn open(&self) -> Store {
        let database: Database = Builder::new().create_with_backend(self.clone()).expect("opens");
        Store::with_database(database).expect("opens")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().expect("not poisoned").seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(&self.0.lock().expect("not poisoned").seen[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().expect("not poisoned").seen.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut images = self.0.lock().expect("not poisoned");
        images.safe = images.seen.clone();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = offset as usize;
        self.0.lock().expect("not poisoned").seen[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 0), index)
}

fn entry(term: u64, index: u64) -> LogEntry {
    blank_ent::<TypeConfig>(term, 0, index)
}

/// Founds a cluster whose id is made of the index, so that a second one is refused.
fn founding(index: u64) -> LogEntry {
    let cluster = ClusterId::new(uuid::Uuid::from_u128(index.into()));
    let event = Event::FarmFounded { cluster, farm: "demo".to_owned() };
    LogEntry { log_id: log_id(1, index), payload: EntryPayload::Normal(Entry { at: Millis::new(5), event }) }
}

fn indexes(entries: &[LogEntry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_loss_of_power() {
    let disk = Disk::default();
    let mut log = Log::new(disk.open());

    log.save_vote(&Vote::new(3, 1)).await.expect("saves");
    let store = disk.after_power_loss().open();
    assert_eq!(store.vote().expect("reads"), Some(Vote::new(3, 1)));

    log.blocking_append([entry(1, 0), entry(1, 1), entry(1, 2)]).await.expect("appends");
    let store = disk.after_power_loss().open();
    assert_eq!(indexes(&store.entries(..).expect("reads")), [0, 1, 2]);

    log.truncate(log_id(1, 2)).await.expect("truncates");
    log.blocking_append([entry(2, 2)]).await.expect("appends");
    log.purge(log_id(1, 0)).await.expect("purges");
    let mut reopened = Log::new(disk.after_power_loss().open());
    let state = reopened.get_log_state().await.expect("reads");
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 0)), Some(log_id(2, 2))));
    assert_eq!(indexes(&reopened.try_get_log_entries(..).await.expect("reads")), [1, 2]);
}

#[tokio::test]
async fn what_is_committed_never_runs_ahead_of_the_log_on_the_disk() {
    let disk = Disk::default();
    let mut log = Log::new(disk.open());
    log.blocking_append([entry(1, 0), entry(1, 1)]).await.expect("appends");
    log.save_committed(Some(log_id(1, 1))).await.expect("saves");
    // The pointer is a hint and may be lost …
    assert_eq!(disk.after_power_loss().open().committed().expect("reads"), None);
    // … but goes to disk with the next write.
    log.blocking_append([entry(1, 2)]).await.expect("appends");
    assert_eq!(disk.after_power_loss().open().committed().expect("reads"), Some(log_id(1, 1)));
}

#[tokio::test]
async fn a_snapshot_restores_the_state_it_was_taken_of() {
    let disk = Disk::default();
    let mut machine = Machine::open(disk.open()).expect("opens");
    let watch = machine.watch();
    let applied = machine.apply([entry(1, 0), founding(1), founding(2)]).await.expect("applies");
    assert!(matches!(applied[..], [Applied::Nothing, Applied::Done(_), Applied::Refused(_)]), "{applied:?}");
    machine.get_snapshot_builder().await.build_snapshot().await.expect("builds");
    let before = watch.borrow().clone();
    assert_eq!(before.farm, "demo");

    let mut reopened = Machine::open(disk.after_power_loss().open()).expect("opens");
    assert_eq!(*reopened.watch().borrow(), before);
    assert_eq!(reopened.applied_state().await.expect("reads").0, Some(log_id(1, 2)));

    // A follower that takes it over holds the same, and keeps it.
    let disk = Disk::default();
    let mut follower = Machine::open(disk.open()).expect("opens");
    let snapshot = reopened.get_current_snapshot().await.expect("reads").expect("there is one");
    follower.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect("installs");
    assert_eq!(*follower.watch().borrow(), before);
    assert_eq!(*Machine::open(disk.after_power_loss().open()).expect("opens").watch().borrow(), before);
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_installed() {
    let mut machine = Machine::open(Disk::default().open()).expect("opens");
    machine.apply([founding(1)]).await.expect("applies");
    machine.get_snapshot_builder().await.build_snapshot().await.expect("builds");
    let mut snapshot = machine.get_current_snapshot().await.expect("reads").expect("there is one");
    let length = snapshot.snapshot.get_ref().len();
    snapshot.snapshot.get_mut().truncate(length - 1);
    machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.expect_err("refused");
    assert_eq!(machine.watch().borrow().farm, "demo");
}

#[tokio::test]
async fn a_read_for_replication_is_bounded_but_never_empty() {
    let mut log = Log::new(Disk::default().open());
    let large = |index| {
        let event = Event::FarmFounded { cluster: ClusterId::new(uuid::Uuid::nil()), farm: "x".repeat(200 * 1024) };
        LogEntry { log_id: log_id(1, index), payload: EntryPayload::Normal(Entry { at: Millis::new(0), event }) }
    };
    log.blocking_append([large(0), large(1), entry(1, 2), entry(1, 3)]).await.expect("appends");
    assert_eq!(indexes(&log.limited_get_log_entries(0, 4).await.expect("reads")), [0]);
    assert_eq!(indexes(&log.limited_get_log_entries(1, 4).await.expect("reads")), [1, 2, 3]);
}

#[test]
fn a_directory_belongs_to_one_replica_and_one_process() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::open(directory.path(), "demo", 1).expect("opens");
    let refused = |replica| Store::open(directory.path(), "demo", replica).err().expect("refused").to_string();
    assert!(refused(1).contains("no other coordinator uses this data_dir"));
    let closed = store.closed();
    drop(store);
    assert!(closed.is_cancelled());
    assert!(refused(2).contains("belongs to replica 1 of the farm demo, and this is replica 2"));
    Store::open(directory.path(), "demo", 1).expect("opens again");
}

#[test]
fn the_file_is_for_its_owner_alone_in_whatever_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("raft.redb");
    let mode = || std::fs::metadata(&file).expect("is there").permissions().mode() & 0o777;
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("may be set");
    drop(Store::open(directory.path(), "demo", 1).expect("opens"));
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("may be set");
    Store::open(directory.path(), "demo", 1).expect("opens again");
    assert_eq!(mode(), 0o600);
}
