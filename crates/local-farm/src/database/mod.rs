//! The vault's database as the demo's parts see it: SQLite, PostgreSQL or MariaDB behind one type, stored bytes in and out.

mod rows;
mod sql;

use anyhow::{Context as _, bail};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::tables::{RowKey, SecretColumn, Table};

use rows::{mariadb, postgres, sqlite};
pub(crate) use sql::{CREATE_MARIADB, CREATE_POSTGRES, CREATE_SQLITE};

/// How long to wait for another writer of a SQLite file.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

/// How long a caller waits for a connection before it is told that there is none.
const ACQUIRE: std::time::Duration = std::time::Duration::from_secs(5);

/// What [`sqlx::Error`] says when a database is not reachable is worth nothing to a vault's client; the caller decides.
pub(crate) type DatabaseResult<T> = Result<T, sqlx::Error>;

/// A stored value: the ciphertext's bytes, or those of its base64 text; `None` for NULL.
pub(crate) type Stored = Option<Vec<u8>>;

/// One row with all its encrypted columns, in the order of the table's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRow {
    /// Its primary key.
    pub(crate) key: RowKey,
    /// One stored value for every encrypted column.
    pub(crate) values: Vec<Stored>,
}

/// The vault's database.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// A file on this machine.
    Sqlite(SqlitePool),
    /// A server of PostgreSQL.
    Postgres(PgPool),
    /// A server of MariaDB.
    Mariadb(MySqlPool),
}

impl Database {
    /// Prepares connections, opening them when they are needed. `name` tells the server who it is.
    pub(crate) fn open(url: &str, name: &str, connections_max: u32) -> anyhow::Result<Self> {
        if url.starts_with("sqlite:") {
            let options: SqliteConnectOptions = url.parse().with_context(|| format!("{url} is not a usable URL"))?;
            let options = options
                .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Normal)
                .busy_timeout(BUSY);
            let pool = SqlitePoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE);
            return Ok(Self::Sqlite(pool.connect_lazy_with(options)));
        }
        if url.starts_with("postgres:") || url.starts_with("postgresql:") {
            // Not in the error: it may hold a password.
            let options: PgConnectOptions = url.parse().context("the database's URL is not a usable PostgreSQL URL")?;
            let pool = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE);
            return Ok(Self::Postgres(pool.connect_lazy_with(options.application_name(name))));
        }
        if url.starts_with("mariadb:") || url.starts_with("mysql:") {
            let options: MySqlConnectOptions = url.parse().context("the database's URL is not a usable MariaDB URL")?;
            let pool = MySqlPoolOptions::new().max_connections(connections_max).acquire_timeout(ACQUIRE);
            return Ok(Self::Mariadb(pool.connect_lazy_with(options)));
        }
        bail!("the database's URL begins neither with sqlite: nor with postgres: nor with mariadb:")
    }

    /// Closes every connection.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
            Self::Mariadb(pool) => pool.close().await,
        }
    }

    /// Creates the vault's tables.
    pub(crate) async fn create_tables(&self) -> DatabaseResult<()> {
        match self {
            Self::Sqlite(pool) => sqlx::raw_sql(CREATE_SQLITE).execute(pool).await.map(drop),
            Self::Postgres(pool) => sqlx::raw_sql(CREATE_POSTGRES).execute(pool).await.map(drop),
            Self::Mariadb(pool) => sqlx::raw_sql(CREATE_MARIADB).execute(pool).await.map(drop),
        }
    }

    /// Adds rows in one transaction.
    pub(crate) async fn insert(&self, table: &Table, rows: &[StoredRow]) -> DatabaseResult<()> {
        match self {
            Self::Sqlite(pool) => sqlite::insert(pool, table, rows).await,
            Self::Postgres(pool) => postgres::insert(pool, table, rows).await,
            Self::Mariadb(pool) => mariadb::insert(pool, table, rows).await,
        }
    }

    /// The stored value of one column of one row; `None` when there is no such row.
    pub(crate) async fn value(
        &self,
        table: &Table,
        column: &SecretColumn,
        key: &RowKey,
    ) -> DatabaseResult<Option<Stored>> {
        match self {
            Self::Sqlite(pool) => sqlite::value(pool, table, column, key).await,
            Self::Postgres(pool) => postgres::value(pool, table, column, key).await,
            Self::Mariadb(pool) => mariadb::value(pool, table, column, key).await,
        }
    }

    /// Sets one column of one row. Says whether there is such a row.
    pub(crate) async fn set_value(
        &self,
        table: &Table,
        column: &SecretColumn,
        key: &RowKey,
        value: &[u8],
    ) -> DatabaseResult<bool> {
        match self {
            Self::Sqlite(pool) => sqlite::set_value(pool, table, column, key, value).await,
            Self::Postgres(pool) => postgres::set_value(pool, table, column, key, value).await,
            Self::Mariadb(pool) => mariadb::set_value(pool, table, column, key, value).await,
        }
    }

    /// All rows of a table, each given to `each`. An interrupted read is an error, never an end.
    pub(crate) async fn for_each_row(
        &self,
        table: &Table,
        each: impl FnMut(StoredRow) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(pool) => sqlite::for_each_row(pool, table, each).await,
            Self::Postgres(pool) => postgres::for_each_row(pool, table, each).await,
            Self::Mariadb(pool) => mariadb::for_each_row(pool, table, each).await,
        }
    }
}

#[cfg(test)]
mod tests;
