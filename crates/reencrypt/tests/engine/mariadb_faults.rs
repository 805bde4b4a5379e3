//! What comes between a worker and its work in MariaDB and MySQL, in place and by copies: connections that are lost or ended at every
//! statement, locks of others, cancelled statements, full disks. A named error, nothing lost, and the work goes on where it
//! was.

use reencrypt::{Engine, EngineError, ShardJob, SwapJob};
use rotation::{Direction, Shard, Strategy, Survey};

use crate::farm::{Census, Found, Place, Vault, request, turned, under};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::{Make, Server, waits_for_a_row};
use crate::proxy::{Cut, ENDLESS, Proxy, engine_behind, through_cuts};
use crate::small_disk::SmallDisk;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'vault'\nkey = ['id']\n[[table.column]]\nname = 'secret'\n";

const TABLE: &str = "CREATE TABLE vault (id int PRIMARY KEY, owner int, secret longblob, KEY by_owner (owner))";

/// As many as take several chunks.
const ROWS: i64 = 3000;

/// More than any step of this small a table sends.
const STATEMENTS_MAX: i64 = 300;

/// How tables can go there.
fn strategies(make: Make) -> Vec<Strategy> {
    match make {
        Make::MariaDb => vec![Strategy::InPlace, Strategy::Shadow],
        Make::MySql => vec![Strategy::InPlace],
    }
}

struct Farm {
    vault: Vault,
    survey: Survey,
    census: Census,
}

impl Farm {
    async fn new(make: Make, strategy: Strategy, rows: i64) -> Self {
        Self::on(Vault::bare_made_by(make, TARGETS).await, strategy, rows, 1).await
    }

    /// Secrets of about so many letters.
    async fn on(mut vault: Vault, strategy: Strategy, rows: i64, letters: usize) -> Self {
        vault.strategy = strategy;
        vault.run(TABLE).await;
        vault.grant("vault", "", "secret").await;
        let rows: Vec<String> = (0..rows)
            .map(|at| {
                format!("({at}, {}, {})", at % 9, vault.literal(&vault.raw(&format!("secret {at:0letters$}"), "")))
            })
            .collect();
        for rows in rows.chunks(100) {
            vault.run(&format!("INSERT INTO vault VALUES {}", rows.join(","))).await;
        }
        let survey = vault.survey().await;
        // Only now: the survey measures for its forecast where it may.
        vault.grant_shadows().await;
        vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        Self { census: vault.census().await, vault, survey }
    }

    fn job(&self, shard: &Shard, epoch: u64, direction: Direction) -> ShardJob {
        self.vault.job(shard, epoch, self.vault.mark(epoch, direction))
    }

    fn swap_job(&self, epoch: u64, direction: Direction) -> SwapJob {
        self.vault.swap_job(&self.survey, self.vault.mark(epoch, direction))
    }

    async fn turn(&self, engine: &Engine) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            engine.reencrypt(&self.job(shard, 2, Direction::Forward), &|_| {}).await?;
        }
        engine.finish_shadows(&self.vault.mark(2, Direction::Forward), &|_| {}).await
    }

    async fn verify(&self, engine: &Engine) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            engine.verify(&self.job(shard, 3, Direction::Forward), &|_| {}).await?;
        }
        Ok(())
    }

    async fn swap(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.swap(&self.swap_job(4, Direction::Forward), &|_| {}).await
    }

    async fn turn_back(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.turn_back(&self.vault.mark(5, Direction::Back)).await
    }

    async fn swap_back(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.swap_back(&self.swap_job(6, Direction::Back), &|_| {}).await
    }

    async fn restore(&self, engine: &Engine) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            engine.reencrypt(&self.job(shard, 7, Direction::Back), &|_| {}).await?;
            engine.verify(&self.job(shard, 7, Direction::Back), &|_| {}).await?;
        }
        Ok(())
    }

    async fn let_in(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.lift_fence(&self.vault.mark(8, Direction::Back)).await
    }

    async fn close(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.close(&self.vault.mark(9, Direction::Back)).await
    }

    /// The server and the names that a connection past the proxy needs.
    async fn engine_behind(&self, statements: i64, cut: Cut) -> (Engine, Proxy) {
        engine_behind(&self.vault, statements, cut).await
    }

    async fn through_cuts(&self, cut: Cut, step: impl AsyncFn(&Engine) -> Result<(), EngineError>) -> i64 {
        through_cuts(&self.vault, cut, STATEMENTS_MAX, step, async || {}).await
    }

    async fn cut_everywhere(&self, cut: Cut) {
        let mut cuts = self.through_cuts(cut, async |engine| self.turn(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.verify(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.swap(engine).await).await;
        assert!(self.vault.census().await == turned(&self.census));
        cuts += self.through_cuts(cut, async |engine| self.turn_back(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.swap_back(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.restore(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.let_in(engine).await).await;
        cuts += self.through_cuts(cut, async |engine| self.close(engine).await).await;
        assert!(self.vault.census().await == self.census);
        let ours = "SELECT CAST(count(*) AS text) FROM information_schema.TABLES
            WHERE TABLE_SCHEMA = DATABASE() AND (TABLE_NAME LIKE '%_new' OR TABLE_NAME LIKE '%_old')";
        assert_eq!(self.vault.text(ours).await, "0");
        // The steps have far more statements than there are steps.
        assert!(cuts > 60, "{cuts}");
    }
}

async fn a_connection_may_be_lost_before_every_statement(make: Make) {
    for strategy in strategies(make) {
        Farm::new(make, strategy, 12).await.cut_everywhere(Cut::Before).await;
    }
}

async fn a_connection_may_be_lost_after_every_statement(make: Make) {
    for strategy in strategies(make) {
        Farm::new(make, strategy, 12).await.cut_everywhere(Cut::After).await;
    }
}

async fn an_administrator_may_end_the_sessions_at_every_statement(make: Make) {
    for strategy in strategies(make) {
        Farm::new(make, strategy, 12).await.cut_everywhere(Cut::Passed).await;
    }
}

/// As when the machine of an agent stands still, or a network swallows everything.
async fn a_session_that_says_nothing_inside_a_chunk_is_ended_by_the_server_and_the_chunk_is_done_again(make: Make) {
    let mut farm = Farm::new(make, Strategy::InPlace, ROWS).await;
    let ring = keys::KeySet::new("farm", farm.vault.old.clone(), 0);
    farm.survey = farm.vault.engine().await.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap();
    let (engine, proxy) = farm.engine_behind(ENDLESS, Cut::Passed).await;
    let job = farm.job(&farm.survey.shards[0], 2, Direction::Forward);
    let fault = engine.reencrypt(&job, &|_| proxy.hush()).await.unwrap_err().fault();
    assert!(proxy.has_cut() && fault.retryable, "{fault:?}");
    let (old, new) = under(&farm.vault.census().await);
    assert!(old > 0 && new > 0 && old + new == farm.census.len(), "{old} and {new}");
    let engine = farm.vault.engine().await;
    let tally = engine.reencrypt(&job, &|_| {}).await.unwrap();
    assert_eq!(tally.rows, ROWS.unsigned_abs());
    assert_eq!(engine.verify(&farm.job(&farm.survey.shards[0], 3, Direction::Forward), &|_| {}).await.unwrap(), tally);
    assert!(farm.vault.census().await == turned(&farm.census));
}

async fn a_lock_of_somebody_else_is_a_fault_that_may_be_tried_again(make: Make) {
    for strategy in strategies(make) {
        let farm = Farm::new(make, strategy, 12).await;
        let engine = farm.vault.engine().await;
        let mut other = farm.vault.root().await;
        sqlx::raw_sql("BEGIN; UPDATE vault SET owner = 7 WHERE id = 7").execute(&mut other).await.unwrap();
        let fault = farm.turn(&engine).await.unwrap_err().fault();
        assert!(fault.retryable && fault.next_step.contains("lock"), "{fault:?}");
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        farm.turn(&engine).await.unwrap();
        farm.verify(&engine).await.unwrap();
        if strategy == Strategy::Shadow {
            // A reader in a transaction lets the hold come about, and not the RENAME; a writer not even the hold.
            for sql in ["BEGIN; SELECT COUNT(*) FROM vault", "BEGIN; UPDATE vault SET owner = 7 WHERE id = 7"] {
                sqlx::raw_sql(sql).execute(&mut other).await.unwrap();
                let fault = farm.swap(&engine).await.unwrap_err().fault();
                assert!(fault.retryable, "{fault:?}");
                assert!(farm.vault.census().await == farm.census);
                sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
            }
        }
        farm.swap(&engine).await.unwrap();
        assert!(farm.vault.census().await == turned(&farm.census));
    }
}

/// Ours, and those of the server or the account that are set for everybody.
async fn no_time_limit_ends_a_statement_and_a_cancelled_one_is_a_fault_that_may_be_tried_again(make: Make) {
    for strategy in strategies(make) {
        let limit = if make == Make::MySql { "--max-execution-time=300" } else { "" };
        // Its own server: who waits for a row is asked of all of it.
        let server = std::sync::Arc::new(Server::start_of(make, limit));
        let vault = Vault::mariadb_bare_on(server, TARGETS).await;
        let farm = Farm::on(vault, strategy, 12, 1).await;
        let Place::Mariadb { agent, .. } = &farm.vault.place else { panic!("MariaDB only") };
        if make == Make::MariaDb {
            farm.vault.run(&format!("ALTER USER {agent} WITH MAX_STATEMENT_TIME 0.3")).await;
        }
        let engine = farm.vault.engine().await;
        let mut other = farm.vault.root().await;
        let mut watcher = farm.vault.root().await;
        sqlx::raw_sql("BEGIN; UPDATE vault SET owner = 7 WHERE id = 7").execute(&mut other).await.unwrap();
        let cancelled = async {
            while !waits_for_a_row(&mut watcher).await {
                tokio::task::yield_now().await;
            }
            sqlx::raw_sql("DO SLEEP(0.6)").execute(&mut watcher).await.unwrap();
            farm.vault.end_all_of("QUERY", agent).await;
        };
        let began = std::time::Instant::now();
        let (done, ()) = tokio::join!(farm.turn(&engine), cancelled);
        let fault = done.unwrap_err().fault();
        assert!(began.elapsed() >= std::time::Duration::from_millis(600), "{fault:?}");
        assert!(fault.retryable && fault.message.contains("interrupted"), "{fault:?}");
        assert!(fault.next_step.contains("try again"), "{fault:?}");
        assert!(farm.vault.census().await == farm.census);
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
        farm.turn(&engine).await.unwrap();
        farm.verify(&engine).await.unwrap();
        farm.swap(&engine).await.unwrap();
        assert!(farm.vault.census().await == turned(&farm.census));
    }
}

async fn a_full_disk_is_a_named_fault_and_the_work_goes_on_once_there_is_room(make: Make) {
    for strategy in strategies(make) {
        let vault = Vault::bare_made_by(make, TARGETS).await;
        let Place::Mariadb { server, database, .. } = &vault.place else { panic!("MariaDB only") };
        let (folder, user) = server.folder(database);
        let small = SmallDisk::mount_on(folder, "60m", &format!("uid={},gid={}", user.uid, user.gid));
        let farm = Farm::on(vault, strategy, 400, 30_000).await;
        // Somebody reads what stood before, so the server keeps it.
        let mut other = farm.vault.root().await;
        sqlx::raw_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT").execute(&mut other).await.unwrap();
        small.fill();
        let engine = farm.vault.engine().await;
        let fault = farm.turn(&engine).await.unwrap_err().fault();
        let said = ["is full", "No space left on device"].iter().any(|words| fault.message.contains(words));
        assert!(fault.retryable && said, "{fault:?}");
        assert_eq!(fault.next_step, "make room on the database's disk");
        let census = farm.vault.census().await;
        assert!(census.values().all(|found| matches!(found, Found::Old(_) | Found::New(_))));
        assert!(census.len() == 400 && census.values().any(|found| matches!(found, Found::Old(_))));
        drop(other);
        small.grow("160m");
        farm.turn(&engine).await.unwrap();
        farm.verify(&engine).await.unwrap();
        farm.swap(&engine).await.unwrap();
        assert!(farm.vault.census().await == turned(&farm.census));
        // And all the way back.
        farm.turn_back(&engine).await.unwrap();
        farm.swap_back(&engine).await.unwrap();
        farm.restore(&engine).await.unwrap();
        assert!(farm.vault.census().await == farm.census);
        farm.vault.run("DROP TABLE vault").await;
    }
}

on_mariadb_and_mysql! {
    a_connection_may_be_lost_before_every_statement,
    a_connection_may_be_lost_after_every_statement,
    an_administrator_may_end_the_sessions_at_every_statement,
    a_session_that_says_nothing_inside_a_chunk_is_ended_by_the_server_and_the_chunk_is_done_again,
    a_lock_of_somebody_else_is_a_fault_that_may_be_tried_again,
    no_time_limit_ends_a_statement_and_a_cancelled_one_is_a_fault_that_may_be_tried_again,
    a_full_disk_is_a_named_fault_and_the_work_goes_on_once_there_is_room,
}
