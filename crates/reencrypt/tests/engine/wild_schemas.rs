//! Schemas as they are met in the wild, three on each system, in place and by copies, there and back: every row is turned
//! once, and every other column stays to the byte.

use keys::KeySet;
use reencrypt::SurveyRequest;
use rotation::{Direction, Strategy, StrategyChoice};

use crate::farm::{Vault, add, turned};

/// Rows of each table: enough for several shards.
const ROWS: u32 = 2300;

/// The encrypted column is called `secret`; `%S` stands for a value of it, and rows are numbered by `n`.
struct Wild {
    name: &'static str,
    key: &'static [&'static str],
    encoding: &'static str,
    table: String,
    /// All columns but `secret` that are filled, and their values.
    columns: &'static str,
    values: &'static str,
    /// What keeps it from being copied.
    obstacle: Option<&'static str>,
}

impl Wild {
    fn targets(&self) -> String {
        let Self { name, key, encoding, .. } = self;
        format!(
            "version = 1\n[[table]]\nname = {name:?}\nkey = {key:?}\n[[table.column]]\nname = 'secret'\nencoding = '{encoding}'\n"
        )
    }

    fn quoted(&self) -> String {
        format!("\"{}\"", self.name.replace('"', "\"\""))
    }

    /// From `n` of these rows.
    fn fill(&self, vault: &Vault, rows: &str) -> String {
        let secret = match self.encoding {
            "raw" => vault.raw(&"x".repeat(200), ""),
            _ => vault.base64(&"x".repeat(200)),
        };
        let secret = vault.literal(&secret);
        format!("INSERT INTO {} ({}, secret) SELECT {}, {secret} FROM {rows}", self.quoted(), self.columns, self.values)
    }
}

/// Three hundred columns.
fn many(of: &str) -> String {
    (1..=300).map(|at| format!(", \"f {at}\" {of}")).collect()
}

async fn there_and_back(mut vault: Vault, wild: &Wild, strategy: Strategy, others: &str) {
    vault.strategy = strategy;
    let name = wild.name;
    let (before, others_before) = (vault.census().await, vault.rows(others).await);
    let rows = u64::from(ROWS);
    assert_eq!((before.len() as u64, others_before.len() as u64), (rows, rows), "{name}");
    let engine = vault.engine().await;
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let choice = match strategy {
        Strategy::InPlace => StrategyChoice::InPlace,
        Strategy::Shadow => StrategyChoice::Shadow,
    };
    let request = SurveyRequest { ring: &ring, accepted: &[], shards_wanted: 3, strategy: choice, agents: 1 };
    let survey = match (engine.survey(&request, &|_| {}).await, wild.obstacle) {
        (Err(error), Some(obstacle)) if strategy == Strategy::Shadow => {
            let fault = error.fault();
            assert!(fault.message.contains("strategy shadow") && fault.message.contains(obstacle), "{name}: {fault:?}");
            return;
        }
        (Ok(_), Some(obstacle)) if strategy == Strategy::Shadow => {
            panic!("{name}: it can be copied, although {obstacle}")
        }
        (surveyed, _) => surveyed.unwrap_or_else(|error| panic!("{name}: {:?}", error.fault())),
    };
    assert!(survey.shards.len() >= 2, "{name}");
    assert_eq!(survey.undecryptable, [], "{name}");
    let (forward, back) = (Direction::Forward, Direction::Back);
    engine.fence(&vault.mark(1, forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, forward)).await;
    let tally = tally.unwrap_or_else(|error| panic!("{name}: {:?}", error.fault()));
    assert_eq!((tally.rows, tally.values), (rows, rows), "{name}");
    engine.finish_shadows(&vault.mark(3, forward), &|_| {}).await.unwrap();
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(4, forward)).await.unwrap(), tally, "{name}");
    engine.swap(&vault.swap_job(&survey, vault.mark(5, forward)), &|_| {}).await.unwrap();
    assert!(vault.census().await == turned(&before), "{name}");
    assert_eq!(vault.rows(others).await, others_before, "{name}");
    engine.lift_fence(&vault.mark(6, forward)).await.unwrap();

    engine.turn_back(&vault.mark(7, back)).await.unwrap();
    engine.swap_back(&vault.swap_job(&survey, vault.mark(8, back)), &|_| {}).await.unwrap();
    vault.reencrypt_all(&survey, 3, vault.mark(9, back)).await.unwrap();
    let mut restored = rotation::ShardTally::default();
    for shard in &survey.shards {
        let found = engine.verify(&vault.job(shard, 4, vault.mark(10, back)), &|_| {}).await.unwrap();
        restored = add(&restored, &found);
    }
    assert_eq!(restored, tally, "{name}");
    assert!(vault.census().await == before, "{name}");
    assert_eq!(vault.rows(others).await, others_before, "{name}");
    engine.lift_fence(&vault.mark(11, back)).await.unwrap();
    engine.close(&vault.mark(12, back)).await.unwrap();
}

fn postgres_schemas() -> Vec<Wild> {
    vec![
        Wild {
            name: "Gr\u{f6}\u{df}e \"order\"",
            key: &["n\u{b0}", "at"],
            encoding: "raw",
            table: format!(
                "(\"n\u{b0}\" numeric, at timestamptz, line bigint GENERATED ALWAYS AS IDENTITY, amount double precision,
                  twice double precision GENERATED ALWAYS AS (amount * 2) STORED, \"select\" text DEFAULT 'x',
                  secret bytea NOT NULL CHECK (octet_length(secret) BETWEEN 48 AND 4000){}, PRIMARY KEY (\"n\u{b0}\", at))",
                many("integer")
            ),
            columns: "\"n\u{b0}\", at, amount, \"f 7\"",
            values: "CASE n % 50 WHEN 0 THEN 'NaN' WHEN 1 THEN 'Infinity' WHEN 2 THEN '-Infinity'
                     ELSE n * 12345678901234567890123456789012345678.0123456789 END,
                     CASE n % 100 WHEN 10 THEN 'infinity' WHEN 11 THEN '-infinity' WHEN 12 THEN '4000-01-01 BC'
                     ELSE '2024-02-29'::timestamptz END + n * interval '1 microsecond' + n * interval '1 day',
                     CASE n % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' ELSE 0.1 END, n",
            obstacle: Some("its column twice is generated"),
        },
        Wild {
            name: "user",
            key: &["raw", "tag", "day"],
            encoding: "base64",
            table: "(tag varchar(20) COLLATE ignoring, day date, raw bytea, mood feeling DEFAULT 'so, so', pad char(10),
                     many integer[], js jsonb, span int4range, money money, bits bit(5), net cidr, took interval, row_type pair,
                     secret text NOT NULL CHECK (secret ~ '^[A-Za-z0-9+/=]+$'), PRIMARY KEY (raw, tag, day)) WITH (fillfactor = 40);
                     ALTER TABLE \"user\" REPLICA IDENTITY FULL; ALTER TABLE \"user\" ALTER secret SET STORAGE EXTERNAL;
                     CREATE UNIQUE INDEX ON \"user\" (lower(tag), day) WHERE raw IS NOT NULL; CLUSTER \"user\" USING user_pkey"
                .to_owned(),
            columns: "tag, day, raw, mood, pad, many, js, span, money, bits, net, took, row_type",
            values: "(ARRAY['Stra\u{df}e ', '\u{e4} ', 'A ']) [n % 3 + 1] || n,
                     CASE n % 4 WHEN 0 THEN 'infinity'::date WHEN 1 THEN '-infinity' ELSE '0001-01-01 BC'::date + n END,
                     decode(md5((n / 2)::text), 'hex'), 'so, so', 'ab', ARRAY[n, NULL], '{\"a\": [1, null]}', int4range(1, n + 2),
                     n::int4::money, B'10101', '10.0.0.0/8', n * interval '1 month -3 days', ROW(n, 'x, \"y\"')::pair",
            obstacle: None,
        },
        Wild {
            name: "limit",
            key: &["id"],
            encoding: "raw",
            table: "(id uuid PRIMARY KEY, name citext_like, secret bytea, seen xid DEFAULT '7', doc xml, place point, words tsvector)
                    PARTITION BY HASH (id); CREATE TABLE p0 PARTITION OF \"limit\" FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                    CREATE UNLOGGED TABLE p1 (words tsvector, id uuid NOT NULL, secret bytea, name citext_like, place point, seen xid
                    DEFAULT '7', doc xml); ALTER TABLE \"limit\" ATTACH PARTITION p1 FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
                .to_owned(),
            columns: "id, name, doc, place, words",
            values: "md5(n::text)::uuid, 'x' || n, '<a>&amp;</a>', point(n, 'NaN'), to_tsvector('simple', 'a b ' || n)",
            obstacle: Some("partition"),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_turns_there_and_back_and_every_other_column_stays_on_postgres() {
    for wild in postgres_schemas() {
        for strategy in [Strategy::InPlace, Strategy::Shadow] {
            let vault = Vault::postgres_bare(&wild.targets()).await;
            let sql = format!(
                "GRANT vault_app TO keyturn_agent; ALTER SCHEMA public OWNER TO vault_app; SET ROLE vault_app;
                 CREATE COLLATION ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                 CREATE TYPE feeling AS ENUM ('so, so', 'well'); CREATE TYPE pair AS (a integer, b text);
                 CREATE DOMAIN citext_like AS text CHECK (VALUE <> '');
                 CREATE TABLE {} {}; {};",
                wild.quoted(),
                wild.table,
                wild.fill(&vault, &format!("generate_series(1, {ROWS}) AS n"))
            );
            vault.run(&vault.named(&sql)).await;
            let others = format!("SELECT CAST(to_jsonb(t) - 'secret' AS text) FROM {} AS t ORDER BY 1", wild.quoted());
            there_and_back(vault, &wild, strategy, &others).await;
        }
    }
}

fn mariadb_schemas() -> Vec<Wild> {
    vec![
        Wild {
            name: "Gr\u{f6}\u{df}e `order`",
            key: &["name", "pad", "n"],
            encoding: "raw",
            table: format!(
                "(name varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci, pad char(8) CHARACTER SET utf8mb4 COLLATE
                 utf8mb4_general_ci, n decimal(50, 10), line bigint UNIQUE AUTO_INCREMENT, amount double,
                 twice double GENERATED ALWAYS AS (amount * 2) STORED, thrice double GENERATED ALWAYS AS (amount * 3) VIRTUAL,
                 \"select\" varchar(9) DEFAULT 'x', secret varbinary(4000) NOT NULL CHECK (length(secret) BETWEEN 48 AND 3000){},
                 PRIMARY KEY (name, pad, n)) ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=8",
                many("smallint")
            ),
            columns: "name, pad, n, amount, \"f 7\"",
            values: "CONCAT(ELT(n % 4 + 1, 'Stra\u{df}e', 'strasse ', '\u{e4}', 'A'), n DIV 4), ELT(n % 2 + 1, 'a ', 'B'),
                     -9999999999999999999999999999999999999999.5 + n, 0.1 * n, n",
            obstacle: Some("it has a generated column"),
        },
        Wild {
            name: "user",
            key: &["at", "raw", "day"],
            encoding: "base64",
            table: "(day date, raw varbinary(20), at datetime(6), mood enum('so, so', 'well') DEFAULT 'well', flags set('a', 'b'),
                     y year, t time(6), bits bit(9), js json, place point, ip inet6, id uuid,
                     secret longtext CHARACTER SET latin1 NOT NULL CHECK (secret REGEXP '^[A-Za-z0-9+/=]+$'),
                     PRIMARY KEY (at DESC, raw, day), KEY prefix (secret(20))) PAGE_COMPRESSED=1"
                .to_owned(),
            columns: "day, raw, at, mood, flags, y, t, bits, js, place, ip, id",
            values: "IF(n % 4 = 0, '0000-00-00', IF(n % 4 = 1, '2023-02-00', '1000-01-01' + INTERVAL n DAY)), UNHEX(LEFT(MD5(n DIV 2), 8)),
                     IF(n % 5 = 0, '0000-00-00 00:00:00', '9999-12-31 23:59:59.999999' - INTERVAL n MICROSECOND),
                     'so, so', 'a,b', 2000 + n % 100, '-838:59:58.000001', n % 512, JSON_OBJECT('a', n), POINT(n, -n), '::1', UUID()",
            obstacle: None,
        },
        Wild {
            name: "limit",
            key: &["k"],
            encoding: "raw",
            table: "(k bigint unsigned, secret blob, note text CHARACTER SET utf16, words text CHARACTER SET utf8mb4, half varchar(10) CHARACTER SET ucs2 DEFAULT 'x',
                     seen timestamp(6) NULL, PRIMARY KEY (k), FULLTEXT KEY words (words)) ROW_FORMAT=REDUNDANT"
                .to_owned(),
            columns: "k, note, words, seen",
            values: "18446744073709551615 - CAST(n AS UNSIGNED) * 7, CONCAT('\u{1f600} note ', n), CONCAT('word ', n), '2024-03-31 02:30:00.000001'",
            obstacle: Some("it has a full-text index"),
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_turns_there_and_back_and_every_other_column_stays_on_mariadb() {
    for wild in mariadb_schemas() {
        for strategy in [Strategy::InPlace, Strategy::Shadow] {
            let vault = Vault::mariadb_bare(&wild.targets()).await;
            let sql = format!(
                "SET sql_mode = 'ANSI_QUOTES,ALLOW_INVALID_DATES'; CREATE TABLE {} {}; {};",
                wild.quoted(),
                wild.table,
                wild.fill(&vault, &format!("(SELECT CAST(seq AS SIGNED) AS n FROM seq_1_to_{ROWS}) s"))
            );
            vault.run(&sql).await;
            vault.grant(&wild.quoted(), "", "secret").await;
            if strategy == Strategy::Shadow {
                vault.grant_shadows().await;
            }
            let list = format!(
                "SELECT GROUP_CONCAT('HEX(\"', COLUMN_NAME, '\")' ORDER BY ORDINAL_POSITION) FROM information_schema.COLUMNS
                 WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = '{}' AND COLUMN_NAME <> 'secret'",
                wild.name
            );
            let list = vault.text(&list).await;
            let others = format!("SELECT {list} FROM {} ORDER BY 1, 2, 3", wild.quoted());
            there_and_back(vault, &wild, strategy, &others).await;
        }
    }
}

fn sqlite_schemas() -> Vec<Wild> {
    vec![
        Wild {
            name: "Gr\u{f6}\u{df}e \"order\"",
            key: &["raw", "n", "name"],
            encoding: "raw",
            table: format!(
                "(name TEXT COLLATE NOCASE, raw BLOB, n INT, amount REAL, twice REAL AS (amount * 2) STORED, anything ANY,
                  secret BLOB NOT NULL CHECK (length(secret) BETWEEN 48 AND 4000){}, PRIMARY KEY (raw DESC, n, name)) STRICT, WITHOUT ROWID",
                many("INT")
            ),
            columns: "name, raw, n, amount, anything, \"f 7\"",
            values: "substr('\u{e4}ZazA', n % 5 + 1, 1) || n, CAST(n % 7 AS BLOB), n % 9, CASE n % 2 WHEN 0 THEN 9e999 ELSE 0.1 END,
                     CASE n % 3 WHEN 0 THEN x'00' WHEN 1 THEN '1' ELSE 1.0 END, n",
            obstacle: None,
        },
        Wild {
            name: "user",
            key: &["k"],
            encoding: "base64",
            table: "(k TEXT COLLATE RTRIM PRIMARY KEY NOT NULL, secret TEXT NOT NULL CHECK (secret GLOB 'DQwC*'), length INT AS (length(k)),
                     \"rowid\" TEXT, odd NUMERIC); CREATE INDEX some ON \"user\" (odd, lower(k)) WHERE odd IS NOT NULL;
                     CREATE INDEX of_secret ON \"user\" (substr(secret, 1, 4), secret)"
                .to_owned(),
            columns: "k, \"rowid\", odd",
            values: "'a' || n || substr('   ', 1, n % 4) || char(9), n * 1.5, CASE n % 2 WHEN 0 THEN '12abc' ELSE '1e3' END",
            obstacle: None,
        },
        Wild {
            name: "\u{1f600}",
            key: &["id"],
            encoding: "raw",
            table: "(id INTEGER PRIMARY KEY AUTOINCREMENT, secret, parent INT REFERENCES \"\u{1f600}\" (id), bytes INT AS (length(secret)))"
                .to_owned(),
            columns: "id, parent",
            values: "9223372036854775807 - n * 3, NULL",
            obstacle: None,
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_turns_there_and_back_and_every_other_column_stays_on_sqlite() {
    for wild in sqlite_schemas() {
        for strategy in [Strategy::InPlace, Strategy::Shadow] {
            let vault = Vault::sqlite_bare(&wild.targets());
            let fill = wild.fill(&vault, "s");
            vault
                .run(&format!(
                    "CREATE TABLE {} {};
                     WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS}) {fill}",
                    wild.quoted(),
                    wild.table,
                ))
                .await;
            let literal = wild.name.replace('\'', "''");
            let list = vault
                .text(&format!(
                    "SELECT group_concat(format('typeof(\"%w\"), quote(\"%w\")', name, name), ', ')
                     FROM pragma_table_xinfo('{literal}') WHERE name <> 'secret'"
                ))
                .await;
            let others = format!("SELECT {list} FROM {} ORDER BY 2, 4", wild.quoted());
            there_and_back(vault, &wild, strategy, &others).await;
        }
    }
}
