//! Large values come in pieces, each in a row of its own of the same copy: the driver has several times in memory whatever
//! the server sends at once, and a row that is larger than a page is not to be in memory at all before it has its room.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::super::layout::{Layout, needs_text, relation};
use super::{condition, malformed};
use crate::EngineError;
use crate::dialect::Scan;
use crate::error::Doing;
use crate::table::{Row, Stored, Table, ValueColumn};

/// Bytes of a piece.
const PIECE_BYTES: usize = 1024 * 1024;

/// Whether the table, or a partition of it, keeps so many bytes beside its rows that there may be a value of more than a piece.
const HAS_LARGE: &str = "
    SELECT COALESCE(sum(pg_relation_size(c.reltoastrelid)), 0) >= $2 FROM pg_class c
    WHERE c.reltoastrelid <> 0
      AND (c.oid = $1::regclass OR c.oid IN (SELECT relid::oid FROM pg_partition_tree($1::regclass)))";

/// Puts the pieces of rows together.
pub(super) struct Pieces {
    /// What a row of the copy is: the key and the rest, the number of the piece, and for each registered column the length of
    /// the whole value and the piece of it.
    pub(super) table: Table,
    columns: usize,
    /// The row of which there are pieces still to come.
    row: Option<Row>,
    /// How many there were.
    pieces: usize,
    /// How long its values are.
    lengths: Vec<usize>,
}

impl Pieces {
    /// Nothing for a table without large values, which is read as it is.
    pub(super) async fn of(connection: &mut PgConnection, table: &Table) -> Result<Option<Self>, EngineError> {
        let has_large = sqlx::query(HAS_LARGE)
            .bind(relation(table))
            .bind(i64::try_from(PIECE_BYTES).unwrap_or(i64::MAX))
            .fetch_one(connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| format!("looking whether {} has large values", table.label))?;
        Ok(if has_large { Some(Self::new(table)) } else { None })
    }

    fn new(table: &Table) -> Self {
        let two = |column: &ValueColumn| [column.clone(), column.clone()];
        let mut columns: Vec<_> = table.columns.iter().flat_map(two).collect();
        columns.extend(table.columns.first().cloned());
        Self {
            columns: table.columns.len(),
            table: Table { columns, ..table.clone() },
            row: None,
            pieces: 0,
            lengths: Vec::new(),
        }
    }
    /// What the row will be, if this is its first piece: larger rows wait for their room before the next is read.
    pub(super) fn bytes(&self, piece: &Row) -> usize {
        let lengths = piece.values.iter().skip(1).step_by(2).filter_map(number).sum::<usize>();
        if self.row.is_none() { piece.rest.len() + lengths } else { 0 }
    }

    /// The row, when this was its last piece.
    pub(super) fn put(&mut self, piece: Row) -> Result<Option<Row>, EngineError> {
        self.taken_in(piece).ok_or_else(|| malformed(&self.table))
    }

    fn taken_in(&mut self, piece: Row) -> Option<Option<Row>> {
        let Row { key, values, rest, version } = piece;
        let mut fields = values.into_iter();
        let at = number(&fields.next()?)?;
        let mut row = match self.row.take() {
            None if at == 0 => {
                self.lengths.clear();
                Row { key, values: Vec::with_capacity(self.columns), rest, version }
            }
            Some(row) if at == self.pieces && row.key == key => row,
            _ => return None,
        };
        for column in 0..self.columns {
            let length = number(&fields.next()?);
            match (fields.next()?, length) {
                (Stored::Null, None) if at == 0 => row.values.push(Stored::Null),
                (Stored::Null, None) => {}
                (Stored::Bytes(mut bytes), Some(length)) if at == 0 => {
                    bytes.reserve_exact(length.checked_sub(bytes.len())?);
                    row.values.push(Stored::Bytes(bytes));
                }
                (Stored::Bytes(bytes), Some(_)) => match row.values.get_mut(column)? {
                    Stored::Bytes(value) => value.extend_from_slice(&bytes),
                    _ => return None,
                },
                _ => return None,
            }
            if at == 0 {
                self.lengths.push(length.unwrap_or_default());
            }
        }
        self.pieces = at + 1;
        if self.lengths.iter().any(|length| *length > self.pieces * PIECE_BYTES) {
            self.row = Some(row);
            return Some(None);
        }
        let found = row.values.iter().map(|value| value.bytes().map_or(0, <[u8]>::len));
        found.eq(self.lengths.iter().copied()).then_some(Some(row))
    }

    /// Whether no piece is wanting.
    pub(super) fn is_whole(&self) -> bool {
        self.row.is_none()
    }
}

/// A number as a binary copy has it; none for NULL.
fn number(field: &Stored) -> Option<usize> {
    let bytes: [u8; 4] = field.bytes()?.try_into().ok()?;
    usize::try_from(i32::from_be_bytes(bytes)).ok()
}

/// The statement. Each row is made once, in the order of the keys, and stays as it is until its last piece is sent; of values
/// that are stored as they are, the server reads no more than a piece at a time.
pub(super) fn sql(scan: &Scan<'_>, layout: &Layout) -> String {
    let Scan { table, range, fields } = *scan;
    let keys: Vec<String> = table.key.iter().map(|key| format!("t.{}", key.sql)).collect();
    let keys = keys.join(", ");
    // Own names for everything inside, since the table's columns may have any.
    let (mut inner, mut outer, mut lengths) = (Vec::new(), Vec::new(), vec!["1".to_owned()]);
    for (at, column) in layout.rest.iter().enumerate() {
        inner.push(format!("{} AS r{at}", column.read()));
        outer.push(match at < table.key.len() {
            true => format!("s.r{at}"),
            false => format!("CASE WHEN s.piece = 0 THEN s.r{at} END"),
        });
    }
    outer.push("s.piece".to_owned());
    for (at, column) in table.columns.iter().enumerate() {
        let sql = &column.sql;
        inner.push(match column.text {
            true => format!("convert_to(t.{sql}::text, 'UTF8') AS v{at}"),
            false => format!("t.{sql}::bytea AS v{at}"),
        });
        lengths.push(format!("octet_length(p.v{at})"));
        outer.push(format!("octet_length(s.v{at})"));
        outer.push(format!("substr(s.v{at}, 1 + s.piece * {PIECE_BYTES}, {PIECE_BYTES})"));
    }
    for (at, key) in table.key.iter().filter(|key| needs_text(key.kind)).enumerate() {
        inner.push(format!("t.{}::text AS x{at}", key.sql));
        outer.push(format!("s.x{at}"));
    }
    if fields.has_version() {
        inner.push("t.xmin AS version".to_owned());
        outer.push("s.version".to_owned());
    }
    format!(
        "COPY (SELECT {} FROM (SELECT p.*, generate_series(0, (greatest({}) - 1) / {PIECE_BYTES}) AS piece FROM (
            SELECT {} FROM {} AS t {} ORDER BY {keys} OFFSET 0
         ) AS p) AS s) TO STDOUT (FORMAT binary)",
        outer.join(", "),
        lengths.join(", "),
        inner.join(", "),
        table.from,
        condition(table, range, &keys),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{Key, KeyValue};

    fn table() -> Table {
        let column = ValueColumn {
            name: "secret".to_owned(),
            sql: "\"secret\"".to_owned(),
            encoding: keys::value::Encoding::Raw,
            aad: crate::targets::Aad::default(),
            text: false,
        };
        Table {
            label: "t".to_owned(),
            from: "\"t\"".to_owned(),
            key: Vec::new(),
            columns: vec![column.clone(), column],
            others: Vec::new(),
            triggers: Vec::new(),
            kept: Vec::new(),
            exact: Vec::new(),
        }
    }

    /// The pieces of a row of two values, as the server sends them.
    fn pieces(id: i64, values: [Option<&[u8]>; 2]) -> Vec<Row> {
        let number = |number: usize| Stored::Bytes(i32::try_from(number).unwrap().to_be_bytes().to_vec());
        let longest = values.iter().flatten().map(|value| value.len()).max().unwrap_or_default();
        let row = |at: usize| {
            let mut fields = vec![number(at)];
            for value in values {
                let piece = |value: &[u8]| value.iter().skip(at * PIECE_BYTES).take(PIECE_BYTES).copied().collect();
                fields.push(value.map_or(Stored::Null, |value| number(value.len())));
                fields.push(value.map_or(Stored::Null, |value| Stored::Bytes(piece(value))));
            }
            let rest = if at == 0 { b"rest".to_vec() } else { Vec::new() };
            Row { key: Key(vec![KeyValue::Integer(id)]), values: fields, rest, version: None }
        };
        (0..longest.div_ceil(PIECE_BYTES).max(1)).map(row).collect()
    }

    #[test]
    fn pieces_make_the_row_that_they_were_cut_from() {
        let mut whole = Pieces::new(&table());
        let (long, short) = (vec![1; 2 * PIECE_BYTES + 1], vec![2; PIECE_BYTES]);
        for values in [
            [Some(&long[..]), Some(&short[..])],
            [None, Some(&long)],
            [Some(&short), None],
            [None, None],
            [Some(&[]), Some(&long)],
        ] {
            let pieces = pieces(7, values);
            let count = pieces.len();
            for (at, piece) in pieces.into_iter().enumerate() {
                let bytes =
                    if at == 0 { 4 + values.iter().flatten().map(|value| value.len()).sum::<usize>() } else { 0 };
                assert_eq!(whole.bytes(&piece), bytes);
                let row = whole.put(piece).unwrap();
                assert_eq!(whole.is_whole(), at + 1 == count);
                assert_eq!(row.is_some(), at + 1 == count);
                if let Some(row) = row {
                    assert_eq!(row.values.iter().map(Stored::bytes).collect::<Vec<_>>(), values);
                    assert_eq!((row.rest.as_slice(), row.key), (&b"rest"[..], Key(vec![KeyValue::Integer(7)])));
                }
            }
        }
    }

    #[test]
    fn a_piece_that_is_missing_twice_there_or_of_another_row_is_an_error() {
        let long = vec![1; 3 * PIECE_BYTES];
        let of = |id| pieces(id, [Some(&long), None]);
        let check = |taken: Vec<Row>| {
            let mut whole = Pieces::new(&table());
            let count = taken.len();
            let mut results = taken.into_iter().map(|piece| whole.put(piece).is_err());
            assert_eq!(results.position(|failed| failed), Some(count - 1));
        };
        let [first, second, third] = of(1).try_into().unwrap();
        check(vec![second.clone()]);
        check(vec![first.clone(), third]);
        check(vec![first.clone(), second.clone(), second]);
        check(vec![first.clone(), first.clone()]);
        check(vec![first, of(2).remove(1)]);
    }
}
