//! Reads pages of rows from SQLite and writes batches of them back, each row only if it still holds what was read.

use std::fmt::Write as _;

use futures::TryStreamExt as _;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow, SqliteValueRef};
use sqlx::{AssertSqlSafe, Decode, Row as _, Sqlite, TypeInfo as _, ValueRef as _};

use super::super::{PageLimit, Scan};
use crate::EngineError;
use crate::error::Doing;
use crate::key::{Key, KeyValue};
use crate::table::{Change, KeyColumn, KeyRange, Row, Stored, Table};

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// The next rows of the range. SQLite hands them over one by one, so reading simply stops at the byte limit.
pub(super) async fn page(
    connection: &mut SqliteConnection,
    scan: &Scan<'_>,
    limit: PageLimit,
) -> Result<Vec<Row>, EngineError> {
    let Scan { table, range, .. } = *scan;
    let order = list(&table.key, collated);
    let sql = format!("{} {} ORDER BY {order} LIMIT ?", select(table), condition(table, range));
    // Reviewed: every dynamic part is a quoted identifier, a known collation, or a placeholder.
    let mut query = bind_range(sqlx::query(AssertSqlSafe(sql)), range);
    query = query.bind(i64::try_from(limit.rows_max).unwrap_or(i64::MAX));
    let mut stream = query.fetch(connection);
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(row) = stream.try_next().await.doing(|| format!("reading {}", table.label))? {
        let row = read(table, &row)?;
        bytes += row.bytes();
        if bytes > limit.bytes_max && !rows.is_empty() {
            break;
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The row with exactly this key.
pub(super) async fn row(
    connection: &mut SqliteConnection,
    table: &Table,
    key: &Key,
) -> Result<Option<Row>, EngineError> {
    let conditions: Vec<String> = table.key.iter().map(|column| format!("{} = ?", collated(column))).collect();
    let sql = format!("{} WHERE {}", select(table), conditions.join(" AND "));
    // Reviewed: as in `page`.
    let query = bind_key(sqlx::query(AssertSqlSafe(sql)), key);
    let row = query.fetch_optional(connection).await.doing(|| format!("reading {}", table.label))?;
    row.map(|row| read(table, &row)).transpose()
}

/// How many rows the range has.
pub(super) async fn count(
    connection: &mut SqliteConnection,
    table: &Table,
    range: &KeyRange,
) -> Result<u64, EngineError> {
    // Reviewed: as in `page`.
    let sql = format!("SELECT count(*) FROM {} AS t {}", table.from, condition(table, range));
    let query = bind_range(sqlx::query(AssertSqlSafe(sql)), range);
    let doing = || format!("counting {}", table.label);
    let count: i64 = query.fetch_one(connection).await.and_then(|row| row.try_get(0)).doing(doing)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Writes all of the batch, and says how many rows still held what was read. The caller's transaction decides.
pub(super) async fn update(
    connection: &mut SqliteConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    // Reviewed: as in `page`.
    let mut query = sqlx::query(AssertSqlSafe(update_sql(table, changes.len())));
    for change in changes {
        query = bind_key(query, &change.row.key);
        for (old, new) in change.row.values.iter().zip(&change.new) {
            query = query.bind(old.bytes()).bind(new.as_deref());
        }
    }
    let done = query.execute(connection).await.doing(|| format!("writing {}", table.label))?;
    Ok(done.rows_affected())
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
        sets.push(format!(
            "{sql} = CASE WHEN batch.n{at} IS NULL THEN t.{sql} \
             WHEN typeof(t.{sql}) = 'text' THEN CAST(batch.n{at} AS TEXT) ELSE batch.n{at} END"
        ));
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

fn select(table: &Table) -> String {
    let keys = list(&table.key, |key| format!("t.{}", key.sql));
    let columns = table.columns.iter().map(|column| format!("t.{}", column.sql)).collect::<Vec<_>>().join(", ");
    format!("SELECT {keys}, {columns} FROM {} AS t", table.from)
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

fn read(table: &Table, row: &SqliteRow) -> Result<Row, EngineError> {
    let mut key = Vec::with_capacity(table.key.len());
    for (at, column) in table.key.iter().enumerate() {
        key.push(key_value(table, column, row, at)?);
    }
    let mut values = Vec::with_capacity(table.columns.len());
    for at in 0..table.columns.len() {
        let doing = || format!("reading a row of {}", table.label);
        values.push(stored(row, table.key.len() + at).doing(doing)?);
    }
    Ok(Row { key: Key(key), values, rest: Vec::new() })
}

/// SQLite's values have types of their own, whatever the column was declared as.
fn stored(row: &SqliteRow, at: usize) -> Result<Stored, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Stored::Null);
    }
    let number = matches!(value.type_info().name(), "INTEGER" | "REAL");
    let bytes = decode(value)?;
    Ok(if number { Stored::Number(bytes) } else { Stored::Bytes(bytes) })
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
