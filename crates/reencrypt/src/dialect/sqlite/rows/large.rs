//! Writes rows with large values one by one. SQLite copies a value at every turn of a statement, so these are as plain as
//! can be: what a row holds is compared here, under the transaction's lock, and only what is new is sent.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _, ValueRef as _};

use super::{bind_key, collated, decode, tag, tag_of};
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table, sha256};

/// Says how many rows still held what was read, and have been written.
pub(super) async fn update(
    connection: &mut SqliteConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    let mut written = 0;
    for change in changes {
        let Some(tags) = tags(connection, table, change, true).await? else { continue };
        let mut sets = Vec::new();
        for ((column, new), tag) in table.columns.iter().zip(&change.new).zip(tags) {
            if new.is_some() {
                sets.push(format!("{} = {}", column.sql, placeholder(tag)));
            }
        }
        if sets.is_empty() {
            written += 1;
            continue;
        }
        let sql = format!("UPDATE {} AS t SET {} WHERE {}", table.from, sets.join(", "), by_key(table));
        written += write(connection, table, change, sql).await?;
    }
    Ok(written)
}

/// Says how many rows were found, and have been copied.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    table: &Table,
    into: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    let mut written = 0;
    for change in changes {
        let Some(tags) = tags(connection, table, change, false).await? else { continue };
        let mut values: Vec<String> = table.others.iter().map(|sql| format!("t.{sql}")).collect();
        for ((column, new), tag) in table.columns.iter().zip(&change.new).zip(tags) {
            values.push(if new.is_some() { placeholder(tag).to_owned() } else { format!("t.{}", column.sql) });
        }
        let columns: Vec<&str> =
            table.others.iter().chain(table.columns.iter().map(|column| &column.sql)).map(String::as_str).collect();
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {} AS t WHERE {}",
            into.from,
            columns.join(", "),
            values.join(", "),
            table.from,
            by_key(table)
        );
        written += write(connection, table, change, sql).await?;
    }
    Ok(written)
}

/// Text goes back as text.
const fn placeholder(tag: u8) -> &'static str {
    if tag == tag::TEXT { "CAST(? AS TEXT)" } else { "?" }
}

fn by_key(table: &Table) -> String {
    let conditions: Vec<String> = table.key.iter().map(|column| format!("{} = ?", collated(column))).collect();
    conditions.join(" AND ")
}

async fn write(
    connection: &mut SqliteConnection,
    table: &Table,
    change: &Change,
    sql: String,
) -> Result<u64, EngineError> {
    // Reviewed: as in the module above.
    // Not kept, since a statement keeps what was bound to it last.
    let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
    for new in change.new.iter().flatten() {
        query = query.bind(new.as_slice());
    }
    let done = bind_key(query, &change.row.key).execute(connection).await;
    Ok(done.doing(|| format!("writing {}", table.label))?.rows_affected())
}

/// The types of the row's values; none if the row is gone or, where that matters, holds something else.
async fn tags(
    connection: &mut SqliteConnection,
    table: &Table,
    change: &Change,
    same: bool,
) -> Result<Option<Vec<u8>>, EngineError> {
    let doing = || format!("reading {}", table.label);
    let columns = table.columns.iter().map(|column| match same {
        true => format!("t.{}", column.sql),
        // One byte tells the type as well.
        false => format!("CASE typeof(t.{0}) WHEN 'text' THEN 'x' WHEN 'null' THEN NULL ELSE x'00' END", column.sql),
    });
    let sql =
        format!("SELECT {} FROM {} AS t WHERE {}", columns.collect::<Vec<_>>().join(", "), table.from, by_key(table));
    // Reviewed: as in the module above.
    let query = bind_key(sqlx::query(AssertSqlSafe(sql)), &change.row.key);
    let Some(row) = query.fetch_optional(connection).await.doing(doing)? else { return Ok(None) };
    let mut tags = Vec::with_capacity(table.columns.len());
    for (at, expected) in change.row.values.iter().enumerate() {
        let value = row.try_get_raw(at).doing(doing)?;
        let tag = tag_of(&value);
        tags.push(tag);
        if same {
            let found = if value.is_null() { None } else { Some(sha256(decode(value).doing(doing)?)) };
            if found != expected.sha256() {
                return Ok(None);
            }
        }
    }
    Ok(Some(tags))
}
