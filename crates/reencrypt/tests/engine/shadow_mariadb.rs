//! Tables that are copied and swapped in MariaDB: the whole way forward, back from every point, crashes between any two
//! statements, workers that come late, and odd definitions, which must read the same afterwards.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use reencrypt::EngineError;
use rotation::{Direction, FaultCode, Strategy, StrategyChoice};
use sqlx::AssertSqlSafe;

use crate::farm::{Vault, all_under_one_key, turned, under};
use crate::shadow::{copied, swapped, undo, verified};

type Rows = Vec<Vec<Option<Vec<u8>>>>;

const LEFT: &str = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()
    AND (TABLE_NAME LIKE 'keyturn!_%!_new' ESCAPE '!' OR TABLE_NAME LIKE 'keyturn!_%!_old' ESCAPE '!')";

async fn vault(size: i64) -> Vault {
    let mut vault = Vault::mariadb().await;
    vault.strategy = Strategy::Shadow;
    vault.grant_shadows().await;
    vault
        .run(
            "CREATE INDEX by_name ON connections (name(20), updated_at(9)); CREATE INDEX by_notes ON connections (notes(30));
             CREATE INDEX some ON \"User Entries\" (\"Seq\" DESC, owner)",
        )
        .await;
    vault.seed(size).await;
    vault
}

/// Definitions and rows of all tables but ours.
async fn content(vault: &Vault) -> Vec<Rows> {
    let tables = vault
        .rows(
            "SELECT TABLE_NAME FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME NOT LIKE 'keyturn%' ORDER BY 1",
        )
        .await;
    let mut content = vec![tables.clone()];
    for table in tables {
        let name = String::from_utf8(table[0].clone().unwrap()).unwrap().replace('"', "\"\"");
        content.push(vault.rows(&format!("SHOW CREATE TABLE \"{name}\"")).await);
        content.push(vault.rows(&format!("SELECT * FROM \"{name}\" ORDER BY 1, 2")).await);
    }
    content
}

async fn definitions(vault: &Vault) -> Vec<Rows> {
    let content = content(vault).await;
    content.into_iter().skip(1).step_by(2).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_way_forward_keeps_everything_but_the_key() {
    let vault = vault(1000).await;
    let (before, defined, census) = (content(&vault).await, definitions(&vault).await, vault.census().await);
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    let rotation = vault.rotation;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let copied = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(content(&vault).await, before, "nothing of the user's is touched");
    let mark = vault.mark(3, Direction::Forward);
    engine.finish_shadows(&mark, &|_| {}).await.unwrap();
    engine.finish_shadows(&mark, &|_| {}).await.unwrap();
    let verified = vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap();
    assert_eq!(verified, copied, "rows, values, plaintexts and all other columns");
    assert_eq!(content(&vault).await, before, "still nothing");

    let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
    engine.swap(&job, &|_| {}).await.unwrap();
    engine.swap(&job, &|_| {}).await.unwrap();
    assert_eq!(vault.census().await, turned(&census));
    assert_eq!(definitions(&vault).await, defined);
    assert_eq!(vault.verify_all(&survey, 3, vault.mark(6, Direction::Forward)).await.unwrap(), copied);

    engine.lift_fence(&vault.mark(7, Direction::Forward)).await.unwrap();
    assert_eq!(engine.retire(&rotation).await.unwrap_err().code(), FaultCode::Database, "it is still open");
    engine.close(&vault.mark(8, Direction::Forward)).await.unwrap();
    assert_eq!(vault.rows(LEFT).await.len(), 4, "the originals are retained");
    let tables = survey.tables.iter().map(|(name, _)| name.clone());
    assert_eq!(engine.unswapped(&rotation, tables).await.unwrap(), None);
    engine.retire(&rotation).await.unwrap();
    engine.retire(&rotation).await.unwrap();
    assert!(vault.rows(LEFT).await.is_empty());
    assert_eq!(vault.census().await, turned(&census));
    assert_eq!(definitions(&vault).await, defined);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_from_every_point_leaves_every_byte_as_it_was() {
    for point in 0..6 {
        let vault = vault(200).await;
        let before = content(&vault).await;
        let survey = match point {
            0 | 1 => {
                let survey = vault.survey().await;
                let engine = vault.engine().await;
                engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
                if point == 1 {
                    let job = vault.job(&survey.shards[0], 1, vault.mark(2, Direction::Forward));
                    engine.reencrypt(&job, &|_| {}).await.unwrap();
                }
                survey
            }
            2 => copied(&vault).await,
            3 => verified(&vault).await,
            4 => swapped(&vault).await,
            _ => {
                let survey = swapped(&vault).await;
                vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
                survey
            }
        };
        undo(&vault, &survey, 10).await;
        assert_eq!(content(&vault).await, before, "from point {point}");
        assert!(vault.rows(LEFT).await.is_empty(), "from point {point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_original_that_changed_since_it_was_copied_is_not_swapped_out() {
    for change in [
        "UPDATE connections SET name = 'renamed' WHERE id = 0",
        "DELETE FROM documents LIMIT 1",
        "INSERT INTO attachments VALUES (9999, 'x', NULL)",
        "CREATE INDEX another ON connections (name(3))",
        "ALTER TABLE documents COMMENT = 'other'",
    ] {
        let vault = vault(200).await;
        let survey = verified(&vault).await;
        vault.run(change).await;
        let before = content(&vault).await;
        let job = vault.swap_job(&survey, vault.mark(5, Direction::Forward));
        let error = vault.engine().await.swap(&job, &|_| {}).await.unwrap_err();
        assert!(!error.is_retryable(), "{change}: {error:?}");
        if !change.contains("INDEX") && !change.contains("ALTER") {
            assert_eq!(error.code(), FaultCode::RowsChanged, "{change}: {error:?}");
        }
        assert_eq!(content(&vault).await, before, "{change}");
        undo(&vault, &survey, 10).await;
        assert_eq!(content(&vault).await, before, "the change stays, as it was made: {change}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_written_to_after_the_swap_stays_and_goes_back_in_place() {
    let vault = vault(200).await;
    let (census, defined) = (vault.census().await, definitions(&vault).await);
    let survey = swapped(&vault).await;
    vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
    vault.run("UPDATE connections SET name = 'renamed' WHERE id = 0").await;
    undo(&vault, &survey, 10).await;
    assert_eq!(vault.census().await, census);
    assert_eq!(definitions(&vault).await, defined);
    assert_eq!(vault.text("SELECT name FROM connections WHERE id = 0").await, "renamed");
    assert!(vault.rows(LEFT).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_altered_after_the_swap_keeps_that_when_it_goes_back() {
    let vault = vault(200).await;
    let census = vault.census().await;
    let survey = swapped(&vault).await;
    vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
    vault.run("CREATE INDEX later ON connections (name(10))").await;
    let altered = definitions(&vault).await;
    undo(&vault, &survey, 10).await;
    assert_eq!(vault.census().await, census);
    assert_eq!(definitions(&vault).await, altered);
    assert!(vault.rows(LEFT).await.is_empty());
}

/// Polls the work so many times and then drops it, as a process that is killed there.
async fn cut<T>(polls: u64, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Cuts the step off at ever later points until it comes to its end. What was sent before a cut may still be at work on the
/// server, so a step may be told that it has been overtaken, and is asked again.
async fn cut_everywhere(vault: &Vault, stride: u64, step: impl AsyncFn() -> Result<(), EngineError>) -> u64 {
    for polls in 0..2000 {
        match cut(polls * stride, step()).await {
            Some(Ok(())) => return polls,
            Some(Err(error)) => {
                let passes = error.is_retryable() || error.code() == FaultCode::Superseded;
                assert!(passes, "{polls}: {error:?}");
            }
            None => all_under_one_key(vault).await,
        }
    }
    panic!("it never came to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_may_be_cut_off_anywhere() {
    let vault = vault(24).await;
    let (before, census) = (content(&vault).await, vault.census().await);
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    for round in 0..2_u64 {
        let back = round == 0;
        let vault = &vault;
        let rotation = if back { vault.rotation } else { "00000000-0000-4000-8000-000000000001".parse().unwrap() };
        let mark = |epoch, direction| reencrypt::LedgerMark { rotation, ..vault.mark(epoch, direction) };
        let forward = |epoch| mark(epoch, Direction::Forward);
        engine.fence(&forward(1)).await.unwrap();
        let mut steps = 0;
        for shard in &survey.shards {
            let job = vault.job(shard, 1, forward(2));
            steps += cut_everywhere(vault, 1, async || engine.reencrypt(&job, &|_| {}).await.map(drop)).await;
        }
        steps += cut_everywhere(vault, 1, async || engine.finish_shadows(&forward(3), &|_| {}).await).await;
        vault.verify_all(&survey, 2, forward(4)).await.unwrap();
        let job = vault.swap_job(&survey, forward(5));
        steps += cut_everywhere(vault, 1, async || engine.swap(&job, &|_| {}).await).await;
        assert!(steps > 50, "it was cut off {steps} times");
        assert_eq!(vault.census().await, turned(&census));
        engine.lift_fence(&forward(6)).await.unwrap();
        if back {
            engine.turn_back(&mark(10, Direction::Back)).await.unwrap();
            let job = vault.swap_job(&survey, mark(11, Direction::Back));
            cut_everywhere(vault, 1, async || engine.swap_back(&job, &|_| {}).await).await;
            vault.reencrypt_all(&survey, 50, mark(12, Direction::Back)).await.unwrap();
            vault.verify_all(&survey, 51, mark(13, Direction::Back)).await.unwrap();
            engine.lift_fence(&mark(14, Direction::Back)).await.unwrap();
            let closing = mark(15, Direction::Back);
            cut_everywhere(vault, 1, async || engine.close(&closing).await).await;
            assert_eq!(content(vault).await, before);
        } else {
            engine.close(&forward(7)).await.unwrap();
            cut_everywhere(vault, 1, async || engine.retire(&rotation).await).await;
            assert_eq!(vault.census().await, turned(&census));
        }
        assert!(vault.rows(LEFT).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_session_goes_on_to_build_is_not_built_twice() {
    let vault = vault(60).await;
    let defined = definitions(&vault).await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let copied = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    let named = "SELECT CAST(shadow_name AS CHAR) FROM keyturn_shadow WHERE label = 'connections'";
    let copy = vault.text(named).await;
    let (mut holder, mut lost) = (vault.root().await, vault.root().await);
    sqlx::raw_sql(AssertSqlSafe(format!("LOCK TABLES {copy} READ"))).execute(&mut holder).await.unwrap();
    let builds = format!("ALTER TABLE {copy} ADD KEY by_name (name(20), updated_at(9)), ADD KEY by_notes (notes(30))");
    let lost = tokio::spawn(async move { sqlx::raw_sql(AssertSqlSafe(builds)).execute(&mut lost).await.map(drop) });
    waiting(&vault, 1).await;

    let mark = vault.mark(3, Direction::Forward);
    let letting_go = async {
        waiting(&vault, 2).await;
        sqlx::raw_sql("UNLOCK TABLES").execute(&mut holder).await.unwrap();
    };
    let (finished, ()) = tokio::join!(engine.finish_shadows(&mark, &|_| {}), letting_go);
    finished.unwrap();
    lost.await.unwrap().unwrap();
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(4, Direction::Forward)).await.unwrap(), copied);
    engine.swap(&vault.swap_job(&survey, vault.mark(5, Direction::Forward)), &|_| {}).await.unwrap();
    assert_eq!(definitions(&vault).await, defined);
}

/// Until so many sessions wait for a table.
async fn waiting(vault: &Vault, sessions: usize) {
    let those = "SELECT ID FROM information_schema.PROCESSLIST
        WHERE DB = DATABASE() AND STATE LIKE 'Waiting for table metadata lock%'";
    while vault.rows(those).await.len() < sessions {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_late_to_a_step_of_shadows_changes_nothing() {
    let vault = vault(60).await;
    let survey = verified(&vault).await;
    let engine = vault.engine().await;
    engine.turn_back(&vault.mark(9, Direction::Back)).await.unwrap();
    let before = (content(&vault).await, vault.rows(LEFT).await);
    for (epoch, direction) in [(5, Direction::Forward), (8, Direction::Back)] {
        let mark = vault.mark(epoch, direction);
        let swap = vault.swap_job(&survey, mark);
        let errors = [
            engine.reencrypt(&vault.job(&survey.shards[0], 9, mark), &|_| {}).await.map(drop),
            engine.swap(&swap, &|_| {}).await,
            engine.close(&mark).await,
        ];
        for (at, error) in errors.into_iter().enumerate() {
            let error = error.unwrap_err();
            assert_eq!(error.code(), FaultCode::Superseded, "{at}: {error:?}");
        }
        let _ = engine.finish_shadows(&mark, &|_| {}).await;
        let _ = engine.swap_back(&swap, &|_| {}).await;
    }
    assert_eq!((content(&vault).await, vault.rows(LEFT).await), before);
}

/// Definition, name and key as registered. `c` is the encrypted column, and %C a value for it.
const SCHEMAS: &[(&str, &str, &str)] = &[
    ("CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, c longblob, u varchar(9), UNIQUE KEY (u), KEY c (c(7))) AUTO_INCREMENT = 900;
      INSERT INTO t VALUES (3, %C, 'a'), (-9, %C, NULL), (0, NULL, 'b')", "t", "id"),
    ("CREATE TABLE t (k varchar(20) COLLATE latin1_german1_ci NOT NULL, n int NOT NULL, c text CHARACTER SET latin1 COLLATE latin1_bin, s int AUTO_INCREMENT,
      KEY s (s), PRIMARY KEY (k, n DESC)) COMMENT 'AUTO_INCREMENT=7, ''x''' ROW_FORMAT=DYNAMIC CHARACTER SET latin1;
      INSERT INTO t VALUES ('B', 1, NULL, 5), ('a', 2, NULL, 4)", "t", "k,n"),
    ("CREATE TABLE t (id int PRIMARY KEY, c blob INVISIBLE, a int DEFAULT 5 NOT NULL CHECK (a > 0), b timestamp(3) NULL ON UPDATE CURRENT_TIMESTAMP(3),
      e enum('x', 'y') COMMENT 'one, two', j json, d decimal(30, 10), f double, x bit(5), CONSTRAINT named CHECK (a < 100), UNIQUE KEY z (a, e), KEY y (b) COMMENT 'of b', KEY ig (d) IGNORED);
      INSERT INTO t (id, c, a, b, e, j, d, f, x) VALUES (1, %C, 1, '2001-01-01 00:00:00.5', 'x', '{}', 1.5, 0.1, b'101'), (2, %C, 2, NULL, NULL, NULL, NULL, NULL, NULL)", "t", "id"),
    ("CREATE TABLE \"od`d t\" (\"i d\" uuid PRIMARY KEY, c varbinary(4000), \"key\" int, KEY \"q`\" (\"key\"), KEY \"primary key\" (\"key\" DESC, \"i d\"));
      INSERT INTO \"od`d t\" VALUES ('123e4567-e89b-12d3-a456-426655440000', %C, 2)", "od`d t", "i d"),
];

async fn odd(definition: &str, name: &str, key: &str) -> Vault {
    let keys: Vec<&str> = key.split(',').collect();
    let encoding = if definition.contains("c text") { "encoding = 'base64'" } else { "" };
    let targets =
        format!("version = 1\n[[table]]\nname = {name:?}\nkey = {keys:?}\n[[table.column]]\nname = 'c'\n{encoding}\n");
    let mut vault = Vault::mariadb_bare(&targets).await;
    vault.strategy = Strategy::Shadow;
    let mut sql = String::new();
    for (at, part) in definition.split("%C").enumerate() {
        if at > 0 {
            sql.push_str(&vault.literal(&vault.raw(&format!("secret {at}"), "")));
        }
        sql.push_str(part);
    }
    vault.run(&format!("SET sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_VALUE_ON_ZERO'); {sql}")).await;
    let quoted = format!("\"{name}\"");
    vault.grant(&quoted, "", if definition.contains("ON UPDATE") { "c, b" } else { "c" }).await;
    vault.grant_shadows().await;
    vault
}

/// All columns but the encrypted one.
async fn others(vault: &Vault, name: &str) -> Rows {
    let columns = vault
        .text(&format!(
            "SELECT GROUP_CONCAT('\"' || COLUMN_NAME || '\"' ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{name}' AND COLUMN_NAME <> 'c'"
        ))
        .await;
    vault.rows(&format!("SELECT {columns} FROM \"{name}\" ORDER BY 1")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_definitions_read_the_same_forward_and_back() {
    for (definition, name, key) in SCHEMAS {
        for back in [false, true] {
            let vault = odd(definition, name, key).await;
            let (defined, rest, all) = (definitions(&vault).await, others(&vault, name).await, content(&vault).await);
            let survey = swapped(&vault).await;
            assert_eq!(definitions(&vault).await, defined, "{definition}");
            assert_eq!(others(&vault, name).await, rest, "{definition}");
            assert_eq!(under(&vault.census().await).0, 0, "{definition}");
            if back {
                undo(&vault, &survey, 10).await;
                assert_eq!(content(&vault).await, all, "{definition}");
            }
        }
    }
}

/// A table that gives out numbers, of which somebody changed one to 2000 by hand, beyond those that were given out.
async fn numbered() -> Vault {
    let definition = "CREATE TABLE t (id bigint AUTO_INCREMENT PRIMARY KEY, c longblob) AUTO_INCREMENT = 900;
        INSERT INTO t VALUES (3, %C), (20, %C); UPDATE t SET id = 2000 WHERE id = 20";
    odd(definition, "t", "id").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_number_is_what_it_was_when_a_table_goes_back() {
    let vault = numbered().await;
    let all = content(&vault).await;
    let next = async || {
        vault.text("SELECT CAST(AUTO_INCREMENT AS CHAR) FROM information_schema.TABLES WHERE TABLE_NAME = 't' AND TABLE_SCHEMA = DATABASE()").await
    };
    assert_eq!(next().await, "2001");
    let survey = swapped(&vault).await;
    assert_eq!(next().await, "2001");
    vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
    undo(&vault, &survey, 10).await;
    assert_eq!(content(&vault).await, all);
    assert_eq!(next().await, "2001");
    assert!(vault.rows(LEFT).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_were_given_out_or_passed_over_after_the_swap_are_not_given_out_again_when_a_table_goes_back() {
    for (change, next) in [
        ("ALTER TABLE t AUTO_INCREMENT = 5000", "AUTO_INCREMENT=5000 "),
        ("INSERT INTO t VALUES (), (); DELETE FROM t WHERE c IS NULL", "AUTO_INCREMENT=2003 "),
        (
            "ALTER TABLE t AUTO_INCREMENT = 5000; INSERT INTO t VALUES (); DELETE FROM t WHERE c IS NULL",
            "AUTO_INCREMENT=5001 ",
        ),
    ] {
        let vault = numbered().await;
        let census = vault.census().await;
        let survey = swapped(&vault).await;
        vault.engine().await.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
        vault.run(change).await;
        let defined = format!("{:?}", definitions(&vault).await);
        undo(&vault, &survey, 10).await;
        assert_eq!(vault.census().await, census, "{change}");
        assert_eq!(format!("{:?}", definitions(&vault).await), defined, "{change}");
        let row = vault.rows("SHOW CREATE TABLE t").await.remove(0);
        let text = String::from_utf8(row[1].clone().unwrap()).unwrap();
        assert!(text.contains(next), "{change}: {text}");
        assert!(vault.rows(LEFT).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_copied_is_refused_with_its_obstacle_and_goes_in_place_otherwise() {
    let plain = "CREATE TABLE t (id int PRIMARY KEY, c blob, n int)";
    for (definition, obstacle) in [
        (
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, c blob, FOREIGN KEY (id) REFERENCES p (id))",
            "foreign key",
        ),
        (
            &format!("{plain}; CREATE TABLE child (id int PRIMARY KEY, FOREIGN KEY (id) REFERENCES t (id))"),
            "foreign key",
        ),
        (&format!("{plain}; CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET NEW.n = 1"), "trigger tr"),
        (&format!("{plain}; CREATE VIEW v AS SELECT id FROM t"), "view"),
        (&format!("{plain} PARTITION BY HASH (id) PARTITIONS 2"), "partition"),
        ("CREATE TABLE t (id int PRIMARY KEY, c blob, g int AS (id + 1) STORED)", "generated"),
        ("CREATE TABLE t (id int PRIMARY KEY, c blob, x text, FULLTEXT KEY (x))", "full-text"),
        ("CREATE TABLE t (id int PRIMARY KEY, c blob, x int, KEY (x) COMMENT 'of \\\\ x')", "backslash"),
        ("CREATE TABLE t (id int PRIMARY KEY, c blob, x point NOT NULL, SPATIAL KEY (x))", "spatial"),
    ] {
        let vault = odd(definition, "t", "id").await;
        let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
        let engine = vault.engine().await;
        let survey = async |strategy| {
            let request = reencrypt::SurveyRequest { strategy, ..crate::farm::request(&ring, &[], 1) };
            engine.survey(&request, &|_| {}).await
        };
        let fault = survey(StrategyChoice::Shadow).await.unwrap_err().fault();
        assert!(fault.message.contains("table t") && fault.message.contains(obstacle), "{definition}: {fault:?}");
        let auto = survey(StrategyChoice::Auto).await.unwrap();
        assert_eq!(auto.tables[0].1.strategy, Strategy::InPlace);
    }
    let vault = Vault::mariadb().await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let request = reencrypt::SurveyRequest { strategy: StrategyChoice::Shadow, ..crate::farm::request(&ring, &[], 1) };
    let fault = vault.engine().await.survey(&request, &|_| {}).await.unwrap_err().fault();
    assert!(fault.message.contains("GRANT") && fault.message.contains("LOCK TABLES"), "{fault:?}");
}
