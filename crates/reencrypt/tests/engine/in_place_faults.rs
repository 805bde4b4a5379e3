//! What comes between a rotation and its end in PostgreSQL where tables are turned in place: connections that are lost at
//! every statement or ended by an administrator, sessions that say nothing any more, cancelled statements, locks of others,
//! full disks. A named error, nothing lost, nothing done twice, and the work goes on.

use std::sync::atomic::{AtomicBool, Ordering};

use reencrypt::{DatabaseConfig, Engine, EngineError, NoteKind};
use rotation::{Direction, Shard, Survey};

use crate::farm::{Census, Found, Place, Vault, request, stand_still, turned, under};
use crate::proxy::{Cut, ENDLESS, Proxy, through_cuts};
use crate::small_disk::SmallDisk;

/// More than any step sends.
const STATEMENTS_MAX: i64 = 400;

struct Farm {
    vault: Vault,
    survey: Survey,
    before: Census,
}

impl Farm {
    async fn new(vault: Vault, size: i64) -> Self {
        vault.seed(size).await;
        Self { survey: vault.survey().await, before: vault.census().await, vault }
    }

    /// With one shard for each table, the largest of which takes several chunks.
    async fn of_whole_tables(vault: Vault) -> Self {
        let mut farm = Self::new(vault, 6000).await;
        let ring = keys::KeySet::new("farm", farm.vault.old.clone(), 0);
        farm.survey = farm.vault.engine().await.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
        farm
    }

    async fn pass(&self, engine: &Engine, epoch: u64, direction: Direction, verify: bool) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            let job = self.vault.job(shard, epoch, self.vault.mark(epoch, direction));
            let done = if verify { engine.verify(&job, &|_| {}).await } else { engine.reencrypt(&job, &|_| {}).await };
            done?;
        }
        Ok(())
    }

    /// After each try every value opens under exactly one key, and none came or went.
    async fn through_cuts(&self, cut: Cut, step: impl AsyncFn(&Engine) -> Result<(), EngineError>) -> i64 {
        through_cuts(&self.vault, cut, STATEMENTS_MAX, step, async || self.whole().await).await
    }

    fn largest(&self) -> Shard {
        self.survey.shards.iter().max_by_key(|shard| shard.rows_estimated).unwrap().clone()
    }

    /// The pass is done, with every row counted once, and verified.
    async fn comes_to_its_end(&self) {
        let tally = self.vault.reencrypt_all(&self.survey, 3, self.vault.mark(2, Direction::Forward)).await.unwrap();
        assert_eq!(tally.rows, self.survey.shards.iter().map(|shard| shard.rows_estimated).sum::<u64>());
        assert_eq!(
            self.vault.verify_all(&self.survey, 4, self.vault.mark(3, Direction::Forward)).await.unwrap(),
            tally
        );
        assert!(self.vault.census().await == turned(&self.before));
    }

    /// Every value is there, says what it said, and is under one of the two keys.
    async fn whole(&self) {
        let census = self.vault.census().await;
        assert_eq!(census.len(), self.before.len());
        let plain = |found: &Found| match found {
            Found::Old(plaintext) | Found::New(plaintext) => Some(plaintext.clone()),
            Found::Null | Found::Empty => None,
            Found::Neither(_) => panic!("a value opens under no key"),
        };
        assert!(census.iter().zip(&self.before).all(|(now, then)| now.0 == then.0 && plain(now.1) == plain(then.1)));
    }
}

async fn cut_everywhere(cut: Cut) {
    let farm = Farm::new(Vault::postgres().await, 8).await;
    let mark = |epoch, direction| farm.vault.mark(epoch, direction);
    let (forward, back) = (Direction::Forward, Direction::Back);
    let mut cuts = 0;
    cuts += farm.through_cuts(cut, async |engine| engine.fence(&mark(1, forward)).await.map(drop)).await;
    assert!(farm.vault.application().await.is_err());
    cuts += farm.through_cuts(cut, async |engine| farm.pass(engine, 2, forward, false).await).await;
    assert!(farm.vault.census().await == turned(&farm.before));
    cuts += farm.through_cuts(cut, async |engine| farm.pass(engine, 3, forward, true).await).await;
    cuts += farm.through_cuts(cut, async |engine| engine.lift_fence(&mark(4, forward)).await).await;
    let note = NoteKind::Started;
    cuts += farm.through_cuts(cut, async |engine| engine.note(&farm.vault.rotation, note, "node-1").await).await;
    // And all the way back.
    cuts += farm.through_cuts(cut, async |engine| engine.turn_back(&mark(5, back)).await).await;
    assert!(farm.vault.application().await.is_err());
    cuts += farm.through_cuts(cut, async |engine| farm.pass(engine, 6, back, false).await).await;
    assert!(farm.vault.census().await == farm.before);
    cuts += farm.through_cuts(cut, async |engine| farm.pass(engine, 7, back, true).await).await;
    cuts += farm.through_cuts(cut, async |engine| engine.lift_fence(&mark(8, back)).await).await;
    cuts += farm.through_cuts(cut, async |engine| engine.close(&mark(9, back)).await).await;
    farm.vault.application().await.unwrap();
    assert!(cuts > 100, "{cuts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_be_lost_before_every_statement() {
    cut_everywhere(Cut::Before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_may_be_lost_after_every_statement() {
    cut_everywhere(Cut::After).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_may_end_the_sessions_at_every_statement() {
    cut_everywhere(Cut::Passed).await;
}

/// As when the machine of an agent stands still, or a network swallows everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_says_nothing_inside_a_chunk_is_ended_by_the_server_and_the_chunk_is_done_again() {
    let farm = Farm::of_whole_tables(Vault::postgres().await).await;
    farm.vault.engine().await.fence(&farm.vault.mark(1, Direction::Forward)).await.unwrap();
    let Place::Postgres { cluster, database, agent, .. } = &farm.vault.place else { panic!("not PostgreSQL") };
    let proxy = Proxy::new(cluster.socket_directory().to_owned(), ENDLESS, Cut::Passed);
    let config = DatabaseConfig { url: proxy.url(agent, database), ..farm.vault.config.clone() };
    let engine = Engine::connect(&config, farm.vault.targets.clone()).await.unwrap();
    let job = farm.vault.job(&farm.largest(), 2, farm.vault.mark(2, Direction::Forward));
    let hush = |_rows| proxy.hush();
    let silent = async {
        proxy.last().await;
        let in_a_chunk = format!(
            "SELECT CAST(count(*) AS text) FROM pg_stat_activity WHERE usename = '{agent}' AND state = 'idle in transaction'
             AND backend_xid IS NOT NULL AND query LIKE '%UPDATE%' AND query NOT LIKE '%keyturn.%'"
        );
        // The server may not have come to the end of the statement before yet.
        while farm.vault.text(&in_a_chunk).await != "1" {
            tokio::task::yield_now().await;
        }
    };
    let (done, ()) = tokio::join!(engine.reencrypt(&job, &hush), silent);
    let fault = done.unwrap_err().fault();
    assert!(fault.retryable && fault.message.contains("idle-in-transaction timeout"), "{fault:?}");
    farm.whole().await;
    let (old, new) = under(&farm.vault.census().await);
    assert!(old > 0 && new > 0, "{old} and {new}");
    farm.comes_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_time_limit_ends_a_statement_and_a_cancelled_one_is_a_fault_that_may_be_tried_again() {
    let farm = Farm::of_whole_tables(Vault::postgres().await).await;
    let Place::Postgres { agent, .. } = &farm.vault.place else { panic!("not PostgreSQL") };
    farm.vault.run(&format!("ALTER ROLE {agent} SET statement_timeout = '300ms'")).await;
    let engine = farm.vault.engine().await;
    engine.fence(&farm.vault.mark(1, Direction::Forward)).await.unwrap();
    let job = farm.vault.job(&farm.largest(), 2, farm.vault.mark(2, Direction::Forward));
    // Somebody holds rows behind the first chunk.
    let other = tokio::sync::Mutex::new(farm.vault.superuser().await);
    let held = AtomicBool::new(false);
    let hold = |_rows| {
        if !held.swap(true, Ordering::SeqCst) {
            let last = "BEGIN; SELECT 1 FROM connections ORDER BY id DESC LIMIT 10 FOR UPDATE";
            stand_still(async { sqlx::raw_sql(last).execute(&mut *other.lock().await).await.unwrap() });
        }
    };
    let cancelled = async {
        let waits = format!(
            "SELECT CAST(count(*) AS text) FROM pg_stat_activity WHERE usename = '{agent}' AND wait_event_type = 'Lock'
             AND clock_timestamp() - query_start > interval '600 ms'"
        );
        while farm.vault.text(&waits).await == "0" {
            tokio::task::yield_now().await;
        }
        let all = format!("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = '{agent}'");
        farm.vault.run(&all).await;
    };
    let (done, ()) = tokio::join!(engine.reencrypt(&job, &hold), cancelled);
    let fault = done.unwrap_err().fault();
    assert!(fault.retryable && fault.message.contains("canceling statement due to user request"), "{fault:?}");
    assert!(fault.message.contains("connections") && fault.next_step.contains("try again"), "{fault:?}");
    farm.whole().await;
    let (old, new) = under(&farm.vault.census().await);
    assert!(old > 0 && new > 0, "{old} and {new}");
    sqlx::raw_sql("ROLLBACK").execute(&mut *other.lock().await).await.unwrap();
    farm.comes_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_somebody_else_is_a_fault_that_names_what_waits_and_may_be_tried_again() {
    let farm = Farm::new(Vault::postgres().await, 100).await;
    let engine = farm.vault.engine().await;
    engine.fence(&farm.vault.mark(1, Direction::Forward)).await.unwrap();
    let mut other = farm.vault.superuser().await;
    sqlx::raw_sql("BEGIN; SELECT 1 FROM connections WHERE id = 0 FOR UPDATE").execute(&mut other).await.unwrap();
    let fault = farm.pass(&engine, 2, Direction::Forward, false).await.unwrap_err().fault();
    assert!(fault.retryable && fault.message.contains("lock timeout"), "{fault:?}");
    assert!(fault.message.contains("connections"), "{fault:?}");
    assert!(fault.next_step.contains("which session holds the lock"), "{fault:?}");
    farm.whole().await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    farm.pass(&engine, 2, Direction::Forward, false).await.unwrap();
    assert!(farm.vault.census().await == turned(&farm.before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_named_fault_and_the_work_goes_on_once_there_is_room() {
    let cluster = crate::cluster::shared();
    let small = SmallDisk::mount("4m");
    let name = small.tablespace(&cluster).await;
    let vault = Vault::postgres().await;
    vault
        .run(&format!("ALTER TABLE connections SET TABLESPACE {name}; ALTER TABLE connections SET (fillfactor = 100)"))
        .await;
    // One and a half megabytes: they fit, and twice with what is dead they do not.
    let farm = Farm::new(vault, 1_500).await;
    farm.vault.run("UPDATE connections SET name = repeat('x', 1000)").await;
    let engine = farm.vault.engine().await;
    engine.fence(&farm.vault.mark(1, Direction::Forward)).await.unwrap();
    let fault = farm.pass(&engine, 2, Direction::Forward, false).await.unwrap_err().fault();
    assert!(fault.retryable && fault.message.contains("No space left on device"), "{fault:?}");
    assert_eq!(fault.next_step, "make room on the database's disk");
    farm.whole().await;
    let (old, _) = under(&farm.vault.census().await);
    assert!(old > 0);
    small.grow("40m");
    farm.pass(&engine, 2, Direction::Forward, false).await.unwrap();
    farm.pass(&engine, 3, Direction::Forward, true).await.unwrap();
    assert!(farm.vault.census().await == turned(&farm.before));
    farm.vault.run("ALTER TABLE connections SET TABLESPACE pg_default").await;
    small.drop_tablespace(&cluster).await;
}
