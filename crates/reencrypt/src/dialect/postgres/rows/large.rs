//! Writes rows with large values one by one. What a row must still hold is sent as its hash, since the driver has every
//! byte that it sends in memory twice.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use super::{list, placeholders, text, texts};
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table};

/// Says how many rows still held what was read, and have been written.
pub(super) async fn update(
    connection: &mut PgConnection,
    table: &Table,
    changes: &[Change],
) -> Result<u64, EngineError> {
    let sql = update_sql(table);
    let mut written = 0;
    for change in changes {
        // Reviewed: quoted identifiers, types' names from the catalog, and placeholders.
        let mut query = sqlx::query(AssertSqlSafe(sql.clone()));
        for value in &change.row.key.0 {
            query = query.bind(text(value));
        }
        for ((column, stored), new) in table.columns.iter().zip(&change.row.values).zip(&change.new) {
            query = query.bind(stored.sha256().map(|digest| digest.to_vec()));
            query = if column.text {
                query.bind(texts(table, std::iter::once(new.as_deref()))?.pop().flatten())
            } else {
                query.bind(new.as_deref())
            };
        }
        let done = query.execute(&mut *connection).await.doing(|| format!("writing {}", table.label))?;
        // Or the driver keeps room for as much again.
        connection.shrink_buffers();
        written += done.rows_affected();
    }
    Ok(written)
}

fn update_sql(table: &Table) -> String {
    let mut sets = Vec::new();
    let mut conditions =
        vec![format!("({}) = ({})", list(&table.key, |key| format!("t.{}", key.sql)), placeholders(table, 1))];
    let mut next = table.key.len() + 1;
    for column in &table.columns {
        let sql = &column.sql;
        let bytes = if column.text { format!("convert_to(t.{sql}::text, 'UTF8')") } else { format!("t.{sql}::bytea") };
        conditions.push(format!("sha256({bytes}) IS NOT DISTINCT FROM ${next}::bytea"));
        let of = if column.text { "text" } else { "bytea" };
        sets.push(format!("{sql} = COALESCE(${}::{of}, t.{sql})", next + 1));
        next += 2;
    }
    format!("UPDATE {} AS t SET {} WHERE {}", table.from, sets.join(", "), conditions.join(" AND "))
}
