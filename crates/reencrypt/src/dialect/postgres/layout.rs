//! Which columns of a table travel whole, and in which order: what a scan reads is what a load writes.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::EngineError;
use crate::error::Doing;
use crate::table::{KeyKind, Table, quote};

/// All columns that are not computed from others, in the table's order, with whether the type under all domains, and
/// under arrays, has a binary form to send and to receive, and whether the agent's role may read it.
const COLUMNS: &str = "
    SELECT a.attname::text,
           (WITH RECURSIVE base AS (
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typsend, t.typreceive FROM pg_type t
                WHERE t.oid = a.atttypid
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typsend, t.typreceive
                FROM base b JOIN pg_type t ON (b.typtype = 'd' AND t.oid = b.typbasetype)
                                           OR (b.typtype <> 'd' AND b.typelem <> 0 AND t.oid = b.typelem))
            SELECT bool_and(b.typsend::oid <> 0 AND b.typreceive::oid <> 0) FROM base b),
           has_column_privilege(a.attrelid, a.attnum, 'SELECT')
    FROM pg_attribute a
    WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attnum";

/// How the rows of a table travel: first the columns of `rest`, then the registered ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    /// The key's columns in the key's order, then every other column that is not registered, in the table's order.
    pub(super) rest: Vec<RestColumn>,
    /// Columns that the agent's role may not read; they are neither copied nor proved unchanged. Unquoted.
    pub(super) unreadable: Vec<String>,
}

/// A column of the rest.
#[derive(Debug, Clone)]
pub(super) struct RestColumn {
    /// Unquoted.
    pub(super) name: String,
    /// Quoted.
    pub(super) sql: String,
    /// Its values travel in their own binary form; else as text, which is as exact but not for copying.
    pub(super) binary: bool,
}

impl Layout {
    /// Of the key alone, for who does not ask for the rest.
    pub(super) fn of_key(table: &Table) -> Self {
        let column =
            |key: &crate::table::KeyColumn| RestColumn { name: String::new(), sql: key.sql.clone(), binary: true };
        Self { rest: table.key.iter().map(column).collect(), unreadable: Vec::new() }
    }

    /// As the catalog has it now.
    pub(super) async fn of(connection: &mut PgConnection, table: &Table) -> Result<Self, EngineError> {
        let doing = || format!("reading the columns of {}", table.label);
        let rows = sqlx::query(COLUMNS).bind(relation(table)).fetch_all(connection).await.doing(doing)?;
        let mut layout = Self::of_key(table);
        for row in &rows {
            let read = || Ok((row.try_get::<String, _>(0)?, row.try_get::<bool, _>(1)?, row.try_get::<bool, _>(2)?));
            let (name, binary, readable) = read().doing(doing)?;
            let sql = quote(&name);
            if let Some(at) = table.key.iter().position(|key| key.sql == sql) {
                layout.rest[at].name = name;
            } else if table.columns.iter().any(|column| column.sql == sql) {
                // Registered: it travels by itself.
            } else if readable {
                layout.rest.push(RestColumn { name, sql, binary });
            } else {
                layout.unreadable.push(name);
            }
        }
        Ok(layout)
    }

    /// The first column that has no binary form, if any.
    pub(super) fn without_binary_form(&self) -> Option<&str> {
        self.rest.iter().find(|column| !column.binary).map(|column| column.name.as_str())
    }

    /// Columns as a load names them: the rest, then the registered ones.
    pub(super) fn columns_sql(&self, table: &Table) -> String {
        let rest = self.rest.iter().map(|column| column.sql.as_str());
        let values = table.columns.iter().map(|column| column.sql.as_str());
        rest.chain(values).collect::<Vec<_>>().join(", ")
    }
}

/// The relation alone, quoted, without `ONLY`.
pub(super) fn relation(table: &Table) -> &str {
    table.from.strip_prefix("ONLY ").unwrap_or(&table.from)
}

/// Whether a key's column must also travel as text, because its notation is PostgreSQL's own.
pub(super) const fn needs_text(kind: KeyKind) -> bool {
    match kind {
        KeyKind::Integer | KeyKind::Text | KeyKind::Bytes => false,
        KeyKind::Other | KeyKind::Any => true,
    }
}
