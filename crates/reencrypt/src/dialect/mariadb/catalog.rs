//! Finds the registered tables in the catalog of MariaDB or MySQL, and names everything about them that cannot be worked with.

use std::collections::BTreeMap;

use sqlx::Row as _;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::grants::Grants;
use super::make::Make;
use super::{quote, zones};
use crate::dialect::Use;
use crate::error::Doing;
use crate::table::{KeyColumn, KeyKind, Table, ValueColumn};
use crate::targets::TableTarget;
use crate::{EngineError, Targets};
use keys::value::Encoding;

const RELATION: &str = "
    SELECT TABLE_NAME, TABLE_TYPE, COALESCE(ENGINE, '')
    FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";

/// Columns with what the agent's account may do with them. Those that it may do nothing with are not shown.
const COLUMNS: &str = "
    SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, COALESCE(CHARACTER_SET_NAME, ''), COALESCE(COLLATION_NAME, ''), EXTRA,
           PRIVILEGES,
           /*M! IS_GENERATED */ /*!80400 IF(COALESCE(GENERATION_EXPRESSION, '') = '', 'NEVER', 'ALWAYS') */,
           CAST(COALESCE(DATETIME_PRECISION, 0) AS UNSIGNED),
           CAST(ORDINAL_POSITION AS UNSIGNED)
    FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";

const PRIMARY_KEY: &str = "
    SELECT COLUMN_NAME, SUB_PART IS NOT NULL, COALESCE(COLLATION, 'A')
    FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";

/// Columns on either side of a foreign key, also of one that leads here from another database.
const FOREIGN_KEYS: &str = "
    SELECT CASE WHEN BINARY f.FOR_NAME = n.name THEN c.FOR_COL_NAME END,
           CASE WHEN BINARY f.REF_NAME = n.name THEN c.REF_COL_NAME END, f.ID
    FROM (SELECT CONCAT(CAST(CONVERT(DATABASE() USING filename) AS BINARY), '/',
                        CAST(CONVERT(? USING filename) AS BINARY)) AS name) n
    JOIN information_schema.INNODB_SYS_FOREIGN f ON BINARY f.FOR_NAME = n.name OR BINARY f.REF_NAME = n.name
    JOIN information_schema.INNODB_SYS_FOREIGN_COLS c ON c.ID = f.ID";

/// The same in MySQL, where names are kept as they are.
const MYSQL_FOREIGN_KEYS: &str = "
    SELECT CASE WHEN CAST(f.FOR_NAME AS BINARY) = n.name THEN c.FOR_COL_NAME END,
           CASE WHEN CAST(f.REF_NAME AS BINARY) = n.name THEN c.REF_COL_NAME END, f.ID
    FROM (SELECT CAST(CONCAT(DATABASE(), '/', ?) AS BINARY) AS name) n
    JOIN information_schema.INNODB_FOREIGN f
      ON CAST(f.FOR_NAME AS BINARY) = n.name OR CAST(f.REF_NAME AS BINARY) = n.name
    JOIN information_schema.INNODB_FOREIGN_COLS c ON c.ID = f.ID";

/// Triggers that an update fires. They are shown to who has the right TRIGGER, which is checked.
const TRIGGERS: &str = "
    SELECT TRIGGER_NAME FROM information_schema.TRIGGERS
    WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = ? AND EVENT_MANIPULATION = 'UPDATE'
    ORDER BY TRIGGER_NAME";

/// Character sets whose text every key survives as Unicode and back.
const KEY_CHARACTER_SETS: [&str; 5] = ["ascii", "latin1", "utf8", "utf8mb3", "utf8mb4"];

/// Character sets in which base64 is not the bytes of ASCII.
const WIDE_CHARACTER_SETS: [&str; 4] = ["ucs2", "utf16", "utf16le", "utf32"];

struct Column {
    position: u64,
    data_type: String,
    /// With length, precision and sign.
    full_type: String,
    character_set: String,
    collation: String,
    generated: bool,
    updates_itself: bool,
    may_select: bool,
    may_update: bool,
    fraction_digits: u64,
}

/// Where and as whom we are.
struct Here {
    make: Make,
    database: String,
    account: String,
    grants: Grants,
}

struct KeyPart {
    name: String,
    prefix: bool,
    descending: bool,
}

/// Finds all of them, or names every problem with any.
pub(super) async fn tables(
    connection: &mut MySqlConnection,
    make: Make,
    targets: &Targets,
    used: Use,
) -> Result<Vec<Table>, EngineError> {
    let doing = || "asking for the database's name".to_owned();
    let row = sqlx::raw_sql(
        "SELECT DATABASE(), SUBSTRING_INDEX(CURRENT_USER(), '@', 1), SUBSTRING_INDEX(CURRENT_USER(), '@', -1)",
    )
    .fetch_one(&mut *connection)
    .await
    .doing(doing)?;
    let database: String = row.try_get(0).doing(doing)?;
    let (user, host): (String, String) = (row.try_get(1).doing(doing)?, row.try_get(2).doing(doing)?);
    let account = format!("{}@{}", quote(&user), quote(&host));
    let grants = Grants::of(connection, make).await?;
    let here = Here { make, database, account, grants };
    let mut tables = Vec::new();
    let mut problems = Vec::new();
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    for target in targets.tables() {
        let mut found = Vec::new();
        if let Some(table) = describe(connection, target, used, &here, &mut found).await? {
            if let Some(other) = labels.insert(target.name.clone(), target.label()) {
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
    connection: &mut MySqlConnection,
    target: &TableTarget,
    used: Use,
    here: &Here,
    problems: &mut Vec<String>,
) -> Result<Option<Table>, EngineError> {
    let database = &here.database;
    let doing = || format!("looking table {} up", target.label());
    if let Some(schema) = target.schema.as_deref().filter(|schema| schema != database) {
        problems.push(format!("is in database {schema:?}, and the url names {database:?}; one agent works in one"));
        return Ok(None);
    }
    let relation = sqlx::query(RELATION).bind(&target.name).fetch_optional(&mut *connection).await.doing(doing)?;
    let exact = |row: &MySqlRow| row.try_get::<String, _>(0).map(|name| name == target.name);
    let relation = match relation {
        Some(row) if exact(&row).doing(doing)? => row,
        Some(_) | None => {
            problems.push(format!(
                "does not exist in database {database:?}, or not for the agent's role (names are matched exactly, \
                 case counts)"
            ));
            return Ok(None);
        }
    };
    let kind: String = relation.try_get(1).doing(doing)?;
    let engine: String = relation.try_get(2).doing(doing)?;
    if !relation_problems(&kind, &engine, used, problems) {
        return Ok(None);
    }
    let name = format!("{}.{}", quote(database), quote(&target.name));
    let columns = columns(connection, &target.name).await.doing(doing)?;
    let primary_key = primary_key(connection, &target.name).await.doing(doing)?;
    let key = key_columns(target, here.make, &primary_key, &columns, problems);
    let values = value_columns(target, &columns, used, problems);
    let mut kept = Vec::new();
    if used == Use::Turn {
        kept = obstacles(connection, target, here, &name, &columns, problems).await?;
    }
    let (others, exact) = others(target, &columns).into_iter().unzip();
    let label = target.label();
    Ok(Some(Table { label, from: name, key, columns: values, others, triggers: Vec::new(), kept, exact }))
}

/// What is against writing its rows, besides rights on the registered columns. Answers the columns that change by themselves
/// and must be set to what they are.
async fn obstacles(
    connection: &mut MySqlConnection,
    target: &TableTarget,
    here: &Here,
    name: &str,
    columns: &BTreeMap<String, Column>,
    problems: &mut Vec<String>,
) -> Result<Vec<String>, EngineError> {
    let Here { make, database, account, grants } = here;
    let doing = || format!("looking table {} up", target.label());
    if !all_readable(connection, name).await.doing(doing)? {
        // Columns that are not shown could change with every write, and nobody would know.
        problems.push(format!("has columns that the agent's role may not SELECT: GRANT SELECT ON {name} TO {account}"));
    } else if *make == Make::MySql && !grants.on_table("SELECT", database, &target.name) {
        // Invisible ones, which nobody who may not is told of.
        problems.push(format!(
            "may have columns that the agent's role may not SELECT: GRANT SELECT ON {name} TO {account}"
        ));
    }
    if !grants.on_table("TRIGGER", database, &target.name) {
        problems
            .push(format!("may have triggers that the agent's role may not see: GRANT TRIGGER ON {name} TO {account}"));
    }
    let triggers = sqlx::query(TRIGGERS)
        .bind(&target.name)
        .fetch_all(&mut *connection)
        .await
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>())
        .doing(doing)?;
    if !triggers.is_empty() {
        problems.push(format!(
            "has the trigger {}, which would fire with every row, and {} cannot keep it from that; \
             drop it for the rotation and make it again afterwards (SHOW CREATE TRIGGER shows its statement)",
            triggers.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", "),
            make.name()
        ));
    }
    foreign_keys(connection, *make, target, problems).await?;
    problems.extend(zones::problems(connection, target).await.doing(doing)?);
    let mut kept = Vec::new();
    for (column, found) in columns.iter().filter(|(_, found)| found.updates_itself) {
        if !found.may_update {
            problems.push(format!(
                "has column {column:?}, which changes with every write (ON UPDATE CURRENT_TIMESTAMP) unless it is set to \
                 itself, and which the agent's role may not UPDATE: GRANT UPDATE ({}) ON {name} TO {account}",
                quote(column)
            ));
        }
        kept.push(quote(column));
    }
    Ok(kept)
}

/// The rest of a row, in the order of the table: each column, and what reads it exactly. Text would come in the session's
/// character set, in which another may have no place, so it is asked for as bytes; everything else comes as it is kept.
fn others(target: &TableTarget, columns: &BTreeMap<String, Column>) -> Vec<(String, String)> {
    let registered = |name: &str| target.columns.iter().any(|column| column.name == name);
    let mut others: Vec<_> = columns.iter().filter(|(name, column)| !column.generated && !registered(name)).collect();
    others.sort_unstable_by_key(|(_, column)| column.position);
    let exact = |(name, column): (&String, &Column)| {
        let sql = quote(name);
        let exact = match column.data_type.as_str() {
            // A value that is none of the list reads as the empty text, and is the number 0.
            "enum" | "set" => format!("t.{sql} + 0"),
            _ if column.character_set.is_empty() => format!("t.{sql}"),
            _ => format!("CAST(t.{sql} AS BINARY)"),
        };
        (sql, exact)
    };
    others.into_iter().map(exact).collect()
}

/// Whether it is a table that can be worked on at all.
fn relation_problems(kind: &str, engine: &str, used: Use, problems: &mut Vec<String>) -> bool {
    match kind {
        "BASE TABLE" => {}
        "SYSTEM VERSIONED" => problems.push(
            "keeps the history of its rows (SYSTEM VERSIONING), in which every value would stay under the old key; \
             drop the versioning for the rotation"
                .to_owned(),
        ),
        "VIEW" | "SYSTEM VIEW" => {
            problems.push("is a view; register the tables that hold the data".to_owned());
            return false;
        }
        other => {
            problems.push(format!("is no table but a {}", other.to_ascii_lowercase()));
            return false;
        }
    }
    if used == Use::Turn && !engine.eq_ignore_ascii_case("InnoDB") {
        problems.push(format!(
            "is kept by the engine {engine}, which has no transactions: ALTER TABLE ... ENGINE = InnoDB"
        ));
    }
    true
}

pub(super) async fn all_readable(connection: &mut MySqlConnection, name: &str) -> Result<bool, sqlx::Error> {
    // Reviewed: quoted identifiers only.
    let sql = format!("SELECT * FROM {name} LIMIT 0");
    match sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await {
        Ok(_) => Ok(true),
        // 1142: nothing of the table may be read; 1143: some columns may not.
        Err(error) if matches!(crate::error::mariadb_number(&error), Some(1142 | 1143)) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn columns(connection: &mut MySqlConnection, table: &str) -> Result<BTreeMap<String, Column>, sqlx::Error> {
    let rows = sqlx::query(COLUMNS).bind(table).fetch_all(connection).await?;
    let mut columns = BTreeMap::new();
    for row in rows {
        let text = |at: usize| row.try_get::<String, _>(at);
        let privileges = text(6)?;
        let may = |right: &str| privileges.split(',').any(|found| found.trim().eq_ignore_ascii_case(right));
        let column = Column {
            position: row.try_get_unchecked(9)?,
            data_type: text(1)?.to_ascii_lowercase(),
            full_type: text(2)?.to_ascii_lowercase(),
            character_set: text(3)?,
            collation: text(4)?,
            generated: text(7)? != "NEVER",
            updates_itself: text(5)?.to_ascii_lowercase().contains("on update"),
            may_select: may("select"),
            may_update: may("update"),
            fraction_digits: row.try_get_unchecked(8)?,
        };
        columns.insert(text(0)?, column);
    }
    Ok(columns)
}

async fn primary_key(connection: &mut MySqlConnection, table: &str) -> Result<Vec<KeyPart>, sqlx::Error> {
    let rows = sqlx::query(PRIMARY_KEY).bind(table).fetch_all(connection).await?;
    let part = |row: &MySqlRow| {
        let prefix: i64 = row.try_get_unchecked(1)?;
        let order: String = row.try_get(2)?;
        Ok(KeyPart { name: row.try_get(0)?, prefix: prefix != 0, descending: order == "D" })
    };
    rows.iter().map(part).collect()
}

async fn foreign_keys(
    connection: &mut MySqlConnection,
    make: Make,
    target: &TableTarget,
    problems: &mut Vec<String>,
) -> Result<(), EngineError> {
    let doing = || format!("looking for foreign keys of {}", target.label());
    let sql = match make {
        Make::MariaDb => FOREIGN_KEYS,
        Make::MySql => MYSQL_FOREIGN_KEYS,
    };
    let rows = match sqlx::query(sql).bind(&target.name).fetch_all(connection).await {
        // Without the right PROCESS nothing is shown of them; that is named with the other rights.
        Err(error) if crate::error::mariadb_number(&error) == Some(1227) => return Ok(()),
        other => other.doing(doing)?,
    };
    for row in &rows {
        let constraint: String = row.try_get(2).doing(doing)?;
        for at in [0, 1] {
            let column: Option<String> = row.try_get(at).doing(doing)?;
            let Some(column) = column else { continue };
            if target.columns.iter().any(|registered| registered.name.eq_ignore_ascii_case(&column)) {
                problems
                    .push(format!("has column {column:?} in the foreign key {constraint:?}, which would be broken"));
            }
        }
    }
    Ok(())
}

fn key_columns(
    target: &TableTarget,
    make: Make,
    primary_key: &[KeyPart],
    columns: &BTreeMap<String, Column>,
    problems: &mut Vec<String>,
) -> Vec<KeyColumn> {
    let names: Vec<&String> = primary_key.iter().map(|part| &part.name).collect();
    if names.is_empty() {
        problems.push("has no primary key".to_owned());
    } else if !names.iter().copied().eq(&target.key) {
        problems.push(format!("has the primary key {names:?}, and targets.toml says {:?}", target.key));
    }
    if let Some(part) = primary_key.iter().find(|part| part.prefix) {
        problems.push(format!(
            "has a primary key over the beginning of column {:?} only, in which rows have no order",
            part.name
        ));
    }
    let mut key = Vec::new();
    for name in &target.key {
        let Some(column) = columns.get(name) else {
            problems.push(format!("has no column {name:?} (names are matched exactly, case counts)"));
            continue;
        };
        let Some((kind, cast)) = key_type(name, make, column, problems) else { continue };
        let descending = primary_key.iter().any(|part| part.name == *name && part.descending);
        key.push(KeyColumn { sql: quote(name), kind, cast, collation: None, descending });
    }
    key
}

/// What the values of a key column are, and the placeholder that makes one of its type. A text gets the column's own
/// character set and collation, or the server might convert the column instead and not use its index.
fn key_type(name: &str, make: Make, column: &Column, problems: &mut Vec<String>) -> Option<(KeyKind, String)> {
    Some(match column.data_type.as_str() {
        "bigint" if column.full_type.contains("unsigned") => {
            // MySQL makes no number beyond the signed ones of a text at once.
            let cast = match make {
                Make::MariaDb => "CAST(? AS UNSIGNED)",
                Make::MySql => "CAST(CAST(? AS DECIMAL(20)) AS UNSIGNED)",
            };
            (KeyKind::Other, cast.to_owned())
        }
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => (KeyKind::Integer, "?".to_owned()),
        "binary" | "varbinary" => (KeyKind::Bytes, "?".to_owned()),
        "char" | "varchar" if KEY_CHARACTER_SETS.contains(&column.character_set.as_str()) => {
            let Column { character_set, collation, .. } = column;
            (KeyKind::Text, format!("CONVERT(? USING {character_set}) COLLATE {collation}"))
        }
        "char" | "varchar" => {
            problems.push(format!(
                "has the key column {name:?} of character set {}; supported are ascii, latin1, utf8mb3 and utf8mb4",
                column.character_set
            ));
            return None;
        }
        "date" => (KeyKind::Other, "CAST(? AS DATE)".to_owned()),
        "datetime" | "timestamp" => (KeyKind::Other, format!("CAST(? AS DATETIME({}))", column.fraction_digits)),
        "uuid" => (KeyKind::Other, "CAST(? AS UUID)".to_owned()),
        "inet6" => (KeyKind::Other, "CAST(? AS INET6)".to_owned()),
        "inet4" => (KeyKind::Other, "CAST(? AS INET4)".to_owned()),
        "decimal" => {
            let precision = column.full_type.trim_end_matches(" zerofill").trim_end_matches(" unsigned");
            (KeyKind::Other, format!("CAST(? AS {precision})"))
        }
        other => {
            problems.push(format!(
                "has the key column {name:?} of type {other}; supported are integers, decimal, char, varchar, binary, \
                 varbinary, date, datetime, timestamp, uuid, inet4 and inet6"
            ));
            return None;
        }
    })
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
        let text = match column.data_type.as_str() {
            "tinyblob" | "blob" | "mediumblob" | "longblob" | "binary" | "varbinary" => false,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                if registered.encoding == Encoding::Raw {
                    problems.push(format!("has column {name:?} of a text type; its encoding must be \"base64\""));
                }
                if WIDE_CHARACTER_SETS.contains(&column.character_set.as_str()) {
                    problems.push(format!(
                        "has column {name:?} of character set {}, in which base64 is not stored as ASCII; \
                         convert it to utf8mb4",
                        column.character_set
                    ));
                }
                true
            }
            other => {
                problems.push(format!(
                    "has column {name:?} of type {other}; supported are the blob and text types, binary, varbinary, char \
                     and varchar"
                ));
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
