//! Odd schemas in SQLite: what stands in the schema must be exactly the same afterwards, and the database sound.

use rotation::{Direction, StrategyChoice};

use crate::farm::Vault;
use crate::shadow::{SCHEMA, healthy, swapped, undo};

/// (definition, name as registered, key as registered). `c` is the encrypted column, and %C a value for it.
const SCHEMAS: &[(&str, &str, &str)] = &[
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB); INSERT INTO t VALUES (3, %C), (-9, %C), (7, NULL)", "t", "id"),
    (
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, c BLOB);
         INSERT INTO t VALUES (1000, %C); DELETE FROM t; INSERT INTO t (c) VALUES (%C)",
        "t",
        "id",
    ),
    ("CREATE TABLE t (k TEXT PRIMARY KEY NOT NULL, c BLOB); INSERT INTO t (rowid, k, c) VALUES (77, 'b', %C), (5, 'a', %C)", "t", "k"),
    ("CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, c) WITHOUT ROWID; INSERT INTO t VALUES ('B', %C), ('a', %C)", "t", "k"),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY DESC, c BLOB); INSERT INTO t VALUES (1, %C), (2, %C)", "t", "id"),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB, r REAL, i INT, a ANY) STRICT; INSERT INTO t VALUES (1, %C, 1, 2, x'00'), (2, %C, 0.1, 9223372036854775807, '1')", "t", "id"),
    (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB, odd, n NUMERIC, x TEXT);
         INSERT INTO t VALUES (1, %C, 1.5, 1e300, 5), (2, %C, CAST(x'ff00fe' AS TEXT), -0.0, ''), (3, %C, x'', 9e999, char(0)),
             (4, %C, NULL, -9e999, '123'), (5, %C, 9007199254740993, '12abc', 0.1)",
        "t",
        "id",
    ),
    (
        "CREATE TABLE t (\n  id INTEGER PRIMARY KEY, -- the key (\n  c BLOB CONSTRAINT \"not, \"\"too\"\" long\" CHECK (length(c) < 1000),
            email TEXT UNIQUE COLLATE NOCASE DEFAULT ('x' || 'y'), /* ) */ a INT DEFAULT 5 NOT NULL, b TEXT DEFAULT CURRENT_TIMESTAMP,
            UNIQUE (a, b) ON CONFLICT REPLACE, UNIQUE (email, a));
         CREATE INDEX \"odd \"\"index\" ON t (a DESC, lower(email)) WHERE a > 0;
         CREATE UNIQUE INDEX [i] ON t (c); CREATE INDEX expr ON t ('x' || b, id);
         INSERT INTO t (id, c, email, a) VALUES (1, %C, 'a', 1), (2, %C, 'B', 2)",
        "t",
        "id",
    ),
    (
        "CREATE TABLE p (id INTEGER PRIMARY KEY, x INT UNIQUE); INSERT INTO p VALUES (1, 10);
         CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB, p INT REFERENCES p (id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
            q INT, CONSTRAINT \"fk\" FOREIGN KEY (q) REFERENCES p (x) ON UPDATE SET NULL, CHECK (q > 0));
         INSERT INTO t VALUES (1, %C, 1, 10);
         CREATE TABLE child (id INTEGER PRIMARY KEY, t INT REFERENCES t ON DELETE RESTRICT); INSERT INTO child VALUES (1, 1)",
        "t",
        "id",
    ),
    (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB, n INT); CREATE TABLE log (x);
         CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO log VALUES ('insert'); END;
         CREATE TRIGGER b BEFORE UPDATE ON t BEGIN INSERT INTO log VALUES ('update'); END;
         CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO log VALUES ('delete'); END;
         CREATE VIEW v AS SELECT id, n FROM t; CREATE TRIGGER e INSTEAD OF INSERT ON v BEGIN INSERT INTO t (n) VALUES (new.n); END;
         INSERT INTO t VALUES (1, %C, 1), (2, %C, 2)",
        "t",
        "id",
    ),
    (
        "CREATE TABLE t (a INT NOT NULL, c BLOB, b TEXT NOT NULL, g TEXT AS (b || a) STORED, h INT AS (length(c)), PRIMARY KEY (b, a));
         CREATE INDEX gh ON t (g, h); INSERT INTO t (a, c, b) VALUES (1, %C, 'x'), (0, %C, 'y')",
        "t",
        "b,a",
    ),
    (
        "CREATE TABLE \"od.d \"\"t\"\" [x]\" (\"i d\" INTEGER PRIMARY KEY, c BLOB, \"references\" TEXT, [foreign key] INT, `q``` INT);
         CREATE INDEX \"on\" ON \"od.d \"\"t\"\" [x]\" (\"references\", `q```);
         INSERT INTO \"od.d \"\"t\"\" [x]\" VALUES (1, %C, 'r', 2, 3)",
        "od.d \"t\" [x]",
        "i d",
    ),
    ("CREATE TABLE t (rowid TEXT, oid INT, k TEXT PRIMARY KEY NOT NULL, c); INSERT INTO t (_rowid_, rowid, k, c) VALUES (9, 'x', 'k', %C)", "t", "k"),
    ("CREATE TABLE t (id INTEGER PRIMARY KEY, c TEXT); ALTER TABLE t ADD COLUMN later INT DEFAULT 7; INSERT INTO t VALUES (1, %C, NULL);
      ALTER TABLE t RENAME TO other; ALTER TABLE other RENAME TO t; ALTER TABLE t ADD COLUMN last TEXT NOT NULL DEFAULT 'z'", "t", "id"),
    ("PRAGMA auto_vacuum = FULL; VACUUM; CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB, u TEXT UNIQUE); CREATE INDEX i ON t (u);
      INSERT INTO t VALUES (1, %C, 'a')", "t", "id"),
    ("PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, c BLOB); INSERT INTO t VALUES (1, %C); ANALYZE", "t", "id"),
];

async fn vault(definition: &str, name: &str, key: &str) -> Vault {
    let keys: Vec<&str> = key.split(',').collect();
    let targets = format!("version = 1\n[[table]]\nname = {name:?}\nkey = {keys:?}\n[[table.column]]\nname = 'c'\n");
    let mut vault = Vault::sqlite_bare(&targets);
    vault.strategy = rotation::Strategy::Shadow;
    let mut sql = String::new();
    for (at, part) in definition.split("%C").enumerate() {
        if at > 0 {
            sql.push_str(&vault.literal(&vault.raw(&format!("secret {at}"), "")));
        }
        sql.push_str(part);
    }
    vault.run(&sql).await;
    vault
}

/// Everything in the database but the encrypted column and what is ours, types and all.
async fn everything_else(vault: &Vault) -> Vec<Vec<Vec<Option<Vec<u8>>>>> {
    let mut found = vec![vault.rows(SCHEMA).await];
    let tables = vault
        .rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '%keyturn%' ORDER BY 1")
        .await;
    for table in tables {
        let table = String::from_utf8(table[0].clone().unwrap()).unwrap();
        let literal = table.replace('\'', "''");
        let columns = vault
            .text(&format!(
                "SELECT group_concat(format('typeof(\"%w\"), quote(\"%w\")', name, name), ', ')
                 FROM pragma_table_xinfo('{literal}') WHERE name NOT IN ('c', 'h')"
            ))
            .await;
        let wide =
            vault.text(&format!("SELECT CAST(wr AS text) FROM pragma_table_list WHERE name = '{literal}'")).await;
        let rowid = if wide == "0" { "quote(_rowid_), " } else { "" };
        let own = if table == "sqlite_sequence" { "WHERE name NOT LIKE 'keyturn%'" } else { "" };
        let sql = format!("SELECT {rowid}{columns} FROM \"{}\" {own} ORDER BY 1, 2", table.replace('"', "\"\""));
        found.push(vault.rows(&sql).await);
    }
    found
}

async fn encrypted(vault: &Vault, name: &str) -> Vec<Vec<Option<Vec<u8>>>> {
    vault.rows(&format!("SELECT typeof(c), c FROM \"{}\" ORDER BY 2", name.replace('"', "\"\""))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forward_every_odd_schema_keeps_its_text_and_all_other_data() {
    for (definition, name, key) in SCHEMAS {
        let vault = vault(definition, name, key).await;
        let (before, types) = (everything_else(&vault).await, encrypted(&vault, name).await);
        swapped(&vault).await;
        assert_eq!(everything_else(&vault).await, before, "{definition}");
        let mut after: Vec<_> = encrypted(&vault, name).await.into_iter().map(|row| row[0].clone()).collect();
        let mut types: Vec<_> = types.into_iter().map(|row| row[0].clone()).collect();
        after.sort();
        types.sort();
        assert_eq!(after, types, "{definition}");
        assert_eq!(crate::farm::under(&vault.census().await).0, 0, "{definition}");
        healthy(&vault).await;
        let engine = vault.engine().await;
        engine.lift_fence(&vault.mark(6, Direction::Forward)).await.unwrap();
        engine.close(&vault.mark(7, Direction::Forward)).await.unwrap();
        // What the application does with its foreign keys does not meet the retained table.
        if definition.contains("TABLE p ") {
            vault.run("PRAGMA foreign_keys = ON; DELETE FROM child; DELETE FROM p; INSERT INTO p VALUES (1, 10)").await;
        }
        engine.retire(&vault.rotation).await.unwrap();
        healthy(&vault).await;
        vault.run("VACUUM").await;
        assert_eq!(
            vault.rows("SELECT name FROM sqlite_schema WHERE tbl_name LIKE '%copy'").await,
            Vec::<Vec<_>>::new()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undone_every_odd_schema_has_every_byte_as_it_was() {
    for (definition, name, key) in SCHEMAS {
        let vault = vault(definition, name, key).await;
        let before = (everything_else(&vault).await, encrypted(&vault, name).await);
        let survey = swapped(&vault).await;
        undo(&vault, &survey, 10).await;
        assert_eq!((everything_else(&vault).await, encrypted(&vault, name).await), before, "{definition}");
        healthy(&vault).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_copied_is_refused_with_its_obstacle_and_goes_in_place_otherwise() {
    for (definition, key, obstacle) in [
        (
            "CREATE TABLE t (k TEXT PRIMARY KEY, c, rowid, oid, _rowid_); INSERT INTO t VALUES ('k', %C, 1, 2, 3)",
            "k",
            "rowid",
        ),
        (
            "CREATE TABLE t (id INTEGER PRIMARY KEY, c, CHECK (t.id > 0)); INSERT INTO t VALUES (1, %C)",
            "id",
            "no such column: t.id",
        ),
    ] {
        let vault = vault(definition, "t", key).await;
        let ring = keys::KeySet::new("farm", vault.old.clone(), 0);
        let engine = vault.engine().await;
        let schema = vault.rows(SCHEMA).await;
        let survey = async |strategy| {
            let request = reencrypt::SurveyRequest { strategy, ..crate::farm::request(&ring, &[], 1) };
            engine.survey(&request, &|_| {}).await
        };
        let fault = survey(StrategyChoice::Shadow).await.unwrap_err().fault();
        assert!(fault.message.contains("table t") && fault.message.contains(obstacle), "{fault:?}");
        assert!(fault.next_step.contains("auto"), "{fault:?}");
        let auto = survey(StrategyChoice::Auto).await.unwrap();
        assert_eq!(auto.tables[0].1.strategy, rotation::Strategy::InPlace);
        assert_eq!(vault.rows(SCHEMA).await, schema);
    }
}
