//! What comes between a rotation and its end in PostgreSQL where tables are turned in place: connections that are lost at
//! every statement, locks of others, full disks. A named error, nothing lost, nothing done twice, and the work goes on.

use reencrypt::{DatabaseConfig, Engine, EngineError, NoteKind};
use rotation::{Direction, Survey};

use crate::farm::{Census, Found, Place, Vault, turned, under};
use crate::proxy::{Cut, Proxy};
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

    async fn pass(&self, engine: &Engine, epoch: u64, direction: Direction, verify: bool) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            let job = self.vault.job(shard, epoch, self.vault.mark(epoch, direction));
            let done = if verify { engine.verify(&job, &|_| {}).await } else { engine.reencrypt(&job, &|_| {}).await };
            done?;
        }
        Ok(())
    }

    /// Does the step again and again, letting one statement more through each time, until it is done. After each try
    /// every value opens under exactly one key, and none came or went.
    async fn through_cuts(&self, cut: Cut, step: impl AsyncFn(&Engine) -> Result<(), EngineError>) -> i64 {
        let Place::Postgres { cluster, database, agent, .. } = &self.vault.place else { panic!("not PostgreSQL") };
        for statements in 1..STATEMENTS_MAX {
            let proxy = Proxy::new(cluster.socket_directory().to_owned(), statements, cut);
            let config = DatabaseConfig { url: proxy.url(agent, database), ..self.vault.config.clone() };
            let engine = Engine::connect(&config, self.vault.targets.clone()).await.unwrap();
            match step(&engine).await {
                Ok(()) if proxy.has_cut() => {}
                Ok(()) => return statements,
                Err(error) => {
                    let fault = error.fault();
                    assert!(fault.retryable, "after {statements} statements: {}", fault.message);
                }
            }
            self.whole().await;
        }
        panic!("it is not done after {STATEMENTS_MAX} statements")
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
