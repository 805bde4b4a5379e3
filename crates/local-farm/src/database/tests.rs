//! The same rows go into SQLite, a real PostgreSQL and a real MariaDB, and come back the same.

use std::collections::BTreeMap;

use keys::SecretKey;
use keys::value::Cipher;

use super::*;
use crate::load::is_seeded;
use crate::seed::content::{self, Counts};
use crate::seed::seed;
use crate::server::VaultDatabase;
use crate::tables::TABLES;

async fn seeded_rows_come_back(kind: &str) {
    let folder = tempfile::tempdir().unwrap();
    let place = VaultDatabase::prepare(kind, folder.path()).await.unwrap();
    let database = place.connect().unwrap();
    let key = SecretKey::generate();
    let counts = Counts::of(300);
    seed(&database, &key, counts).await.unwrap();
    place.grant().await.unwrap();

    let cipher = Cipher::new(&key);
    for (number, table) in TABLES.iter().enumerate() {
        let numbers: BTreeMap<RowKey, u64> =
            (0..counts.0[number]).map(|row| (content::key(number, row), row)).collect();
        let mut rows = 0;
        database
            .for_each_row(table, |row| {
                rows += 1;
                for (column, stored) in table.columns.iter().zip(&row.values) {
                    let plaintext = stored.as_ref().map(|stored| match stored.is_empty() {
                        true => Vec::new(),
                        false => {
                            cipher.open(stored, column.encoding, column.aad.as_bytes()).unwrap().plaintext.to_vec()
                        }
                    });
                    assert!(
                        is_seeded((number, numbers[&row.key]), column, plaintext.as_deref()),
                        "{} {}",
                        table.name,
                        row.key
                    );
                }
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(rows, counts.0[number]);
    }
    database.close().await;

    // The application, with its own rights, reads and writes.
    let application = Database::open(&place.application_url, "test", 1).unwrap();
    for (number, table) in TABLES.iter().enumerate() {
        let (key, column) = (content::key(number, 0), table.served());
        assert!(application.set_value(table, column, &key, b"AAAA").await.unwrap());
        assert_eq!(application.value(table, column, &key).await.unwrap(), Some(Some(b"AAAA".to_vec())));
        let missing = content::key(number, 1_000_000);
        assert!(!application.set_value(table, column, &missing, b"AAAA").await.unwrap());
        assert_eq!(application.value(table, column, &missing).await.unwrap(), None);
    }
    application.close().await;
    place.end().await.unwrap();
}

#[tokio::test]
async fn seeded_rows_come_back_from_sqlite() {
    seeded_rows_come_back("sqlite").await;
}

#[tokio::test]
async fn seeded_rows_come_back_from_postgres() {
    seeded_rows_come_back("postgres").await;
}

#[tokio::test]
async fn seeded_rows_come_back_from_mariadb() {
    seeded_rows_come_back("mariadb").await;
}

#[test]
fn a_url_of_something_else_is_refused_without_being_quoted() {
    let error = Database::open("oracle://vault:hunter2@db/vault", "test", 1).unwrap_err();
    assert!(!format!("{error:#}").contains("hunter2"));
    let error = Database::open("postgres://vault:hunter2@db:notaport/vault", "test", 1).unwrap_err();
    assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
}
