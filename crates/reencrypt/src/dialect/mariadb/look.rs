//! Looks through a whole MariaDB or MySQL database for values of devolutions-crypto. The database filters and counts; only
//! headers travel.

use std::collections::BTreeMap;

use keys::value::{BASE64_HEADER_CHARS, BASE64_HEADER_PATTERNS};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::super::found::{Seen, SeenColumn, SeenTable, Tagged, UnseenPlace, WITHIN_CHARS_MAX};
use super::grants::Grants;
use super::make::Make;
use super::{Connected, catalog, connect, quote};
use crate::EngineError;
use crate::error::{Doing, mariadb_number};
use crate::targets::Exclude;

/// Everything that the account may see, and whether it keeps what its rows were.
const TABLES: &str = "
    SELECT TABLE_NAME, TABLE_TYPE = 'SYSTEM VERSIONED' FROM information_schema.TABLES
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED')";

/// Everything that InnoDB keeps in this database, whoever may see it: tables by themselves or as partitions, behind a `#`.
/// Not what it keeps for itself: tables that are half made, those of full-text indexes, and sequences, which hold numbers.
const KEPT: &str = "
    SELECT DISTINCT CONVERT(CAST(CAST(x.name AS BINARY) AS CHAR CHARACTER SET filename) USING utf8mb4)
    FROM (SELECT TABLE_ID, SUBSTRING_INDEX(SUBSTRING_INDEX(NAME, '/', -1), '#', 1) AS name
          FROM information_schema.INNODB_SYS_TABLES
          WHERE SUBSTRING_INDEX(NAME, '/', 1) = CAST(CONVERT(DATABASE() USING filename) AS BINARY)) x
    WHERE x.name <> '' AND x.name NOT REGEXP '^FTS_[0-9a-f]{16}_([0-9a-f]{16}_INDEX_|BEING_DELETED|CONFIG|DELETED)'
      AND NOT EXISTS (SELECT * FROM information_schema.INNODB_SYS_COLUMNS c
                      WHERE c.TABLE_ID = x.TABLE_ID AND c.POS = 0 AND c.NAME = 'next_not_cached_value')";

const COLUMNS: &str = "
    SELECT COLUMN_NAME, COLUMN_TYPE, DATA_TYPE, PRIVILEGES FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND COALESCE(GENERATION_EXPRESSION, '') = ''
    ORDER BY ORDINAL_POSITION";

const PRIMARY_KEY: &str = "
    SELECT COLUMN_NAME FROM information_schema.STATISTICS
    WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";

/// Names are compared byte by byte; the server matches columns whatever their case.
const MISSING: &str = "
    SELECT COUNT(*) FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE() AND COALESCE(?, DATABASE()) = DATABASE() AND TABLE_NAME = ?
      AND CAST(TABLE_NAME AS BINARY) = CAST(? AS BINARY) AND CAST(COLUMN_NAME AS BINARY) = CAST(? AS BINARY)";

/// A table that InnoDB keeps in this database, whoever may see it: how much there is of it, and of a column.
const KEPT_COLUMN: &str = "
    SELECT COUNT(*), COUNT(c.NAME)
    FROM (SELECT TABLE_ID, SUBSTRING_INDEX(SUBSTRING_INDEX(NAME, '/', -1), '#', 1) AS name
          FROM information_schema.INNODB_SYS_TABLES
          WHERE SUBSTRING_INDEX(NAME, '/', 1) = CAST(CONVERT(DATABASE() USING filename) AS BINARY)) x
    LEFT JOIN information_schema.INNODB_SYS_COLUMNS c ON c.TABLE_ID = x.TABLE_ID AND BINARY c.NAME = BINARY ?
    WHERE BINARY x.name = CAST(CONVERT(? USING filename) AS BINARY)";

/// What an account is refused that lacks the right PROCESS.
const NO_PROCESS: u16 = 1227;

/// What MySQL says of a text that its regular expressions take too much of its memory or time for (`regexp_stack_limit`,
/// `regexp_time_limit`).
const TOO_LONG: [u16; 2] = [3698, 3699];

/// How the values of a type are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Bytes,
    Text,
    /// Text, and not what stands within it.
    WholeText,
    /// Nothing of ours can stand in it.
    Never,
}

pub(super) async fn see(options: &MySqlConnectOptions) -> Result<Seen, EngineError> {
    let Connected { mut connection, make, .. } = connect(options).await?;
    let doing = || "listing the tables of the database".to_owned();
    let names = |rows: Vec<MySqlRow>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    let both = |row: &MySqlRow| Ok((row.try_get(0)?, row.try_get(1)?));
    let visible = sqlx::raw_sql(TABLES).fetch_all(&mut connection).await;
    let visible: BTreeMap<String, bool> =
        visible.and_then(|rows| rows.iter().map(both).collect::<Result<_, sqlx::Error>>()).doing(doing)?;
    let kept = match make {
        Make::MariaDb => match sqlx::raw_sql(KEPT).fetch_all(&mut connection).await.and_then(names) {
            Ok(kept) => Some(kept),
            Err(error) if mariadb_number(&error) == Some(NO_PROCESS) => None,
            Err(error) => return Err(error).doing(doing),
        },
        // InnoDB has the names in a form that no function of MySQL reads.
        Make::MySql => None,
    };
    let database: String = sqlx::raw_sql("SELECT DATABASE()")
        .fetch_one(&mut connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    let mut seen = Seen { default_schema: Some(database.clone()), ..Seen::default() };
    if !Grants::of(&mut connection, make).await?.on_database("SELECT", &database) {
        let hidden = match &kept {
            Some(_) => "tables that InnoDB does not keep",
            None => "tables",
        };
        seen.unseen.push(UnseenPlace {
            schema: None,
            table: "any other table".to_owned(),
            column: None,
            reason: format!(
                "there may be {hidden} of which the account is shown nothing; SELECT on the database shows all"
            ),
        });
    }
    for table in kept.into_iter().flatten().filter(|name| !visible.contains_key(name) && !is_own(name)) {
        let reason = "the account may not SELECT it".to_owned();
        seen.unseen.push(UnseenPlace { schema: None, table, column: None, reason });
    }
    for (name, versioned) in visible {
        if is_own(&name) {
            seen.own.push(name);
        } else {
            see_table(&mut connection, name, versioned, &mut seen).await?;
        }
    }
    let _ = connection.close().await;
    Ok(seen)
}

fn is_own(name: &str) -> bool {
    name.starts_with("keyturn_")
}

/// Excluded columns that there are not.
pub(super) async fn missing(options: &MySqlConnectOptions, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
    let Connected { mut connection, make, .. } = connect(options).await?;
    let mut missing = Vec::new();
    for exclude in excludes {
        for column in &exclude.columns {
            let found: i64 = sqlx::query(MISSING)
                .bind(exclude.schema.as_deref())
                .bind(&exclude.table)
                .bind(&exclude.table)
                .bind(column)
                .fetch_one(&mut connection)
                .await
                .and_then(|row| row.try_get(0))
                .doing(|| "looking for the excluded columns".to_owned())?;
            if found == 0 && !may_be_hidden(&mut connection, make, exclude, column).await? {
                missing.push(exclude.place(column));
            }
        }
    }
    let _ = connection.close().await;
    Ok(missing)
}

/// Whether a column that the account is shown nothing of is there, or may be.
async fn may_be_hidden(
    connection: &mut MySqlConnection,
    make: Make,
    exclude: &Exclude,
    column: &str,
) -> Result<bool, EngineError> {
    let doing = || "looking for the excluded columns".to_owned();
    let schema = exclude.schema.as_deref();
    let here =
        sqlx::query("SELECT COALESCE(?, DATABASE()) = DATABASE()").bind(schema).fetch_one(&mut *connection).await;
    if !here.and_then(|row| row.try_get_unchecked::<bool, _>(0)).doing(doing)? {
        return Ok(false);
    }
    // Reviewed: quoted identifiers only.
    let sql = format!("SELECT {} FROM {} LIMIT 0", quote(column), quote(&exclude.table));
    let refused = match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await {
        // Under a name of another case.
        Ok(_) => return Ok(false),
        Err(error) => error,
    };
    match mariadb_number(&refused) {
        // The table or the column does not exist.
        Some(1146 | 1054) => Ok(false),
        // Of the table or the column nothing may be read, and it is not said whether there is one.
        Some(1142 | 1143) if make == Make::MySql => Ok(true),
        Some(1142 | 1143) => {
            let found = sqlx::query(KEPT_COLUMN).bind(column).bind(&exclude.table).fetch_one(connection).await;
            match found.and_then(|row| Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?))) {
                // What InnoDB does not know another engine may keep.
                Ok((tables, columns)) => Ok(tables == 0 || columns > 0),
                Err(error) if mariadb_number(&error) == Some(NO_PROCESS) => Ok(true),
                Err(error) => Err(error).doing(doing),
            }
        }
        _ => Err(refused).doing(doing),
    }
}

/// One reading of the table for each column, so that of values that are kept apart from their rows each is read once.
async fn see_table(
    connection: &mut MySqlConnection,
    name: String,
    versioned: bool,
    seen: &mut Seen,
) -> Result<(), EngineError> {
    // What was is kept beside what is.
    let history = if versioned { "FOR SYSTEM_TIME ALL" } else { "" };
    let doing = || format!("looking into {name}");
    let unseen = |column: &str, reason: &str| UnseenPlace {
        schema: None,
        table: name.clone(),
        column: Some(column.to_owned()),
        reason: reason.to_owned(),
    };
    let mut columns = Vec::new();
    for row in sqlx::query(COLUMNS).bind(&name).fetch_all(&mut *connection).await.doing(doing)? {
        let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
        let (column, data_type) = (text(0)?, text(1)?);
        let look = look(&text(2)?);
        if look == Look::Never {
            continue;
        }
        if !text(3)?.to_ascii_lowercase().contains("select") {
            seen.unseen.push(unseen(&column, "the account may not SELECT it"));
            continue;
        }
        // Reviewed: quoted identifiers and constants only.
        let sql = |look: Look| {
            AssertSqlSafe(format!(
                "SELECT CAST(x.tag AS CHAR(40)), COUNT(*) FROM (SELECT {} AS tag FROM {} {history} AS t) x
                 WHERE x.tag IS NOT NULL GROUP BY x.tag ORDER BY x.tag",
                tag(&format!("t.{}", quote(&column)), look),
                quote(&name),
            ))
        };
        let mut found = sqlx::query(sql(look)).persistent(false).fetch_all(&mut *connection).await;
        if let Err(sqlx::Error::Database(error)) = &found
            && error.try_downcast_ref::<MySqlDatabaseError>().is_some_and(|error| TOO_LONG.contains(&error.number()))
        {
            let reason = format!("not all of its text, for what stands within it ({})", error.message());
            seen.unseen.push(unseen(&column, &reason));
            found = sqlx::query(sql(Look::WholeText)).persistent(false).fetch_all(&mut *connection).await;
        }
        let rows = match found {
            Ok(rows) => rows,
            // A lock that does not go, a table that is dropped meanwhile: the others are looked into.
            Err(sqlx::Error::Database(error)) => {
                seen.unseen.push(unseen(&column, error.message()));
                continue;
            }
            Err(error) => return Err(error).doing(doing),
        };
        let read = |row: &MySqlRow| {
            let values: i64 = row.try_get(1)?;
            Ok(Tagged { tag: row.try_get(0)?, values: u64::try_from(values).unwrap_or_default() })
        };
        let tagged = rows.iter().map(read).collect::<Result<_, _>>().doing(doing)?;
        columns.push(SeenColumn { name: column, data_type, tagged });
    }
    match catalog::all_readable(connection, &quote(&name)).await {
        Ok(true) => {}
        Ok(false) => {
            seen.unseen.push(unseen("any other column", "there may be columns of which the account is shown nothing"));
        }
        // Damaged, or made of tables that are not there: the others are looked into.
        Err(sqlx::Error::Database(error)) => seen.unseen.push(unseen("any other column", error.message())),
        Err(error) => return Err(error).doing(doing),
    }
    let names = |rows: Vec<MySqlRow>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    let key = sqlx::query(PRIMARY_KEY).bind(&name).fetch_all(connection).await.and_then(names).doing(doing)?;
    if !columns.is_empty() {
        seen.tables.push(SeenTable { schema: None, name, key, columns });
    }
    Ok(())
}

/// A list's values are not free, and a number, a date or a place has no room for one of ours. JSON is text, which MySQL makes
/// of it when it is read.
fn look(data_type: &str) -> Look {
    match data_type {
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "json" => Look::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Look::Bytes,
        _ => Look::Never,
    }
}

/// The tag of one value, NULL for all that is none of ours.
fn tag(column: &str, look: Look) -> String {
    // Base64 is ASCII in every character set but the wide ones, so bytes are compared, by no collation.
    let bytes = match look {
        Look::Bytes | Look::Never => column.to_owned(),
        Look::Text | Look::WholeText => format!("CAST(CONVERT({column} USING utf8mb4) AS BINARY)"),
    };
    let text = |bytes: &str| format!("CONVERT({bytes} USING latin1)");
    let end = ["0A", "0D", "20", "09", "0A"]
        .iter()
        .fold(bytes.clone(), |inner, blank| format!("TRIM(TRAILING x'{blank}' FROM {inner})"));
    let symbols = format!("LENGTH(REPLACE(REPLACE({end}, x'0A', ''), x'0D', ''))");
    // Each symbol of the header may stand in a line of its own.
    let beginning = format!("LEFT({bytes}, {})", 3 * BASE64_HEADER_CHARS);
    let head = format!("LEFT(REPLACE(REPLACE({beginning}, x'0A', ''), x'0D', ''), {BASE64_HEADER_CHARS})");
    let [one, other] = BASE64_HEADER_PATTERNS;
    let is_base64 = format!(
        "LEFT({bytes}, 1) = x'44' AND LEFT({head}, 3) = x'445177'
         AND ({} REGEXP '(?-i)^(?:{one}|{other})' OR LENGTH(TRIM(TRAILING '=' FROM {head})) < {BASE64_HEADER_CHARS})",
        text(&head),
    );
    let base64 = format!(
        "CONCAT(CASE WHEN LOCATE('-', {bytes}) > 0 OR LOCATE('_', {bytes}) > 0
                     THEN IF(RIGHT({end}, 1) = '=' OR {symbols} % 4 = 0, 's', 'v')
                     ELSE IF(RIGHT({end}, 1) = '=' OR {symbols} % 4 = 0, 'b', 'u') END, {})",
        text(&head),
    );
    match look {
        Look::Never => "NULL".to_owned(),
        Look::Bytes => format!(
            "CASE WHEN LEFT({bytes}, 2) = x'0D0C' THEN CONCAT('r', LOWER(HEX(LEFT({bytes}, 8))))
                  WHEN {is_base64} THEN {base64} END"
        ),
        Look::Text | Look::WholeText => {
            let start = text(&format!("LEFT({bytes}, 6)"));
            let hexadecimal = format!("LOCATE('0d0c', LOWER({start}))");
            let within = format!("LOCATE(x'445177', {bytes})");
            // What every header begins with first, so that a server need not try both at every letter; what stands before
            // it is looked at last.
            let either = [one, other].map(|pattern| pattern.strip_prefix("DQw").unwrap_or(pattern)).join("|");
            let symbol = "[A-Za-z0-9+/_-]";
            let pattern = format!("(?-i)DQw(?:{either})(?<!{symbol}{symbol}{{{BASE64_HEADER_CHARS}}})");
            // With the letter before it.
            let rest = text(&format!("SUBSTRING({bytes}, GREATEST({within} - 1, 1), {WITHIN_CHARS_MAX})"));
            let embedded = match look {
                Look::WholeText => String::new(),
                _ => format!(
                    "WHEN {within} > 0 THEN CONCAT('e', LEFT(REGEXP_SUBSTR({rest}, '{pattern}'), {BASE64_HEADER_CHARS}))"
                ),
            };
            // In a character set of single letters any bytes are text.
            let stored = format!("LEFT(CAST(LEFT({column}, 8) AS BINARY), 8)");
            format!(
                "CASE WHEN LEFT({stored}, 2) = x'0D0C' THEN CONCAT('r', LOWER(HEX({stored})))
                      WHEN {is_base64} THEN {base64}
                      WHEN {hexadecimal} IN (1, 3) THEN CONCAT('h', {})
                      {embedded} END",
                text(&format!("SUBSTRING({bytes}, {hexadecimal}, 16)")),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_may_hold_text_or_bytes_is_looked_into() {
        for data_type in ["char", "varchar", "longtext", "tinytext", "json"] {
            assert_eq!(look(data_type), Look::Text, "{data_type}");
        }
        for data_type in ["binary", "varbinary", "tinyblob", "longblob"] {
            assert_eq!(look(data_type), Look::Bytes, "{data_type}");
        }
        assert_eq!(look("enum"), Look::Never);
    }
}
