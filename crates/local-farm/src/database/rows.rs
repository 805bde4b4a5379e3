//! Rows in and out of any of the databases. The statements are the same but for their placeholders; the types of the
//! driver are not.

use anyhow::Context as _;
use futures::TryStreamExt as _;
use keys::value::Encoding;
use sqlx::mysql::{MySqlPool, MySqlRow};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, MySql, Postgres, QueryBuilder, Row as _, Sqlite};
use uuid::Uuid;

use super::{DatabaseResult, Stored, StoredRow, sql};
use crate::tables::{KeyKind, KeyPart, RowKey, SecretColumn, Table};

/// Values bound in one statement; the database allows 32,766 or more.
const BINDS_MAX: usize = 4_000;

// A macro, since a generic function would need bounds on a dozen of the driver's types, longer than what it does.
macro_rules! backend {
    ($module:ident, $database:ident, $pool:ident, $row:ident, $from_uuid:expr, $to_uuid:expr, $own:expr) => {
        pub(super) mod $module {
            use super::*;

            pub(in crate::database) async fn insert(
                pool: &$pool,
                table: &Table,
                rows: &[StoredRow],
            ) -> DatabaseResult<()> {
                let binds_per_row = table.key.len() + 1 + table.columns.len();
                let mut transaction = pool.begin().await?;
                for chunk in rows.chunks(BINDS_MAX / binds_per_row) {
                    let mut query = QueryBuilder::<$database>::new(sql::insert_head(table));
                    query.push_values(chunk, |mut values, row| {
                        for part in &row.key.0 {
                            match part {
                                KeyPart::Integer(number) => values.push_bind(*number),
                                KeyPart::Uuid(id) => values.push_bind(($from_uuid)(*id)),
                                KeyPart::Text(text) => values.push_bind(text.clone()),
                            };
                        }
                        values.push_bind(format!("{} {}", table.name, row.key));
                        for (column, value) in table.columns.iter().zip(&row.values) {
                            match column.encoding {
                                Encoding::Raw => values.push_bind(value.clone()),
                                Encoding::Base64 => values.push_bind(value.as_deref().map(text)),
                            };
                        }
                    });
                    query.build().execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }

            pub(in crate::database) async fn value(
                pool: &$pool,
                table: &Table,
                column: &SecretColumn,
                key: &RowKey,
            ) -> DatabaseResult<Option<Stored>> {
                let statement = ($own)(sql::select_value(table, column));
                let mut query = sqlx::query(AssertSqlSafe(statement));
                for part in &key.0 {
                    query = match part {
                        KeyPart::Integer(number) => query.bind(*number),
                        KeyPart::Uuid(id) => query.bind(($from_uuid)(*id)),
                        KeyPart::Text(text) => query.bind(text.clone()),
                    };
                }
                query.fetch_optional(pool).await?.map(|row| stored(&row, 0, column)).transpose()
            }

            pub(in crate::database) async fn set_value(
                pool: &$pool,
                table: &Table,
                column: &SecretColumn,
                key: &RowKey,
                value: &[u8],
            ) -> DatabaseResult<bool> {
                let statement = ($own)(sql::update_value(table, column));
                let query = sqlx::query(AssertSqlSafe(statement));
                let mut query = match column.encoding {
                    Encoding::Raw => query.bind(value.to_vec()),
                    Encoding::Base64 => query.bind(text(value)),
                };
                for part in &key.0 {
                    query = match part {
                        KeyPart::Integer(number) => query.bind(*number),
                        KeyPart::Uuid(id) => query.bind(($from_uuid)(*id)),
                        KeyPart::Text(text) => query.bind(text.clone()),
                    };
                }
                Ok(query.execute(pool).await?.rows_affected() > 0)
            }

            pub(in crate::database) async fn for_each_row(
                pool: &$pool,
                table: &Table,
                mut each: impl FnMut(StoredRow) -> anyhow::Result<()>,
            ) -> anyhow::Result<()> {
                let mut rows = sqlx::query(AssertSqlSafe(sql::select_rows(table))).fetch(pool);
                let reading = || format!("reading table {}", table.name);
                while let Some(row) = rows.try_next().await.with_context(reading)? {
                    each(stored_row(&row, table).with_context(reading)?)?;
                }
                Ok(())
            }

            fn stored_row(row: &$row, table: &Table) -> DatabaseResult<StoredRow> {
                let key = table.key.iter().enumerate().map(|(number, column)| match column.kind {
                    KeyKind::Integer => row.try_get(number).map(KeyPart::Integer),
                    KeyKind::Uuid => row.try_get(number).and_then($to_uuid).map(KeyPart::Uuid),
                    KeyKind::Text => row.try_get(number).map(KeyPart::Text),
                });
                let key = RowKey(key.collect::<DatabaseResult<_>>()?);
                let values = table.columns.iter().enumerate();
                let values = values.map(|(number, column)| stored(row, table.key.len() + number, column));
                Ok(StoredRow { key, values: values.collect::<DatabaseResult<_>>()? })
            }

            fn stored(row: &$row, number: usize, column: &SecretColumn) -> DatabaseResult<Stored> {
                match column.encoding {
                    Encoding::Raw => row.try_get(number),
                    Encoding::Base64 => Ok(row.try_get::<Option<String>, _>(number)?.map(String::into_bytes)),
                }
            }
        }
    };
}

backend!(sqlite, Sqlite, SqlitePool, SqliteRow, |id: Uuid| id.to_string(), parse, |sql: String| sql);
backend!(postgres, Postgres, PgPool, PgRow, |id: Uuid| id, |id: Uuid| Ok(id), |sql: String| sql);
backend!(mariadb, MySql, MySqlPool, MySqlRow, |id: Uuid| id.to_string(), parse, |sql: String| sql::unnumbered(&sql));

fn parse(text: String) -> DatabaseResult<Uuid> {
    text.parse().map_err(|error: uuid::Error| sqlx::Error::Decode(Box::new(error)))
}

/// A stored text; what the demo itself corrupts stays a text.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
