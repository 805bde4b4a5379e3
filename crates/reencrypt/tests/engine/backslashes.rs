//! Where a backslash within quotes is the beginning of an escape, keys are data all the same.

use crate::farm::{Cell, Vault};
use crate::scan::{found, groups, scan};

const TARGETS: &str = "version = 1
    [[table]]
    name = 'words'
    key = ['k']
    [[table.column]]
    name = 'c'
    [[table]]
    name = 'hashes'
    key = ['k']
    [[table.column]]
    name = 'c'";

const ROWS: u8 = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_with_backslashes_and_quotes_are_never_read_as_sql_whatever_the_roles_defaults_are() {
    let vault = Vault::postgres_bare(TARGETS).await;
    let setting = "GRANT USAGE ON SCHEMA public TO keyturn_agent;
         ALTER ROLE keyturn_agent IN DATABASE vault SET standard_conforming_strings = off;
         ALTER ROLE keyturn_agent IN DATABASE vault SET backslash_quote = on";
    vault.run(&vault.named(setting)).await;
    vault
        .run(
            "CREATE TABLE words (k text PRIMARY KEY, c bytea);
             CREATE TABLE hashes (k bytea PRIMARY KEY, c bytea);
             CREATE TABLE unregistered (k int PRIMARY KEY, c bytea, t text)",
        )
        .await;
    let text = r"\'))) TO STDOUT (FORMAT binary); CREATE TABLE keyturn.pwned (); --";
    let value = "x".repeat(3_000);
    for at in 0..ROWS {
        let value = vault.raw(&value, "");
        vault.insert("words", &[vec![Cell::Text(format!("{at:03}{text}")), value.clone()]]).await;
        vault.insert("hashes", &[vec![Cell::Bytes(vec![at, 0x5c, 0x27, 0x9e, 0]), value]]).await;
    }
    let (raw, base64) = (vault.raw("raw", ""), vault.base64("base64"));
    vault.insert("unregistered", &[vec![Cell::Integer(1), raw, base64]]).await;
    for table in ["words", "hashes"] {
        vault.grant(table, "k", "c").await;
    }
    // First without what a rotation would leave behind.
    assert!(vault.survey().await.shards.len() > 4, "no key is a bound of a shard");
    vault.there_and_back().await;
    assert_eq!(vault.text("SELECT count(*)::text FROM pg_class WHERE relname = 'pwned'").await, "0");

    vault.run(&vault.named("GRANT SELECT ON unregistered TO keyturn_agent")).await;
    let report = scan(&vault).await;
    assert_eq!(report.not_looked_into, []);
    assert_eq!(groups(found(&report, "unregistered", "c")), ["symmetric ciphertext 2 raw 1"]);
    assert_eq!(groups(found(&report, "unregistered", "t")), ["symmetric ciphertext 2 base64 1"]);
}
