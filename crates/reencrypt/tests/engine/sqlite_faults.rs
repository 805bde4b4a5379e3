//! A full disk under a SQLite file, in both journal modes, in place and by copies, at every step there and back: a named
//! fault, no row lost, none turned twice, and the work goes on once there is room.

use std::sync::atomic::{AtomicBool, Ordering};

use reencrypt::{Engine, EngineError, NoteKind, ShardJob};
use rotation::{Direction, ShardTally, Strategy, Survey};
use sqlx::Connection as _;

use crate::farm::{Census, Found, Place, Vault, add, turned, under};
use crate::small_disk::SmallDisk;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'vault'\nkey = ['id']\n[[table.column]]\nname = 'secret'\n";

const TABLE: &str =
    "CREATE TABLE vault (id INTEGER PRIMARY KEY, owner int, secret BLOB); CREATE INDEX by_secret ON vault (secret)";

const ROWS: u64 = 4000;

struct Farm {
    vault: Vault,
    small: SmallDisk,
    survey: Survey,
    before: Census,
}

impl Farm {
    async fn new(journal_mode: &str, strategy: Strategy) -> Self {
        let mut vault = Vault::sqlite_bare(TARGETS);
        vault.strategy = strategy;
        let Place::Sqlite { directory } = &vault.place else { panic!("not SQLite") };
        let small = SmallDisk::mount_on(directory.path().to_owned(), "24m", "uid=0,gid=0");
        std::fs::write(directory.path().join("vault.db"), "").unwrap();
        vault.run(&format!("PRAGMA journal_mode = {journal_mode}; {TABLE}")).await;
        let secret = vault.literal(&vault.raw(&"x".repeat(500), ""));
        vault
            .run(&format!(
                "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS})
                 INSERT INTO vault SELECT n, n % 9, {secret} FROM s"
            ))
            .await;
        Self { survey: vault.survey().await, before: vault.census().await, vault, small }
    }

    fn jobs(&self, epoch: u64, direction: Direction) -> Vec<ShardJob> {
        let mark = self.vault.mark(epoch, direction);
        self.survey.shards.iter().map(|shard| self.vault.job(shard, epoch, mark)).collect()
    }

    async fn pass(&self, engine: &Engine, epoch: u64, direction: Direction) -> Result<ShardTally, EngineError> {
        let mut sum = ShardTally::default();
        for job in self.jobs(epoch, direction) {
            sum = add(&sum, &engine.reencrypt(&job, &|_| {}).await?);
        }
        Ok(sum)
    }

    async fn verify(&self, engine: &Engine, epoch: u64, direction: Direction) -> Result<ShardTally, EngineError> {
        let mut sum = ShardTally::default();
        for job in self.jobs(epoch, direction) {
            sum = add(&sum, &engine.verify(&job, &|_| {}).await?);
        }
        Ok(sum)
    }

    /// The step on a full disk, and again with room. Some steps need none. With a write-ahead log the first session cannot
    /// even be opened there, so it is tried beside an open one too.
    async fn full_then_not<T>(&self, name: &str, step: impl AsyncFn(&Engine) -> Result<T, EngineError>) -> T {
        let engine = self.vault.engine().await;
        for beside_another in [false, true] {
            let mut another = self.vault.sqlite_connection().await;
            if beside_another {
                sqlx::raw_sql("SELECT 1 FROM vault LIMIT 1").execute(&mut another).await.unwrap();
            }
            self.small.fill();
            let done = step(&engine).await;
            self.small.clear();
            another.close().await.unwrap();
            self.whole().await;
            match done {
                Ok(done) => return done,
                Err(error) => told(name, &error),
            }
        }
        step(&engine).await.unwrap()
    }

    /// Every value is there, says what it said, and is under one of the two keys.
    async fn whole(&self) {
        let census = self.vault.census().await;
        assert_eq!(census.len(), self.before.len());
        let plain = |found: &Found| match found {
            Found::Old(plaintext) | Found::New(plaintext) => plaintext.clone(),
            other => panic!("{other:?}"),
        };
        assert!(census.iter().zip(&self.before).all(|(now, then)| now.0 == then.0 && plain(now.1) == plain(then.1)));
    }
}

#[track_caller]
fn told(name: &str, error: &EngineError) {
    let fault = error.fault();
    assert!(fault.retryable && fault.message.contains("is full"), "{name}: {fault:?}");
    assert_eq!(fault.next_step, "make room on the database's disk", "{name}: {fault:?}");
}

async fn there_and_back(journal_mode: &str, strategy: Strategy) {
    let farm = Farm::new(journal_mode, strategy).await;
    let mark = |epoch, direction| farm.vault.mark(epoch, direction);
    let (forward, back) = (Direction::Forward, Direction::Back);
    farm.full_then_not("fence", async |engine| engine.fence(&mark(1, forward)).await).await;

    // It fills up when some rows are through.
    let engine = farm.vault.engine().await;
    let filled = AtomicBool::new(false);
    let fill = |_rows| {
        if !filled.swap(true, Ordering::SeqCst) {
            farm.small.fill();
        }
    };
    told("under way", &engine.reencrypt(&farm.jobs(2, forward)[0], &fill).await.unwrap_err());
    farm.small.clear();
    farm.whole().await;
    if strategy == Strategy::InPlace {
        let (old, new) = under(&farm.vault.census().await);
        assert!(old > 0 && new > 0, "{old} and {new}");
    }
    let tally = farm.full_then_not("turn", async |engine| farm.pass(engine, 2, forward).await).await;
    assert_eq!((tally.rows, tally.values), (ROWS, ROWS));
    farm.full_then_not("finish", async |engine| engine.finish_shadows(&mark(2, forward), &|_| {}).await).await;
    let verified = farm.full_then_not("verify", async |engine| farm.verify(engine, 3, forward).await).await;
    assert_eq!(verified, tally);
    let swap = farm.vault.swap_job(&farm.survey, mark(4, forward));
    farm.full_then_not("swap", async |engine| engine.swap(&swap, &|_| {}).await).await;
    assert!(farm.vault.census().await == turned(&farm.before));
    farm.full_then_not("lift", async |engine| engine.lift_fence(&mark(5, forward)).await).await;
    let note = NoteKind::Started;
    farm.full_then_not("note", async |engine| engine.note(&farm.vault.rotation, note, "node-1").await).await;

    farm.full_then_not("turn back", async |engine| engine.turn_back(&mark(6, back)).await).await;
    let swap = farm.vault.swap_job(&farm.survey, mark(7, back));
    farm.full_then_not("swap back", async |engine| engine.swap_back(&swap, &|_| {}).await).await;
    farm.full_then_not("restore", async |engine| farm.pass(engine, 8, back).await).await;
    assert!(farm.vault.census().await == farm.before);
    let restored = farm.full_then_not("verify restored", async |engine| farm.verify(engine, 9, back).await).await;
    assert_eq!(restored.digest, tally.digest);
    farm.full_then_not("lift back", async |engine| engine.lift_fence(&mark(10, back)).await).await;
    farm.full_then_not("close", async |engine| engine.close(&mark(11, back)).await).await;
    assert!(farm.vault.census().await == farm.before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_told_and_the_work_goes_on_once_there_is_room_in_place_with_a_rollback_journal() {
    there_and_back("DELETE", Strategy::InPlace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_told_and_the_work_goes_on_once_there_is_room_in_place_with_a_write_ahead_log() {
    there_and_back("WAL", Strategy::InPlace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_told_and_the_work_goes_on_once_there_is_room_by_copies_with_a_rollback_journal() {
    there_and_back("DELETE", Strategy::Shadow).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_told_and_the_work_goes_on_once_there_is_room_by_copies_with_a_write_ahead_log() {
    there_and_back("WAL", Strategy::Shadow).await;
}
