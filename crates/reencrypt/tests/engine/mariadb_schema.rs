//! Tables of MariaDB and MySQL as people really make them, and everything in which a ciphertext or a row could be changed unseen.

use std::sync::Arc;

use reencrypt::{Engine, Targets};
use rotation::{Direction, FaultCode};
use sqlx::Connection as _;

use crate::farm::{Cell, Place, Vault, request, under};
use crate::makes::on_mariadb_and_mysql;
use crate::mariadb::{Make, Server, waits_for_a_row};

fn targets(name: &str, column: &str, encoding: &str) -> String {
    format!(
        "version = 1\n[[table]]\nname = '{name}'\nkey = ['id']\n[[table.column]]\nname = '{column}'\nencoding = '{encoding}'\n"
    )
}

async fn refusal(vault: &Vault, name: &str, column: &str, encoding: &str) -> String {
    let targets = Targets::parse(&targets(name, column, encoding)).unwrap();
    let error = Engine::connect(&vault.config, targets).await.unwrap().check_targets().await.unwrap_err();
    assert_eq!(error.code(), FaultCode::Targets, "{error:?}");
    assert!(!error.is_retryable() && !error.next_step().is_empty());
    error.fault().message
}

const ODD: &str = "version = 1
[[table]]
name = 'select `x\"; DROP TABLE t; --'
key = ['order', 'size', 'K`']
[[table.column]]
name = 'bytes_before'
[[table.column]]
name = 'k0 Ünïcode.$1?'
encoding = 'base64'
";

async fn names_that_need_quotes_and_look_like_ours_work(make: Make) {
    let vault = Vault::bare_made_by(make, ODD).await;
    let table = "\"select `x\"\"; DROP TABLE t; --\"";
    vault
        .run(&format!(
            "CREATE TABLE {table} (
                 \"order\" integer NOT NULL, \"size\" integer NOT NULL, \"K`\" integer NOT NULL,
                 bytes_before blob, \"k0 Ünïcode.$1?\" text, PRIMARY KEY (\"order\", \"size\", \"K`\"))"
        ))
        .await;
    let rows: Vec<Vec<Cell>> = (0..120)
        .map(|at| {
            let key = Cell::Integer(at);
            vec![key.clone(), key.clone(), key, vault.raw(&format!("a {at}"), ""), vault.base64(&format!("b {at}"))]
        })
        .collect();
    vault.insert(table, &rows).await;
    vault.grant(table, "", "bytes_before, \"k0 Ünïcode.$1?\"").await;
    assert_eq!(vault.there_and_back().await, 240);
}

/// Every other column stays as it was, to the bit, also those that MariaDB changes with every write of a row; and so does
/// a date that the server would take from nobody any more.
async fn columns_that_change_with_every_write_and_dates_that_are_none_stay_as_they_were(make: Make) {
    let vault = Vault::bare_made_by(make, &targets("t", "c", "raw")).await;
    vault
        .run(
            "SET sql_mode = 'ANSI_QUOTES';
             CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, c blob, d date, f double,
                 a timestamp(6) NOT NULL DEFAULT current_timestamp(6) ON UPDATE current_timestamp(6),
                 \"b`\" datetime NULL ON UPDATE current_timestamp(),
                 v varchar(10) CHARACTER SET latin1 COLLATE latin1_german1_ci, z datetime NULL);
",
        )
        .await;
    let secret = vault.literal(&vault.raw("secret", ""));
    vault
        .run(&format!(
            "SET sql_mode = 'ANSI_QUOTES,ALLOW_INVALID_DATES'; SET timestamp = 1635638400.123456;
             INSERT INTO t SELECT seq, {secret}, '2024-02-31', seq / 3, '2021-10-31 00:30:00' + INTERVAL seq MINUTE,
                 '0000-00-00 00:00:00', 'ä  ', '2023-00-00' FROM {}",
            vault.numbers(130)
        ))
        .await;
    vault.grant("t", "", "c").await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(message.contains("GRANT UPDATE (`a`)") && message.contains("GRANT UPDATE (`b```)"), "{message}");
    vault.grant("t", "", "c, a, \"b`\"").await;
    let others = "SELECT id, hex(d), hex(f), hex(a), hex(\"b`\"), hex(v), hex(z) FROM t ORDER BY id";
    let before = vault.rows(others).await;
    assert_eq!(vault.there_and_back().await, 130);
    assert_eq!(vault.rows(others).await, before);
}

/// The same secrets in columns of every type and many character sets, exactly as they were after a way there and back.
async fn ciphertexts_in_columns_of_every_type_and_character_set_turn_exactly(make: Make) {
    let _server = crate::mariadb::shared_of(make);
    for (column, encoding) in [
        ("tinyblob", "raw"),
        ("varbinary(200)", "raw"),
        ("varbinary(200)", "base64"),
        ("mediumblob COMPRESSED", "raw"),
        ("tinytext", "base64"),
        ("varchar(200) CHARACTER SET latin1 COLLATE latin1_swedish_ci", "base64"),
        ("char(200) CHARACTER SET ascii COLLATE ascii_general_ci", "base64"),
        ("longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", "base64"),
        ("varchar(200) CHARACTER SET utf8mb3 COLLATE utf8mb3_bin", "base64"),
        ("text CHARACTER SET cp932", "base64"),
        ("text CHARACTER SET gbk", "base64"),
        ("varchar(200) CHARACTER SET koi8r", "base64"),
    ] {
        if make == Make::MySql && column.contains("COMPRESSED") {
            continue;
        }
        let vault = Vault::bare_made_by(make, &targets("t", "c", encoding)).await;
        vault.run(&format!("CREATE TABLE t (id int PRIMARY KEY, c {column})")).await;
        let cell = |at: i64| match encoding {
            "raw" => vault.raw(&format!("secret {at}"), ""),
            _ => vault.base64(&format!("secret {at}")),
        };
        let rows: Vec<Vec<Cell>> = (0..60)
            .map(|at| {
                let value = match at {
                    7 => Cell::Null,
                    8 => Cell::Text(String::new()),
                    at => cell(at),
                };
                vec![Cell::Integer(at), value]
            })
            .collect();
        vault.insert("t", &rows).await;
        vault.grant("t", "", "c").await;
        assert_eq!(vault.there_and_back().await, 58, "{column}");
    }
}

/// A value in `BINARY(n)` fills it, or has been filled up with zeros and opens no more.
async fn a_value_that_fills_a_binary_column_turns_and_a_shorter_one_is_named(make: Make) {
    let vault = Vault::bare_made_by(make, &targets("t", "c", "raw")).await;
    let Cell::Bytes(fits) = vault.raw("twelve bytes", "") else { panic!() };
    vault.run(&format!("CREATE TABLE t (id int PRIMARY KEY, c binary({}))", fits.len())).await;
    vault.grant("t", "", "c").await;
    vault.insert("t", &[vec![Cell::Integer(1), Cell::Bytes(fits)]]).await;
    assert_eq!(vault.there_and_back().await, 1);
    vault.insert("t", &[vec![Cell::Integer(2), vault.raw("eleven byte", "")]]).await;
    let survey = vault.survey().await;
    assert_eq!((survey.undecryptable_total, survey.undecryptable[0].key.0.as_str()), (1, "[\"i:2\"]"));
}

async fn what_would_be_written_without_a_transaction_or_not_at_all_is_refused(make: Make) {
    let vault = Vault::made_by(make).await;
    vault
        .run(&vault.named(
            "CREATE TABLE isam (id int PRIMARY KEY, c blob) ENGINE = MyISAM;
             CREATE TABLE heap (id int PRIMARY KEY, c varbinary(100)) ENGINE = MEMORY;
             CREATE TABLE prefixed (id varchar(100), c blob, PRIMARY KEY (id(10)));
             CREATE TABLE odd (id enum('a', 'b') PRIMARY KEY, c blob, j bit(64), t text, w text CHARACTER SET utf16);
             CREATE TABLE keyed (id varchar(10) CHARACTER SET sjis PRIMARY KEY, c blob);
             CREATE TABLE owner (c varbinary(200) PRIMARY KEY);
             CREATE TABLE owned (id int PRIMARY KEY, c varbinary(200), FOREIGN KEY (c) REFERENCES owner (c));
             GRANT SELECT, UPDATE, TRIGGER ON vault.* TO keyturn_agent@'%'",
        ))
        .await;
    if make == Make::MariaDb {
        vault
            .run(
                "CREATE TABLE aria (id int PRIMARY KEY, c blob) ENGINE = Aria;
                 CREATE TABLE versioned (id int PRIMARY KEY, c blob) WITH SYSTEM VERSIONING;
                 CREATE SEQUENCE numbers",
            )
            .await;
    }
    for (name, column, encoding, expected) in [
        ("isam", "c", "raw", "kept by the engine MyISAM"),
        ("aria", "c", "raw", "kept by the engine Aria"),
        ("heap", "c", "raw", "kept by the engine MEMORY"),
        ("versioned", "c", "raw", "SYSTEM VERSIONING"),
        ("prefixed", "c", "raw", "over the beginning of column \"id\""),
        ("odd", "c", "raw", "key column \"id\" of type enum"),
        ("odd", "j", "raw", "column \"j\" of type bit"),
        ("odd", "t", "raw", "its encoding must be \"base64\""),
        ("odd", "w", "base64", "character set utf16"),
        ("keyed", "c", "raw", "key column \"id\" of character set sjis"),
        ("owned", "c", "raw", "foreign key"),
        ("numbers", "c", "raw", "no table but a sequence"),
    ] {
        if make == Make::MySql && ["aria", "versioned", "numbers"].contains(&name) {
            continue;
        }
        let message = refusal(&vault, name, column, encoding).await;
        assert!(message.contains(expected), "{name}.{column}: {message}");
    }
}

async fn triggers_on_update_are_refused_by_name_and_others_are_left_alone(make: Make) {
    let vault = Vault::made_by(make).await;
    vault.seed(100).await;
    vault
        .run(
            "CREATE TRIGGER \"touch it\" BEFORE UPDATE ON connections FOR EACH ROW SET NEW.updated_at = 'now';
             CREATE TRIGGER on_insert BEFORE INSERT ON documents FOR EACH ROW SET NEW.body = NULL;",
        )
        .await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(message.contains("connections has the trigger `touch it`") && message.contains("drop it"), "{message}");
    assert!(!message.contains("on_insert"), "{message}");
    vault.run("DROP TRIGGER \"touch it\"").await;
    vault.there_and_back().await;
    // Who may not see them is refused too.
    vault.run(&vault.named("REVOKE TRIGGER ON vault.connections FROM keyturn_agent@'%'")).await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(message.contains("GRANT TRIGGER ON"), "{message}");
}

/// The application writes in its own time zone, and we do not: what would come out otherwise is refused; and what would not, as
/// whether a time is there at all, and an index that no registered column is in, stays as it was.
async fn what_is_computed_from_a_time_in_the_zone_of_whoever_writes_is_refused_and_the_rest_stays(make: Make) {
    let vault = Vault::bare_made_by(make, &targets("t", "c", "base64")).await;
    vault
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, c varchar(400), ts timestamp NULL, at datetime, gone timestamp NULL,
                 d date AS (CAST(ts AS date)) STORED, day date AS (CAST(ts AS date)) VIRTUAL,
                 after_day int AS (TO_DAYS(day) + 1) STORED, same date AS (CAST(at AS date)) STORED,
                 active int AS (CASE WHEN gone IS NULL THEN 1 END) STORED,
                 KEY by_day_and_secret (day, c), KEY by_day (day, at), KEY by_secret (c, active))",
        )
        .await;
    vault.grant("t", "", "c").await;
    let rows: Vec<String> = (0..200)
        .map(|at| {
            let (secret, gone) = (vault.literal(&vault.base64(&format!("s {at}"))), ["NULL", "ts"][at % 2]);
            format!("({at}, {secret}, '2026-01-02 03:00:00', '2026-01-02 03:00:00', {gone})")
        })
        .collect();
    let insert = format!("INSERT INTO t (id, c, ts, at, gone) VALUES {}", rows.join(", "));
    vault.run(&format!("SET time_zone = '+10:00'; {insert}")).await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    for refused in ["stored column `d`", "stored column `after_day`", "index `by_day_and_secret`"] {
        assert!(
            message.contains(&format!("table t has the {refused}, which is computed from a point in time")),
            "{message}"
        );
    }
    for kept in ["`same`", "`active`", "`by_day`", "`by_secret`"] {
        assert!(!message.contains(kept), "{kept}: {message}");
    }
    vault.run("ALTER TABLE t DROP COLUMN d, DROP COLUMN after_day, DROP KEY by_day_and_secret").await;
    let others = "SELECT id, same, active, CAST(ts AS CHAR) FROM t ORDER BY id";
    let before = vault.rows(others).await;
    assert_eq!(vault.there_and_back().await, 200);
    assert_eq!(vault.rows(others).await, before);
    let checked = vault.rows("CHECK TABLE t EXTENDED").await;
    assert!(checked.iter().all(|row| row[3].as_deref() == Some(b"OK")), "{checked:?}");
}

/// What the server cannot compute of a row that was written under laxer rules it quotes. MySQL computes only what is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_a_column_cannot_be_computed_of_any_more_is_told_and_not_quoted() {
    let vault = Vault::bare_made_by(Make::MariaDb, &targets("t", "c", "base64")).await;
    vault
        .run(
            "CREATE TABLE t (id int PRIMARY KEY, c text, note varchar(40),
                 d date AS (STR_TO_DATE(note, '%Y-%m-%d')) STORED)",
        )
        .await;
    vault.grant("t", "", "c").await;
    let secret = vault.literal(&vault.base64("s"));
    vault.run(&format!("SET sql_mode = ''; INSERT INTO t (id, c, note) VALUES (1, {secret}, 'private note')")).await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let fault = vault.engine().await.survey(&request(&ring, &[], 1), &|_| {}).await.unwrap_err().fault();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Targets, false), "{fault:?}");
    assert!(fault.message.contains("1411") && !format!("{fault:?}").contains("private"), "{fault:?}");
    assert!(fault.next_step.contains("generated columns"), "{fault:?}");
}

async fn a_column_that_is_hidden_from_the_agent_is_refused(make: Make) {
    let vault = Vault::bare_made_by(make, &targets("t", "c", "raw")).await;
    vault.run("CREATE TABLE t (id int PRIMARY KEY, c blob, a timestamp ON UPDATE current_timestamp)").await;
    vault.run(&vault.named("GRANT SELECT (id, c), UPDATE (c), TRIGGER ON vault.t TO keyturn_agent@'%'")).await;
    let message = vault.engine().await.check_targets().await.unwrap_err().fault().message;
    assert!(message.contains("GRANT SELECT ON `vault_"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_the_values_break_when_written_is_found_out() {
    let vault = Vault::mariadb().await;
    vault.seed(100).await;
    vault
        .run(
            "SET check_constraint_checks = 0;
             ALTER TABLE connections ADD CONSTRAINT short_notes CHECK (length(notes) < 3)",
        )
        .await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let fault = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap_err().fault();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Targets, false));
    assert!(
        fault.message.contains("writing connections was refused") && fault.message.contains("short_notes"),
        "{fault:?}"
    );
    assert!(fault.next_step.contains("constraint"), "{fault:?}");
}

/// Keys that a collation takes for the same are one key, however they are spelled; but a row whose key was spelled anew
/// between reading and writing is not the row that was read.
async fn rows_are_told_apart_by_the_bytes_of_their_keys_and_values(make: Make) {
    let vault = Vault::mariadb_on(Arc::new(Server::start_of(make, ""))).await;
    vault.seed(100).await;
    let survey = vault.survey().await;
    let engine = vault.engine().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let shard = survey.shards.iter().find(|shard| shard.table == "documents").unwrap();
    let changes = [
        ("zoo-1", "UPDATE documents SET \"Slug\" = upper(\"Slug\") WHERE \"Slug\" = 'zoo-1'"),
        // base64 in another case is another ciphertext, though the column's collation takes both for the same.
        ("a b-3", "UPDATE documents SET body = upper(body) WHERE \"Slug\" = 'a b-3'"),
        ("a b-8", "UPDATE documents SET body = body || ' ' WHERE \"Slug\" = 'a b-8'"),
    ];
    for (lease, (slug, change)) in changes.into_iter().enumerate() {
        let mut intruder = vault.root().await;
        let mut transaction = intruder.begin().await.unwrap();
        sqlx::raw_sql(change).execute(&mut *transaction).await.unwrap();
        let job = vault.job(shard, lease as u64 + 1, vault.mark(2, Direction::Forward));
        let engine = vault.engine().await;
        let work = tokio::spawn(async move { engine.reencrypt(&job, &|_| {}).await });
        let mut watcher = vault.root().await;
        while !waits_for_a_row(&mut watcher).await {
            assert!(!work.is_finished(), "{change}: {:?}", work.await);
        }
        transaction.commit().await.unwrap();
        let error = work.await.unwrap().unwrap_err();
        assert_eq!(error.code(), FaultCode::RowsChanged, "{change}: {error:?}");
        assert!(error.fault().message.contains("changed"), "{error}");
        vault.run(&format!("UPDATE documents SET body = NULL WHERE \"Slug\" = '{slug}'")).await;
        watcher.close().await.unwrap();
    }
    assert_eq!(under(&vault.census().await).1, 0);
}

async fn a_row_that_is_too_large_for_the_server_is_named_with_the_setting_and_others_go_in_smaller_batches(make: Make) {
    let vault = Vault::mariadb_on(Arc::new(Server::start_of(make, "--max-allowed-packet=1M"))).await;
    let rows: Vec<Vec<Cell>> = [200, 600_000, 100, 450_000, 900_000, 10, 700_000]
        .into_iter()
        .enumerate()
        .map(|(at, bytes)| vec![Cell::Integer(1), Cell::Text(format!("{at}")), vault.raw(&"y".repeat(bytes), "")])
        .collect();
    vault.run("SET GLOBAL max_allowed_packet = 67108864").await;
    for row in rows {
        vault.insert("attachments", &[row]).await;
    }
    vault.run("SET GLOBAL max_allowed_packet = 1048576").await;
    assert_eq!(vault.there_and_back().await, 7);
    vault.run("SET GLOBAL max_allowed_packet = 67108864").await;
    let large = vault.raw(&"z".repeat(1_000_000), "");
    vault.insert("attachments", &[vec![Cell::Integer(1), Cell::Text("8".to_owned()), large]]).await;
    vault.run("SET GLOBAL max_allowed_packet = 1048576").await;
    let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
    let fault = vault.engine().await.survey(&request(&ring, &[], 8), &|_| {}).await.unwrap_err().fault();
    assert_eq!((fault.code, fault.retryable), (FaultCode::Targets, false));
    assert!(
        fault.message.contains("row [\"i:1\",\"t:8\"] of attachments holds 1000048 bytes")
            && fault.message.contains("max_allowed_packet"),
        "{}",
        fault.message
    );
    assert!(fault.next_step.contains("max_allowed_packet"), "{}", fault.next_step);
}

/// Whatever the server's defaults for sessions are, ours find every row by its key's index and change nothing else.
async fn hostile_defaults_of_the_server_change_neither_results_nor_plans(make: Make) {
    let of_mariadb = "--sql-mode=ANSI,ORACLE,PAD_CHAR_TO_FULL_LENGTH,NO_ZERO_DATE,NO_ZERO_IN_DATE,EMPTY_STRING_IS_NULL \
                   --character-set-server=latin1 --default-time-zone=+05:30 --autocommit=0 --completion-type=2 \
                   --transaction-isolation=SERIALIZABLE --transaction-read-only=0 --max-statement-time=2 \
                   --optimizer-switch=index_merge=off,derived_merge=off,mrr=on,mrr_cost_based=off --join-cache-level=8 \
                   --wait-timeout=2 --idle-transaction-timeout=1 --sql-safe-updates=1\
                   --log-bin=log --binlog-format=MIXED --innodb-flush-log-at-trx-commit=2 \
                   --innodb-stats-persistent=0 --default-storage-engine=Aria";
    let of_mysql = "--sql-mode=ANSI,PAD_CHAR_TO_FULL_LENGTH,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_BACKSLASH_ESCAPES \
                    --character-set-server=latin1 --default-time-zone=+05:30 --autocommit=0 --completion-type=2 \
                    --transaction-isolation=SERIALIZABLE --max-execution-time=2000 --wait-timeout=2 \
                    --optimizer-switch=index_merge=off,derived_merge=off,mrr=on,mrr_cost_based=off,batched_key_access=on \
                    --log-bin=log --innodb-flush-log-at-trx-commit=2 --innodb-stats-persistent=0 \
                    --default-storage-engine=MyISAM --sql-generate-invisible-primary-key=ON --partial-revokes=ON";
    let options = match make {
        Make::MariaDb => of_mariadb,
        Make::MySql => of_mysql,
    };
    let server = Arc::new(Server::start_of(make, options));
    let vault = Vault::mariadb_bare_on(
        server,
        "version = 1
         [[table]]\nname = 'pair'\nkey = ['a', 'b']\n[[table.column]]\nname = 'c'
         [[table]]\nname = 'single'\nkey = ['k']\n[[table.column]]\nname = 'c'\nencoding = 'base64'\n",
    )
    .await;
    vault
        .run(
            "CREATE TABLE pair (a char(20) COLLATE utf8mb4_general_ci, b int, c blob, other int,
                 PRIMARY KEY (a, b), KEY (b), KEY (other)) ENGINE = InnoDB;
             CREATE TABLE single (k bigint PRIMARY KEY, c text, other int, KEY (other)) ENGINE = InnoDB; COMMIT",
        )
        .await;
    let pairs: Vec<Vec<Cell>> = (0..4000)
        .map(|at| vec![Cell::Text(format!("k {}", at % 7)), Cell::Integer(at), vault.raw("s", ""), Cell::Integer(1)])
        .collect();
    vault.insert("pair", &pairs).await;
    let singles: Vec<Vec<Cell>> =
        (0..4000).map(|at| vec![Cell::Integer(at), vault.base64("s"), Cell::Integer(1)]).collect();
    vault.insert("single", &singles).await;
    vault.grant("pair", "", "c").await;
    vault.grant("single", "", "c").await;
    let scanned = async || {
        let rows = vault.rows("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd_next'").await;
        String::from_utf8(rows[0][1].clone().unwrap()).unwrap().parse::<u64>().unwrap()
    };
    let engine = vault.engine().await;
    let survey = vault.survey().await;
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let before = scanned().await;
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
    // The catalog is read that way too, a few hundred rows; one scan of a table for each statement would be 640,000.
    let scanned = scanned().await - before;
    assert!(scanned < 8000, "{scanned} rows were read by scanning");
    assert_eq!((tally.rows, under(&vault.census().await)), (8000, (0, 8000)));
    let Place::Mariadb { .. } = vault.place else { panic!("MariaDB only") };
    engine.turn_back(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(vault.reencrypt_all(&survey, 3, vault.mark(5, Direction::Back)).await.unwrap(), tally);
}

on_mariadb_and_mysql! {
    names_that_need_quotes_and_look_like_ours_work,
    columns_that_change_with_every_write_and_dates_that_are_none_stay_as_they_were,
    ciphertexts_in_columns_of_every_type_and_character_set_turn_exactly,
    a_value_that_fills_a_binary_column_turns_and_a_shorter_one_is_named,
    what_would_be_written_without_a_transaction_or_not_at_all_is_refused,
    triggers_on_update_are_refused_by_name_and_others_are_left_alone,
    what_is_computed_from_a_time_in_the_zone_of_whoever_writes_is_refused_and_the_rest_stays,
    a_column_that_is_hidden_from_the_agent_is_refused,
    rows_are_told_apart_by_the_bytes_of_their_keys_and_values,
    a_row_that_is_too_large_for_the_server_is_named_with_the_setting_and_others_go_in_smaller_batches,
    hostile_defaults_of_the_server_change_neither_results_nor_plans,
}
