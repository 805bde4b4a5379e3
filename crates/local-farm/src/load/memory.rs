//! What rows must say: what they were seeded with, or what a client was promised since.

use std::collections::BTreeMap;

use crate::seed::content::{self, Content};
use crate::tables::SecretColumn;

/// A row by the numbers of its table and of itself.
pub(crate) type RowNumber = (usize, u64);

/// What was written over the seed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    written: BTreeMap<RowNumber, Written>,
}

#[derive(Debug, Clone)]
struct Written {
    /// The last acknowledged plaintext; `None` while that is still the seed's.
    acknowledged: Option<Vec<u8>>,
    /// A later one without an answer: it may or may not have been written.
    in_doubt: Option<Vec<u8>>,
}

impl Memory {
    /// Whether the served column of a row may say this; `None` is NULL.
    pub(crate) fn allows(&self, row: RowNumber, column: &SecretColumn, plaintext: Option<&[u8]>) -> bool {
        let written = self.written.get(&row);
        if written.is_some_and(|written| written.in_doubt.as_deref().is_some_and(|doubt| plaintext == Some(doubt))) {
            return true;
        }
        match written.and_then(|written| written.acknowledged.as_deref()) {
            Some(acknowledged) => plaintext == Some(acknowledged),
            None => is_seeded(row, column, plaintext),
        }
    }

    /// An acknowledged write.
    pub(super) fn acknowledge(&mut self, row: RowNumber, plaintext: Vec<u8>) {
        self.written.insert(row, Written { acknowledged: Some(plaintext), in_doubt: None });
    }

    /// A write without an answer.
    pub(super) fn doubt(&mut self, row: RowNumber, plaintext: Vec<u8>) {
        let written = self.written.entry(row).or_insert(Written { acknowledged: None, in_doubt: None });
        written.in_doubt = Some(plaintext);
    }

    /// Whether a write of this row may still arrive; nobody touches the row any more.
    pub(super) fn is_in_doubt(&self, row: RowNumber) -> bool {
        self.written.get(&row).is_some_and(|written| written.in_doubt.is_some())
    }

    /// Every row that was written, or may have been.
    pub(super) fn rows(&self) -> Vec<RowNumber> {
        self.written.keys().copied().collect()
    }

    /// Takes over what another client knows; no two clients share a row.
    pub(super) fn add(&mut self, other: Self) {
        self.written.extend(other.written);
    }
}

/// Whether a column of a row may say this if nobody wrote to it.
pub(crate) fn is_seeded(row: RowNumber, column: &SecretColumn, plaintext: Option<&[u8]>) -> bool {
    match (content::content(row.0, row.1, column), plaintext) {
        (Content::Null, None) => true,
        (Content::Empty, Some(plaintext)) => plaintext.is_empty(),
        (Content::Value { plaintext: seeded, .. }, Some(plaintext)) => seeded == plaintext,
        (Content::Null, Some(_)) | (Content::Empty | Content::Value { .. }, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{CONNECTIONS, TABLES};

    fn seeded(row: RowNumber) -> Vec<u8> {
        match content::content(row.0, row.1, TABLES[row.0].served()) {
            Content::Value { plaintext, .. } => plaintext,
            Content::Null | Content::Empty => panic!("connections always have a value"),
        }
    }

    #[test]
    fn a_row_says_what_was_seeded_until_something_else_was_acknowledged() {
        let (row, column) = ((CONNECTIONS, 3), TABLES[CONNECTIONS].served());
        let mut memory = Memory::default();
        assert!(memory.allows(row, column, Some(&seeded(row))));
        assert!(!memory.allows(row, column, None));
        memory.acknowledge(row, b"new".to_vec());
        assert!(memory.allows(row, column, Some(b"new")));
        assert!(!memory.allows(row, column, Some(&seeded(row))), "an acknowledged write that is lost is wrong");
    }

    #[test]
    fn a_write_without_an_answer_leaves_both_values_right() {
        let (row, column) = ((CONNECTIONS, 3), TABLES[CONNECTIONS].served());
        let mut memory = Memory::default();
        memory.doubt(row, b"perhaps".to_vec());
        assert!(memory.is_in_doubt(row));
        assert!(memory.allows(row, column, Some(b"perhaps")));
        assert!(memory.allows(row, column, Some(&seeded(row))));
        assert!(!memory.allows(row, column, Some(b"other")));
    }
}
