//! Which columns of a table travel whole, and in which order: what a scan reads is what a load writes.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::EngineError;
use crate::error::Doing;
use crate::table::{KeyKind, Table, quote};

/// All columns that are not computed from others, in the table's order, with what keeps their values from travelling in
/// their binary form exactly, and whether the agent's role may read it. What counts is the type with all under domains, in
/// arrays, ranges and composites: XML loses its declaration when it is sent, and of text whose encoding has more than UTF-8
/// knows of, or none, not all can be sent. In the encodings that are listed every byte goes to UTF-8 and back.
const COLUMNS: &str = "
    SELECT a.attname::text,
           (WITH RECURSIVE base AS (
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typrelid, t.typcategory, t.typsend, t.typreceive
                FROM pg_type t WHERE t.oid = a.atttypid
                UNION
                SELECT t.oid, t.typtype, t.typbasetype, t.typelem, t.typrelid, t.typcategory, t.typsend, t.typreceive
                FROM base b
                CROSS JOIN LATERAL (
                    SELECT b.typbasetype AS oid WHERE b.typtype = 'd'
                    UNION ALL SELECT b.typelem WHERE b.typtype <> 'd' AND b.typelem <> 0
                    UNION ALL SELECT x.atttypid FROM pg_attribute x
                              WHERE b.typtype = 'c' AND x.attrelid = b.typrelid AND x.attnum > 0 AND NOT x.attisdropped
                    UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE b.oid IN (r.rngtypid, r.rngmultitypid)) AS part
                JOIN pg_type t ON t.oid = part.oid)
            SELECT CASE
                WHEN NOT bool_and(b.typsend::oid <> 0 AND b.typreceive::oid <> 0) THEN 'of a type without a binary form'
                WHEN NOT bool_and(b.oid <> 'xml'::regtype) THEN 'XML, whose binary form is not exact'
                WHEN getdatabaseencoding() NOT IN (
                     'UTF8', 'LATIN1', 'LATIN2', 'LATIN4', 'LATIN5', 'LATIN6', 'LATIN7', 'LATIN8', 'LATIN9', 'LATIN10',
                     'ISO_8859_5', 'KOI8R', 'KOI8U', 'WIN866', 'WIN1256') AND NOT bool_and(
                     b.typcategory IN ('A', 'B', 'C', 'D', 'G', 'I', 'N', 'R', 'T', 'V')
                     OR b.oid IN ('bytea'::regtype, 'uuid'::regtype))
                THEN 'text in ' || getdatabaseencoding() || ', of which UTF-8 may not know all' END
            FROM base b),
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
    /// Which column of the rest has no exact binary form, and why, if any.
    pub(super) inexact: Option<String>,
}

/// A column of the rest.
#[derive(Debug, Clone)]
pub(super) struct RestColumn {
    /// Unquoted.
    pub(super) name: String,
    /// Quoted.
    pub(super) sql: String,
    /// Its values travel in their own binary form; else as the bytes of their text, which are as exact but not for copying.
    binary: bool,
}

impl RestColumn {
    /// Of a row that is called `t`.
    pub(super) fn read(&self) -> String {
        match self.binary {
            true => format!("t.{}", self.sql),
            false => format!("convert_to(t.{}::text, getdatabaseencoding())", self.sql),
        }
    }
}

impl Layout {
    /// Of the key alone, for who does not ask for the rest.
    pub(super) fn of_key(table: &Table) -> Self {
        let column =
            |key: &crate::table::KeyColumn| RestColumn { name: String::new(), sql: key.sql.clone(), binary: true };
        Self { rest: table.key.iter().map(column).collect(), ..Self::default() }
    }

    /// As the catalog has it now.
    pub(super) async fn of(connection: &mut PgConnection, table: &Table) -> Result<Self, EngineError> {
        let doing = || format!("reading the columns of {}", table.label);
        let rows = sqlx::query(COLUMNS).bind(relation(table)).fetch_all(connection).await.doing(doing)?;
        let mut layout = Self::of_key(table);
        for row in &rows {
            let read = || Ok((row.try_get::<String, _>(0)?, row.try_get(1)?, row.try_get::<bool, _>(2)?));
            let (name, inexact, readable): (_, Option<String>, _) = read().doing(doing)?;
            let sql = quote(&name);
            if let Some(at) = table.key.iter().position(|key| key.sql == sql) {
                layout.rest[at].name = name;
            } else if table.columns.iter().any(|column| column.sql == sql) {
                // Registered: it travels by itself.
            } else if readable {
                let binary = inexact.is_none();
                layout.inexact = layout.inexact.or(inexact.map(|why| format!("its column {sql} is {why}")));
                layout.rest.push(RestColumn { name, sql, binary });
            } else {
                layout.unreadable.push(name);
            }
        }
        Ok(layout)
    }

    /// Columns as a load names them: the rest, then the registered ones.
    pub(super) fn columns_sql(&self, table: &Table) -> String {
        self.columns(table).collect::<Vec<_>>().join(", ")
    }

    /// What a row takes as it is stored, for which nothing that is stored out of line is fetched.
    pub(super) fn stored_size_sql(&self, table: &Table) -> String {
        self.columns(table)
            .map(|sql| format!("COALESCE(pg_column_size({sql}), 0)::int8"))
            .collect::<Vec<_>>()
            .join(" + ")
    }

    fn columns<'a>(&'a self, table: &'a Table) -> impl Iterator<Item = &'a str> {
        let rest = self.rest.iter().map(|column| column.sql.as_str());
        rest.chain(table.columns.iter().map(|column| column.sql.as_str()))
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
