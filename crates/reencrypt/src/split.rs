//! Splits tables into shards of about equal work, from marks that are set while every row is read once.

use rotation::{Shard, ShardId, ShardRange};

use crate::key::Key;

/// What a row costs besides its bytes, in bytes: reading and writing a row of nothing takes about as long as the
/// cryptography over this much.
const ROW_COST_BYTES: u64 = 256;

/// Below this a shard costs more in leases and connections than in work: about a thousand small rows.
const SHARD_COST_MIN: u64 = 256 * 1024;

/// Marks kept for one table. With more than this many shards wanted of one table, some would be of double size.
const MARKS_MAX: usize = 4096;

/// How much of a table lies up to and including a key.
#[derive(Debug, Clone)]
struct Mark {
    key: Key,
    rows: u64,
    cost: u64,
}

/// The marks of one table. When there are too many, every other one is dropped, so memory does not grow with rows.
#[derive(Debug)]
pub(crate) struct Marks {
    marks: Vec<Mark>,
    rows_between: u64,
    rows: u64,
    cost: u64,
}

impl Marks {
    pub(crate) const fn new() -> Self {
        Self { marks: Vec::new(), rows_between: 1, rows: 0, cost: 0 }
    }

    /// Counts the next row in the order of keys.
    pub(crate) fn add(&mut self, key: Key, bytes: u64) {
        self.rows += 1;
        self.cost += ROW_COST_BYTES + bytes;
        if !self.rows.is_multiple_of(self.rows_between) {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            self.rows_between *= 2;
            let rows_between = self.rows_between;
            self.marks.retain(|mark| mark.rows.is_multiple_of(rows_between));
        }
        if self.rows.is_multiple_of(self.rows_between) {
            self.marks.push(Mark { key, rows: self.rows, cost: self.cost });
        }
    }

    /// Keys that end a part, and the rows up to each; the last part has no end and is not among them.
    fn bounds(&self, parts: u64) -> Vec<(&Key, u64)> {
        let mut bounds: Vec<(&Key, u64)> = Vec::new();
        let mut marks = self.marks.iter();
        for part in 1..parts {
            // In u128, since the cost of a large table times the number of parts exceeds u64.
            let wanted = u128::from(self.cost) * u128::from(part) / u128::from(parts);
            match marks.find(|mark| u128::from(mark.cost) >= wanted) {
                Some(mark) if mark.rows < self.rows => bounds.push((&mark.key, mark.rows)),
                Some(_) | None => break,
            }
        }
        bounds
    }
}

/// Shards over all tables, numbered from 0: about as many as wanted, one for each table at least.
pub(crate) fn split(tables: &[(String, Marks)], shards_wanted: u32) -> Vec<Shard> {
    let total: u64 = tables.iter().map(|(_, marks)| marks.cost).sum();
    let cost_of_shard = (total / u64::from(shards_wanted.max(1))).max(SHARD_COST_MIN);
    let mut shards = Vec::new();
    for (table, marks) in tables {
        let parts = ((marks.cost + cost_of_shard / 2) / cost_of_shard).max(1);
        let mut after: Option<(&Key, u64)> = None;
        let bounds = marks.bounds(parts);
        for through in bounds.into_iter().map(Some).chain([None]) {
            let rows_before = after.map_or(0, |(_, rows)| rows);
            let rows_through = through.map_or(marks.rows, |(_, rows)| rows);
            shards.push(Shard {
                id: ShardId::new(shards.len() as u64),
                table: table.clone(),
                range: ShardRange {
                    after: after.map(|(key, _)| key.bound()),
                    through: through.map(|(key, _)| key.bound()),
                },
                rows_estimated: rows_through - rows_before,
            });
            after = through;
        }
    }
    shards
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::KeyValue;

    fn marks(rows: u64, bytes: impl Fn(u64) -> u64) -> Marks {
        let mut marks = Marks::new();
        for row in 0..rows {
            marks.add(Key(vec![KeyValue::Integer(i64::try_from(row).unwrap())]), bytes(row));
        }
        marks
    }

    #[test]
    fn an_empty_table_is_one_shard_without_bounds() {
        let shards = split(&[("t".to_owned(), marks(0, |_| 0))], 8);
        assert_eq!(shards.len(), 1);
        assert_eq!(shards[0].range, ShardRange { after: None, through: None });
    }

    #[test]
    fn a_small_table_is_not_cut_up() {
        assert_eq!(split(&[("t".to_owned(), marks(500, |_| 100))], 64).len(), 1);
    }

    #[test]
    fn few_large_rows_weigh_as_much_as_many_small_ones() {
        let tables = [("attachments".to_owned(), marks(10, |_| 1 << 20)), ("notes".to_owned(), marks(40_000, |_| 10))];
        let shards = split(&tables, 10);
        let of = |table: &str| shards.iter().filter(|shard| shard.table == table).count();
        assert_eq!((of("attachments"), of("notes")), (5, 5));
    }

    #[test]
    fn marks_do_not_grow_with_rows() {
        let marks = marks(100_000, |_| 1000);
        assert!(marks.marks.len() <= MARKS_MAX);
        let shards = split(&[("t".to_owned(), marks)], 20);
        assert_eq!(shards.len(), 20);
        assert!(shards.iter().all(|shard| (4000..6000).contains(&shard.rows_estimated)), "{shards:?}");
    }

    proptest! {
        #[test]
        fn shards_of_a_table_join_without_gap_or_overlap(rows in 0..5000_u64, bytes in 0..5000_u64, wanted in 0..100_u32) {
            let shards = split(&[("t".to_owned(), marks(rows, |row| row * 7 % (bytes + 1)))], wanted);
            prop_assert!(shards[0].range.after.is_none());
            prop_assert!(shards[shards.len() - 1].range.through.is_none());
            for pair in shards.windows(2) {
                prop_assert!(pair[0].range.through.is_some());
                prop_assert_eq!(&pair[0].range.through, &pair[1].range.after);
            }
            prop_assert_eq!(shards.iter().map(|shard| shard.rows_estimated).sum::<u64>(), rows);
            prop_assert!(shards.len() <= wanted.max(1) as usize + 1);
            prop_assert!(shards.iter().enumerate().all(|(at, shard)| shard.id.get() == at as u64));
        }
    }
}
