//! Finds the registered tables in SQLite's schema, and names everything about them that cannot be worked with.

use std::collections::BTreeMap;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use crate::dialect::Use;
use crate::error::Doing;
use crate::table::{KeyColumn, KeyKind, Table, Trigger, ValueColumn, quote};
use crate::targets::TableTarget;
use crate::{EngineError, Targets};

/// The database that the URL names; others would have to be attached, and we attach none.
pub(super) const SCHEMA: &str = "main";

/// SQLite's own bound, as it is built in.
const RESULT_COLUMNS_MAX: usize = 2_000;

/// Columns with their place in the primary key (0: none) and whether they are generated (`hidden` 2 and 3).
const COLUMNS: &str = "SELECT name, upper(type), \"notnull\", pk, hidden, cid FROM pragma_table_xinfo(?)";

/// The collations of the primary key's own index, in its order. There is none for an `INTEGER PRIMARY KEY`.
const COLLATIONS: &str = "
    SELECT i.name, i.coll FROM pragma_index_list(?) AS l JOIN pragma_index_xinfo(l.name) AS i
    WHERE l.origin = 'pk' AND i.key = 1";

/// Columns on either side of a foreign key. SQLite matches names whatever their case.
const FOREIGN_KEYS: &str = "
    SELECT f.\"from\", m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
    WHERE m.type = 'table' AND m.name = ?1 COLLATE NOCASE
    UNION
    SELECT f.\"to\", m.name FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
    WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE AND f.\"to\" IS NOT NULL";

/// How the rowid is called, unless a column has the name.
pub(super) const ROWID_NAMES: [&str; 3] = ["rowid", "_rowid_", "oid"];

struct Column {
    declared: String,
    not_null: bool,
    key_position: i64,
    generated: bool,
    position: i64,
}

/// Finds all of them, or names every problem with any.
pub(super) async fn tables(
    connection: &mut SqliteConnection,
    targets: &Targets,
    used: Use,
) -> Result<Vec<Table>, EngineError> {
    check_encoding(connection).await?;
    let mut tables = Vec::new();
    let mut problems = Vec::new();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for target in targets.tables() {
        let mut found = Vec::new();
        if let Some(table) = describe(connection, target, used, &mut found).await? {
            if let Some(other) = labels.insert(target.name.clone(), target.label()) {
                found.push(format!("is the same table as {other}"));
            }
            tables.push(table);
        }
        problems.extend(found.into_iter().map(|problem| format!("table {} {problem}", target.label())));
    }
    if problems.is_empty() { Ok(tables) } else { Err(EngineError::Targets(problems)) }
}

/// What is compared as text would be other bytes in another encoding.
pub(super) async fn check_encoding(connection: &mut SqliteConnection) -> Result<(), EngineError> {
    let encoding: String = sqlx::query("PRAGMA encoding")
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "asking for the database's encoding".to_owned())?;
    if encoding == "UTF-8" {
        return Ok(());
    }
    Err(EngineError::Unsupported(format!("the database stores text as {encoding}; only UTF-8 is supported")))
}

async fn describe(
    connection: &mut SqliteConnection,
    target: &TableTarget,
    used: Use,
    problems: &mut Vec<String>,
) -> Result<Option<Table>, EngineError> {
    let doing = || format!("looking table {} up", target.label());
    if target.schema.as_deref().is_some_and(|schema| schema != SCHEMA) {
        problems.push(format!("names a schema, and SQLite has only {SCHEMA:?}; leave it out"));
        return Ok(None);
    }
    // Names are matched exactly, though SQLite does not: the label must be the same wherever it is compared.
    let found = sqlx::query("SELECT type, sql FROM sqlite_schema WHERE name = ? AND type IN ('table', 'view')")
        .bind(&target.name)
        .fetch_optional(&mut *connection)
        .await
        .doing(doing)?;
    let Some(found) = found else {
        problems.push("does not exist (names are matched exactly, case counts)".to_owned());
        return Ok(None);
    };
    let definition: String = found.try_get(1).doing(doing)?;
    if found.try_get::<String, _>(0).doing(doing)? == "view" {
        problems.push("is a view; register the tables that hold the data".to_owned());
        return Ok(None);
    }
    if definition.trim_start().to_ascii_uppercase().starts_with("CREATE VIRTUAL") {
        problems.push("is a virtual table; register the tables that hold the data".to_owned());
        return Ok(None);
    }
    if is_shadow(connection, &target.name).await.doing(doing)? {
        let problem = "is what a virtual table keeps its data in, which would be damaged; exclude it, and write its values \
                       anew through the virtual table after the rotation";
        problems.push(problem.to_owned());
        return Ok(None);
    }
    let columns = columns(connection, target).await.doing(doing)?;
    let collations = pairs(connection, COLLATIONS, &target.name).await.doing(doing)?;
    let key = key_columns(target, &columns, &collations, problems);
    let values = value_columns(target, &columns, used, problems);
    for (column, owner) in pairs(connection, FOREIGN_KEYS, &target.name).await.doing(doing)? {
        let written =
            |name: &str| used == Use::Turn && target.columns.iter().any(|own| own.name.eq_ignore_ascii_case(name));
        if written(&column) {
            problems.push(format!("has column {column:?} in a foreign key of {owner:?}, which would be broken"));
        }
    }
    let triggers = pairs(
        connection,
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE ORDER BY rowid",
        &target.name,
    )
    .await
    .doing(doing)?
    .into_iter()
    .map(|(name, definition)| Trigger { sql: quote(&name), definition })
    .collect();
    let from = format!("{}.{}", quote(SCHEMA), quote(&target.name));
    let others = others(connection, target, &columns, &collations).await.doing(doing)?;
    let table = Table {
        label: target.label(),
        from,
        key,
        columns: values,
        others,
        triggers,
        kept: Vec::new(),
        exact: Vec::new(),
    };
    let read = table.key.len() + table.columns.len() + table.others.len();
    if read > RESULT_COLUMNS_MAX {
        problems.push(format!(
            "has more columns than SQLite reads at once, since the key's are read twice: {read} of {RESULT_COLUMNS_MAX}"
        ));
    }
    if problems.is_empty() {
        nameless(connection, target, &table, &columns, problems).await?;
    }
    Ok(Some(table))
}

/// Whether it belongs to a virtual table, whose module alone may write it.
async fn is_shadow(connection: &mut SqliteConnection, name: &str) -> Result<bool, sqlx::Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND name = ? AND type = 'shadow')";
    sqlx::query(sql).bind(name).fetch_one(connection).await?.try_get(0)
}

/// The rest of a row, in the order of the table. A rowid that is not the key belongs to it: applications remember it.
async fn others(
    connection: &mut SqliteConnection,
    target: &TableTarget,
    columns: &BTreeMap<String, Column>,
    collations: &[(String, String)],
) -> Result<Vec<String>, sqlx::Error> {
    let registered = |name: &str| target.columns.iter().any(|column| column.name == name);
    let mut others: Vec<(i64, String)> = columns
        .iter()
        .filter(|(name, column)| !column.generated && !registered(name))
        .map(|(name, column)| (column.position, quote(name)))
        .collect();
    // Only the key that is the rowid itself has no index of its own.
    let has_rowid: bool =
        sqlx::query("SELECT NOT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE")
            .bind(&target.name)
            .fetch_one(connection)
            .await?
            .try_get(0)?;
    if has_rowid && !collations.is_empty() {
        let taken = |name: &str| columns.keys().any(|column| column.eq_ignore_ascii_case(name));
        // With columns of all three names it cannot be read, and nobody can remember it.
        others.extend(ROWID_NAMES.into_iter().find(|name| !taken(name)).map(|name| (-1, name.to_owned())));
    }
    others.sort_unstable();
    Ok(others.into_iter().map(|(_, name)| name).collect())
}

/// Refuses keys by which a row could not be found again.
async fn nameless(
    connection: &mut SqliteConnection,
    target: &TableTarget,
    table: &Table,
    columns: &BTreeMap<String, Column>,
    problems: &mut Vec<String>,
) -> Result<(), EngineError> {
    let is_rowid = |column: &Column| target.key.len() == 1 && column.declared == "INTEGER";
    let keeps_reals =
        |column: &Column| ["REAL", "FLOA", "DOUB", "NUM", "DEC"].iter().any(|kind| column.declared.contains(kind));
    let of_key = |is: &dyn Fn(&Column) -> bool, test: &dyn Fn(String) -> String| -> Vec<String> {
        let those = target.key.iter().filter(|name| columns.get(*name).is_some_and(is));
        those.map(|name| test(quote(name))).collect()
    };
    // SQLite takes NULL, and more than one, in a primary key that is not declared NOT NULL.
    let nulls = of_key(&|column| !column.not_null && !is_rowid(column), &|name| format!("{name} IS NULL"));
    let count = rows_with_any(connection, table, &nulls).await?;
    if count > 0 {
        problems.push(format!("has {count} rows with NULL in their primary key; give them a key"));
    }
    // Columns of other types may hold one too, which is named when its row is read.
    let reals = of_key(&keeps_reals, &|name| format!("typeof({name}) = 'real'"));
    let count = rows_with_any(connection, table, &reals).await?;
    if count > 0 {
        problems.push(format!(
            "has {count} rows with a floating-point number in their primary key, by which they cannot be found again \
             exactly; exclude its columns"
        ));
    }
    Ok(())
}

async fn rows_with_any(connection: &mut SqliteConnection, table: &Table, tests: &[String]) -> Result<i64, EngineError> {
    if tests.is_empty() {
        return Ok(0);
    }
    // Reviewed: quoted identifiers only.
    let sql = format!("SELECT count(*) FROM {} WHERE {}", table.from, tests.join(" OR "));
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).doing(|| format!("looking at the keys of {}", table.label))
}

async fn columns(
    connection: &mut SqliteConnection,
    target: &TableTarget,
) -> Result<BTreeMap<String, Column>, sqlx::Error> {
    let rows = sqlx::query(COLUMNS).bind(&target.name).fetch_all(connection).await?;
    let mut columns = BTreeMap::new();
    for row in rows {
        let column = Column {
            declared: row.try_get(1)?,
            not_null: row.try_get(2)?,
            key_position: row.try_get(3)?,
            generated: matches!(row.try_get::<i64, _>(4)?, 2 | 3),
            position: row.try_get(5)?,
        };
        columns.insert(row.try_get(0)?, column);
    }
    Ok(columns)
}

async fn pairs(
    connection: &mut SqliteConnection,
    sql: &'static str,
    table: &str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    let pair = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
    rows.iter().map(pair).collect()
}

fn key_columns(
    target: &TableTarget,
    columns: &BTreeMap<String, Column>,
    collations: &[(String, String)],
    problems: &mut Vec<String>,
) -> Vec<KeyColumn> {
    let mut primary: Vec<(i64, &String)> =
        columns.iter().filter(|(_, column)| column.key_position > 0).map(|(name, c)| (c.key_position, name)).collect();
    primary.sort_unstable();
    let primary: Vec<&String> = primary.into_iter().map(|(_, name)| name).collect();
    if primary.is_empty() {
        problems.push("has no primary key".to_owned());
    } else if !primary.iter().copied().eq(&target.key) {
        problems.push(format!("has the primary key {primary:?}, and targets.toml says {:?}", target.key));
    }
    let mut key = Vec::new();
    for name in &target.key {
        if !columns.contains_key(name) {
            problems.push(format!("has no column {name:?} (names are matched exactly, case counts)"));
            continue;
        }
        let collation = collations.iter().find(|(column, _)| column == name).map(|(_, collation)| collation.clone());
        if let Some(own) = collation.as_deref().filter(|name| !["BINARY", "NOCASE", "RTRIM"].contains(name)) {
            problems.push(format!("has the key column {name:?} with the application's own collation {own:?}"));
        }
        key.push(KeyColumn { sql: quote(name), kind: KeyKind::Any, cast: String::new(), collation, descending: false });
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
        values.push(ValueColumn {
            name: name.clone(),
            sql: quote(name),
            encoding: registered.encoding,
            aad: registered.aad.clone(),
            // SQLite's values have types, not its columns; each value keeps its own.
            text: false,
        });
    }
    values
}
