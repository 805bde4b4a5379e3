//! A disk that is full under the agent's own files or under the key store, at every step there and back: a fault or a refusal
//! that says what to do, nothing lost, no file torn, and the same assignment is done once there is room.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rotation::{Direction, FaultCode, Work};

use crate::small_disk::SmallDisk;
use crate::support::{ACTIVATED_AT, Failure, Farm, Leader};

/// One of the node's folders, on a disk of its own.
struct OnSmallDisk<'a> {
    farm: &'a Farm,
    small: SmallDisk,
    path: PathBuf,
    /// The kinds of work that were not done for lack of room.
    wanted_room: Vec<rotation::WorkKind>,
}

impl<'a> OnSmallDisk<'a> {
    /// What lies in the folder comes along.
    fn new(farm: &'a Farm, path: PathBuf) -> Self {
        let content = if path.exists() { files(&path) } else { BTreeMap::new() };
        fs::create_dir_all(&path).unwrap();
        let small = SmallDisk::mount_on(path.clone(), "256k", "uid=0,gid=0");
        for (name, bytes) in content {
            fs::write(path.join(name), bytes).unwrap();
        }
        Self { farm, small, path, wanted_room: Vec::new() }
    }

    /// The work on a full disk, and again with room. Some needs none.
    async fn full_then_not(&mut self, leader: &Leader, work: Work) {
        let before = files(&self.path);
        self.small.fill();
        let asked = leader.ask(work.clone()).await;
        let after = files(&self.path);
        assert!(self.farm.instance.store().current().is_ok(), "{}", work.kind());
        assert!(self.farm.instance.store().pending().is_ok(), "{}", work.kind());
        self.small.clear();
        if let Err(failure) = asked {
            assert_says_so(&work, failure);
            self.wanted_room.push(work.kind());
            let kept = before.iter().all(|(name, content)| after.get(name) == Some(content));
            // What is replaced is replaced as a whole, and what could not be written leaves nothing beside it.
            let torn = after.keys().any(|name| name.ends_with(".tmp")) || after.values().any(Vec::is_empty);
            assert!(kept && !torn, "{}: {:?} became {:?}", work.kind(), before.keys(), after.keys());
        }
        leader.answer(work).await;
    }

    async fn rows(&mut self, leader: &Leader, direction: Direction, verify: bool) {
        for shard in leader.read_plan().shards {
            let lease = rotation::LeaseNumber::new(leader.fence.epoch.get());
            let rows_per_second = None;
            let work = if verify {
                Work::VerifyShard { shard, lease, direction, rows_per_second }
            } else {
                Work::ReencryptShard { shard, lease, direction, rows_per_second }
            };
            self.full_then_not(leader, work).await;
        }
    }
}

fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        // But for what fills the disk, and what is always empty.
        .filter(|entry| entry.path().is_file())
        .filter(|entry| !["other", "lock"].contains(&entry.file_name().to_str().unwrap()))
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[track_caller]
fn assert_says_so(work: &Work, failure: Failure) {
    let (message, next_step) = match failure {
        Failure::Fault(fault) => {
            assert!(fault.retryable, "{fault}");
            assert!([FaultCode::KeyStore, FaultCode::Internal].contains(&fault.code), "{fault}");
            (fault.message, fault.next_step)
        }
        Failure::Refused(status) => {
            let problem = wire::status::problem(&status).unwrap();
            assert_eq!((status.code(), problem.reason.as_str()), (tonic::Code::Unavailable, "AGENT_STATE"), "{status}");
            (problem.message, problem.next_step)
        }
    };
    assert!(message.contains("No space left on device"), "{}: {message}", work.kind());
    assert!(next_step.contains("disk is full"), "{}: {next_step}", work.kind());
}

/// A whole rotation up to the proof of the started instance, then all the way back.
async fn there_and_back(folder: &str) -> Vec<rotation::WorkKind> {
    let farm = Farm::new().await;
    let mut disk = OnSmallDisk::new(&farm, farm.path().join(folder));
    let mut agent = farm.start().await;
    let mut leader = Leader::enrolled(&farm, &agent).await;
    leader.next_phase();
    disk.full_then_not(&leader, Work::Inspect).await;
    leader.preflight(&farm).await;
    leader.approve(&farm);
    leader.next_phase();
    disk.full_then_not(&leader, Work::StoreKey).await;
    leader.next_phase();
    disk.full_then_not(&leader, Work::TakeOffline).await;

    // An agent that starts there still knows that the instance is held, and obeys.
    agent.kill().await;
    disk.small.fill();
    agent = farm.start().await;
    leader.reconnect(&farm, &agent);
    assert!(leader.describe().await.held_offline);
    disk.small.clear();

    disk.full_then_not(&leader, Work::FenceDatabase).await;
    for verify in [false, true] {
        leader.next_phase();
        disk.rows(&leader, Direction::Forward, verify).await;
    }
    leader.next_phase();
    disk.full_then_not(&leader, Work::ActivateKey { at: ACTIVATED_AT }).await;
    leader.next_phase();
    leader.let_in().await;
    disk.full_then_not(&leader, Work::StartInstance { key: farm.new.id() }).await;

    for work in [Work::TurnBack, Work::TakeOffline, Work::RestoreKey] {
        leader.next_phase();
        disk.full_then_not(&leader, work).await;
    }
    for verify in [false, true] {
        leader.next_phase();
        disk.rows(&leader, Direction::Back, verify).await;
    }
    for work in [
        Work::LiftFence { direction: Direction::Back, position: None },
        Work::StartInstance { key: farm.old.id() },
        Work::AdmitInstance,
        Work::DiscardKey,
        Work::CloseLedger { direction: Direction::Back },
    ] {
        leader.next_phase();
        disk.full_then_not(&leader, work).await;
    }
    farm.assert_rows_under(&farm.old).await;
    let described = leader.describe().await;
    assert_eq!((described.current_key, described.pending_key), (farm.old.id().to_string(), String::new()));
    assert!(!described.held_offline);
    assert_eq!(farm.instance.state(), "online");
    disk.wanted_room
}

#[tokio::test]
async fn a_full_disk_under_the_agents_own_files_is_told_and_every_work_is_done_once_there_is_room() {
    use rotation::WorkKind::{Inspect, RestoreKey, StoreKey, TakeOffline};
    let wanted_room = there_and_back("state").await;
    // Each of these begins an epoch, which is written before anything is done.
    for kind in [Inspect, StoreKey, TakeOffline, RestoreKey] {
        assert!(wanted_room.contains(&kind), "{kind} needed no room: {wanted_room:?}");
    }
}

#[tokio::test]
async fn a_full_disk_under_the_key_store_is_told_and_every_work_is_done_once_there_is_room() {
    use rotation::WorkKind::{RestoreKey, StoreKey};
    let wanted_room = there_and_back("instance/application").await;
    // The others rename and delete.
    for kind in [StoreKey, RestoreKey] {
        assert!(wanted_room.contains(&kind), "{kind} needed no room: {wanted_room:?}");
    }
}
