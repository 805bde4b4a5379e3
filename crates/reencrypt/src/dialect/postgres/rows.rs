//! Reads pages of rows from PostgreSQL and writes batches of them back, each row only if it still holds what was read.

mod large;

use std::fmt::Write as _;

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, Postgres, Row as _, ValueRef as _};

use super::super::{PageLimit, Turn};
use crate::EngineError;
use crate::error::Doing;
use crate::key::{Key, KeyValue};
use crate::table::{Change, KeyColumn, KeyKind, KeyRange, Row, Stored, Table};

/// How long a trial may wait for a lock: the farm serves meanwhile, and others queue behind whoever waits.
const TRIAL_LOCKS: &str = "SET LOCAL lock_timeout = '1s'";

type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// The next rows of the range. Sizes come from the values' headers, so a value that the byte limit leaves out is
/// never fetched from its out-of-line storage.
pub(super) async fn page(
    connection: &mut PgConnection,
    table: &Table,
    range: &KeyRange,
    limit: PageLimit,
) -> Result<Vec<Row>, EngineError> {
    // Own names for everything inside, since the table's columns may have any.
    let keys = numbered(table.key.iter().map(|key| &key.sql), |at, sql| format!("t.{sql} AS k{at}"));
    let columns = numbered(table.columns.iter().map(|column| &column.sql), |at, sql| format!("t.{sql} AS c{at}"));
    let order = numbered(table.key.iter(), |at, _| format!("k{at}"));
    let key_texts = numbered(table.key.iter(), |at, _| format!("k{at}::text"));
    let values = numbered(table.columns.iter(), |at, _| format!("c{at}"));
    let size = table.columns.iter().map(|column| format!("COALESCE(octet_length(t.{}), 0)::int8", column.sql));
    let size = size.collect::<Vec<_>>().join(" + ");
    let (condition, used) = condition(table, range, 1);
    let sql = format!(
        "SELECT {key_texts}, {values} FROM (
             SELECT sized.*, sum(size) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) - size AS bytes_before FROM (
                 SELECT {keys}, {columns}, {size} AS size FROM {from} AS t {condition} ORDER BY {order_in} LIMIT ${rows}
             ) AS sized
         ) AS page WHERE bytes_before < ${bytes} ORDER BY {order_out}",
        from = table.from,
        // With the relation's name: a bare k0 would be the output column, which is text, and 10 comes before 9 there.
        order_out = numbered(table.key.iter(), |at, _| format!("page.k{at}")),
        order_in = list(&table.key, |key| format!("t.{}", key.sql)),
        rows = used + 1,
        bytes = used + 2,
    );
    // Reviewed: every dynamic part is a quoted identifier, a type's name from the catalog, or a placeholder.
    let mut query = sqlx::query(AssertSqlSafe(sql));
    query = bind_range(query, range);
    query = query.bind(i64::try_from(limit.rows_max).unwrap_or(i64::MAX));
    query = query.bind(i64::try_from(limit.bytes_max).unwrap_or(i64::MAX));
    let rows = query.fetch_all(connection).await.doing(|| format!("reading {}", table.label))?;
    rows.iter().map(|row| read(table, row)).collect()
}

/// The row with exactly this key.
pub(super) async fn row(connection: &mut PgConnection, table: &Table, key: &Key) -> Result<Option<Row>, EngineError> {
    read_row(connection, table, key, "").await
}

async fn read_row(
    connection: &mut PgConnection,
    table: &Table,
    key: &Key,
    lock: &'static str,
) -> Result<Option<Row>, EngineError> {
    let sql = format!(
        "SELECT {}, {} FROM {} AS t WHERE ({}) = ({}) {lock}",
        list(&table.key, |key| format!("t.{}::text", key.sql)),
        list(&table.columns, |column| format!("t.{}", column.sql)),
        table.from,
        list(&table.key, |key| format!("t.{}", key.sql)),
        placeholders(table, 1),
    );
    // Reviewed: as in `page`.
    let query = bind_key(sqlx::query(AssertSqlSafe(sql)), key);
    let row = query.fetch_optional(connection).await.doing(|| format!("reading {}", table.label))?;
    row.map(|row| read(table, &row)).transpose()
}

/// Writes one row in a transaction that is always rolled back. The row is locked from when it is read, so that what
/// the application does meanwhile cannot keep the write from happening.
pub(super) async fn try_write(
    connection: &mut PgConnection,
    table: &Table,
    key: &Key,
    turn: Turn<'_>,
) -> Result<bool, EngineError> {
    let doing = || format!("trying to write {}", table.label);
    let mut transaction = connection.begin().await.doing(doing)?;
    sqlx::raw_sql(TRIAL_LOCKS).execute(&mut *transaction).await.doing(doing)?;
    let row = read_row(&mut transaction, table, key, "FOR UPDATE OF t").await;
    let written = match row.map(|row| row.and_then(turn)) {
        Ok(Some(change)) => update(&mut transaction, table, &[change]).await.map(|rows| rows == 1),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    transaction.rollback().await.doing(doing)?;
    written.map_err(|error| error.of_trial(&table.label))
}

/// How many rows the range has.
pub(super) async fn count(connection: &mut PgConnection, table: &Table, range: &KeyRange) -> Result<u64, EngineError> {
    let (condition, _) = condition(table, range, 1);
    // Reviewed: as in `page`.
    let sql = format!("SELECT count(*) FROM {} AS t {condition}", table.from);
    let query = bind_range(sqlx::query(AssertSqlSafe(sql)), range);
    let doing = || format!("counting {}", table.label);
    let count: i64 = query.fetch_one(connection).await.and_then(|row| row.try_get(0)).doing(doing)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Writes all of the batch, and says how many rows still held what was read. The caller's transaction decides.
pub(super) async fn update(
    connection: &mut PgConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    if changes.iter().any(Change::is_large) {
        return large::update(connection, table, changes).await;
    }
    // Reviewed: as in `page`.
    let mut query = sqlx::query(AssertSqlSafe(update_sql(table)));
    for (at, column) in table.key.iter().enumerate() {
        let values = changes.iter().map(|change| &change.row.key.0[at]);
        query = match column.kind {
            KeyKind::Integer => query.bind(values.map(|value| integer(table, value)).collect::<Result<Vec<i64>, _>>()?),
            KeyKind::Text | KeyKind::Bytes | KeyKind::Other | KeyKind::Any => {
                query.bind(values.map(text).collect::<Vec<String>>())
            }
        };
    }
    for (at, column) in table.columns.iter().enumerate() {
        let old = changes.iter().map(|change| change.row.values[at].bytes());
        let new = changes.iter().map(|change| change.new[at].as_deref());
        query = if column.text {
            query.bind(texts(table, old)?).bind(texts(table, new)?)
        } else {
            query.bind(old.collect::<Vec<Option<&[u8]>>>()).bind(new.collect::<Vec<Option<&[u8]>>>())
        };
    }
    let done = query.execute(connection).await.doing(|| format!("writing {}", table.label))?;
    Ok(done.rows_affected())
}

/// Old and new values travel as arrays. A column without a new value keeps what it has; every registered column
/// must hold what was read, also those that are not written. Texts are compared byte by byte whatever their collation.
fn update_sql(table: &Table) -> String {
    let mut arrays = Vec::new();
    let mut names = Vec::new();
    let mut casts = Vec::new();
    let mut sets = Vec::new();
    let mut conditions = Vec::new();
    for (at, key) in table.key.iter().enumerate() {
        let array = if key.kind == KeyKind::Integer { "int8[]" } else { "text[]" };
        arrays.push(format!("${}::{array}", arrays.len() + 1));
        names.push(format!("k{at}"));
        casts.push(format!("k{at}::{} AS k{at}", key.cast));
        conditions.push(format!("t.{} = batch.k{at}", key.sql));
    }
    for (at, column) in table.columns.iter().enumerate() {
        let (array, collate) = if column.text { ("text[]", " COLLATE \"C\"") } else { ("bytea[]", "") };
        for name in ["o", "n"] {
            arrays.push(format!("${}::{array}", arrays.len() + 1));
            names.push(format!("{name}{at}"));
            casts.push(format!("{name}{at}"));
        }
        sets.push(format!("{sql} = COALESCE(batch.n{at}, t.{sql})", sql = column.sql));
        conditions.push(format!("t.{}{collate} IS NOT DISTINCT FROM batch.o{at}", column.sql));
    }
    format!(
        "UPDATE {} AS t SET {} FROM (SELECT {} FROM unnest({}) AS u({})) AS batch WHERE {}",
        table.from,
        sets.join(", "),
        casts.join(", "),
        arrays.join(", "),
        names.join(", "),
        conditions.join(" AND "),
    )
}

fn texts<'a>(
    table: &Table,
    values: impl Iterator<Item = Option<&'a [u8]>>,
) -> Result<Vec<Option<&'a str>>, EngineError> {
    let text = |bytes: &'a [u8]| {
        str::from_utf8(bytes).map_err(|_| EngineError::Internal(format!("a text of {} is not UTF-8", table.label)))
    };
    values.map(|value| value.map(text).transpose()).collect()
}

/// `WHERE` for the range, with placeholders from `first` on, and the number of the last one used.
fn condition(table: &Table, range: &KeyRange, first: usize) -> (String, usize) {
    let keys = list(&table.key, |key| format!("t.{}", key.sql));
    let mut sql = String::new();
    let mut next = first;
    for (bound, operator) in [(&range.after, ">"), (&range.through, "<=")] {
        if bound.is_some() {
            let joint = if next == first { "WHERE" } else { "AND" };
            let _ = write!(sql, "{joint} ({keys}) {operator} ({}) ", placeholders(table, next));
            next += table.key.len();
        }
    }
    (sql, next - 1)
}

fn placeholders(table: &Table, first: usize) -> String {
    let casts = table.key.iter().enumerate().map(|(at, key)| format!("${}::text::{}", first + at, key.cast));
    casts.collect::<Vec<_>>().join(", ")
}

fn numbered<T>(items: impl Iterator<Item = T>, sql: impl Fn(usize, T) -> String) -> String {
    items.enumerate().map(|(at, item)| sql(at, item)).collect::<Vec<_>>().join(", ")
}

fn list<T>(items: &[T], sql: impl Fn(&T) -> String) -> String {
    items.iter().map(sql).collect::<Vec<_>>().join(", ")
}

fn bind_range<'q>(mut query: PgQuery<'q>, range: &KeyRange) -> PgQuery<'q> {
    for key in [&range.after, &range.through].into_iter().flatten() {
        query = bind_key(query, key);
    }
    query
}

fn bind_key<'q>(mut query: PgQuery<'q>, key: &Key) -> PgQuery<'q> {
    for value in &key.0 {
        query = query.bind(text(value));
    }
    query
}

fn integer(table: &Table, value: &KeyValue) -> Result<i64, EngineError> {
    match value {
        KeyValue::Integer(number) => Ok(*number),
        KeyValue::Text(_) | KeyValue::Bytes(_) | KeyValue::Other(_) => {
            Err(EngineError::Internal(format!("a key of {} is no whole number", table.label)))
        }
    }
}

/// Keys that are no whole numbers travel as text, which PostgreSQL casts to the column's own type: one way for all types, and exact.
pub(super) fn text(value: &KeyValue) -> String {
    match value {
        KeyValue::Integer(number) => number.to_string(),
        KeyValue::Text(text) | KeyValue::Other(text) => text.clone(),
        KeyValue::Bytes(bytes) => format!("\\x{}", hex::encode(bytes)),
    }
}

fn read(table: &Table, row: &PgRow) -> Result<Row, EngineError> {
    let doing = || format!("reading a row of {}", table.label);
    let mut key = Vec::with_capacity(table.key.len());
    for (at, column) in table.key.iter().enumerate() {
        key.push(key_value(table, column, row.try_get(at).doing(doing)?)?);
    }
    let mut values = Vec::with_capacity(table.columns.len());
    for at in 0..table.columns.len() {
        values.push(stored(row, table.key.len() + at).doing(doing)?);
    }
    Ok(Row { key: Key(key), values, rest: Vec::new(), version: None })
}

fn stored(row: &PgRow, at: usize) -> Result<Stored, sqlx::Error> {
    let value = row.try_get_raw(at)?;
    if value.is_null() {
        return Ok(Stored::Null);
    }
    // bytea, text and varchar all travel as their plain bytes.
    value.as_bytes().map(|bytes| Stored::Bytes(bytes.to_vec())).map_err(sqlx::Error::Decode)
}

fn key_value(table: &Table, column: &KeyColumn, text: String) -> Result<KeyValue, EngineError> {
    let unreadable = || EngineError::Internal(format!("a key of {} has an unexpected form", table.label));
    Ok(match column.kind {
        KeyKind::Integer => KeyValue::Integer(text.parse().map_err(|_| unreadable())?),
        KeyKind::Text => KeyValue::Text(text),
        KeyKind::Bytes => {
            let digits = text.strip_prefix("\\x").ok_or_else(unreadable)?;
            KeyValue::Bytes(hex::decode(digits).map_err(|_| unreadable())?)
        }
        KeyKind::Other => KeyValue::Other(text),
        KeyKind::Any => return Err(unreadable()),
    })
}
