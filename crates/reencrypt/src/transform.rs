//! Turns one page of rows in memory: opens every value, encrypts it anew where the pass asks for it, and counts and
//! digests what it met. Runs on a blocking thread; holds plaintexts only for the length of one value.

use std::collections::HashMap;

use keys::SecretKey;
use keys::content::{ContentDigester, ContentHasher, ContentValue};
use keys::value::{Cipher, Rewrapper, ValueError};
use rotation::{ContentDigest, Digest, RotationId, ShardTally, UndecryptableValue};

use crate::EngineError;
use crate::key::Key;
use crate::ledger::Pass;
use crate::table::{Change, Row, Stored, Table, ValueColumn};

/// A page, turned.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The last key of the page.
    pub(crate) last: Key,
    /// What was counted.
    pub(crate) tally: ShardTally,
    /// The digest of the rows as they stand, if that is watched.
    pub(crate) raw: ContentDigest,
    /// Rows that are to be written.
    pub(crate) changes: Vec<Change>,
}

/// Which rows of a page are handed on to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandOn {
    /// Those that change.
    Changed,
    /// Every one, without the old bytes of values that were turned.
    Every,
    /// Every one, with the values that were read, to be compared with what stands there when it is written.
    EveryAsRead,
}

/// Values that may stay undecryptable, each bound to its raw bytes: (table, column, key) to digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accepted(HashMap<(String, String, String), Digest>);

impl Accepted {
    pub(crate) fn new(values: &[UndecryptableValue]) -> Self {
        let entry = |value: &UndecryptableValue| {
            ((value.table.clone(), value.column.clone(), value.key.0.clone()), value.raw_digest)
        };
        Self(values.iter().map(entry).collect())
    }

    pub(crate) fn holds(&self, table: &str, column: &str, key: &str, raw: &[u8]) -> bool {
        !self.0.is_empty()
            && self.0.get(&(table.to_owned(), column.to_owned(), key.to_owned())) == Some(&raw_digest(raw))
    }
}

/// The digest to which an acceptance is bound.
pub(crate) fn raw_digest(raw: &[u8]) -> Digest {
    Digest::new(*blake3::hash(raw).as_bytes())
}

/// What a pass does with a value that opens.
enum Work {
    /// From the first key to the second. A value under the second already is an error, or left as it is.
    Turn { rewrapper: Rewrapper, turned_already: TurnedAlready },
    /// Opens under the first; under the second it is an error.
    Open { expected: Cipher, other: Cipher, other_problem: &'static str },
}

enum TurnedAlready {
    Refuse,
    Keep,
}

/// Turns the pages of one table in one pass.
pub(crate) struct Transformer {
    table: Table,
    work: Work,
    digester: ContentDigester,
    accepted: Accepted,
    hand_on: HandOn,
    watches_writes: bool,
}

/// What became of one value.
struct Turned {
    new: Option<Vec<u8>>,
    tally: ShardTally,
}

impl Transformer {
    pub(crate) fn new(
        table: Table,
        pass: Pass,
        (old, new): (&SecretKey, &SecretKey),
        rotation: &RotationId,
        accepted: Accepted,
        hand_on: HandOn,
    ) -> Self {
        let work = match pass {
            Pass::Reencrypt => {
                Work::Turn { rewrapper: Rewrapper::new(old, new), turned_already: TurnedAlready::Refuse }
            }
            Pass::Restore => Work::Turn { rewrapper: Rewrapper::new(new, old), turned_already: TurnedAlready::Keep },
            Pass::Verify => Work::Open {
                expected: Cipher::new(new),
                other: Cipher::new(old),
                other_problem: "is still under the old key",
            },
            Pass::VerifyRestored => Work::Open {
                expected: Cipher::new(old),
                other: Cipher::new(new),
                other_problem: "is still under the new key",
            },
        };
        Self {
            table,
            work,
            digester: ContentDigester::new(old, new, rotation),
            accepted,
            hand_on,
            watches_writes: false,
        }
    }

    /// The same, which also takes the digest by which it is known whether a row was written to since.
    pub(crate) const fn watching_writes(mut self, watches_writes: bool) -> Self {
        self.watches_writes = watches_writes;
        self
    }

    /// Turns a page that is not empty.
    pub(crate) fn batch(&self, rows: Vec<Row>) -> Result<Batch, EngineError> {
        let mut tally = ShardTally::default();
        let mut raw = ContentDigest::default();
        let mut changes = Vec::with_capacity(rows.len());
        let mut failures = Failures::default();
        let mut hasher = self.digester.hasher();
        let mut key = String::new();
        let last = match rows.last() {
            Some(row) => row.key.clone(),
            None => return Err(EngineError::Internal("an empty page was to be turned".to_owned())),
        };
        for mut row in rows {
            key.clear();
            row.key.write_to(&mut key);
            tally.rest = tally.rest.plus(hasher.rest(&self.table.label, &row.rest));
            if self.watches_writes {
                raw = raw.plus(row.raw(&mut hasher, &self.table.label, &key));
            }
            let mut new = Vec::with_capacity(row.values.len());
            for (column, stored) in self.table.columns.iter().zip(&row.values) {
                match self.value(&mut hasher, column, &key, stored) {
                    Ok(turned) => {
                        tally.values += turned.tally.values;
                        tally.undecryptable += turned.tally.undecryptable;
                        tally.digest = tally.digest.plus(turned.tally.digest);
                        new.push(turned.new);
                    }
                    Err(problem) => failures.add(problem, || self.place(column, &key))?,
                }
            }
            tally.rows += 1;
            let changed = new.iter().any(Option::is_some);
            match self.hand_on {
                HandOn::Every => {
                    for (stored, new) in row.values.iter_mut().zip(&new) {
                        if new.is_some() {
                            *stored = Stored::Null;
                        }
                    }
                    changes.push(Change { row, new });
                }
                // The server has the other columns itself.
                HandOn::EveryAsRead => changes.push(compared(row, new)),
                HandOn::Changed if changed => changes.push(compared(row, new)),
                HandOn::Changed => {}
            }
        }
        failures.end()?;
        Ok(Batch { last, tally, raw, changes })
    }

    fn value(
        &self,
        hasher: &mut ContentHasher,
        column: &ValueColumn,
        key: &str,
        stored: &Stored,
    ) -> Result<Turned, Problem> {
        let label = &self.table.label;
        let mut digest = |value: ContentValue<'_>| hasher.value(label, &column.name, key, value);
        let untouched = |digest| Turned { new: None, tally: ShardTally { digest, ..Default::default() } };
        let raw = match stored {
            Stored::Null => return Ok(untouched(digest(ContentValue::Null))),
            Stored::Bytes(raw) if raw.is_empty() => return Ok(untouched(digest(ContentValue::Empty))),
            Stored::Bytes(raw) | Stored::Number(raw) => raw,
            Stored::Digest(_) => return Err(Problem::Undecryptable("its bytes were let go".to_owned())),
        };
        let mut content = ContentDigest::default();
        let opened = match stored {
            Stored::Number(_) => Err(Problem::Undecryptable("it is stored as a number".to_owned())),
            Stored::Null | Stored::Bytes(_) | Stored::Digest(_) => {
                self.open(column, raw, |plaintext| content = digest(ContentValue::Plain(plaintext)))
            }
        };
        match opened {
            Ok(new) => Ok(Turned { new, tally: ShardTally { values: 1, digest: content, ..Default::default() } }),
            Err(Problem::Undecryptable(_)) if self.accepted.holds(label, &column.name, key, raw) => {
                let digest = digest(ContentValue::Undecryptable(raw));
                Ok(Turned { new: None, tally: ShardTally { undecryptable: 1, digest, ..Default::default() } })
            }
            Err(problem) => Err(problem),
        }
    }

    /// Shows the plaintext, and says what is to be stored instead of `raw`, if anything.
    fn open(&self, column: &ValueColumn, raw: &[u8], mut seen: impl FnMut(&[u8])) -> Result<Option<Vec<u8>>, Problem> {
        let aad = column.aad.as_bytes();
        match &self.work {
            Work::Turn { rewrapper, turned_already } => match rewrapper.turn(raw, column.encoding, aad, &mut seen) {
                Ok(turned) => Ok(Some(turned)),
                Err(ValueError::UnderOtherKey) => match turned_already {
                    TurnedAlready::Refuse => Err(Problem::UnexpectedKey("is already under the new key")),
                    TurnedAlready::Keep => match rewrapper.open_turned(raw, column.encoding, aad) {
                        Ok(opened) => {
                            seen(&opened.plaintext);
                            Ok(None)
                        }
                        Err(error) => Err(Problem::Undecryptable(error.to_string())),
                    },
                },
                Err(ValueError::Cipher) => Err(Problem::Cipher),
                Err(error) => Err(Problem::Undecryptable(error.to_string())),
            },
            Work::Open { expected, other, other_problem } => match expected.open(raw, column.encoding, aad) {
                Ok(opened) => {
                    seen(&opened.plaintext);
                    Ok(None)
                }
                Err(ValueError::NoKnownKey) if other.open(raw, column.encoding, aad).is_ok() => {
                    Err(Problem::UnexpectedKey(other_problem))
                }
                Err(error) => Err(Problem::Undecryptable(error.to_string())),
            },
        }
    }

    fn place(&self, column: &ValueColumn, key: &str) -> String {
        format!("{}.{} of row {key}", self.table.label, column.name)
    }
}

/// A change whose values alone are compared when they are written.
fn compared(mut row: Row, new: Vec<Option<Vec<u8>>>) -> Change {
    row.rest = Vec::new();
    let mut change = Change { row, new };
    change.let_go();
    change
}

/// Why a value was not turned.
enum Problem {
    Undecryptable(String),
    UnexpectedKey(&'static str),
    Cipher,
}

/// Undecryptable values are counted over the whole page, so that one message tells how bad it is; anything else
/// ends the page at once.
#[derive(Default)]
struct Failures {
    first: Option<String>,
    count: u64,
}

impl Failures {
    fn add(&mut self, problem: Problem, place: impl FnOnce() -> String) -> Result<(), EngineError> {
        match problem {
            Problem::Undecryptable(reason) => {
                self.count += 1;
                self.first.get_or_insert_with(|| format!("{}: {reason}", place()));
                Ok(())
            }
            Problem::UnexpectedKey(problem) => Err(EngineError::UnexpectedKey { at: place(), problem }),
            Problem::Cipher => Err(EngineError::Internal(format!("{} could not be encrypted", place()))),
        }
    }

    fn end(self) -> Result<(), EngineError> {
        match self.first {
            Some(first) => Err(EngineError::Undecryptable { first, count: self.count }),
            None => Ok(()),
        }
    }
}
