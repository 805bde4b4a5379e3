//! An agent that is stopped by a signal in the middle of a chunk, whose shard is given to another agent meanwhile, and that
//! goes on afterwards: it changes nothing, neither forward nor after an undo. Two agents, each a process of its own.

use rotation::{Answer, Direction, FaultCode, LeaseNumber, Work};

use crate::process::{Action, Place, Points, Process};
use crate::servers::{Mariadb, Postgres};
use crate::support::database::Database;
use crate::support::leader::plan;
use crate::support::{Failure, Farm, Instance, Leader};

const SECOND: &str = "node-2";

/// Before the transaction of a chunk, with its rows read and turned in memory.
const BEFORE: &str = "CHUNK/before";
/// In that transaction, with everything written and nothing committed.
const INSIDE: &str = "CHUNK_COMMITTED/before";

/// A farm of two nodes in Reencrypt.
struct Pair {
    farm: Farm,
    first: Process,
    second: Process,
    /// Gives work to the first.
    leader: Leader,
    points: Points,
}

impl Pair {
    async fn sqlite() -> Self {
        Self::of(Farm::new().await).await
    }

    async fn on(database: impl Database + 'static) -> Self {
        Self::of(Farm::on(tempfile::tempdir().unwrap(), Box::new(database)).await).await
    }

    async fn of(farm: Farm) -> Self {
        let folder = farm.path().join(SECOND);
        let instance = Instance::install(folder.join("instance"));
        farm.configure(SECOND, &instance, &folder);
        let points = Points::in_folder(&farm.path().join("points"));
        let first = Process::start(farm.path(), &points);
        let second = Process::start(&folder, &Points::in_folder(&folder.join("points")));
        let leader = Leader::enrolled(&farm, &first).await;
        let mut pair = Self { farm, first, second, leader, points };
        pair.other().adopt(&pair.farm, &pair.second).await.unwrap();
        pair.quiesce().await;
        pair
    }

    /// The same leader, towards the second node.
    fn other(&self) -> Leader {
        let mut other = self.leader.clone();
        other.node = SECOND.parse().unwrap();
        other.reconnect(&self.farm, &self.second);
        other
    }

    async fn both(&self, work: Work) {
        self.leader.answer(work.clone()).await;
        self.other().answer(work).await;
    }

    async fn quiesce(&mut self) {
        self.leader.preflight(&self.farm).await;
        let mut inspections = Vec::new();
        for leader in [self.leader.clone(), self.other()] {
            let Answer::Inspected(inspection) = leader.answer(Work::Inspect).await else { unreachable!() };
            inspections.push((leader.node, *inspection));
        }
        let mut both = plan(self.leader.rotation, inspections, empty_survey());
        let planned = self.leader.read_plan();
        (both.tables, both.shards, both.writers_max) = (planned.tables, planned.shards, planned.writers_max);
        self.leader.plan = Some(both.to_bytes());
        self.leader.approve(&self.farm);
        self.leader.next_phase();
        self.both(Work::StoreKey).await;
        self.leader.next_phase();
        self.both(Work::TakeOffline).await;
        self.leader.answer(Work::FenceDatabase).await;
        self.leader.next_phase();
    }

    fn shard(&self, index: usize, lease: u64, direction: Direction) -> Work {
        let shard = self.leader.read_plan().shards[index].clone();
        Work::ReencryptShard { shard, lease: LeaseNumber::new(lease), direction, rows_per_second: None }
    }

    fn read_back(&self, index: usize, direction: Direction) -> Work {
        let shard = self.leader.read_plan().shards[index].clone();
        Work::VerifyShard { shard, lease: LeaseNumber::new(9), direction, rows_per_second: None }
    }

    /// The first agent begins the first shard and stops there. What it answers comes when it goes on.
    async fn stop_at(&self, place: &str) -> tokio::task::JoinHandle<Result<Answer, Failure>> {
        self.points.arm(&Place { name: place.to_owned(), nth: 0 }, Action::Stop);
        let (leader, work) = (self.leader.clone(), self.shard(0, 1, Direction::Forward));
        let asked = tokio::spawn(async move { leader.ask(work).await });
        while !self.first.has_stopped() {
            if asked.is_finished() {
                panic!("it did not stop at {place}: {:?}", asked.await.unwrap());
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.points.disarm();
        asked
    }

    /// It goes on, and is told that it is late, at once or when it asks again; no row has changed since.
    async fn wakes_in_vain(&self, asked: tokio::task::JoinHandle<Result<Answer, Failure>>, epoch: rotation::Epoch) {
        let rows = self.farm.database.rows().await;
        self.first.go_on();
        let failure = asked.await.unwrap().expect_err("it came too late");
        let mut leader = self.leader.clone();
        leader.reconnect(&self.farm, &self.first);
        leader.fence.epoch = epoch;
        if let Failure::Fault(fault) = failure {
            assert!(fault.code == FaultCode::Superseded || fault.retryable, "{fault}");
        }
        let again = leader.ask(self.shard(0, 1, Direction::Forward)).await.expect_err("it is late still");
        if let Failure::Fault(fault) = again {
            assert_eq!(fault.code, FaultCode::Superseded, "{fault}");
        }
        assert_eq!(self.farm.database.rows().await, rows, "a row changed after it woke");
    }

    /// The shard moves to the second agent while the first stands still.
    async fn moved(&self, place: &str) {
        let shards = self.leader.read_plan().shards.len();
        let asked = self.stop_at(place).await;
        let other = self.other();
        let turned = other.answer(self.shard(0, 2, Direction::Forward)).await;
        for index in 1..shards {
            other.answer(self.shard(index, 1, Direction::Forward)).await;
        }
        self.farm.assert_rows_under(&self.farm.new).await;
        self.wakes_in_vain(asked, self.leader.fence.epoch).await;
        self.farm.assert_rows_under(&self.farm.new).await;
        let read = other.answer(self.read_back(0, Direction::Forward)).await;
        let (Answer::ShardReencrypted { tally: turned, .. }, Answer::ShardVerified { tally: read, .. }) =
            (turned, read)
        else {
            panic!("other answers")
        };
        assert_eq!(turned, read);
    }

    /// Everything is undone by the second agent while the first stands still.
    async fn undone(mut self, place: &str) {
        let shards = self.leader.read_plan().shards.len();
        if shards > 1 {
            // Turned already, so that there is something to undo beside what the first has begun.
            self.other().answer(self.shard(shards - 1, 1, Direction::Forward)).await;
        }
        let epoch = self.leader.fence.epoch;
        let asked = self.stop_at(place).await;
        self.leader.next_phase();
        self.other().answer(Work::TurnBack).await;
        self.leader.next_phase();
        let other = self.other();
        for index in 0..shards {
            other.answer(self.shard(index, 3, Direction::Back)).await;
        }
        self.farm.assert_rows_under(&self.farm.old).await;
        self.wakes_in_vain(asked, epoch).await;
        for index in 0..shards {
            other.answer(self.read_back(index, Direction::Back)).await;
        }
        self.farm.assert_rows_under(&self.farm.old).await;
    }
}

fn empty_survey() -> rotation::Survey {
    rotation::Survey {
        kind: rotation::DatabaseKind::Sqlite,
        tables: Vec::new(),
        shards: Vec::new(),
        writers_max: 1,
        undecryptable: Vec::new(),
        undecryptable_total: 0,
        downtime_forecast_ms: 0,
        unseen: rotation::Unseen::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_whose_shard_moved_changes_nothing_on_sqlite() {
    Pair::sqlite().await.moved(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_whose_shard_moved_changes_nothing_on_postgres() {
    Pair::on(Postgres::new().await).await.moved(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_whose_shard_moved_changes_nothing_on_mariadb() {
    Pair::on(Mariadb::new().await).await.moved(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_changes_nothing_after_an_undo_on_sqlite() {
    Pair::sqlite().await.undone(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_changes_nothing_after_an_undo_on_postgres() {
    Pair::on(Postgres::new().await).await.undone(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_before_a_chunk_an_agent_changes_nothing_after_an_undo_on_mariadb() {
    Pair::on(Mariadb::new().await).await.undone(BEFORE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_a_chunk_an_agent_whose_shard_moved_changes_nothing_on_postgres() {
    Pair::on(Postgres::new().await).await.moved(INSIDE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_a_chunk_an_agent_whose_shard_moved_changes_nothing_on_mariadb() {
    Pair::on(Mariadb::new().await).await.moved(INSIDE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_a_chunk_an_agent_changes_nothing_after_an_undo_on_postgres() {
    Pair::on(Postgres::new().await).await.undone(INSIDE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_a_chunk_an_agent_changes_nothing_after_an_undo_on_mariadb() {
    Pair::on(Mariadb::new().await).await.undone(INSIDE).await;
}

/// Nobody can end its transaction on SQLite, so nobody gets past it: it is named to whoever waits, and what it has
/// written is valid, or gone with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_inside_a_chunk_on_sqlite_an_agent_is_named_until_it_ends() {
    for goes_on in [true, false] {
        let pair = Pair::sqlite().await;
        let asked = pair.stop_at(INSIDE).await;
        let other = pair.other();
        for work in [pair.shard(0, 2, Direction::Forward), Work::TurnBack].into_iter().take(if goes_on { 2 } else { 1 })
        {
            let fault = match other.ask(work).await.unwrap_err() {
                Failure::Fault(fault) => fault,
                Failure::Refused(status) => panic!("refused: {status}"),
            };
            assert!(fault.retryable && fault.code == FaultCode::Database, "{fault}");
            let named = format!("process {} ", pair.first.id());
            assert!(fault.message.contains(&named) && fault.message.contains("which is stopped"), "{fault}");
        }
        if goes_on {
            pair.first.go_on();
            // Nobody waits that long on one call; asked again, it has done what it was asked to.
            let _ = asked.await.unwrap();
            let mut leader = pair.leader.clone();
            leader.reconnect(&pair.farm, &pair.first);
            leader.answer(pair.shard(0, 1, Direction::Forward)).await;
        } else {
            pair.first.kill();
            assert!(asked.await.unwrap().is_err());
        }
        other.answer(pair.shard(0, 2, Direction::Forward)).await;
        other.answer(pair.read_back(0, Direction::Forward)).await;
    }
}
