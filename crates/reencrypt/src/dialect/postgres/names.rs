//! The names of a server's roles, for another one that a backup is restored into: policies of row security name them.

use std::str::FromStr as _;

use sqlx::Row as _;
use sqlx::postgres::PgConnectOptions;

use super::connect;
use crate::error::Doing;
use crate::{DatabaseUrlError, EngineError};

/// More than any server has that a backup is made of; a bound, since they are made one by one.
const ROLES_MAX: i64 = 10_000;

/// All but those that every server has.
pub async fn role_names(url: &str) -> Result<Vec<String>, EngineError> {
    let doing = || "reading the names of roles".to_owned();
    let options = PgConnectOptions::from_str(url).map_err(DatabaseUrlError::Malformed).map_err(EngineError::Url)?;
    let mut connection = connect(&options).await?;
    let rows = sqlx::query(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE NOT pg_catalog.starts_with(rolname::text, 'pg_')
         ORDER BY 1 LIMIT $1",
    )
    .bind(ROLES_MAX)
    .fetch_all(&mut connection)
    .await
    .doing(doing)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(doing)
}
