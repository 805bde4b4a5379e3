//! What the vault is seeded with: for every row its key and its plaintexts, the same on every run, so that content can
//! be checked at any time without having been kept.

use uuid::Uuid;

use crate::tables::{ATTACHMENTS, CONNECTIONS, DOCUMENTATION, KeyPart, RowKey, SecretColumn, USER_VAULT_ENTRIES};

/// Derives the content; another value is another content.
const SEED: &str = "keyturn sample vault content v1";

/// The biggest attachments: 1 MiB, as the vault allows.
const ATTACHMENT_BYTES_MAX: usize = 1024 * 1024;

/// How many attachments are big; a few, or seeding and checking would take longer than the rotation.
const BIG_ATTACHMENTS: u64 = 6;

/// An ordinary attachment is smaller than this.
const ATTACHMENT_BYTES_USUAL: u64 = 6 * 1024;

/// Out of a hundred rows, so many belong to each table, in the order of the tables.
const SHARES: [u64; 4] = [35, 40, 20, 5];

/// One value out of so many is NULL, of columns that may be.
const NULL_EVERY: u64 = 17;

/// One value out of so many is empty, of columns that may be.
const EMPTY_EVERY: u64 = 19;

/// One value out of so many is an old V1 ciphertext, of columns without AAD (V1 binds it badly).
const LEGACY_EVERY: u64 = 7;

/// A seeded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// SQL's NULL.
    Null,
    /// Nothing was ever entered; stored as it is.
    Empty,
    /// A plaintext.
    Value {
        /// Its bytes.
        plaintext: Vec<u8>,
        /// Whether it is stored as an old V1 ciphertext.
        legacy: bool,
    },
}

/// How many rows each table has, in the order of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) [u64; 4]);

impl Counts {
    /// Divides so many rows among the tables. Every table gets at least one row.
    pub(crate) fn of(rows: u64) -> Self {
        let mut counts = SHARES.map(|share| (rows * share / 100).max(1));
        let others = counts[CONNECTIONS] + counts[DOCUMENTATION] + counts[ATTACHMENTS];
        counts[USER_VAULT_ENTRIES] = rows.saturating_sub(others).max(1);
        Self(counts)
    }

    /// All rows together.
    pub(crate) fn total(self) -> u64 {
        self.0.iter().sum()
    }
}

/// The primary key of a row.
pub(crate) fn key(table: usize, row: u64) -> RowKey {
    let parts = match table {
        // With gaps and below zero, as keys are in life.
        CONNECTIONS => vec![KeyPart::Integer(row.cast_signed() * 3 - 100)],
        USER_VAULT_ENTRIES => vec![KeyPart::Uuid(Uuid::from_bytes(first_bytes(table, row, "key")))],
        DOCUMENTATION => {
            vec![KeyPart::Text(format!("{}-{row}", ["How-to", "network", "Überblick", "on.call"][index(row % 4)]))]
        }
        _ => vec![
            KeyPart::Integer((row / 2).cast_signed()),
            KeyPart::Text(format!("{}.{}", row % 2, ["txt", "PDF"][index(row % 2)])),
        ],
    };
    RowKey(parts)
}

/// The content of one encrypted column of a row.
pub(crate) fn content(table: usize, row: u64, column: &SecretColumn) -> Content {
    let draw = u128::from_le_bytes(first_bytes(table, row, column.name));
    let chance = |every: u64, shift: u32| ((draw >> shift) as u64).is_multiple_of(every);
    // Big attachments are spread over the table and are never anything else.
    let big = table == ATTACHMENTS && row % 37 == 5 && row / 37 < BIG_ATTACHMENTS;
    // The first rows of every table are plain values, so that the load and a reader find some at once.
    if row >= 4 && !big && table != CONNECTIONS {
        if chance(NULL_EVERY, 0) {
            return Content::Null;
        }
        if chance(EMPTY_EVERY, 16) {
            return Content::Empty;
        }
    }
    let legacy = column.aad.is_empty() && chance(LEGACY_EVERY, 32);
    let size_draw = (draw >> 64) as u64;
    let plaintext = if table == ATTACHMENTS {
        let bytes = if row == 5 {
            ATTACHMENT_BYTES_MAX
        } else if big {
            ATTACHMENT_BYTES_MAX / 4 + index(size_draw % (ATTACHMENT_BYTES_MAX as u64 / 2))
        } else {
            index(size_draw % ATTACHMENT_BYTES_USUAL)
        };
        random_bytes(table, row, column.name, bytes)
    } else {
        let words = 2 + index(size_draw % if table == DOCUMENTATION { 60 } else { 8 });
        sentence(table, row, column.name, words)
    };
    Content::Value { plaintext, legacy }
}

/// Words that look like something a person wrote into a vault, ending in a part that nobody could guess.
fn sentence(table: usize, row: u64, column: &str, words: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "server",
        "réseau",
        "backup",
        "Schlüssel",
        "on-call",
        "router",
        "staging",
        "lock",
        "floor",
        "printer",
        "root",
        "cabinet",
        "rack",
        "north",
        "tunnel",
        "gate",
    ];
    let bytes = random_bytes(table, row, column, words + 12);
    let (choices, tail) = bytes.split_at(words);
    let mut text = choices.iter().map(|byte| WORDS[usize::from(byte % 16)]).collect::<Vec<_>>().join(" ");
    text.push(' ');
    text.push_str(&hex::encode(tail));
    text.into_bytes()
}

fn random_bytes(table: usize, row: u64, column: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    output(table, row, column).fill(&mut bytes);
    bytes
}

fn first_bytes(table: usize, row: u64, what: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    // Not the beginning of the content itself, or the size of a value would tell its first bytes.
    let mut output = output(table, row, what);
    output.set_position(u64::MAX / 2);
    output.fill(&mut bytes);
    bytes
}

fn output(table: usize, row: u64, what: &str) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key(SEED);
    hasher.update(&[u8::try_from(table).expect("there are four tables")]);
    hasher.update(&row.to_le_bytes());
    hasher.update(what.as_bytes());
    hasher.finalize_xof()
}

/// A small remainder as an index.
fn index(remainder: u64) -> usize {
    usize::try_from(remainder).expect("a remainder by a small number fits")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tables::TABLES;

    #[test]
    fn every_row_is_counted_and_every_table_has_one() {
        for rows in [4, 5, 99, 2_000, 20_000, 20_001] {
            let counts = Counts::of(rows);
            assert_eq!(counts.total(), rows, "{counts:?}");
            assert!(counts.0.iter().all(|count| *count > 0));
        }
    }

    #[test]
    fn keys_are_unique() {
        for table in 0..TABLES.len() {
            let keys: BTreeSet<RowKey> = (0..5_000).map(|row| key(table, row)).collect();
            assert_eq!(keys.len(), 5_000);
        }
    }

    #[test]
    fn content_is_the_same_every_time_and_has_every_kind() {
        let mut seen = [false; 4];
        for (number, table) in TABLES.iter().enumerate() {
            for column in table.columns {
                for row in 0..500 {
                    let content = content(number, row, column);
                    assert_eq!(content, super::content(number, row, column));
                    match content {
                        Content::Null => seen[0] = true,
                        Content::Empty => seen[1] = true,
                        Content::Value { legacy: true, .. } => {
                            seen[2] = true;
                            assert!(column.aad.is_empty(), "V1 binds AAD badly");
                        }
                        Content::Value { legacy: false, .. } => seen[3] = true,
                    }
                }
            }
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn some_attachments_are_big_and_one_is_the_biggest() {
        let column = TABLES[ATTACHMENTS].served();
        let sizes: Vec<usize> = (0..1_000)
            .filter_map(|row| match content(ATTACHMENTS, row, column) {
                Content::Value { plaintext, .. } => Some(plaintext.len()),
                Content::Null | Content::Empty => None,
            })
            .collect();
        assert_eq!(sizes.iter().max(), Some(&ATTACHMENT_BYTES_MAX));
        assert_eq!(sizes.iter().filter(|size| **size > 200_000).count(), 6);
    }
}
