//! Databases that store text in another form than UTF-8.

use crate::cluster;
use crate::farm::{Cell, Vault};

const TARGETS: &str =
    "version = 1\n[[table]]\nname = 'Schl\u{fc}ssel'\nkey = ['k']\n[[table.column]]\nname = 'inhalt \u{e4}'\n
    encoding = 'base64'\n";

/// Keys, names and other columns have letters that are one byte there and two with us; one value is large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_postgres_database_in_latin1_or_without_an_encoding_turn_there_and_back() {
    for encoding in ["LATIN1", "WIN1252", "SQL_ASCII"] {
        let options = format!("ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
        let vault = Vault::postgres_bare_with(cluster::shared(), TARGETS, &options).await;
        vault
            .run(&vault.named(
                "CREATE TABLE \"Schl\u{fc}ssel\" (k varchar(40) PRIMARY KEY, \"inhalt \u{e4}\" text, rest text DEFAULT '\u{df}');
                 GRANT USAGE ON SCHEMA public TO keyturn_agent",
            ))
            .await;
        vault.grant("\"Schl\u{fc}ssel\"", "k, rest", "\"inhalt \u{e4}\"").await;
        let rows: Vec<Vec<Cell>> = (0..300)
            .map(|at| {
                let name = ["\u{c4}hre", "zoo", "Stra\u{df}e", "n\u{f8}kkel", "a b"][at % 5];
                let value = if at == 77 { "long ".repeat(400_000) } else { format!("secret {at}") };
                vec![Cell::Text(format!("{name} {at}")), vault.base64(&value)]
            })
            .collect();
        for row in rows.chunks(50) {
            vault.insert("\"Schl\u{fc}ssel\" (k, \"inhalt \u{e4}\")", row).await;
        }
        // A byte that UTF-8 knows nothing of in two of the three.
        vault.run("UPDATE \"Schl\u{fc}ssel\" SET rest = 'a' || chr(129)").await;
        vault.there_and_back().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_in_utf_16_is_refused_by_name() {
    let vault = Vault::sqlite_bare(TARGETS);
    vault
        .run("PRAGMA encoding = 'UTF-16'; CREATE TABLE \"Schl\u{fc}ssel\" (k TEXT PRIMARY KEY NOT NULL, \"inhalt \u{e4}\" TEXT)")
        .await;
    let fault = vault.engine().await.check_targets().await.unwrap_err().fault();
    assert!(fault.message.contains("stores text as UTF-16") && !fault.retryable, "{fault:?}");
}
