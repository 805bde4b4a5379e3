//! Fills the vault's database: 20,000 rows and more in a second or two.

pub(crate) mod content;

use anyhow::Context as _;
use keys::SecretKey;
use keys::value::{Cipher, CipherVersion};

use crate::database::{Database, Stored, StoredRow};
use crate::tables::{SecretColumn, TABLES};
use content::{Content, Counts};

/// Rows that are encrypted and inserted together; with the biggest attachments still only some megabytes.
const BATCH_ROWS: u64 = 2_000;

/// Creates the tables and fills them with values under that key.
pub(crate) async fn seed(database: &Database, key: &SecretKey, counts: Counts) -> anyhow::Result<()> {
    database.create_tables().await.context("creating the sample vault's tables")?;
    let cipher = Cipher::new(key);
    for (number, table) in TABLES.iter().enumerate() {
        let count = counts.0[number];
        let mut first = 0;
        while first < count {
            let last = (first + BATCH_ROWS).min(count);
            let rows = (first..last).map(|row| {
                let values =
                    table.columns.iter().map(|column| stored(&cipher, column, content::content(number, row, column)));
                Ok(StoredRow { key: content::key(number, row), values: values.collect::<anyhow::Result<_>>()? })
            });
            let rows: Vec<StoredRow> = rows.collect::<anyhow::Result<_>>()?;
            database.insert(table, &rows).await.with_context(|| format!("filling table {}", table.name))?;
            first = last;
        }
    }
    Ok(())
}

fn stored(cipher: &Cipher, column: &SecretColumn, content: Content) -> anyhow::Result<Stored> {
    match content {
        Content::Null => Ok(None),
        Content::Empty => Ok(Some(Vec::new())),
        Content::Value { plaintext, legacy } => {
            let version = if legacy { CipherVersion::V1 } else { CipherVersion::V2 };
            Ok(Some(cipher.encrypt(&plaintext, column.encoding, column.aad.as_bytes(), version)?))
        }
    }
}
