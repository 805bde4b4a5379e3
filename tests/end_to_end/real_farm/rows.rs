//! Reads the vault's rows past the application: under which of the farm's keys they are.

use keys::SecretKey;
use keys::value::{Cipher, Encoding};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// Table, column, how it is written, and what it is bound to, as in the farm's targets.toml.
const COLUMNS: [(&str, &str, Encoding, &str); 5] = [
    ("connections", "credentials", Encoding::Raw, ""),
    ("user_vault_entries", "password", Encoding::Base64, "user_vault_entries.password"),
    ("user_vault_entries", "notes", Encoding::Base64, ""),
    ("documentation", "body", Encoding::Base64, ""),
    ("attachments", "content", Encoding::Raw, ""),
];

/// How many values of each column are under this key, under another, and under none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) under: u64,
    pub(crate) not_under: u64,
}

/// Every value of the vault, or the first few of each column, held against a key. All of it in one snapshot.
pub(crate) async fn count(connection: &mut PgConnection, key: &SecretKey, few: bool) -> Result<Count, sqlx::Error> {
    let cipher = Cipher::new(key);
    let mut count = Count::default();
    let limit = if few { "LIMIT 3" } else { "" };
    let parts: Vec<String> = COLUMNS
        .iter()
        .enumerate()
        .map(|(number, (table, column, encoding, _))| {
            let value = match encoding {
                Encoding::Raw => (*column).to_owned(),
                Encoding::Base64 => format!("convert_to({column}, 'UTF8')"),
            };
            // Both ends of the table: it is turned from the front.
            let ends = if few { ["ASC", "DESC"].as_slice() } else { ["ASC"].as_slice() };
            let ends = ends.iter().map(|order| {
                format!("(SELECT {number}, {value} FROM {table} WHERE {column} <> '' ORDER BY 2 {order} {limit})")
            });
            ends.collect::<Vec<_>>().join(" UNION ALL ")
        })
        .collect();
    for row in sqlx::query(AssertSqlSafe(parts.join(" UNION ALL "))).fetch_all(connection).await? {
        let (number, value): (i32, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let (_, _, encoding, aad) = COLUMNS[usize::try_from(number).expect("one of the five")];
        match cipher.open(&value, encoding, aad.as_bytes()) {
            Ok(_) => count.under += 1,
            Err(_) => count.not_under += 1,
        }
    }
    Ok(count)
}
