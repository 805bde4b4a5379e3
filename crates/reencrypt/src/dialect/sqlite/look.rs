//! Looks through a whole SQLite file for values of devolutions-crypto. Every column of every table is looked into, since
//! SQLite's values have types of their own.

use keys::value::{BASE64_HEADER_CHARS, BASE64_HEADER_PATTERNS};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::found::{Seen, SeenColumn, SeenTable, Tagged, UnseenPlace};
use super::catalog::{self, SCHEMA};
use crate::EngineError;
use crate::error::Doing;
use crate::table::quote;
use crate::targets::Exclude;

/// How much is looked at of a text's end, where padding stands, and white space behind it.
const TAIL_CHARS: usize = 1000;

/// How much of a text that holds a header somewhere is gone through place by place.
const WALKED_CHARS: usize = 64;

const TABLES: &str = "
    SELECT name, upper(ltrim(COALESCE(sql, ''))) GLOB 'CREATE VIRTUAL*', name GLOB 'keyturn_*'
    FROM main.sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name";

/// Without generated columns (`hidden` 2 and 3), which follow the columns that they are computed from.
const COLUMNS: &str = "SELECT name, type, pk FROM pragma_table_xinfo(?) WHERE hidden NOT IN (2, 3) ORDER BY cid";

/// SQLite matches names whatever their case; targets.toml does not.
const MISSING: &str = "SELECT count(*) FROM pragma_table_xinfo(?1) x JOIN main.sqlite_schema m ON m.name = ?1
    WHERE m.type = 'table' AND x.name = ?2";

pub(super) async fn see(options: &SqliteConnectOptions) -> Result<Seen, EngineError> {
    let mut connection = open(options).await?;
    catalog::check_encoding(&mut connection).await?;
    let doing = || "listing the tables of the database".to_owned();
    let tables = sqlx::query(TABLES).fetch_all(&mut connection).await.doing(doing)?;
    let mut seen = Seen { default_schema: Some(SCHEMA.to_owned()), ..Seen::default() };
    for table in &tables {
        let name: String = table.try_get(0).doing(doing)?;
        let (is_virtual, own): (bool, bool) = (table.try_get(1).doing(doing)?, table.try_get(2).doing(doing)?);
        if own {
            seen.own.push(name);
        } else if is_virtual {
            let reason = "it is a virtual table; what it keeps in tables of its own is looked into".to_owned();
            seen.unseen.push(UnseenPlace { schema: None, table: name, column: None, reason });
        } else {
            see_table(&mut connection, name, &mut seen).await?;
        }
    }
    let _ = connection.close().await;
    Ok(seen)
}

/// Excluded columns that there are not.
pub(super) async fn missing(options: &SqliteConnectOptions, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
    let mut connection = open(options).await?;
    let mut missing = Vec::new();
    for exclude in excludes {
        for column in &exclude.columns {
            let found: i64 = sqlx::query(MISSING)
                .bind(&exclude.table)
                .bind(column)
                .fetch_one(&mut connection)
                .await
                .and_then(|row| row.try_get(0))
                .doing(|| "looking for the excluded columns".to_owned())?;
            if found == 0 || exclude.schema.as_deref().is_some_and(|schema| schema != "main") {
                missing.push(exclude.place(column));
            }
        }
    }
    let _ = connection.close().await;
    Ok(missing)
}

async fn open(options: &SqliteConnectOptions) -> Result<SqliteConnection, EngineError> {
    let file = options.get_filename().to_owned();
    SqliteConnection::connect_with(&options.clone().disable_statement_logging())
        .await
        .doing(|| format!("opening {}", file.display()))
}

async fn see_table(connection: &mut SqliteConnection, name: String, seen: &mut Seen) -> Result<(), EngineError> {
    let doing = || format!("looking into {name}");
    let mut columns = Vec::new();
    let mut key: Vec<(i64, String)> = Vec::new();
    for row in sqlx::query(COLUMNS).bind(&name).fetch_all(&mut *connection).await.doing(doing)? {
        let read = |row: &SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (column, data_type, position): (String, String, i64) = read(&row).doing(doing)?;
        if position > 0 {
            key.push((position, column.clone()));
        }
        columns.push(SeenColumn { name: column, data_type, tagged: Vec::new() });
    }
    key.sort_unstable();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    // Reviewed: quoted identifiers and constants only.
    let rows = match sqlx::query(AssertSqlSafe(tags(&name, &names))).fetch_all(&mut *connection).await {
        Ok(rows) => rows,
        // A generated column may need a function of the application's own, a page may be damaged.
        Err(sqlx::Error::Database(error)) => {
            seen.unseen.push(UnseenPlace {
                schema: None,
                table: name,
                column: None,
                reason: error.message().to_owned(),
            });
            return Ok(());
        }
        Err(error) => return Err(error).doing(doing),
    };
    for row in &rows {
        let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<String, _>(1)?, row.try_get::<i64, _>(2)?));
        let (at, tag, values) = read().doing(doing)?;
        if let Some(column) = usize::try_from(at).ok().and_then(|at| columns.get_mut(at)) {
            column.tagged.push(Tagged { tag, values: u64::try_from(values).unwrap_or_default() });
        }
    }
    let key = key.into_iter().map(|(_, column)| column).collect();
    seen.tables.push(SeenTable { schema: None, name, key, columns });
    Ok(())
}

/// One reading of the table, whatever the number of columns: the order of a CROSS JOIN is kept. The limit, which is none,
/// keeps what is inside inside: tags are sorted then, and not the values that they are made of.
fn tags(table: &str, columns: &[&str]) -> String {
    let numbers: Vec<String> = (0..columns.len()).map(|at| format!("({at})")).collect();
    let cases: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(at, name)| format!("WHEN {at} THEN {}", tag(&format!("t.{}", quote(name)))))
        .collect();
    format!(
        "WITH keyturn_n(n) AS (VALUES {})
         SELECT n, tag, count(*) FROM (
             SELECT keyturn_n.n AS n, CASE keyturn_n.n {} END AS tag
             FROM main.{} AS t CROSS JOIN keyturn_n LIMIT -1)
         WHERE tag IS NOT NULL GROUP BY n, tag ORDER BY n, tag",
        numbers.join(", "),
        cases.join(" "),
        quote(table),
    )
}

/// The tag of one value, NULL for all that is none of ours.
fn tag(column: &str) -> String {
    // Of a value that may be large, no more than its ends are taken: SQLite makes whatever is taken anew.
    let base64 = |head: &str, tail: &str, [dash, underscore, newline]: [&str; 3]| {
        let end = format!("rtrim({tail}, ' ' || char(9) || char(13) || char(10))");
        let symbols = format!(
            "CASE WHEN instr({column}, {newline}) > 0
                  THEN length(rtrim(replace(replace({column}, char(13), ''), char(10), ''), ' ' || char(9)))
                  ELSE length({column}) - length({tail}) + length({end}) END"
        );
        let whole = format!("({end} LIKE '%=' OR ({symbols}) % 4 = 0)");
        format!(
            "CASE WHEN instr({column}, {dash}) > 0 OR instr({column}, {underscore}) > 0
                  THEN CASE WHEN {whole} THEN 's' ELSE 'v' END
                  WHEN {whole} THEN 'b' ELSE 'u' END || {head}"
        )
    };
    // Each symbol of the header may stand in a line of its own.
    let beginning = format!("CAST(substr({column}, 1, {}) AS TEXT)", 3 * BASE64_HEADER_CHARS);
    let head = format!("substr(replace(replace({beginning}, char(13), ''), char(10), ''), 1, {BASE64_HEADER_CHARS})");
    let [one, other] = BASE64_HEADER_PATTERNS;
    let is_base64 = format!(
        "substr({head}, 1, 3) = 'DQw' COLLATE BINARY
         AND ({head} GLOB '{one}' OR {head} GLOB '{other}' OR length(rtrim({head}, '=')) < {BASE64_HEADER_CHARS})"
    );
    // A blank before it is no symbol. Only where there is a header are all places gone through that begin like one.
    let blank = "[^A-Za-z0-9+/_-]";
    let holds_header = format!(
        "instr({column}, 'DQw') > 0
         AND (' ' || {column} GLOB '*{blank}{one}*' OR ' ' || {column} GLOB '*{blank}{other}*')"
    );
    // Halved first, so that not the whole rest is taken for each of them: a part that overlaps the other by a header holds one.
    let half = format!("substr(rest, 1, length(rest) / 2 + {BASE64_HEADER_CHARS})");
    let embedded = format!(
        "(WITH RECURSIVE keyturn_k(rest) AS (
              SELECT ' ' || {column}
              UNION ALL
              SELECT CASE WHEN {half} GLOB '*{blank}{one}*' OR {half} GLOB '*{blank}{other}*' THEN {half}
                          ELSE substr(rest, length(rest) / 2) END
              FROM keyturn_k WHERE length(rest) > {WALKED_CHARS}),
          keyturn_o(rest) AS (
              SELECT rest FROM keyturn_k WHERE length(rest) <= {WALKED_CHARS}
              UNION ALL
              SELECT substr(rest, instr(substr(rest, 3), 'DQw') + 1) FROM keyturn_o
              WHERE instr(substr(rest, 3), 'DQw') > 0)
          SELECT 'e' || substr(rest, 2, {BASE64_HEADER_CHARS}) FROM keyturn_o
          WHERE rest GLOB '{blank}{one}*' OR rest GLOB '{blank}{other}*' LIMIT 1)"
    );
    let tail = format!("substr({column}, -{TAIL_CHARS})");
    format!(
        "CASE typeof({column})
         WHEN 'blob' THEN CASE
             WHEN substr({column}, 1, 2) = x'0D0C' THEN 'r' || lower(hex(substr({column}, 1, 8)))
             WHEN substr({column}, 1, 1) = x'44' AND {is_base64} THEN {of_blob} END
         WHEN 'text' THEN CASE
             WHEN substr({column}, 1, 2) = char(13, 12) COLLATE BINARY
                  THEN 'r' || lower(hex(substr(CAST({column} AS BLOB), 1, 8)))
             WHEN substr({column}, 1, 1) = 'D' COLLATE BINARY AND {is_base64} THEN {of_text}
             WHEN instr(lower(substr({column}, 1, 6)), '0d0c') IN (1, 3)
             THEN 'h' || substr({column}, instr(lower(substr({column}, 1, 6)), '0d0c'), 16)
             WHEN {holds_header} THEN {embedded} END
         END",
        of_blob = base64(&head, &format!("CAST({tail} AS TEXT)"), ["x'2D'", "x'5F'", "x'0A'"]),
        of_text = base64(&head, &tail, ["'-'", "'_'", "char(10)"]),
    )
}
