//! Reads a range of rows as one stream: a binary `COPY … TO STDOUT` along the key's index. The server stops sending when
//! nobody takes rows, so no more than a page and the socket's buffers are in memory.

mod pieces;

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use sqlx::postgres::PgConnection;

use self::pieces::Pieces;
use super::layout::{Layout, RestColumn, needs_text};
use super::rows::text;
use crate::EngineError;
use crate::dialect::{Fields, Scan};
use crate::error::Doing;
use crate::key::{Key, KeyValue};
use crate::sink::PageSink;
use crate::table::{KeyKind, KeyRange, Row, Stored, Table};

/// How long the server may be silent while rows are wanted.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What a binary copy begins with; eleven bytes of signature, flags, and the length of an extension that we skip.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The field count that ends a binary copy.
const TRAILER: i16 = -1;

/// Puts the rows of the range into the sink.
pub(super) async fn scan(
    connection: &mut PgConnection,
    scan: &Scan<'_>,
    layout: &Layout,
    sink: &mut PageSink,
) -> Result<(), EngineError> {
    let table = scan.table;
    let doing = || format!("reading {}", table.label);
    let mut pieces = if table.columns.is_empty() { None } else { Pieces::of(connection, table).await? };
    let sql = match &pieces {
        Some(_) => pieces::sql(scan, layout),
        None => sql(scan, layout),
    };
    // In pieces, a row of the copy is one of the pieces.
    let read = pieces.as_ref().map_or(table, |pieces| &pieces.table).clone();
    let starting = connection.copy_out_raw(&sql);
    let mut stream = match tokio::time::timeout(SILENCE_MAX, starting).await {
        Ok(stream) => stream.doing(doing)?,
        Err(_) => return Err(silent(table)),
    };
    let mut decoder =
        Decoder { table: &read, layout, fields: scan.fields, begun: false, ended: false, pending: Vec::new() };
    loop {
        // Timers cost more than a row, so they are set only where there is something to wait for.
        let next = match stream.next().now_or_never() {
            Some(next) => next,
            None => tokio::time::timeout(SILENCE_MAX, stream.next()).await.map_err(|_| silent(table))?,
        };
        let Some(message) = next else { break };
        let message = message.doing(doing)?;
        for row in decoder.rows(&message)? {
            let row = match &mut pieces {
                None => row,
                Some(pieces) => {
                    // Closed: as below.
                    if sink.make_room(pieces.bytes(&row)).await.is_err() {
                        return Ok(());
                    }
                    match pieces.put(row)? {
                        Some(row) => row,
                        None => continue,
                    }
                }
            };
            if sink.row(row).await.is_err() {
                // The stage behind has failed, and its error is the one to report.
                return Ok(());
            }
        }
    }
    // The driver ends the stream only after the server said that the copy is complete; the trailer says it again.
    let whole = pieces.is_none_or(|pieces| pieces.is_whole());
    if decoder.ended && decoder.pending.is_empty() && whole { Ok(()) } else { Err(malformed(table)) }
}

fn silent(table: &Table) -> EngineError {
    EngineError::TimedOut { doing: format!("reading {}", table.label), seconds: SILENCE_MAX.as_secs() }
}

fn malformed(table: &Table) -> EngineError {
    EngineError::Internal(format!("the copy of {} has an unexpected form", table.label))
}

/// The statement. A copy takes no parameters, so the bounds stand in it as literals, cast as everywhere else.
fn sql(scan: &Scan<'_>, layout: &Layout) -> String {
    let Scan { table, range, fields } = *scan;
    let rest = layout.rest.iter().map(RestColumn::read);
    let values = table.columns.iter().map(|column| format!("t.{}", column.sql));
    let texts = table.key.iter().filter(|key| needs_text(key.kind)).map(|key| format!("t.{}::text", key.sql));
    let version = fields.has_version().then(|| "t.xmin".to_owned());
    let columns: Vec<String> = rest.chain(values).chain(texts).chain(version).collect();
    let keys: Vec<String> = table.key.iter().map(|key| format!("t.{}", key.sql)).collect();
    let keys = keys.join(", ");
    let condition = condition(table, range, &keys);
    format!(
        "COPY (SELECT {} FROM {} AS t {condition} ORDER BY {keys}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        table.from
    )
}

fn condition(table: &Table, range: &KeyRange, keys: &str) -> String {
    let mut conditions = Vec::new();
    for (bound, operator) in [(&range.after, ">"), (&range.through, "<=")] {
        if let Some(bound) = bound {
            let literal = |(value, key): (&KeyValue, &crate::table::KeyColumn)| {
                format!("{}::text::{}", super::literal(&text(value)), key.cast)
            };
            let literals: Vec<String> = bound.0.iter().zip(&table.key).map(literal).collect();
            conditions.push(format!("({keys}) {operator} ({})", literals.join(", ")));
        }
    }
    if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) }
}

/// Takes the copy's bytes apart. The server sends a row in each message; nothing here depends on that.
struct Decoder<'a> {
    table: &'a Table,
    layout: &'a Layout,
    fields: Fields,
    begun: bool,
    ended: bool,
    pending: Vec<u8>,
}

impl Decoder<'_> {
    fn rows(&mut self, message: &[u8]) -> Result<Vec<Row>, EngineError> {
        let mut rows = Vec::with_capacity(1);
        if self.pending.is_empty() {
            let used = self.take(message, &mut rows)?;
            self.pending.extend_from_slice(&message[used..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(message);
            let used = self.take(&pending, &mut rows)?;
            pending.drain(..used);
            self.pending = pending;
        }
        Ok(rows)
    }

    /// Takes whole rows from the front, and says how many bytes they were.
    fn take(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<usize, EngineError> {
        let mut reader = Reader { bytes, at: 0 };
        if !self.begun {
            match reader.header() {
                Ok(true) => self.begun = true,
                Ok(false) => return Ok(0),
                Err(Malformed) => return Err(malformed(self.table)),
            }
        }
        let mut used = reader.at;
        while !self.ended {
            match self.row(&mut reader) {
                Ok(Some(Taken::Row(row))) => rows.push(row),
                Ok(Some(Taken::Trailer)) => self.ended = true,
                Ok(None) => break,
                Err(Malformed) => return Err(malformed(self.table)),
            }
            used = reader.at;
        }
        Ok(used)
    }

    fn row(&self, reader: &mut Reader<'_>) -> Result<Option<Taken>, Malformed> {
        let Some(count) = reader.take(2) else { return Ok(None) };
        let count = i16::from_be_bytes([count[0], count[1]]);
        if count == TRAILER {
            return Ok(Some(Taken::Trailer));
        }
        let texts = self.table.key.iter().filter(|key| needs_text(key.kind)).count();
        let version = usize::from(self.fields.has_version());
        if usize::try_from(count) != Ok(self.layout.rest.len() + self.table.columns.len() + texts + version) {
            return Err(Malformed);
        }
        let rest_begins = reader.at;
        let mut key = Vec::with_capacity(self.table.key.len());
        for at in 0..self.layout.rest.len() {
            let Some(field) = reader.field()? else { return Ok(None) };
            if let Some(column) = self.table.key.get(at) {
                // A text stands behind the values, and is put here then.
                let bytes = if needs_text(column.kind) { Some(&[][..]) } else { field.bytes };
                key.push(key_value(column.kind, bytes.ok_or(Malformed)?)?);
            }
        }
        let rest = &reader.bytes[rest_begins..reader.at];
        let mut values = Vec::with_capacity(self.table.columns.len());
        for _ in &self.table.columns {
            let Some(field) = reader.field()? else { return Ok(None) };
            values.push(field.bytes.map_or(Stored::Null, |bytes| Stored::Bytes(bytes.to_vec())));
        }
        for (column, value) in self.table.key.iter().zip(&mut key) {
            if needs_text(column.kind) {
                let Some(field) = reader.field()? else { return Ok(None) };
                *value = key_value(column.kind, field.bytes.ok_or(Malformed)?)?;
            }
        }
        let mut version = None;
        if self.fields.has_version() {
            let Some(field) = reader.field()? else { return Ok(None) };
            version = Some(field.bytes.and_then(|bytes| bytes.try_into().ok()).ok_or(Malformed)?);
        }
        let rest = if self.fields.has_rest() { rest.to_vec() } else { Vec::new() };
        Ok(Some(Taken::Row(Row { key: Key(key), values, rest, version })))
    }
}

enum Taken {
    Row(Row),
    Trailer,
}

/// The bytes are not what a binary copy is made of.
#[derive(Debug)]
struct Malformed;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

struct Field<'a> {
    bytes: Option<&'a [u8]>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn length(&mut self) -> Option<i32> {
        let bytes = self.take(4)?;
        Some(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Whether it is there whole.
    fn header(&mut self) -> Result<bool, Malformed> {
        let (Some(signature), Some(_flags), Some(extension)) =
            (self.take(SIGNATURE.len()), self.length(), self.length())
        else {
            return Ok(false);
        };
        if signature != SIGNATURE {
            return Err(Malformed);
        }
        let extension = usize::try_from(extension).map_err(|_| Malformed)?;
        Ok(self.take(extension).is_some())
    }

    /// The next field, if it is there whole.
    fn field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        let Some(length) = self.length() else { return Ok(None) };
        if length == -1 {
            return Ok(Some(Field { bytes: None }));
        }
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        Ok(self.take(length).map(|bytes| Field { bytes: Some(bytes) }))
    }
}

fn key_value(kind: KeyKind, bytes: &[u8]) -> Result<KeyValue, Malformed> {
    let text = || str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed);
    Ok(match kind {
        KeyKind::Integer => KeyValue::Integer(match bytes.len() {
            2 => i64::from(i16::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?)),
            4 => i64::from(i32::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?)),
            _ => i64::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?),
        }),
        KeyKind::Text => KeyValue::Text(text()?),
        KeyKind::Bytes => KeyValue::Bytes(bytes.to_vec()),
        KeyKind::Other => KeyValue::Other(text()?),
        KeyKind::Any => return Err(Malformed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{KeyColumn, ValueColumn};

    fn table() -> Table {
        let key = KeyColumn {
            sql: "\"id\"".to_owned(),
            kind: KeyKind::Integer,
            cast: "bigint".to_owned(),
            collation: None,
            descending: false,
        };
        let column = ValueColumn {
            name: "secret".to_owned(),
            sql: "\"secret\"".to_owned(),
            encoding: keys::value::Encoding::Raw,
            aad: crate::targets::Aad::default(),
            text: false,
        };
        Table {
            label: "t".to_owned(),
            from: "ONLY \"s\".\"t\"".to_owned(),
            key: vec![key],
            columns: vec![column],
            others: Vec::new(),
            triggers: Vec::new(),
            kept: Vec::new(),
            exact: Vec::new(),
        }
    }

    fn copy(rows: &[(i64, Option<&[u8]>)]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0; 8]].concat();
        for (key, value) in rows {
            bytes.extend(2_i16.to_be_bytes());
            bytes.extend(8_i32.to_be_bytes());
            bytes.extend(key.to_be_bytes());
            match value {
                None => bytes.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    bytes.extend(i32::try_from(value.len()).unwrap_or_default().to_be_bytes());
                    bytes.extend(*value);
                }
            }
        }
        bytes.extend(TRAILER.to_be_bytes());
        bytes
    }

    #[test]
    fn rows_are_the_same_however_the_bytes_are_cut() {
        let table = table();
        let layout = Layout::of_key(&table);
        let bytes = copy(&[(-3, Some(b"abc")), (4, None), (5, Some(b""))]);
        for cut in 1..bytes.len() {
            let mut decoder = Decoder {
                table: &table,
                layout: &layout,
                fields: Fields::All,
                begun: false,
                ended: false,
                pending: Vec::new(),
            };
            let mut rows = Vec::new();
            for part in bytes.chunks(cut) {
                rows.extend(decoder.rows(part).expect("it is a copy"));
            }
            assert!(decoder.ended && decoder.pending.is_empty());
            let keys: Vec<String> = rows.iter().map(|row| row.key.to_string()).collect();
            assert_eq!(keys, [r#"["i:-3"]"#, r#"["i:4"]"#, r#"["i:5"]"#]);
            assert_eq!(rows[0].values, [Stored::Bytes(b"abc".to_vec())]);
            assert_eq!(rows[1].values, [Stored::Null]);
            assert_eq!(rows[1].rest, [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 4]);
        }
    }

    #[test]
    fn a_copy_that_breaks_off_has_not_ended() {
        let table = table();
        let layout = Layout::of_key(&table);
        let bytes = copy(&[(1, Some(b"abc")), (2, None)]);
        for length in 0..bytes.len() {
            let mut decoder = Decoder {
                table: &table,
                layout: &layout,
                fields: Fields::Registered,
                begun: false,
                ended: false,
                pending: Vec::new(),
            };
            decoder.rows(&bytes[..length]).expect("it is the beginning of a copy");
            assert!(!decoder.ended);
        }
    }

    #[test]
    fn bounds_are_literals_that_cannot_end_their_quotes() {
        let table = table();
        let range = KeyRange { after: Some(Key(vec![KeyValue::Text("1' OR 'a'='a".to_owned())])), through: None };
        let scan = Scan { table: &table, range: &range, fields: Fields::Registered };
        let sql = sql(&scan, &Layout::of_key(&table));
        assert!(sql.contains("(t.\"id\") > ('1'' OR ''a''=''a'::text::bigint)"), "{sql}");
    }
}
