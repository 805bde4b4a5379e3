//! A registered table as the database really has it, and its rows in memory.

use keys::value::Encoding;

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
}

impl Stored {
    /// The stored bytes; none for NULL.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Null => None,
            Self::Bytes(bytes) | Self::Number(bytes) => Some(bytes),
        }
    }
}

/// One row: its key and its encrypted columns, in the order of [`Table::columns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) values: Vec<Stored>,
    /// The key and every column that is not registered, in the dialect's own exact form; empty where nobody asked.
    /// Without generated columns: they follow from the others, and those that are computed from a ciphertext change with it.
    pub(crate) rest: Vec<u8>,
}

impl Row {
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
