//! Reads pages of rows from MariaDB and MySQL and writes batches of them back, each row only if it still holds what was read.

mod large;

use std::time::Duration;

use futures::{FutureExt as _, TryStreamExt as _};
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{Connection as _, Row as _};

use super::super::{PageLimit, Scan, Turn};
use super::shadow::name_of;
use super::statement::{Bind, Statement};
use crate::EngineError;
use crate::error::Doing;
use crate::key::{Key, KeyValue};
use crate::sink::{PageSink, advance};
use crate::table::{Change, KeyColumn, KeyKind, KeyRange, Row, Stored, Table, ValueColumn};

/// How long a trial may wait for a lock: the farm serves meanwhile, and others queue behind whoever waits.
const TRIAL_LOCKS: &str = "SET SESSION innodb_lock_wait_timeout = 1, lock_wait_timeout = 1
    /*!80400 , wait_timeout = 15 */";

/// What it is otherwise, as in the settings of every session.
const USUAL_LOCKS: &str = "SET SESSION innodb_lock_wait_timeout = 5, lock_wait_timeout = 5
    /*!80400 , wait_timeout = 28800 */";

/// Rows that one statement writes. Which row gets which value is looked up from the first to the last, so more rows
/// cost more each, and fewer more round trips. Measured on 512 bytes a row: 25 and 50 rows are the fastest, 100 take a
/// fifth longer; joining a derived table of a thousand rows takes three times as long, since values that are large
/// objects make it a table on disk.
const STATEMENT_ROWS_MAX: usize = 50;

/// Bytes of old and new values in one statement; more gain nothing, and the server copies them.
const STATEMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a statement has besides its values: its text, keys, and the protocol's own.
const STATEMENT_OTHER_BYTES: usize = 64 * 1024;

/// Rows that one statement of a scan reads. A statement sees what stood when it began, and until it ends the server keeps
/// the old versions of all rows that are written meanwhile; so it ends now and then.
const SCAN_ROWS_MAX: usize = 20_000;

/// Rows that the first statement of a scan reads where values may be large, and how many times more the next one, as long as
/// none is. What follows a large row in its statement is sent in vain.
const SIZED_ROWS_FIRST: usize = 64;
const SIZED_ROWS_GROWTH: usize = 4;

/// Whether a registered column of the table can hold so many bytes.
const CAN_BE_LARGE: &str = "SELECT COUNT(*) FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND CHARACTER_OCTET_LENGTH > ?";

/// How long the server may be silent while rows are wanted.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Puts the rows of the range into the sink, as they come. The server stops sending when nobody takes them. Where values may be
/// large, the server sends of those that are only how large they are; such a row is read by itself, when it has its room.
pub(super) async fn scan(
    connection: &mut MySqlConnection,
    scan: &Scan<'_>,
    sink: &mut PageSink,
    packet_bytes_max: usize,
) -> Result<(), EngineError> {
    let bytes_max = sink.limit().bytes_max;
    let sized = can_be_large(connection, scan.table, bytes_max).await?;
    let mut range = scan.range.clone();
    let mut rows_max = if sized { SIZED_ROWS_FIRST } else { SCAN_ROWS_MAX };
    loop {
        let from = Scan { range: &range, ..*scan };
        let limit = PageLimit { rows_max, bytes_max };
        let (last, large) = match scan_rows(connection, &from, sink, limit, packet_bytes_max, sized).await? {
            Scanned::End | Scanned::Closed => return Ok(()),
            Scanned::Rows(last) => {
                rows_max = (rows_max * SIZED_ROWS_GROWTH).min(SCAN_ROWS_MAX);
                (last, None)
            }
            Scanned::Large(row, bytes) => {
                rows_max = 1;
                (row.key.clone(), Some((row, bytes)))
            }
        };
        if let Some((row, bytes)) = large {
            // Closed: as below.
            if sink.make_room(bytes).await.is_err() {
                return Ok(());
            }
            // The application may have taken it away meanwhile.
            if let Some(values) = large::values(connection, scan.table, &row.key, bytes).await?
                && sink.row(Row { values, ..row }).await.is_err()
            {
                return Ok(());
            }
        }
        advance(scan.table, &mut range, last)?;
    }
}

/// Where a statement of a scan has come to.
enum Scanned {
    /// The end of the range.
    End,
    /// Nobody takes rows any more: the stage behind has failed, and its error is the one to report.
    Closed,
    /// As many rows as it was to read, up to this one.
    Rows(Key),
    /// A row without its values, which have so many bytes.
    Large(Row, usize),
}

async fn scan_rows(
    connection: &mut MySqlConnection,
    scan: &Scan<'_>,
    sink: &mut PageSink,
    limit: PageLimit,
    packet_bytes_max: usize,
    sized: bool,
) -> Result<Scanned, EngineError> {
    let Scan { table, range, .. } = *scan;
    let whole = scan.is_whole();
    let doing = || format!("reading {}", table.label);
    let silent = |_| EngineError::TimedOut { doing: doing(), seconds: SILENCE_MAX.as_secs() };
    let mut statement = select(table, true, whole, sized.then_some(limit.bytes_max));
    statement.range(table, range).in_order(table).sql(" LIMIT ").bind(Bind::Integer(integer(limit.rows_max)));
    let mut rows = statement.query(true).fetch(&mut *connection);
    let mut read = 0;
    loop {
        // Timers cost more than a row, so they are set only where there is something to wait for.
        let next = match rows.try_next().now_or_never() {
            Some(next) => next,
            None => tokio::time::timeout(SILENCE_MAX, rows.try_next()).await.map_err(silent)?,
        };
        let Some(found) = next.doing(doing)? else { return Ok(Scanned::End) };
        let row = self::read(table, &found, whole)?;
        let size = if sized { found.try_get_unchecked::<i64, _>(found.len() - 1).doing(doing)? } else { 0 };
        // The driver has all of it once more.
        drop(found);
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(row.bytes() - row.rest.len());
        // It was sent, and could not be sent back.
        if size.saturating_add(STATEMENT_OTHER_BYTES) > packet_bytes_max {
            return Err(EngineError::RowTooLarge {
                row: format!("row {} of {}", row.key, table.label),
                bytes: size as u64,
                bytes_max: packet_bytes_max as u64,
            });
        }
        if sized && size > limit.bytes_max {
            return Ok(Scanned::Large(row, size));
        }
        read += 1;
        let last = (read == limit.rows_max).then(|| row.key.clone());
        if sink.row(row).await.is_err() {
            return Ok(Scanned::Closed);
        }
        if let Some(last) = last {
            return Ok(Scanned::Rows(last));
        }
    }
}

/// Whether a value of this table may be so large that it is not to be read with others.
async fn can_be_large(connection: &mut MySqlConnection, table: &Table, bytes: usize) -> Result<bool, EngineError> {
    let found = sqlx::query(CAN_BE_LARGE).bind(name_of(table)).bind(integer(bytes)).fetch_one(connection).await;
    let columns: i64 =
        found.and_then(|row| row.try_get(0)).doing(|| format!("reading the columns of {}", table.label))?;
    Ok(columns > 0)
}

/// The next rows of the range. How large they are is asked first: the server sends all that it was asked for, and what
/// nobody wants would have to be read to its end.
pub(super) async fn page(
    connection: &mut MySqlConnection,
    scan: &Scan<'_>,
    limit: PageLimit,
    packet_bytes_max: usize,
) -> Result<Vec<Row>, EngineError> {
    let Scan { table, range, .. } = *scan;
    let whole = scan.is_whole();
    let rows = fitting(connection, scan, limit, packet_bytes_max).await?;
    let mut statement = select(table, true, whole, None);
    statement.range(table, range).in_order(table).sql(" LIMIT ").bind(Bind::Integer(integer(rows)));
    let rows = statement.query(true).fetch_all(connection).await.doing(|| format!("reading {}", table.label))?;
    rows.iter().map(|row| read(table, row, whole)).collect()
}

/// How many rows of the range fit into a page: one at least, if there is one.
async fn fitting(
    connection: &mut MySqlConnection,
    scan: &Scan<'_>,
    limit: PageLimit,
    packet_bytes_max: usize,
) -> Result<usize, EngineError> {
    let Scan { table, range, .. } = *scan;
    let whole = scan.is_whole();
    let mut statement = Statement::default();
    statement
        .sql("SELECT ")
        .sql(&sizes(table, whole))
        .sql(" FROM ")
        .sql(&table.from)
        .sql(" AS t FORCE INDEX (PRIMARY)");
    statement.range(table, range).in_order(table).sql(" LIMIT ").bind(Bind::Integer(integer(limit.rows_max)));
    let doing = || format!("looking how large the next rows of {} are", table.label);
    let found = statement.query(true).fetch_all(&mut *connection).await.doing(doing)?;
    let mut bytes = 0;
    for (at, row) in found.iter().enumerate() {
        let size: i64 = row.try_get_unchecked(0).doing(doing)?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size.saturating_add(STATEMENT_OTHER_BYTES) > packet_bytes_max {
            return Err(too_large(connection, table, range, at, size, packet_bytes_max).await);
        }
        bytes += size;
        if bytes > limit.bytes_max && at > 0 {
            return Ok(at);
        }
    }
    Ok(found.len().max(1))
}

/// A row that could be read neither nor written names itself and the setting.
async fn too_large(
    connection: &mut MySqlConnection,
    table: &Table,
    range: &KeyRange,
    at: usize,
    size: usize,
    packet_bytes_max: usize,
) -> EngineError {
    let mut statement = Statement::default();
    statement.sql("SELECT ").sql(&keys(table)).sql(" FROM ").sql(&table.from).sql(" AS t FORCE INDEX (PRIMARY)");
    statement.range(table, range).in_order(table).sql(" LIMIT 1 OFFSET ").bind(Bind::Integer(integer(at)));
    let found = statement.query(false).fetch_one(connection).await;
    match found.doing(|| format!("reading {}", table.label)).and_then(|row| read_key(table, &row)) {
        Ok(key) => EngineError::RowTooLarge {
            row: format!("row {key} of {}", table.label),
            bytes: size as u64,
            bytes_max: packet_bytes_max as u64,
        },
        Err(error) => error,
    }
}

/// The row with exactly this key.
pub(super) async fn row(
    connection: &mut MySqlConnection,
    table: &Table,
    key: &Key,
) -> Result<Option<Row>, EngineError> {
    read_row(connection, table, key, "").await
}

async fn read_row(
    connection: &mut MySqlConnection,
    table: &Table,
    key: &Key,
    lock: &'static str,
) -> Result<Option<Row>, EngineError> {
    let mut statement = select(table, false, false, None);
    statement.sql(" WHERE ").key_is(table, key).sql(lock);
    let row = statement.query(false).fetch_optional(connection).await.doing(|| format!("reading {}", table.label))?;
    row.map(|row| read(table, &row, false)).transpose()
}

/// Writes one row in a transaction that is always rolled back. The row is locked from when it is read, so that what
/// the application does meanwhile cannot keep the write from happening.
pub(super) async fn try_write(
    connection: &mut MySqlConnection,
    table: &Table,
    key: &Key,
    turn: Turn<'_>,
    packet_bytes_max: usize,
) -> Result<bool, EngineError> {
    let doing = || format!("trying to write {}", table.label);
    sqlx::raw_sql(TRIAL_LOCKS).execute(&mut *connection).await.doing(doing)?;
    let mut transaction = connection.begin().await.doing(doing)?;
    let row = read_row(&mut transaction, table, key, " FOR UPDATE").await;
    let written = match row.map(|row| row.and_then(turn)) {
        Ok(Some(change)) => update(&mut transaction, table, &[change], packet_bytes_max).await.map(|rows| rows == 1),
        Ok(None) => Ok(false),
        Err(error) => Err(error),
    };
    transaction.rollback().await.doing(doing)?;
    sqlx::raw_sql(USUAL_LOCKS).execute(connection).await.doing(doing)?;
    written.map_err(|error| error.of_trial(&table.label))
}

/// How many rows the range has.
pub(super) async fn count(
    connection: &mut MySqlConnection,
    table: &Table,
    range: &KeyRange,
) -> Result<u64, EngineError> {
    let mut statement = Statement::default();
    statement.sql("SELECT COUNT(*) FROM ").sql(&table.from).sql(" AS t").range(table, range);
    let doing = || format!("counting {}", table.label);
    let count: i64 =
        statement.query(false).fetch_one(connection).await.and_then(|row| row.try_get_unchecked(0)).doing(doing)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Writes all of the batch, and says how many rows still held what was read. The caller's transaction decides.
pub(super) async fn update(
    connection: &mut MySqlConnection,
    table: &Table,
    changes: &[Change],
    packet_bytes_max: usize,
) -> Result<u64, EngineError> {
    let mut written = 0;
    for batch in batches(changes, packet_bytes_max) {
        let done = update_statement(table, &batch).query(batch.is_full()).execute(&mut *connection).await;
        let_go(connection, &batch);
        written += done.doing(|| format!("writing {}", table.label))?.rows_affected();
    }
    Ok(written)
}

/// Inserts all of the page into a copy, on the server: only registered values are sent. Says how many rows still held what
/// was read; those are locked until the transaction ends. The other columns are compared when the copy is verified, and
/// everything once more, under lock, before the swap.
pub(super) async fn copy(
    connection: &mut MySqlConnection,
    (table, into): (&Table, &Table),
    changes: &[Change],
    packet_bytes_max: usize,
) -> Result<u64, EngineError> {
    let mut written = 0;
    for batch in batches(changes, packet_bytes_max) {
        let done = copy_statement(table, into, &batch).query(batch.is_full()).execute(&mut *connection).await;
        let_go(connection, &batch);
        written += done.doing(|| format!("copying {}", table.label))?.rows_affected();
    }
    Ok(written)
}

/// After a large row the driver would keep room for as much again.
fn let_go(connection: &mut MySqlConnection, batch: &Batch<'_>) {
    if batch.by_digest {
        connection.shrink_buffers();
    }
}

/// Rows of one statement.
struct Batch<'a> {
    changes: &'a [Change],
    /// What is too large to be kept or sent together with what it replaces is compared by its digest.
    by_digest: bool,
}

impl Batch<'_> {
    /// A statement of the size that most of them have is kept prepared.
    const fn is_full(&self) -> bool {
        self.changes.len() == STATEMENT_ROWS_MAX
    }
}

/// Divides rows into statements.
fn batches(changes: &[Change], packet_bytes_max: usize) -> impl Iterator<Item = Batch<'_>> {
    let bytes_max = packet_bytes_max.saturating_sub(STATEMENT_OTHER_BYTES);
    let mut rest = changes;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |change: &&Change| {
            bytes += change_bytes(change);
            bytes <= bytes_max.min(STATEMENT_BYTES_MAX)
        };
        let rows = rest.iter().take(STATEMENT_ROWS_MAX).take_while(fits).count().max(1);
        let (now, later) = rest.split_at_checked(rows)?;
        rest = later;
        let by_digest = now.iter().any(Change::is_large) || rows == 1 && change_bytes(&now[0]) > bytes_max;
        Some(Batch { changes: now, by_digest })
    })
}

/// Every column by its name, so that hidden ones come along. A column without a new value keeps what it has.
fn copy_statement<'a>(table: &Table, into: &Table, batch: &Batch<'a>) -> Statement<'a> {
    let changes = batch.changes;
    let registered = table.columns.iter().map(|column| &column.sql);
    let names: Vec<&str> = registered.chain(&table.others).map(String::as_str).collect();
    let mut statement = Statement::default();
    statement.sql("INSERT INTO ").sql(&into.from).sql(" (").sql(&names.join(", ")).sql(") SELECT ");
    for (at, column) in table.columns.iter().enumerate() {
        statement.sql(if at > 0 { ", COALESCE(" } else { "COALESCE(" });
        by_key(&mut statement, table, changes, |change| Bind::Bytes(change.new[at].as_deref()));
        statement.sql(", t.").sql(&column.sql).sql(")");
    }
    for other in &table.others {
        statement.sql(", t.").sql(other);
    }
    statement.sql(" FROM ").sql(&table.from).sql(" AS t FORCE INDEX (PRIMARY)");
    still_as_read(&mut statement, table, batch);
    statement.sql(" LOCK IN SHARE MODE");
    statement
}

fn change_bytes(change: &Change) -> usize {
    change.row.bytes() + change.new.iter().flatten().map(Vec::len).sum::<usize>()
}

/// Each value is looked up by the row's key. A column without a new value keeps what it has; every registered column
/// must hold what was read, byte by byte, also those that are not written. Rows are found by the key as its index
/// compares it, and values by the key's own bytes, so that a key that is spelled otherwise is another one.
fn update_statement<'a>(table: &Table, batch: &Batch<'a>) -> Statement<'a> {
    let changes = batch.changes;
    let mut statement = Statement::default();
    statement.sql("UPDATE ").sql(&table.from).sql(" AS t FORCE INDEX (PRIMARY) SET ");
    for (at, column) in table.columns.iter().enumerate() {
        statement.sql(if at > 0 { ", t." } else { "t." }).sql(&column.sql).sql(" = COALESCE(");
        by_key(&mut statement, table, changes, |change| Bind::Bytes(change.new[at].as_deref()));
        statement.sql(", t.").sql(&column.sql).sql(")");
    }
    for kept in &table.kept {
        statement.sql(", t.").sql(kept).sql(" = t.").sql(kept);
    }
    still_as_read(&mut statement, table, batch);
    statement
}

/// Adds the condition that takes the rows of the batch, each only if it holds what was read.
fn still_as_read<'a>(statement: &mut Statement<'a>, table: &Table, batch: &Batch<'a>) {
    let changes = batch.changes;
    statement.sql(" WHERE (");
    for (at, change) in changes.iter().enumerate() {
        if at > 0 {
            statement.sql(" OR ");
        }
        statement.sql("(").key_is(table, &change.row.key).sql(")");
    }
    statement.sql(")");
    for (at, column) in table.columns.iter().enumerate() {
        let bytes = bytes_of(column);
        if batch.by_digest {
            statement.sql(" AND SHA2(").sql(&bytes).sql(", 256) <=> ");
            by_key(statement, table, changes, |change| Bind::Owned(change.row.values[at].sha256().map(hex::encode)));
        } else {
            statement.sql(" AND ").sql(&bytes).sql(" <=> ");
            by_key(statement, table, changes, |change| Bind::Bytes(change.row.values[at].bytes()));
        }
    }
}

/// Adds what looks a value up by the row's key.
fn by_key<'a>(
    statement: &mut Statement<'a>,
    table: &Table,
    changes: &'a [Change],
    value: impl Fn(&'a Change) -> Bind<'a>,
) {
    statement.sql("CASE");
    if let [column] = table.key.as_slice() {
        statement.sql(" ");
        own_bytes(statement, column, |statement| {
            statement.sql("t.").sql(&column.sql);
        });
        for change in changes {
            statement.sql(" WHEN ");
            own_bytes(statement, column, |statement| {
                statement.key_value(column, &change.row.key.0[0]);
            });
            statement.sql(" THEN ").bind(value(change));
        }
    } else {
        for change in changes {
            statement.sql(" WHEN ");
            for (at, (column, part)) in table.key.iter().zip(&change.row.key.0).enumerate() {
                if at > 0 {
                    statement.sql(" AND ");
                }
                own_bytes(statement, column, |statement| {
                    statement.sql("t.").sql(&column.sql);
                });
                statement.sql(" = ");
                own_bytes(statement, column, |statement| {
                    statement.key_value(column, part);
                });
            }
            statement.sql(" THEN ").bind(value(change));
        }
    }
    statement.sql(" END");
}

fn own_bytes<'a>(statement: &mut Statement<'a>, column: &KeyColumn, inner: impl FnOnce(&mut Statement<'a>)) {
    if column.kind == KeyKind::Text {
        statement.sql("CAST(");
        inner(statement);
        statement.sql(" AS BINARY)");
    } else {
        inner(statement);
    }
}

/// The stored bytes of a column, whatever its character set.
fn bytes_of(column: &ValueColumn) -> String {
    if column.text { format!("CAST(t.{} AS BINARY)", column.sql) } else { format!("t.{}", column.sql) }
}

fn keys(table: &Table) -> String {
    let key = |column: &KeyColumn| match column.kind {
        KeyKind::Integer => format!("CAST(t.{} AS SIGNED)", column.sql),
        KeyKind::Bytes | KeyKind::Any => format!("t.{}", column.sql),
        KeyKind::Text => format!("CONVERT(t.{} USING utf8mb4)", column.sql),
        KeyKind::Other => format!("CAST(t.{} AS CHAR)", column.sql),
    };
    table.key.iter().map(key).collect::<Vec<_>>().join(", ")
}

fn sizes(table: &Table, whole: bool) -> String {
    let columns = table.columns.iter().map(|column| &column.sql).chain(table.others.iter().filter(|_| whole));
    let sizes: Vec<String> = columns.map(|sql| format!("COALESCE(LENGTH(t.{sql}), 0)")).collect();
    format!("CAST({} AS SIGNED)", sizes.join(" + "))
}

/// With `sized`, values of rows that have more bytes of them are left out, and the last column says how many they are.
fn select<'a>(table: &Table, by_index: bool, whole: bool, sized: Option<usize>) -> Statement<'a> {
    let size = sizes(table, false);
    let values = table.columns.iter().map(|column| match sized {
        None => bytes_of(column),
        Some(bytes_max) => format!("IF({size} > {bytes_max}, NULL, {})", bytes_of(column)),
    });
    let others = table.exact.iter().filter(|_| whole).cloned();
    let all = values.chain(others).chain(sized.map(|_| size.clone())).collect::<Vec<_>>().join(", ");
    let mut statement = Statement::default();
    statement.sql(&format!("SELECT {}, {all} FROM {} AS t", keys(table), table.from));
    if by_index {
        statement.sql(" FORCE INDEX (PRIMARY)");
    }
    statement
}

fn integer(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn read(table: &Table, row: &MySqlRow, whole: bool) -> Result<Row, EngineError> {
    let doing = || format!("reading a row of {}", table.label);
    let key = read_key(table, row)?;
    let first_value = table.key.len();
    let first_other = first_value + table.columns.len();
    let mut values = Vec::with_capacity(table.columns.len());
    for at in first_value..first_other {
        let value: Option<Vec<u8>> = row.try_get_unchecked(at).doing(doing)?;
        values.push(value.map_or(Stored::Null, Stored::Bytes));
    }
    let mut rest = Vec::new();
    for at in first_other..first_other + if whole { table.exact.len() } else { 0 } {
        push_rest(&mut rest, row.try_get_unchecked(at).doing(doing)?);
    }
    Ok(Row { key, values, rest, version: None })
}

/// The bytes in which the server sends a value of this type, with their length; NULL is a length of its own.
fn push_rest(rest: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => rest.extend(u64::MAX.to_le_bytes()),
        Some(bytes) => {
            rest.extend((bytes.len() as u64).to_le_bytes());
            rest.extend_from_slice(bytes);
        }
    }
}

fn read_key(table: &Table, row: &MySqlRow) -> Result<Key, EngineError> {
    let doing = || format!("reading a key of {}", table.label);
    let part = |(at, column): (usize, &KeyColumn)| {
        Ok(match column.kind {
            KeyKind::Integer => KeyValue::Integer(row.try_get_unchecked(at)?),
            KeyKind::Bytes | KeyKind::Any => KeyValue::Bytes(row.try_get_unchecked(at)?),
            KeyKind::Text => KeyValue::Text(row.try_get_unchecked(at)?),
            KeyKind::Other => KeyValue::Other(row.try_get_unchecked(at)?),
        })
    };
    table.key.iter().enumerate().map(part).collect::<Result<_, _>>().map(Key).doing(doing)
}
