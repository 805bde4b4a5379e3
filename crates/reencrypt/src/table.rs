//! A registered table as the database really has it, and its rows in memory.

use aws_lc_rs::digest::{SHA256, digest};
use keys::content::ContentHasher;
use keys::value::Encoding;
use rotation::ContentDigest;

use crate::key::Key;
use crate::targets::Aad;

/// A registered table that was found in the database and is fit to be worked on.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// As plan and messages call it.
    pub(crate) label: String,
    /// As SQL names it, quoted; with `ONLY` where that matters.
    pub(crate) from: String,
    /// The primary key's columns, in its order.
    pub(crate) key: Vec<KeyColumn>,
    /// The encrypted columns, in the order of targets.toml.
    pub(crate) columns: Vec<ValueColumn>,
    /// Every column that is neither registered nor generated, the key's too, as SQL names it, quoted: what a row's rest
    /// is read from. In SQLite also the rowid where it is not the key.
    pub(crate) others: Vec<String>,
    /// Triggers that would fire and must be taken away for the length of a chunk's transaction.
    pub(crate) triggers: Vec<Trigger>,
    /// Columns, quoted, that the database would change with every write unless they are set to themselves (MariaDB).
    pub(crate) kept: Vec<String>,
    /// What reads each of the others exactly (MariaDB); empty elsewhere.
    pub(crate) exact: Vec<String>,
}

/// A column of a primary key.
#[derive(Debug, Clone)]
pub(crate) struct KeyColumn {
    /// As SQL names it, quoted.
    pub(crate) sql: String,
    /// What its values are.
    pub(crate) kind: KeyKind,
    /// The base type to cast text to (PostgreSQL), or the placeholder with what makes it of the column's type
    /// (MariaDB); empty where values are bound as they are.
    pub(crate) cast: String,
    /// The collation of the primary key's index where it has to be named (SQLite).
    pub(crate) collation: Option<String>,
    /// Whether the primary key's index descends in this column and pages have to follow it (MariaDB).
    pub(crate) descending: bool,
}

/// What the values of a key column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Whole numbers.
    Integer,
    /// Text.
    Text,
    /// Bytes.
    Bytes,
    /// Another type, as text.
    Other,
    /// Whatever each row has (SQLite).
    Any,
}

/// An encrypted column.
#[derive(Debug, Clone)]
pub(crate) struct ValueColumn {
    /// As targets.toml names it.
    pub(crate) name: String,
    /// As SQL names it, quoted.
    pub(crate) sql: String,
    pub(crate) encoding: Encoding,
    pub(crate) aad: Aad,
    /// Whether the column is of a text type, so that values are sent as text (PostgreSQL) or
    /// compared as bytes (MariaDB).
    pub(crate) text: bool,
}

/// A trigger and the statement that makes it again.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    /// Quoted.
    pub(crate) sql: String,
    pub(crate) definition: String,
}

/// A range of keys: greater than `after`, up to and including `through`.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyRange {
    pub(crate) after: Option<Key>,
    pub(crate) through: Option<Key>,
}

/// What a row holds in one encrypted column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    /// SQL's NULL.
    Null,
    /// Bytes or text, as bytes.
    Bytes(Vec<u8>),
    /// What cannot be a ciphertext: a number in a column of SQLite, as the text it prints as.
    Number(Vec<u8>),
    /// Bytes of a row that is too large to be kept beside what replaces it: their SHA-256, which every system can compare.
    Digest([u8; 32]),
}

impl Stored {
    /// The stored bytes; none for NULL, and none where they were let go.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Null | Self::Digest(_) => None,
            Self::Bytes(bytes) | Self::Number(bytes) => Some(bytes),
        }
    }

    /// SHA-256 of the stored bytes; none for NULL.
    pub(crate) fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::Null => None,
            Self::Bytes(bytes) | Self::Number(bytes) => Some(sha256(bytes)),
            Self::Digest(digest) => Some(*digest),
        }
    }

    /// Keeps the digest alone.
    fn let_go(&mut self) {
        if let Some(digest) = self.sha256() {
            *self = Self::Digest(digest);
        }
    }

    /// Whether a row that is read again holds in this place what was read of it.
    pub(crate) fn is_still(&self, found: &Self) -> bool {
        match self {
            Self::Digest(digest) => found.sha256() == Some(*digest),
            Self::Null | Self::Bytes(_) | Self::Number(_) => self == found,
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut found = [0; 32];
    found.copy_from_slice(digest(&SHA256, bytes).as_ref());
    found
}

/// Bytes of a row from which on it is written alone and by its digest, since copies of its values count.
const LARGE_BYTES: usize = 1024 * 1024;

/// One row: its key and its encrypted columns, in the order of [`Table::columns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) values: Vec<Stored>,
    /// The key and every column that is not registered, in the dialect's own exact form; empty where nobody asked.
    /// Without generated columns: they follow from the others, and those that are computed from a ciphertext change with it.
    pub(crate) rest: Vec<u8>,
    /// What no two versions of a row have in common, where the system has such a thing and it was asked for (PostgreSQL's
    /// xmin, the transaction that wrote it).
    pub(crate) version: Option<[u8; 4]>,
}

impl Row {
    /// The digest that is another one after every write to the row: of its version, or else of all its bytes.
    pub(crate) fn raw(&self, hasher: &mut ContentHasher, table: &str, key: &str) -> ContentDigest {
        match &self.version {
            Some(version) => hasher.raw(table, key.as_bytes(), std::iter::once(Some(version.as_slice()))),
            None => hasher.raw(table, &self.rest, self.values.iter().map(Stored::bytes)),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.rest.len() + self.values.iter().filter_map(Stored::bytes).map(<[u8]>::len).sum::<usize>()
    }
}

/// A row that is to be changed: what it holds now, and what each column is to hold (`None`: as it is).
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) row: Row,
    pub(crate) new: Vec<Option<Vec<u8>>>,
}

impl Change {
    /// Whether it is to be written alone, and what it still must hold compared by its digest.
    pub(crate) fn is_large(&self) -> bool {
        let is_let_go = |stored: &Stored| matches!(stored, Stored::Digest(_));
        let new: usize = self.new.iter().flatten().map(Vec::len).sum();
        self.row.bytes().max(new) >= LARGE_BYTES || self.row.values.iter().any(is_let_go)
    }

    /// Keeps of the values that were read no more than their digests, if they are large.
    pub(crate) fn let_go(&mut self) {
        if self.is_large() {
            self.row.values.iter_mut().for_each(Stored::let_go);
        }
    }
}

/// An identifier for SQL. PostgreSQL and SQLite quote alike.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_cannot_end_their_quotes() {
        assert_eq!(quote("Users"), "\"Users\"");
        assert_eq!(quote("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
    }
}
