//! What comes between a shadow and its swap in PostgreSQL: connections that are lost or ended at every statement, locks of
//! others, cancelled statements, full disks. A named error, nothing lost, and the work goes on where it was.

use keys::KeySet;
use reencrypt::{Engine, EngineError, ShardJob, SurveyRequest, SwapJob};
use rotation::{Direction, FaultCode, Shard, Strategy, StrategyChoice, Survey};

use crate::farm::{Census, Place, Vault, request, turned};
use crate::proxy::{Cut, through_cuts};
use crate::small_disk::SmallDisk;

const TARGETS: &str = "version = 1\n[[table]]\nname = 'vault'\nkey = ['id']\n[[table.column]]\nname = 'secret'\n";

const TABLE: &str = "
    CREATE TABLE owners (id integer PRIMARY KEY);
    INSERT INTO owners SELECT generate_series(1, 9);
    CREATE TABLE vault (
        id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number serial UNIQUE, owner integer REFERENCES owners,
        secret bytea, CHECK (number > 0));
    CREATE INDEX by_owner ON vault (owner);
    CREATE STATISTICS together ON owner, number FROM vault;";

/// More than any step of this small a table sends.
const STATEMENTS_MAX: i64 = 200;

struct Farm {
    vault: Vault,
    survey: Survey,
    census: Census,
}

impl Farm {
    async fn new(rows: i64) -> Self {
        Self::with(rows, TABLE).await
    }

    async fn with(rows: i64, sql: &str) -> Self {
        let vault = Vault::postgres_bare(TARGETS).await;
        let Place::Postgres { agent, application, .. } = &vault.place else { panic!("not PostgreSQL") };
        // The application's role owns its tables here, as it often does.
        vault
            .run(&format!(
                "GRANT {application} TO {agent}; ALTER SCHEMA public OWNER TO {application}; SET ROLE {application}; {sql}"
            ))
            .await;
        let rows: Vec<String> = (0..rows)
            .map(|at| format!("({}, {})", 1 + at % 9, vault.literal(&vault.raw(&format!("secret {at}"), ""))))
            .collect();
        vault.run(&format!("INSERT INTO vault (owner, secret) VALUES {}", rows.join(","))).await;
        let survey = vault.survey().await;
        vault.engine().await.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
        Self { census: vault.census().await, vault, survey }
    }

    fn job(&self, shard: &Shard, epoch: u64, direction: Direction) -> ShardJob {
        let mark = self.vault.mark(epoch, direction);
        ShardJob { strategy: Strategy::Shadow, ..self.vault.job(shard, epoch, mark) }
    }

    fn swap_job(&self, epoch: u64, direction: Direction) -> SwapJob {
        SwapJob {
            mark: self.vault.mark(epoch, direction),
            old: self.vault.old.clone(),
            new: self.vault.new.clone(),
            shards: self.survey.shards.clone(),
        }
    }

    async fn turn(&self, engine: &Engine) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            engine.reencrypt(&self.job(shard, 2, Direction::Forward), &|_| {}).await?;
        }
        Ok(())
    }

    async fn finish(&self, engine: &Engine) -> Result<(), EngineError> {
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

    async fn all(&self) {
        let engine = self.vault.engine().await;
        self.turn(&engine).await.unwrap();
        self.finish(&engine).await.unwrap();
        self.verify(&engine).await.unwrap();
        self.swap(&engine).await.unwrap();
        assert!(self.vault.census().await == turned(&self.census));
    }

    async fn turn_back(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.turn_back(&self.vault.mark(5, Direction::Back)).await
    }

    async fn swap_back(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.swap_back(&self.swap_job(6, Direction::Back), &|_| {}).await
    }

    async fn let_in(&self, engine: &Engine) -> Result<(), EngineError> {
        for shard in &self.survey.shards {
            engine.reencrypt(&self.job(shard, 7, Direction::Back), &|_| {}).await?;
        }
        engine.lift_fence(&self.vault.mark(7, Direction::Back)).await
    }

    async fn close(&self, engine: &Engine) -> Result<(), EngineError> {
        engine.close(&self.vault.mark(8, Direction::Back)).await
    }

    async fn undo(&self, engine: &Engine) {
        self.turn_back(engine).await.unwrap();
        self.swap_back(engine).await.unwrap();
        self.let_in(engine).await.unwrap();
        self.close(engine).await.unwrap();
    }

    async fn through_cuts(&self, cut: Cut, step: impl AsyncFn(&Engine) -> Result<(), EngineError>) -> i64 {
        through_cuts(&self.vault, cut, STATEMENTS_MAX, step, async || {}).await
    }
}

async fn cut_everywhere(cut: Cut) {
    let farm = Farm::new(12).await;
    let mut cuts = 0;
    cuts += farm.through_cuts(cut, async |engine| farm.turn(engine).await).await;
    cuts += farm.through_cuts(cut, async |engine| farm.finish(engine).await).await;
    cuts += farm.through_cuts(cut, async |engine| farm.verify(engine).await).await;
    assert!(farm.vault.census().await == farm.census, "nothing is swapped yet");
    cuts += farm.through_cuts(cut, async |engine| farm.swap(engine).await).await;
    assert!(farm.vault.census().await == turned(&farm.census));
    cuts += farm.through_cuts(cut, async |engine| farm.turn_back(engine).await).await;
    cuts += farm.through_cuts(cut, async |engine| farm.swap_back(engine).await).await;
    cuts += farm.through_cuts(cut, async |engine| farm.let_in(engine).await).await;
    cuts += farm.through_cuts(cut, async |engine| farm.close(engine).await).await;
    assert!(farm.vault.census().await == farm.census);
    let ours = "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'keyturn_%'";
    assert_eq!(farm.vault.text(ours).await, "0");
    // The steps have far more statements than there are steps.
    assert!(cuts > 60, "{cuts}");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_somebody_else_is_a_fault_that_may_be_tried_again() {
    let farm = Farm::new(12).await;
    let engine = farm.vault.engine().await;
    farm.turn(&engine).await.unwrap();
    farm.finish(&engine).await.unwrap();
    farm.verify(&engine).await.unwrap();
    let mut other = farm.vault.superuser().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE vault IN ROW EXCLUSIVE MODE").execute(&mut other).await.unwrap();
    let fault = farm.swap(&engine).await.unwrap_err().fault();
    assert!(
        fault.retryable
            && fault.message.contains("holding vault and its copy failed: canceling statement due to lock timeout"),
        "{fault:?}"
    );
    assert!(fault.next_step.contains("which session holds the lock"), "{fault:?}");
    // A reader comes in, but keeps the swap from being made.
    sqlx::raw_sql("ROLLBACK; BEGIN; LOCK TABLE vault IN ACCESS SHARE MODE").execute(&mut other).await.unwrap();
    let fault = farm.swap(&engine).await.unwrap_err().fault();
    assert!(
        fault.retryable && fault.message.contains("of vault failed: canceling statement due to lock timeout"),
        "{fault:?}"
    );
    assert!(farm.vault.census().await == farm.census);
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    farm.swap(&engine).await.unwrap();
    assert!(farm.vault.census().await == turned(&farm.census));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_statement_of_a_build_may_be_tried_again() {
    let farm = Farm::new(12).await;
    let engine = farm.vault.engine().await;
    farm.turn(&engine).await.unwrap();
    // Somebody holds the table that the foreign key refers to, so that the build stands still in that statement.
    let mut other = farm.vault.superuser().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE owners IN SHARE ROW EXCLUSIVE MODE").execute(&mut other).await.unwrap();
    let building = farm.finish(&engine);
    let cancelling = async {
        let mut canceller = farm.vault.superuser().await;
        loop {
            let done = sqlx::query(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                 WHERE application_name LIKE 'keyturn-agent/%' AND wait_event_type = 'Lock' AND datname = current_database()",
            )
            .fetch_all(&mut canceller)
            .await
            .unwrap();
            if !done.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let (built, ()) = tokio::join!(building, cancelling);
    let fault = built.unwrap_err().fault();
    assert!(
        fault.retryable
            && fault.message.contains("building the foreign key vault_owner_fkey on the copy of vault failed"),
        "{fault:?}"
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    farm.all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_altered_under_way_is_not_swapped() {
    let farm = Farm::new(12).await;
    let engine = farm.vault.engine().await;
    farm.turn(&engine).await.unwrap();
    farm.finish(&engine).await.unwrap();
    farm.verify(&engine).await.unwrap();
    for (sql, undo, what) in [
        ("COMMENT ON TABLE vault IS 'changed'", "COMMENT ON TABLE vault IS NULL", "table"),
        ("CREATE INDEX another ON vault (number)", "DROP INDEX another", "index another"),
        ("ALTER TABLE vault ALTER owner SET DEFAULT 3", "ALTER TABLE vault ALTER owner DROP DEFAULT", "column owner"),
        ("GRANT SELECT ON owners, vault TO PUBLIC", "REVOKE SELECT ON vault FROM PUBLIC", "table"),
    ] {
        farm.vault.run(sql).await;
        let fault = farm.swap(&engine).await.unwrap_err().fault();
        assert!(
            fault.message.contains("is not defined as the table is: ") && fault.message.contains(what),
            "{sql}: {fault:?}"
        );
        assert!(farm.vault.census().await == farm.census);
        farm.vault.run(undo).await;
    }
    farm.swap(&engine).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_was_written_to_since_it_was_copied_is_not_swapped_out() {
    for change in [
        "UPDATE vault SET owner = owner WHERE number = 1",
        "UPDATE vault SET number = 77 WHERE number = 12",
        "UPDATE vault SET secret = (SELECT secret FROM vault WHERE number = 3) WHERE number = 1",
        "UPDATE vault SET secret = secret WHERE length(secret) > 1000000",
        "DELETE FROM vault WHERE number = 5",
        "INSERT INTO vault (owner) VALUES (1)",
        "WITH gone AS (DELETE FROM vault WHERE number = 1 RETURNING *)
         INSERT INTO vault OVERRIDING SYSTEM VALUE SELECT 100, 100, owner, secret FROM gone",
    ] {
        let farm = Farm::new(12).await;
        let large = farm.vault.literal(&farm.vault.raw(&"x".repeat(1_500_000), ""));
        farm.vault.run(&format!("INSERT INTO vault (owner, secret) VALUES (1, {large})")).await;
        let farm = Farm { survey: farm.vault.survey().await, census: farm.vault.census().await, ..farm };
        let engine = farm.vault.engine().await;
        farm.turn(&engine).await.unwrap();
        farm.finish(&engine).await.unwrap();
        farm.verify(&engine).await.unwrap();
        farm.vault.run(change).await;
        let changed = farm.vault.census().await;
        let error = farm.swap(&engine).await.unwrap_err();
        assert_eq!(error.code(), FaultCode::RowsChanged, "{change}: {error:?}");
        assert!(error.fault().message.contains("shard"), "{error:?}");
        farm.undo(&engine).await;
        assert!(farm.vault.census().await == changed, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_goes_back_as_it_was_unless_it_was_written_to_since_it_was_verified() {
    for (change, keeps_its_own) in [("SELECT 1", false), ("UPDATE vault SET owner = owner WHERE number = 1", true)] {
        let farm = Farm::new(12).await;
        let original = farm.vault.text("SELECT 'vault'::regclass::oid::text").await;
        farm.all().await;
        farm.vault.run(change).await;
        let engine = farm.vault.engine().await;
        farm.undo(&engine).await;
        assert!(farm.vault.census().await == farm.census, "{change}");
        let now = farm.vault.text("SELECT 'vault'::regclass::oid::text").await;
        assert_eq!(now != original, keeps_its_own, "{change}");
    }
}

/// The last column with another value in every row, of which none is written.
const MADE_ANEW: &str = "ALTER TABLE vault DROP COLUMN note; ALTER TABLE vault ADD COLUMN note text DEFAULT 'other';
                         ALTER TABLE vault ALTER note DROP DEFAULT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_of_which_a_column_was_made_anew_since_it_was_copied_is_not_swapped_out() {
    let farm = Farm::with(12, &format!("{TABLE} ALTER TABLE vault ADD note text DEFAULT 'one'")).await;
    farm.vault.run("ALTER TABLE vault ALTER note DROP DEFAULT").await;
    let engine = farm.vault.engine().await;
    farm.turn(&engine).await.unwrap();
    farm.finish(&engine).await.unwrap();
    farm.verify(&engine).await.unwrap();
    farm.vault.run(MADE_ANEW).await;
    let error = farm.swap(&engine).await.unwrap_err();
    assert_eq!(error.code(), FaultCode::RowsChanged, "{error:?}");
    farm.undo(&engine).await;
    assert!(farm.vault.census().await == farm.census);
    assert_eq!(farm.vault.text("SELECT string_agg(DISTINCT note, ',') FROM vault").await, "other");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_since_it_was_swapped_in_keeps_that_when_it_goes_back() {
    for change in [
        "ALTER TABLE vault ADD later text DEFAULT 'x'",
        MADE_ANEW,
        "ALTER TABLE vault RENAME owner TO whose",
        "CREATE INDEX another ON vault (number)",
        "DROP INDEX by_owner",
        "GRANT SELECT ON vault TO PUBLIC",
    ] {
        let farm = Farm::with(12, &format!("{TABLE} ALTER TABLE vault ADD note text")).await;
        farm.all().await;
        farm.vault.run(change).await;
        let shown = async || {
            let rows = "SELECT string_agg((to_jsonb(v) - 'secret')::text, ' ' ORDER BY id) FROM vault v";
            let indexes =
                "SELECT string_agg(indexdef, ' ' ORDER BY indexdef) FROM pg_indexes WHERE tablename = 'vault'";
            let rights = "SELECT COALESCE(relacl::text, 'none') FROM pg_class WHERE oid = 'vault'::regclass";
            [farm.vault.text(rows).await, farm.vault.text(indexes).await, farm.vault.text(rights).await]
        };
        let altered = shown().await;
        let engine = farm.vault.engine().await;
        farm.undo(&engine).await;
        assert!(farm.vault.census().await == farm.census, "{change}");
        assert_eq!(shown().await, altered, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_whose_columns_alone_may_be_read_is_not_copied() {
    let vault = Vault::postgres_bare(TARGETS).await;
    let Place::Postgres { agent, .. } = &vault.place else { panic!("not PostgreSQL") };
    // An owner that took its own right to read away; else who may act as the owner may read too.
    vault
        .run(&format!(
            "CREATE ROLE {agent}_owner; ALTER SCHEMA public OWNER TO {agent}_owner; GRANT {agent}_owner TO {agent};
             CREATE TABLE vault (id integer PRIMARY KEY, secret bytea); INSERT INTO vault VALUES (1, {});
             ALTER TABLE vault OWNER TO {agent}_owner; REVOKE SELECT ON vault FROM {agent}_owner;
             GRANT SELECT (id, secret), UPDATE (id, secret) ON vault TO {agent}",
            vault.literal(&vault.raw("secret", ""))
        ))
        .await;
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let asked = SurveyRequest { strategy: StrategyChoice::Shadow, ..request(&ring, &[], 8) };
    let fault = vault.engine().await.survey(&asked, &|_| {}).await.unwrap_err().fault();
    assert!(fault.message.contains("GRANT SELECT on the whole table"), "{fault:?}");
    vault.run(&format!("GRANT SELECT ON vault TO {agent}_owner")).await;
    let survey = vault.engine().await.survey(&asked, &|_| {}).await.unwrap();
    assert_eq!(survey.tables[0].1.strategy, Strategy::Shadow);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_copy_or_table_is_told_and_nothing_of_that_name_is_touched() {
    let farm = Farm::new(12).await;
    let engine = farm.vault.engine().await;
    farm.turn(&engine).await.unwrap();
    let name = "SELECT relname::text FROM pg_class WHERE relname LIKE 'keyturn_%_new'";
    let copy = farm.vault.text(name).await;
    farm.vault
        .run(&format!("DROP TABLE {copy}; CREATE TABLE {copy} (mine text); INSERT INTO {copy} VALUES ('kept')"))
        .await;
    let fault = farm.finish(&engine).await.unwrap_err().fault();
    assert!(fault.message.contains("its copy was dropped"), "{fault:?}");
    farm.undo(&engine).await;
    assert!(farm.vault.census().await == farm.census);
    assert_eq!(farm.vault.text(&format!("SELECT mine FROM {copy}")).await, "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_fault_that_may_be_tried_again() {
    let cluster = crate::cluster::shared();
    let small = SmallDisk::mount("3m");
    let name = small.tablespace(&cluster).await;
    let sql = format!(
        "{TABLE} ALTER TABLE vault SET TABLESPACE {name}; ALTER TABLE vault ADD COLUMN wide text;
        ALTER TABLE vault ALTER wide SET STORAGE PLAIN"
    );
    let farm = Farm::with(300, &sql).await;
    // 1.9 MB of rows: they fit once, and not twice.
    farm.vault.run("UPDATE vault SET wide = repeat('x', 6000) WHERE id <= 230").await;
    let engine = farm.vault.engine().await;
    let fault = farm.turn(&engine).await.unwrap_err().fault();
    assert!(fault.retryable && fault.message.contains("No space left on device"), "{fault:?}");
    assert_eq!(fault.next_step, "make room on the database's disk");
    assert!(farm.vault.census().await == farm.census);
    small.grow("30m");
    farm.all().await;
    farm.vault.run("ALTER TABLE vault SET TABLESPACE pg_default").await;
    let engine = farm.vault.engine().await;
    farm.vault.engine().await.close(&farm.vault.mark(9, Direction::Forward)).await.unwrap();
    engine.retire(&farm.vault.rotation).await.unwrap();
    small.drop_tablespace(&cluster).await;
}
