//! Reads pages of rows from SQLite and writes batches of them back, each row only if it still holds what was read.

mod large;

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow, SqliteValueRef};
use sqlx::{AssertSqlSafe, Decode, Row as _, Sqlite, TypeInfo as _, ValueRef as _};

use super::super::{PageLimit, Scan};
use crate::EngineError;
use crate::error::Doing;
use crate::key::{Key, KeyValue};
use crate::sink::{PageSink, advance};
use crate::table::{Change, KeyColumn, KeyRange, Row, Stored, Table};

/// Placeholders of one statement. SQLite takes 32,766 unless it was built otherwise.
const PLACEHOLDERS_MAX: usize = 32_000;

/// Rows of one statement. More are no faster, and each size is prepared and kept by itself.
const STATEMENT_ROWS_MAX: usize = 256;

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Puts the rows of the range into the sink, page by page: an open reader would keep writers out.
pub(super) async fn scan(
    connection: &mut SqliteConnection,
    scan: &Scan<'_>,
    sink: &mut PageSink,
) -> Result<(), EngineError> {
    let mut range = scan.range.clone();
    loop {
        let from = Scan { range: &range, ..*scan };
        let next = fitting(connection, &from, sink.limit()).await?;
        // Closed, here and below: the stage behind has failed, and its error is the one to report.
        if sink.make_room(next.bytes).await.is_err() {
            return Ok(());
        }
        let rows = read_page(connection, &from, next.rows).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        advance(scan.table, &mut range, last.key.clone())?;
        for row in rows {
            if sink.row(row).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The next rows of the range.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    scan: &Scan<'_>,
    limit: PageLimit,
) -> Result<Vec<Row>, EngineError> {
    let next = fitting(connection, scan, limit).await?;
    read_page(connection, scan, next.rows).await
}

async fn read_page(connection: &mut SqliteConnection, scan: &Scan<'_>, rows_max: i64) -> Result<Vec<Row>, EngineError> {
    if rows_max == 0 {
        return Ok(Vec::new());
    }
    let Scan { table, range, .. } = *scan;
    let whole = scan.is_whole();
    let sql = format!("{} {} {} LIMIT ?", select(table, whole), condition(table, range), order(table));
    // Reviewed: every dynamic part is a quoted identifier, a known collation, or a placeholder.
    let query = bind_range(sqlx::query(AssertSqlSafe(sql)), range).bind(rows_max);
    let mut stream = query.fetch(connection);
    let mut rows = Vec::with_capacity(usize::try_from(rows_max).unwrap_or_default());
    while let Some(row) = stream.try_next().await.doing(|| format!("reading {}", table.label))? {
        rows.push(read(table, &row, whole)?);
    }
    Ok(rows)
}

/// Rows that are read next, and their stored bytes.
struct Fitting {
    rows: i64,
    bytes: usize,
}

/// How many of the next rows stay within the limit: one at least, none only at the end of the range. It is asked beforehand,
/// from lengths that SQLite knows without reading the values, since its thread reads ahead of us.
async fn fitting(connection: &mut SqliteConnection, scan: &Scan<'_>, limit: PageLimit) -> Result<Fitting, EngineError> {
    let Scan { table, range, .. } = *scan;
    let whole = scan.is_whole();
    let doing = || format!("looking at the sizes of rows of {}", table.label);
    let columns = table.columns.iter().map(|column| &column.sql).chain(table.others.iter().filter(|_| whole));
    let size = sum(columns.map(|sql| format!("coalesce(octet_length(t.{sql}), 0)")).collect());
    let rows_max = i64::try_from(limit.rows_max).unwrap_or(i64::MAX);
    let bytes_max = i64::try_from(limit.bytes_max).unwrap_or(i64::MAX);
    let sizes =
        format!("SELECT {size} AS size FROM {} AS t {} {} LIMIT ?", table.from, condition(table, range), order(table));
    // Reviewed: as in `page`.
    let sql = format!("SELECT count(*), coalesce(sum(size), 0) FROM ({sizes})");
    let row = bind_range(sqlx::query(AssertSqlSafe(sql)), range).bind(rows_max).fetch_one(&mut *connection).await;
    let (rows, bytes): (i64, i64) = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?))).doing(doing)?;
    let fitting = |rows, bytes| Fitting { rows, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) };
    if bytes <= bytes_max || rows <= 1 {
        return Ok(fitting(rows, bytes));
    }
    let mut stream = bind_range(sqlx::query(AssertSqlSafe(sizes)), range).bind(rows_max).fetch(connection);
    let (mut rows, mut bytes) = (0, 0);
    while let Some(row) = stream.try_next().await.doing(doing)? {
        let size = row.try_get::<i64, _>(0).doing(doing)?;
        if rows > 0 && bytes + size > bytes_max {
            break;
        }
        (rows, bytes) = (rows + 1, bytes + size);
    }
    Ok(fitting(rows, bytes))
}

/// In groups, since SQLite bounds how deep an expression may be, and every `+` is one deeper than the one before.
fn sum(terms: Vec<String>) -> String {
    let groups: Vec<String> = terms.chunks(50).map(|group| format!("({})", group.join(" + "))).collect();
    groups.join(" + ")
}

/// The row with exactly this key.
pub(super) async fn row(
    connection: &mut SqliteConnection,
    table: &Table,
    key: &Key,
) -> Result<Option<Row>, EngineError> {
    let conditions: Vec<String> = table.key.iter().map(|column| format!("{} = ?", collated(column))).collect();
    let sql = format!("{} WHERE {}", select(table, false), conditions.join(" AND "));
    // Reviewed: as in `page`.
    let query = bind_key(sqlx::query(AssertSqlSafe(sql)), key);
    let row = query.fetch_optional(connection).await.doing(|| format!("reading {}", table.label))?;
    row.map(|row| read(table, &row, false)).transpose()
}

/// How many rows the range has. By the smallest index, as SQLite itself counts, or by the table, where an index is ordered by
/// a collation that is the application's own.
pub(super) async fn count(
    connection: &mut SqliteConnection,
    table: &Table,
    range: &KeyRange,
) -> Result<u64, EngineError> {
    let mut counted = count_by(connection, table, range, "").await;
    if counted.as_ref().is_err_and(needs_a_collation) {
        counted = count_by(connection, table, range, "NOT INDEXED").await;
    }
    let count = counted.doing(|| format!("counting {}", table.label))?;
    Ok(u64::try_from(count).unwrap_or_default())
}

async fn count_by(
    connection: &mut SqliteConnection,
    table: &Table,
    range: &KeyRange,
    how: &str,
) -> Result<i64, sqlx::Error> {
    // Reviewed: as in `page`.
    let sql = format!("SELECT count(*) FROM {} AS t {how} {}", table.from, condition(table, range));
    bind_range(sqlx::query(AssertSqlSafe(sql)), range).fetch_one(connection).await?.try_get(0)
}

fn needs_a_collation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().starts_with("no such collation sequence"))
}

/// Inserts the rows of the batch, with their new values, into their table's copy; everything else SQLite copies itself, so
/// that every value keeps its type. Says how many rows of the table were found.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    table: &Table,
    into: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    if changes.iter().any(Change::is_large) {
        return large::insert(connection, table, into, changes).await;
    }
    let mut found = 0;
    for changes in changes.chunks(statement_rows(table.key.len() + table.columns.len())) {
        // Reviewed: as in `page`.
        let mut query = sqlx::query(AssertSqlSafe(insert_sql(table, into, changes.len())));
        for change in changes {
            query = bind_key(query, &change.row.key);
            for new in &change.new {
                query = query.bind(new.as_deref());
            }
        }
        let done = query.execute(&mut *connection).await.doing(|| format!("copying rows of {}", table.label))?;
        found += done.rows_affected();
    }
    Ok(found)
}

/// Rows of one statement with so many placeholders for each: of few sizes, so that it is prepared once.
fn statement_rows(placeholders: usize) -> usize {
    (PLACEHOLDERS_MAX / placeholders).clamp(1, STATEMENT_ROWS_MAX)
}

/// As [`update_sql`], with the same `+`.
pub(super) fn insert_sql(table: &Table, into: &Table, rows: usize) -> String {
    let mut names = Vec::new();
    let mut conditions = Vec::new();
    for (at, key) in table.key.iter().enumerate() {
        names.push(format!("k{at}"));
        conditions.push(format!("{} = +batch.k{at}", collated(key)));
    }
    let mut selected: Vec<String> = table.others.iter().map(|sql| format!("t.{sql}")).collect();
    for (at, column) in table.columns.iter().enumerate() {
        names.push(format!("n{at}"));
        selected.push(new_value(&column.sql, at));
    }
    let columns = table.others.iter().chain(table.columns.iter().map(|column| &column.sql));
    let row = format!("({})", vec!["?"; names.len()].join(","));
    format!(
        "WITH batch({}) AS (VALUES {}) INSERT INTO {} ({}) SELECT {} FROM batch CROSS JOIN {} AS t WHERE {}",
        names.join(", "),
        vec![row; rows].join(","),
        into.from,
        columns.cloned().collect::<Vec<_>>().join(", "),
        selected.join(", "),
        table.from,
        conditions.join(" AND "),
    )
}

/// What a column is to hold: as it is without a new value, and text where it holds text.
fn new_value(sql: &str, at: usize) -> String {
    format!(
        "CASE WHEN batch.n{at} IS NULL THEN t.{sql} \
         WHEN typeof(t.{sql}) = 'text' THEN CAST(batch.n{at} AS TEXT) ELSE batch.n{at} END"
    )
}

/// Writes all of the batch, and says how many rows still held what was read. The caller's transaction decides.
pub(super) async fn update(
    connection: &mut SqliteConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    if changes.iter().any(Change::is_large) {
        return large::update(connection, table, changes).await;
    }
    let mut written = 0;
    for changes in changes.chunks(statement_rows(table.key.len() + 2 * table.columns.len())) {
        // Reviewed: as in `page`.
        let mut query = sqlx::query(AssertSqlSafe(update_sql(table, changes.len())));
        for change in changes {
            query = bind_key(query, &change.row.key);
            for (old, new) in change.row.values.iter().zip(&change.new) {
                query = query.bind(old.bytes()).bind(new.as_deref());
            }
        }
        let done = query.execute(&mut *connection).await.doing(|| format!("writing {}", table.label))?;
        written += done.rows_affected();
    }
    Ok(written)
}

/// Old and new values travel as rows of a table of values. A column without a new value keeps what it has; every
/// registered column must hold what was read, also those that are not written. A value that stands as text, in
/// whatever column, goes back as text.
///
/// Each `+` keeps the planner from making an index of the batch, with which it would read the whole table for every
/// batch; so it goes through the batch and finds each row by its key.
pub(super) fn update_sql(table: &Table, rows: usize) -> String {
    let mut names = Vec::new();
    let mut sets = Vec::new();
    let mut conditions = Vec::new();
    for (at, key) in table.key.iter().enumerate() {
        names.push(format!("k{at}"));
        conditions.push(format!("{} = +batch.k{at}", collated(key)));
    }
    for (at, column) in table.columns.iter().enumerate() {
        let sql = &column.sql;
        names.push(format!("o{at}"));
        names.push(format!("n{at}"));
        sets.push(format!("{sql} = {}", new_value(sql, at)));
        conditions.push(format!("CAST(t.{sql} AS BLOB) IS +batch.o{at}"));
    }
    let row = format!("({})", vec!["?"; names.len()].join(","));
    format!(
        "WITH batch({}) AS (VALUES {}) UPDATE {} AS t SET {} FROM batch WHERE {}",
        names.join(", "),
        vec![row; rows].join(","),
        table.from,
        sets.join(", "),
        conditions.join(" AND "),
    )
}

fn select(table: &Table, whole: bool) -> String {
    let keys = table.key.iter().map(|key| &key.sql);
    let columns = table.columns.iter().map(|column| &column.sql);
    let others = table.others.iter().filter(|_| whole);
    let all: Vec<String> = keys.chain(columns).chain(others).map(|sql| format!("t.{sql}")).collect();
    format!("SELECT {} FROM {} AS t", all.join(", "), table.from)
}

fn order(table: &Table) -> String {
    format!("ORDER BY {}", list(&table.key, collated))
}

/// The key's column with the collation of the primary key's index. The column may be declared with another one, by
/// which two different keys could be equal, or the order could not come from the index.
fn collated(key: &KeyColumn) -> String {
    match &key.collation {
        Some(collation) => format!("t.{} COLLATE {collation}", key.sql),
        None => format!("t.{}", key.sql),
    }
}

fn condition(table: &Table, range: &KeyRange) -> String {
    let keys = list(&table.key, collated);
    let placeholders = vec!["?"; table.key.len()].join(", ");
    let mut sql = String::new();
    for (bound, operator) in [(&range.after, ">"), (&range.through, "<=")] {
        if bound.is_some() {
            let joint = if sql.is_empty() { "WHERE" } else { "AND" };
            let _ = write!(sql, "{joint} ({keys}) {operator} ({placeholders}) ");
        }
    }
    sql
}

fn list(keys: &[KeyColumn], sql: impl Fn(&KeyColumn) -> String) -> String {
    keys.iter().map(sql).collect::<Vec<_>>().join(", ")
}

fn bind_range<'q>(mut query: SqliteQuery<'q>, range: &KeyRange) -> SqliteQuery<'q> {
    for key in [&range.after, &range.through].into_iter().flatten() {
        query = bind_key(query, key);
    }
    query
}

fn bind_key<'q>(mut query: SqliteQuery<'q>, key: &Key) -> SqliteQuery<'q> {
    for value in &key.0 {
        query = match value {
            KeyValue::Integer(number) => query.bind(*number),
            KeyValue::Text(text) | KeyValue::Other(text) => query.bind(text.clone()),
            KeyValue::Bytes(bytes) => query.bind(bytes.clone()),
        };
    }
    query
}

fn read(table: &Table, row: &SqliteRow, whole: bool) -> Result<Row, EngineError> {
    let doing = || format!("reading a row of {}", table.label);
    let mut key = Vec::with_capacity(table.key.len());
    for (at, column) in table.key.iter().enumerate() {
        key.push(key_value(table, column, row, at)?);
    }
    let mut rest = Vec::new();
    let first_other = table.key.len() + table.columns.len();
    if whole {
        for at in first_other..first_other + table.others.len() {
            push_rest(&mut rest, row, at).doing(doing)?;
        }
    }
    let mut values = Vec::with_capacity(table.columns.len());
    for at in table.key.len()..first_other {
        values.push(stored(row, at, whole.then_some(&mut rest)).doing(doing)?);
    }
    Ok(Row { key: Key(key), values, rest, version: None })
}

/// The types of SQLite's values, as the rest of a row has them. They belong to values, whatever a column was declared as.
mod tag {
    pub(super) const NULL: u8 = 0;
    pub(super) const INTEGER: u8 = 1;
    pub(super) const REAL: u8 = 2;
    pub(super) const TEXT: u8 = 3;
    pub(super) const BLOB: u8 = 4;
}

fn tag_of(value: &SqliteValueRef<'_>) -> u8 {
    match value.type_info().name() {
        _ if value.is_null() => tag::NULL,
        "INTEGER" => tag::INTEGER,
        "REAL" => tag::REAL,
        "TEXT" => tag::TEXT,
        _ => tag::BLOB,
    }
}

/// A value with its type: numbers as their eight bytes, text and blobs as their length and bytes.
fn push_rest(rest: &mut Vec<u8>, row: &SqliteRow, at: usize) -> Result<(), sqlx::Error> {
    let value = row.try_get_raw(at)?;
    let tag = tag_of(&value);
    rest.push(tag);
    match tag {
        tag::NULL => {}
        tag::INTEGER => rest.extend(decode::<i64>(value)?.to_le_bytes()),
        tag::REAL => rest.extend(decode::<f64>(value)?.to_bits().to_le_bytes()),
        _ => {
            let bytes: &[u8] = decode(value)?;
            rest.extend((bytes.len() as u64).to_le_bytes());
            rest.extend_from_slice(bytes);
        }
    }
    Ok(())
}

/// What a registered column holds. Its type stays, so that belongs to the rest.
fn stored(row: &SqliteRow, at: usize, rest: Option<&mut Vec<u8>>) -> Result<Stored, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    let tag = tag_of(&value);
    if let Some(rest) = rest {
        rest.push(tag);
    }
    Ok(match tag {
        tag::NULL => Stored::Null,
        tag::INTEGER | tag::REAL => Stored::Number(decode(value)?),
        _ => Stored::Bytes(decode(value)?),
    })
}

/// Decodes whatever the value is, not what the column says it should be.
fn decode<'r, T: Decode<'r, Sqlite>>(value: SqliteValueRef<'r>) -> Result<T, sqlx::Error> {
    T::decode(value).map_err(sqlx::Error::Decode)
}

fn key_value(table: &Table, column: &KeyColumn, row: &SqliteRow, at: usize) -> Result<KeyValue, EngineError> {
    let doing = || format!("reading a key of {}", table.label);
    let refuse = |what: &str| {
        let problem = format!("table {} has a row whose key column {} holds {what}", table.label, column.sql);
        Err(EngineError::Targets(vec![problem]))
    };
    let value = row.try_get_raw(at).doing(doing)?;
    if value.is_null() {
        return refuse("NULL");
    }
    let kind = value.type_info().name().to_owned();
    match kind.as_str() {
        "INTEGER" => {
            let number: i64 = decode(value).doing(doing)?;
            Ok(KeyValue::Integer(number))
        }
        "TEXT" => match decode::<String>(value) {
            Ok(text) => Ok(KeyValue::Text(text)),
            Err(_) => refuse("text that is not UTF-8"),
        },
        "BLOB" => {
            let bytes: Vec<u8> = decode(value).doing(doing)?;
            Ok(KeyValue::Bytes(bytes))
        }
        _ => refuse("a floating-point number, which cannot be found again exactly"),
    }
}
