//! A relation as the catalog has it now, known by its oid, and acting as its owner for the length of a transaction.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::EngineError;
use crate::error::Doing;
use crate::table::quote;

const RELATION: &str = "
    SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relowner::regrole::text,
           (SELECT spcname::text FROM pg_tablespace WHERE oid = c.reltablespace),
           COALESCE((SELECT amname::text FROM pg_am WHERE oid = c.relam), 'heap'), c.relreplident::text,
           c.relnatts, EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attisdropped)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid";

/// A relation; names unquoted but for the owner's.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    /// For messages.
    pub(super) label: String,
    pub(super) oid: i64,
    pub(super) schema: String,
    pub(super) name: String,
    /// Quoted where that is needed.
    owner: String,
    pub(super) tablespace: Option<String>,
    pub(super) access_method: String,
    replica_identity: String,
    /// How many columns it ever had. One that is dropped and made again adds one, and may have another value in every row
    /// without any row being written.
    pub(super) columns_ever: i16,
    /// Whether it has not got all of them any more.
    pub(super) has_dropped_columns: bool,
}

impl Relation {
    /// The relation with this oid, if it still is there.
    pub(super) async fn find(
        connection: &mut PgConnection,
        oid: i64,
        label: &str,
    ) -> Result<Option<Self>, EngineError> {
        let doing = || format!("looking {label} up");
        let row = sqlx::query(RELATION).bind(oid).fetch_optional(connection).await.doing(doing)?;
        let Some(row) = row else { return Ok(None) };
        let read = || {
            Ok(Self {
                label: label.to_owned(),
                oid: row.try_get(0)?,
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
                owner: row.try_get(3)?,
                tablespace: row.try_get(4)?,
                access_method: row.try_get(5)?,
                replica_identity: row.try_get(6)?,
                columns_ever: row.try_get(7)?,
                has_dropped_columns: row.try_get(8)?,
            })
        };
        read().map(Some).doing(doing)
    }

    /// The relation with this oid, which must be there.
    pub(super) async fn of(connection: &mut PgConnection, oid: i64, label: &str) -> Result<Self, EngineError> {
        Self::find(connection, oid, label).await?.ok_or_else(|| gone(label))
    }

    /// As SQL names it.
    pub(super) fn sql(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    /// The replica identity, if it is neither the default nor an index, which brings its own.
    pub(super) fn replica_identity(&self) -> Option<&'static str> {
        match self.replica_identity.as_str() {
            "n" => Some("NOTHING"),
            "f" => Some("FULL"),
            _ => None,
        }
    }

    /// Acts as the owner until the transaction ends or [`act_as_agent`].
    pub(super) async fn act_as_owner(&self, connection: &mut PgConnection) -> Result<(), EngineError> {
        let doing = || format!("acting as the owner of {}", self.label);
        execute(connection, &format!("SET LOCAL ROLE {}", self.owner), doing).await
    }
}

/// Acts as the agent again, who alone may write the ledger.
pub(super) async fn act_as_agent(connection: &mut PgConnection) -> Result<(), EngineError> {
    execute(connection, "SET LOCAL ROLE NONE", || "acting as the agent again".to_owned()).await
}

/// The oid of a relation as SQL names it.
pub(super) async fn oid(connection: &mut PgConnection, sql: &str, label: &str) -> Result<i64, EngineError> {
    sqlx::query("SELECT $1::regclass::oid::int8")
        .bind(sql)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("looking {label} up"))
}

pub(super) fn gone(label: &str) -> EngineError {
    EngineError::RowsChanged { table: label.to_owned(), what: "the table or its copy was dropped".to_owned() }
}

/// One or several statements without parameters, put together from quoted names and the server's own definitions.
pub(super) async fn execute(
    connection: &mut PgConnection,
    sql: &str,
    doing: impl Fn() -> String,
) -> Result<(), EngineError> {
    // Reviewed: see above; every name is quoted, every text a literal.
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.doing(doing)?;
    Ok(())
}
