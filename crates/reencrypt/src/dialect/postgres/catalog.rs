//! Finds the registered tables in PostgreSQL's catalog, and names everything about them that cannot be worked with.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::dialect::Use;
use crate::error::Doing;
use crate::table::{KeyColumn, KeyKind, Table, ValueColumn, quote};
use crate::targets::TableTarget;
use crate::{EngineError, Targets};
use keys::value::Encoding;

/// The schema of a table for which targets.toml gives none.
pub(super) const SCHEMA_DEFAULT: &str = "public";

const RELATION: &str = "
    SELECT c.oid::int8, c.relkind::text, c.relispartition,
           has_schema_privilege(n.oid, 'USAGE'),
           c.relkind = 'r' AND EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid),
           row_security_active(c.oid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2";

/// Columns with the type under all domains, and what the agent's role may do with them.
const COLUMNS: &str = "
    SELECT a.attname::text, a.attgenerated <> '',
           (WITH RECURSIVE base AS (
                SELECT t.oid, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype
                FROM base b JOIN pg_type t ON b.typtype = 'd' AND t.oid = b.typbasetype)
            SELECT b.oid::regtype::text FROM base b WHERE b.typtype <> 'd'),
           has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
           has_column_privilege(a.attrelid, a.attnum, 'UPDATE')
    FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped";

const PRIMARY_KEY: &str = "
    SELECT a.attname::text
    FROM pg_constraint c
    CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k(attnum, position)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
    WHERE c.conrelid = $1::oid AND c.contype = 'p'
    ORDER BY k.position";

/// Columns on either side of a foreign key. Its checks are triggers, which are off while we write.
const FOREIGN_KEYS: &str = "
    SELECT a.attname::text, c.conname::text
    FROM pg_constraint c
    JOIN pg_attribute a ON (a.attrelid = c.conrelid AND c.conrelid = $1::oid AND a.attnum = ANY (c.conkey))
                        OR (a.attrelid = c.confrelid AND c.confrelid = $1::oid AND a.attnum = ANY (c.confkey))
    WHERE c.contype = 'f'";

/// Triggers and rules on updates that would fire in our sessions: with $2 (all are off that can be) those that are
/// set to fire even then, else all that are enabled. Partitions count with their table.
const TRIGGERS: &str = "
    WITH relations AS (
        SELECT $1::oid AS oid UNION SELECT p.relid::oid FROM pg_partition_tree($1::oid::regclass) p)
    SELECT 'trigger ' || quote_ident(t.tgname)
    FROM pg_trigger t JOIN relations r ON t.tgrelid = r.oid
    WHERE NOT t.tgisinternal AND (t.tgtype & 16) <> 0
      AND t.tgenabled = ANY (CASE WHEN $2 THEN ARRAY['A', 'R'] ELSE ARRAY['A', 'O'] END::\"char\"[])
    UNION
    SELECT 'rule ' || quote_ident(w.rulename)
    FROM pg_rewrite w JOIN relations r ON w.ev_class = r.oid
    WHERE w.ev_type = '2'
      AND w.ev_enabled = ANY (CASE WHEN $2 THEN ARRAY['A', 'R'] ELSE ARRAY['A', 'O'] END::\"char\"[])
    ORDER BY 1";

/// Constraints that existing rows may break, which a write of such a row then does: checks of the table and its
/// partitions, and those of the domains of the registered columns ($2).
const UNVALIDATED: &str = "
    WITH RECURSIVE relations AS (
        SELECT $1::oid AS oid UNION SELECT p.relid::oid FROM pg_partition_tree($1::oid::regclass) p),
    domains AS (
        SELECT t.oid, t.typbasetype FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = $1::oid AND a.attname = ANY ($2::text[]) AND t.typtype = 'd'
        UNION
        SELECT t.oid, t.typbasetype FROM domains d JOIN pg_type t ON t.oid = d.typbasetype WHERE t.typtype = 'd')
    SELECT DISTINCT quote_ident(c.conname) FROM pg_constraint c
    WHERE c.contype IN ('c', 'n') AND NOT c.convalidated
      AND (c.conrelid IN (SELECT oid FROM relations) OR c.contypid IN (SELECT oid FROM domains))
    ORDER BY 1";

struct Column {
    generated: bool,
    base: String,
    may_select: bool,
    may_update: bool,
}

/// Finds all of them, or names every problem with any.
pub(super) async fn tables(
    connection: &mut PgConnection,
    targets: &Targets,
    used: Use,
    triggers_off: bool,
) -> Result<Vec<Table>, EngineError> {
    let mut tables = Vec::new();
    let mut problems = Vec::new();
    let mut labels: BTreeMap<i64, String> = BTreeMap::new();
    for target in targets.tables() {
        let mut found = Vec::new();
        if let Some((oid, table)) = describe(connection, target, used, triggers_off, &mut found).await? {
            if let Some(other) = labels.insert(oid, target.label()) {
                found.push(format!("is the same table as {other}"));
            }
            tables.push(table);
        }
        problems.extend(found.into_iter().map(|problem| format!("table {} {problem}", target.label())));
    }
    if problems.is_empty() { Ok(tables) } else { Err(EngineError::Targets(problems)) }
}

/// The table, if it exists, whatever problems it may have.
async fn describe(
    connection: &mut PgConnection,
    target: &TableTarget,
    used: Use,
    triggers_off: bool,
    problems: &mut Vec<String>,
) -> Result<Option<(i64, Table)>, EngineError> {
    let doing = || format!("looking table {} up", target.label());
    let schema = target.schema.as_deref().unwrap_or(SCHEMA_DEFAULT);
    let relation =
        sqlx::query(RELATION).bind(schema).bind(&target.name).fetch_optional(&mut *connection).await.doing(doing)?;
    let Some(relation) = relation else {
        problems.push(format!("does not exist in schema {schema:?} (names are matched exactly, case counts)"));
        return Ok(None);
    };
    let oid: i64 = relation.try_get(0).doing(doing)?;
    let kind: String = relation.try_get(1).doing(doing)?;
    if !relation_problems(&relation, &kind, problems).doing(doing)? {
        return Ok(None);
    }
    let columns = columns(connection, oid).await.doing(doing)?;
    let names = |rows: Vec<PgRow>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    let primary_key =
        sqlx::query(PRIMARY_KEY).bind(oid).fetch_all(&mut *connection).await.and_then(names).doing(doing)?;
    if used == Use::Turn {
        obstacles(connection, target, oid, triggers_off, problems).await?;
    }
    let key = key_columns(target, &primary_key, &columns, problems);
    let values = value_columns(target, &columns, used, problems);
    // ONLY: tables that inherit from it are tables of their own. Partitions are not.
    let only = if kind == "r" { "ONLY " } else { "" };
    let from = format!("{only}{}.{}", quote(schema), quote(&target.name));
    Ok(Some((
        oid,
        Table {
            label: target.label(),
            from,
            key,
            columns: values,
            others: Vec::new(),
            triggers: Vec::new(),
            kept: Vec::new(),
            exact: Vec::new(),
        },
    )))
}

/// What is against writing its rows, besides rights.
async fn obstacles(
    connection: &mut PgConnection,
    target: &TableTarget,
    oid: i64,
    triggers_off: bool,
    problems: &mut Vec<String>,
) -> Result<(), EngineError> {
    let doing = || format!("looking table {} up", target.label());
    let names = |rows: Vec<PgRow>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    let foreign = sqlx::query(FOREIGN_KEYS).bind(oid).fetch_all(&mut *connection).await.doing(doing)?;
    let triggers = sqlx::query(TRIGGERS)
        .bind(oid)
        .bind(triggers_off)
        .fetch_all(&mut *connection)
        .await
        .and_then(names)
        .doing(doing)?;
    if !triggers.is_empty() {
        let remedy = if triggers_off {
            "is set to fire even in replica sessions; disable it for the rotation"
        } else {
            "would fire; let the agent's role turn triggers off: \
             GRANT SET ON PARAMETER session_replication_role TO it (PostgreSQL 15), or disable them for the rotation"
        };
        problems.push(format!("has {}, which {remedy}", triggers.join(", ")));
    }
    let registered: Vec<String> = target.columns.iter().map(|column| column.name.clone()).collect();
    let unvalidated = sqlx::query(UNVALIDATED)
        .bind(oid)
        .bind(registered)
        .fetch_all(&mut *connection)
        .await
        .and_then(names)
        .doing(doing)?;
    if !unvalidated.is_empty() {
        problems.push(format!(
            "has the constraint {}, which is NOT VALID: rows that break it could not be written; \
             VALIDATE it, or drop it for the rotation",
            unvalidated.join(", ")
        ));
    }
    for row in &foreign {
        let column: String = row.try_get(0).doing(doing)?;
        let constraint: String = row.try_get(1).doing(doing)?;
        if target.columns.iter().any(|registered| registered.name == column) {
            problems.push(format!("has column {column:?} in the foreign key {constraint:?}, which would be broken"));
        }
    }
    Ok(())
}

/// Whether it is a table at all.
fn relation_problems(relation: &PgRow, kind: &str, problems: &mut Vec<String>) -> Result<bool, sqlx::Error> {
    let what = match kind {
        "r" | "p" => None,
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => Some("no table"),
    };
    if let Some(what) = what {
        problems.push(format!("is {what}; register the tables that hold the data"));
        return Ok(false);
    }
    if relation.try_get::<bool, _>(2)? {
        problems.push("is a partition; register the partitioned table instead".to_owned());
    }
    if !relation.try_get::<bool, _>(3)? {
        problems.push("is in a schema on which the agent's role has no USAGE".to_owned());
    }
    if relation.try_get::<bool, _>(4)? {
        problems.push("has other tables that inherit from it, which is not supported".to_owned());
    }
    if relation.try_get::<bool, _>(5)? {
        problems.push("has row level security, which would hide rows; give the agent's role BYPASSRLS".to_owned());
    }
    Ok(true)
}

async fn columns(connection: &mut PgConnection, oid: i64) -> Result<BTreeMap<String, Column>, sqlx::Error> {
    let rows = sqlx::query(COLUMNS).bind(oid).fetch_all(connection).await?;
    let mut columns = BTreeMap::new();
    for row in rows {
        let column = Column {
            generated: row.try_get(1)?,
            base: row.try_get(2)?,
            may_select: row.try_get(3)?,
            may_update: row.try_get(4)?,
        };
        columns.insert(row.try_get(0)?, column);
    }
    Ok(columns)
}

fn key_columns(
    target: &TableTarget,
    primary_key: &[String],
    columns: &BTreeMap<String, Column>,
    problems: &mut Vec<String>,
) -> Vec<KeyColumn> {
    if primary_key.is_empty() {
        problems.push("has no primary key".to_owned());
    } else if primary_key != target.key {
        problems.push(format!("has the primary key {primary_key:?}, and targets.toml says {:?}", target.key));
    }
    let mut key = Vec::new();
    for name in &target.key {
        let Some(column) = columns.get(name) else {
            problems.push(format!("has no column {name:?} (names are matched exactly, case counts)"));
            continue;
        };
        if !column.may_select {
            problems.push(format!("has the key column {name:?}, which the agent's role may not SELECT"));
        }
        let kind = match column.base.as_str() {
            "smallint" | "integer" | "bigint" => KeyKind::Integer,
            "text" | "character varying" => KeyKind::Text,
            "bytea" => KeyKind::Bytes,
            "uuid" | "date" | "timestamp without time zone" | "timestamp with time zone" | "numeric" => KeyKind::Other,
            other => {
                problems.push(format!(
                    "has the key column {name:?} of type {other}; supported are integers, uuid, text, varchar, bytea, \
                     date, timestamp and numeric"
                ));
                continue;
            }
        };
        key.push(KeyColumn { sql: quote(name), kind, cast: column.base.clone(), collation: None, descending: false });
    }
    key
}

fn value_columns(
    target: &TableTarget,
    columns: &BTreeMap<String, Column>,
    used: Use,
    problems: &mut Vec<String>,
) -> Vec<ValueColumn> {
    let mut values = Vec::new();
    for registered in &target.columns {
        let name = &registered.name;
        let Some(column) = columns.get(name) else {
            problems.push(format!("has no column {name:?} (names are matched exactly, case counts)"));
            continue;
        };
        if column.generated && used == Use::Turn {
            problems.push(format!("has column {name:?}, which is generated and cannot be written"));
        }
        for (may, right) in [(column.may_select, "SELECT"), (column.may_update || used == Use::Read, "UPDATE")] {
            if !may {
                problems.push(format!("has column {name:?}, which the agent's role may not {right}"));
            }
        }
        let text = match (column.base.as_str(), registered.encoding) {
            ("bytea", Encoding::Raw | Encoding::Base64) => false,
            ("text" | "character varying", Encoding::Base64) => true,
            ("text" | "character varying", Encoding::Raw) => {
                problems.push(format!("has column {name:?} of a text type; its encoding must be \"base64\""));
                continue;
            }
            (other, _) => {
                problems.push(format!("has column {name:?} of type {other}; supported are bytea, text and varchar"));
                continue;
            }
        };
        values.push(ValueColumn {
            name: name.clone(),
            sql: quote(name),
            encoding: registered.encoding,
            aad: registered.aad.clone(),
            text,
        });
    }
    values
}
