//! Primary keys of every supported type, alone and together: every row is reached exactly once, across several pages
//! and shards.

use keys::KeySet;
use rotation::Direction;

use crate::farm::{Vault, request, turned, under};
use crate::mariadb::Make;

/// Enough rows for several pages, so that paging by this key is what is tested.
const ROWS: i64 = 2300;

async fn there_and_back(vault: &Vault, rows: u64) {
    let before = vault.census().await;
    assert_eq!(before.len() as u64, rows);
    let engine = vault.engine().await;
    let ring = KeySet::new("farm", vault.old.clone(), 0);
    let survey = engine.survey(&request(&ring, &[], 3), &|_| {}).await.unwrap();
    assert!(survey.shards.len() >= 2, "{:?}", survey.shards);
    engine.fence(&vault.mark(1, Direction::Forward)).await.unwrap();
    let tally = vault.reencrypt_all(&survey, 1, vault.mark(2, Direction::Forward)).await.unwrap();
    assert_eq!((tally.rows, tally.values), (rows, rows));
    assert_eq!(vault.census().await, turned(&before));
    assert_eq!(vault.verify_all(&survey, 2, vault.mark(3, Direction::Forward)).await.unwrap(), tally);
    engine.turn_back(&vault.mark(4, Direction::Back)).await.unwrap();
    assert_eq!(vault.reencrypt_all(&survey, 3, vault.mark(5, Direction::Back)).await.unwrap(), tally);
    assert_eq!(vault.census().await, before);
}

fn targets(key: &[&str]) -> String {
    format!("version = 1\n[[table]]\nname = \"T\"\nkey = {key:?}\n[[table.column]]\nname = \"c\"\n")
}

/// One ciphertext for all rows: only its place in the digest differs.
async fn postgres(columns: &str, key: &[&str], values: &str) {
    let vault = Vault::postgres_bare(&targets(key)).await;
    let quoted: Vec<String> = key.iter().map(|name| format!("\"{name}\"")).collect();
    let quoted = quoted.join(", ");
    let secret = vault.literal(&vault.raw(&"x".repeat(200), ""));
    vault
        .run(&format!(
            "CREATE TABLE \"T\" ({columns}, c bytea, PRIMARY KEY ({quoted}));
         INSERT INTO \"T\" SELECT {values}, {secret} FROM generate_series(1, {ROWS}) AS n;
         GRANT USAGE ON SCHEMA public TO {agent};",
            agent = vault.named("keyturn_agent"),
        ))
        .await;
    vault.grant("\"T\"", &quoted, "c").await;
    there_and_back(&vault, ROWS.unsigned_abs()).await;
}

macro_rules! on_postgres {
    ($($name:ident: $columns:literal, $key:expr, $values:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            postgres($columns, &$key, $values).await;
        })*
    };
}

on_postgres! {
    smallint_keys: "\"K\" smallint", ["K"], "n - 1200";
    integer_keys: "k integer", ["k"], "n * 1000 - 1000000";
    bigint_keys: "k bigint", ["k"], "n * 4000000000000000 - 4600000000000000000";
    uuid_keys: "k uuid", ["k"], "md5(n::text)::uuid";
    text_keys_in_the_order_of_a_language: "k text COLLATE \"und-x-icu\"", ["k"],
        "(ARRAY['ä', 'Z', 'z', 'a-', 'a', 'ß', '_', '']) [n % 8 + 1] || n";
    varchar_keys: "k varchar(30)", ["k"], "'key \"''\\' || n";
    bytea_keys: "k bytea", ["k"], "decode(md5(n::text), 'hex')";
    timestamp_keys: "k timestamptz", ["k"], "'2024-02-29 12:00:00.000001+02'::timestamptz + n * interval '17.5 hours'";
    date_and_numeric_keys: "d date, n numeric", ["d", "n"], "'4713-01-01 BC'::date + n % 7, n / 7.0";
    composite_keys: "a integer, b text, c2 uuid", ["a", "b", "c2"], "n % 3, 'b' || n % 11, md5(n::text)::uuid";
    composite_keys_in_another_order_than_the_columns: "b text, a integer", ["a", "b"], "'b' || n, n % 5";
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_and_values_of_domain_types() {
    let vault =
        Vault::postgres_bare(&targets(&["k"]).replace("name = \"c\"", "name = \"c\"\nencoding = \"base64\"")).await;
    let crate::farm::Cell::Text(secret) = vault.base64(&"x".repeat(200)) else { panic!() };
    vault.run(&vault.named(&format!(
        "CREATE DOMAIN code AS varchar(20) CHECK (VALUE <> ''); CREATE DOMAIN code2 AS code; CREATE DOMAIN secret AS text;
         CREATE TABLE \"T\" (k code2 PRIMARY KEY, c secret);
         INSERT INTO \"T\" SELECT 'code ' || n, '{secret}' FROM generate_series(1, {ROWS}) AS n;
         GRANT USAGE ON SCHEMA public TO keyturn_agent;"
    ))).await;
    vault.grant("\"T\"", "k", "c").await;
    there_and_back(&vault, ROWS.unsigned_abs()).await;
}

async fn sqlite(columns: &str, key: &[&str], rest: &str, values: &str) {
    let vault = Vault::sqlite_bare(&targets(key));
    let secret = vault.literal(&vault.raw(&"x".repeat(200), ""));
    vault
        .run(&format!(
            "CREATE TABLE \"T\" ({columns}, c BLOB{rest};
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS})
         INSERT INTO \"T\" SELECT {values}, {secret} FROM s;"
        ))
        .await;
    there_and_back(&vault, ROWS.unsigned_abs()).await;
}

macro_rules! on_sqlite {
    ($($name:ident: $columns:literal, $key:expr, $rest:literal, $values:literal;)*) => {
        mod in_sqlite {
            use super::sqlite;

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                sqlite($columns, &$key, $rest, $values).await;
            })*
        }
    };
}

on_sqlite! {
    integer_primary_key: "id INTEGER PRIMARY KEY", ["id"], ")", "n * 1000000007 - 5000";
    integer_primary_key_descending: "id INTEGER PRIMARY KEY DESC", ["id"], ")", "n";
    int_primary_key_that_is_no_rowid: "id INT PRIMARY KEY NOT NULL", ["id"], ")", "n";
    text_key: "k TEXT PRIMARY KEY", ["k"], ")", "substr('äZza_', n % 5 + 1, 1) || n";
    text_key_without_case: "k TEXT COLLATE NOCASE PRIMARY KEY", ["k"], ")", "substr('aBcDe', n % 5 + 1, 1) || n";
    text_column_without_case_and_key_with_it:
        "k TEXT COLLATE NOCASE", ["k"], ", PRIMARY KEY (k COLLATE BINARY))", "CASE n % 2 WHEN 0 THEN 'key' ELSE 'KEY' END || (n / 2)";
    blob_key: "k BLOB PRIMARY KEY NOT NULL", ["k"], ") WITHOUT ROWID", "CAST(n || 'x' AS BLOB)";
    keys_of_mixed_types: "k PRIMARY KEY NOT NULL", ["k"], ")",
        "CASE n % 3 WHEN 0 THEN n WHEN 1 THEN 'text ' || n ELSE CAST(n AS BLOB) END";
    composite_key_without_rowid: "a TEXT, b INTEGER", ["b", "a"], ", PRIMARY KEY (b, a)) WITHOUT ROWID", "'a' || n, n % 7";
    composite_key_with_a_descending_part: "a INTEGER NOT NULL, b TEXT NOT NULL", ["a", "b"], ", PRIMARY KEY (a DESC, b))", "n % 9, 'b' || n";
}

/// Uniqueness and equality of such a collation are its own; paging must not lose rows that compare equal bytewise to none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_keys_of_a_collation_that_ignores_case() {
    let vault = Vault::postgres_bare(&targets(&["k"])).await;
    let secret = vault.literal(&vault.raw(&"x".repeat(200), ""));
    vault.run(&vault.named(&format!(
        "CREATE COLLATION ignoring (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE TABLE \"T\" (k text COLLATE ignoring PRIMARY KEY, c bytea);
         INSERT INTO \"T\" SELECT (ARRAY['Key ', 'kEY ', 'other ']) [n % 3 + 1] || n, {secret} FROM generate_series(1, {ROWS}) AS n;
         GRANT USAGE ON SCHEMA public TO keyturn_agent;"
    ))).await;
    vault.grant("\"T\"", "k", "c").await;
    there_and_back(&vault, ROWS.unsigned_abs()).await;
    assert_eq!(under(&vault.census().await).1, 0);
}

async fn mariadb(make: Make, columns: &str, key: &[&str], rest: &str, values: &str) {
    let vault = Vault::bare_made_by(make, &targets(key)).await;
    let secret = vault.literal(&vault.raw(&"x".repeat(200), ""));
    vault
        .run(&format!(
            "CREATE TABLE \"T\" ({columns}, c longblob, PRIMARY KEY {rest};
         INSERT INTO \"T\" SELECT {values}, {secret} FROM (SELECT CAST(seq AS SIGNED) AS n FROM {}) s;",
            vault.numbers(ROWS.unsigned_abs())
        ))
        .await;
    vault.grant("\"T\"", "", "c").await;
    there_and_back(&vault, ROWS.unsigned_abs()).await;
}

macro_rules! on_mariadb {
    ($module:ident, $make:ident; $($name:ident: $columns:literal, $key:expr, $rest:literal, $values:literal;)*) => {
        mod $module {
            use super::{Make, mariadb};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                mariadb(Make::$make, $columns, &$key, $rest, $values).await;
            })*
        }
    };
}

/// What both have.
macro_rules! on_both_makes {
    ($module:ident, $make:ident) => {
        on_mariadb! { $module, $make;
            smallint_keys: "\"K\" smallint", ["K"], "(\"K\"))", "n - 1200";
            unsigned_int_keys: "k int unsigned", ["k"], "(k))", "4294967295 - n * 3";
            zerofilled_int_keys: "k int(12) zerofill", ["k"], "(k))", "n";
            bigint_keys: "k bigint", ["k"], "(k))", "n * 4000000000000000 - 4600000000000000000";
            unsigned_bigint_keys_above_the_signed_ones: "k bigint unsigned", ["k"], "(k))",
                "18446744073709551615 - CAST(n AS UNSIGNED) * 8000000000000000";
            text_keys_that_ignore_case_and_accents: "k varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci", ["k"], "(k))",
                "ELT(n % 8 + 1, 'ä', 'Z', 'z', 'a-', 'A', 'ß', '_', '') || n";
            text_keys_of_a_binary_collation: "k varchar(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", ["k"], "(k))",
                "ELT(n % 4 + 1, 'a', 'A', 'ä', '😀') || n";
            latin1_text_keys: "k varchar(40) CHARACTER SET latin1 COLLATE latin1_swedish_ci", ["k"], "(k))",
                "ELT(n % 5 + 1, 'ä', 'Ö', 'z', '€', 'it''s ' || CHAR(92 USING utf8mb4)) || n";
            char_keys_with_blanks: "k char(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci", ["k"], "(k))",
                "ELT(n % 3 + 1, 'a ', ' a', 'a b ') || n";
            binary_keys: "k binary(16)", ["k"], "(k))", "LEFT(UNHEX(SHA2(n, 256)), 4 + n % 12) || ''";
            varbinary_keys: "k varbinary(30)", ["k"], "(k))", "LEFT(UNHEX(SHA2(n, 256)), 20)";
            timestamp_keys: "k timestamp(6)", ["k"], "(k))", "'2001-02-28 12:00:00.000001' + INTERVAL n * 17 HOUR";
            datetime_keys: "k datetime(3)", ["k"], "(k))", "'1001-02-28 12:00:00.001' + INTERVAL n * 17 DAY";
            date_and_decimal_keys: "d date, k decimal(20,7)", ["d", "k"], "(d, k))", "'0001-01-01' + INTERVAL n % 7 DAY, n / 7 - 100";
            composite_keys_in_another_order_than_the_columns: "b varchar(20), a integer", ["a", "b"], "(a, b))", "'b' || n, n % 5";
            composite_keys_of_which_one_descends: "a integer, b varchar(20)", ["a", "b"], "(a DESC, b))", "n % 9, 'b' || n";
            keys_of_partitions: "a integer, b integer", ["a", "b"], "(a, b)) PARTITION BY HASH (b) PARTITIONS 5", "n % 9, n";
            keys_of_ranges: "a integer", ["a"],
                "(a)) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (1000), PARTITION p1 VALUES LESS THAN MAXVALUE)", "n";
        }
    };
}

on_both_makes!(in_mariadb, MariaDb);
on_both_makes!(in_mysql, MySql);

on_mariadb! { in_mariadb_alone, MariaDb;
    uuid_keys: "k uuid", ["k"], "(k))", "UUID()";
    inet6_keys: "k inet6", ["k"], "(k))", "CONCAT(HEX(n * 7), '::', IF(n % 2, '1.2.3.4', 'ffff'))";
    inet4_keys: "k inet4", ["k"], "(k DESC))", "INET_NTOA(n * 1234567)";
    utf8mb3_char_keys_without_padding: "k varchar(20) CHARACTER SET utf8mb3 COLLATE utf8mb3_general_nopad_ci", ["k"], "(k))",
        "n || REPEAT(' ', n % 3)";
    composite_keys: "a integer, b varchar(20), c2 uuid", ["a", "b", "c2"], "(a, b, c2))", "n % 3, CONCAT('b', n % 11), UUID()";
}

on_mariadb! { in_mysql_alone, MySql;
    utf8mb4_char_keys_without_padding: "k varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci", ["k"], "(k))",
        "n || REPEAT(' ', n % 3)";
    composite_keys_of_three_columns: "a integer, b varchar(20), c2 char(36)", ["a", "b", "c2"], "(a, b, c2))",
        "n % 3, CONCAT('b', n % 11), UUID()";
}
