//! Looks through a whole PostgreSQL database for values of devolutions-crypto. The database filters and counts; only
//! headers travel.

mod partitions;

use keys::value::{BASE64_HEADER_CHARS, BASE64_HEADER_PATTERNS};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::found::{Seen, SeenColumn, SeenTable, Tagged, UnseenPlace, WITHIN_CHARS_MAX};
use super::catalog::SCHEMA_DEFAULT;
use super::connect;
use crate::EngineError;
use crate::error::Doing;
use crate::table::quote;
use crate::targets::Exclude;

/// Whole tables are read in the order of the disk, by several workers where the server has them; nobody's lock is
/// waited for, and no policy hides rows.
const SETTINGS: &str = "
    SET quote_all_identifiers = off;
    SET search_path = pg_catalog, pg_temp;
    SET row_security = off;
    SET default_transaction_read_only = on;
    SET default_transaction_isolation = 'read committed';
    SET lock_timeout = '5s';
    SET statement_timeout = 0;
    SET idle_session_timeout = 0;
    SET bytea_output = 'hex';
";

/// Everything that holds rows of its own or of another server; partitions are read with their table.
const RELATIONS: &str = "
    SELECT c.oid::int8, n.nspname::text, c.relname::text, c.relkind::text, has_schema_privilege(n.oid, 'USAGE'),
           row_security_active(c.oid),
           n.nspname = 'keyturn' OR starts_with(c.relname::text, 'keyturn_'),
           COALESCE(c.relispopulated, true)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    ORDER BY 2, 3";

/// Columns with the type under all domains, arrays and ranges, the number of those arrays, and whether there are ranges. Not
/// generated ones, which follow the columns that they are computed from; `e` for enumerations and the like, whose values are
/// not free. A name tells a type only where nobody else makes any.
const COLUMNS: &str = "
    WITH RECURSIVE base AS (
        SELECT a.attnum, a.atttypid AS oid, 0 AS arrays, false AS ranges FROM pg_attribute a
        WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        UNION ALL
        SELECT b.attnum, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE COALESCE(r.rngsubtype, t.typelem) END,
               CASE WHEN t.typtype IN ('d', 'r', 'm') OR b.ranges THEN b.arrays ELSE b.arrays + 1 END,
               b.ranges OR t.typtype IN ('r', 'm')
        FROM base b JOIN pg_type t ON t.oid = b.oid LEFT JOIN pg_range r ON t.oid IN (r.rngtypid, r.rngmultitypid)
        WHERE t.typtype IN ('d', 'r', 'm') OR (t.typcategory = 'A' AND t.typelem <> 0))
    SELECT a.attname::text, format_type(a.atttypid, a.atttypmod), t.typname::text, t.typtype::text, b.arrays,
           has_column_privilege(a.attrelid, a.attnum, 'SELECT'), t.typnamespace = 'pg_catalog'::regnamespace, b.ranges
    FROM base b
    JOIN pg_type t ON t.oid = b.oid AND t.typtype NOT IN ('d', 'r', 'm') AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
    JOIN pg_attribute a ON a.attrelid = $1::oid AND a.attnum = b.attnum
    ORDER BY a.attnum";

const PRIMARY_KEY: &str = "
    SELECT a.attname::text
    FROM pg_constraint c
    CROSS JOIN LATERAL unnest(c.conkey) WITH ORDINALITY AS k(attnum, position)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
    WHERE c.conrelid = $1::oid AND c.contype = 'p'
    ORDER BY k.position";

const MISSING: &str = "
    SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = $2 AND a.attname = $3 AND a.attnum > 0 AND NOT a.attisdropped";

/// What keeps a table or a partition from being looked into.
const FOREIGN: &str = "it is a foreign table; its rows are another server's";
const NO_USAGE: &str = "the role has no USAGE on the schema";
const POLICIES: &str = "row level security would hide rows; a role with BYPASSRLS sees all";

/// More bytes than a value of 100 MiB has in base64. PostgreSQL refuses to make a text of a gigabyte, and takes four bytes for
/// each that it escapes or may replace.
const BASE64_BYTES_MAX: u32 = 200_000_000;

/// Where a header in base64 ends at the latest: each of its symbols may stand in a line of its own.
const HEAD_CHARS: usize = 3 * BASE64_HEADER_CHARS;

/// A column that is looked into.
struct Looked {
    column: String,
    look: Look,
    /// Through how many arrays; none mostly.
    arrays: i32,
}

/// How the values of a type are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Bytes,
    Text,
    /// Text of a type of somebody's own.
    OwnText,
    /// Its text form, for what stands within it.
    Within,
    /// Its text form, for text and for bytes that stand within it.
    Composite,
    /// The same for the bounds of ranges.
    Range,
    /// Nothing of ours can stand in it.
    Never,
    /// It could, and is not looked into.
    Unknown,
}

pub(super) async fn see(options: &PgConnectOptions) -> Result<Seen, EngineError> {
    let mut connection = open(options).await?;
    let doing = || "listing the tables of the database".to_owned();
    let relations = sqlx::query(RELATIONS).fetch_all(&mut connection).await.doing(doing)?;
    let mut seen = Seen { default_schema: Some("public".to_owned()), ..Seen::default() };
    for relation in &relations {
        see_relation(&mut connection, relation, &mut seen).await?;
    }
    let _ = connection.close().await;
    Ok(seen)
}

/// Excluded columns that there are not.
pub(super) async fn missing(options: &PgConnectOptions, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
    let mut connection = open(options).await?;
    let mut missing = Vec::new();
    for exclude in excludes {
        for column in &exclude.columns {
            let found: i64 = sqlx::query(MISSING)
                .bind(exclude.schema.as_deref().unwrap_or(SCHEMA_DEFAULT))
                .bind(&exclude.table)
                .bind(column)
                .fetch_one(&mut connection)
                .await
                .and_then(|row| row.try_get(0))
                .doing(|| "looking for the excluded columns".to_owned())?;
            if found == 0 {
                missing.push(exclude.place(column));
            }
        }
    }
    let _ = connection.close().await;
    Ok(missing)
}

async fn open(options: &PgConnectOptions) -> Result<PgConnection, EngineError> {
    let mut connection = connect(&options.clone().disable_statement_logging()).await?;
    sqlx::raw_sql(SETTINGS).execute(&mut connection).await.doing(|| "setting up a PostgreSQL session".to_owned())?;
    Ok(connection)
}

async fn see_relation(connection: &mut PgConnection, relation: &PgRow, seen: &mut Seen) -> Result<(), EngineError> {
    let doing = || "listing the tables of the database".to_owned();
    let text = |at: usize| relation.try_get::<String, _>(at).doing(doing);
    let flag = |at: usize| relation.try_get::<bool, _>(at).doing(doing);
    let oid: i64 = relation.try_get(0).doing(doing)?;
    let (schema, name, kind) = (text(1)?, text(2)?, text(3)?);
    let mut from = format!("{}{}.{}", if kind == "r" { "ONLY " } else { "" }, quote(&schema), quote(&name));
    if flag(6)? {
        seen.own.push(format!("{schema}.{name}"));
        return Ok(());
    }
    let schema = (schema != SCHEMA_DEFAULT).then_some(schema);
    let whole = |reason: &str| UnseenPlace {
        schema: schema.clone(),
        table: name.clone(),
        column: None,
        reason: reason.to_owned(),
    };
    let obstacle = match () {
        () if kind == "f" => Some(FOREIGN),
        () if !flag(4)? => Some(NO_USAGE),
        () if flag(5)? => Some(POLICIES),
        () if !flag(7)? => Some("it is a materialized view that was never filled"),
        () => None,
    };
    if let Some(obstacle) = obstacle {
        seen.unseen.push(whole(obstacle));
        return Ok(());
    }
    let label = from.clone();
    let doing = || format!("looking into {label}");
    let mut columns = Vec::new();
    let mut looks = Vec::new();
    for row in sqlx::query(COLUMNS).bind(oid).fetch_all(&mut *connection).await.doing(doing)? {
        let read = || {
            let text = |at: usize| row.try_get::<String, _>(at);
            let flag = |at: usize| row.try_get::<bool, _>(at);
            Ok((text(0)?, text(1)?, text(2)?, text(3)?, row.try_get::<i32, _>(4)?, flag(5)?, flag(6)?, flag(7)?))
        };
        let (column, data_type, base, base_kind, arrays, may_select, built_in, ranges) = read().doing(doing)?;
        let reason = match look(&base, &base_kind, built_in, ranges) {
            Look::Never => continue,
            Look::Unknown => format!("the type {data_type} is not looked into"),
            _ if !may_select => "the role may not SELECT it".to_owned(),
            look => {
                looks.push(Looked { column: column.clone(), look, arrays });
                columns.push(SeenColumn { name: column, data_type, tagged: Vec::new() });
                continue;
            }
        };
        seen.unseen.push(UnseenPlace { schema: schema.clone(), table: name.clone(), column: Some(column), reason });
    }
    if looks.is_empty() {
        return Ok(());
    }
    if kind == "p" {
        let names: Vec<&str> = looks.iter().map(|looked| looked.column.as_str()).collect();
        if let Some(partitions) = partitions::partitions(connection, oid, &names).await? {
            seen.unseen.extend(partitions.unread.into_iter().map(|(schema, table, reason)| UnseenPlace {
                schema: (schema != SCHEMA_DEFAULT).then_some(schema),
                table,
                column: None,
                reason: reason.to_owned(),
            }));
            let Some(parts) = partitions.from else { return Ok(()) };
            from = parts;
        }
    }
    // Reviewed: quoted identifiers and constants only.
    let rows = match sqlx::query(AssertSqlSafe(tags(&from, &looks))).fetch_all(&mut *connection).await {
        Ok(rows) => rows,
        // A lock that does not go, a table that is dropped meanwhile, a page that is damaged: the others are looked into.
        Err(sqlx::Error::Database(error)) if !error.code().is_some_and(|code| code.starts_with("57P")) => {
            seen.unseen.push(whole(error.message()));
            return Ok(());
        }
        Err(error) => return Err(error).doing(doing),
    };
    for row in &rows {
        let read = || Ok((row.try_get::<i32, _>(0)?, row.try_get::<String, _>(1)?, row.try_get::<i64, _>(2)?));
        let (at, tag, values) = read().doing(doing)?;
        if let Some(column) = usize::try_from(at).ok().and_then(|at| columns.get_mut(at)) {
            column.tagged.push(Tagged { tag, values: u64::try_from(values).unwrap_or_default() });
        }
    }
    let names = |rows: Vec<PgRow>| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>();
    let key = sqlx::query(PRIMARY_KEY).bind(oid).fetch_all(connection).await.and_then(names).doing(doing)?;
    seen.tables.push(SeenTable { schema, name, key, columns });
    Ok(())
}

fn look(base: &str, base_kind: &str, built_in: bool, ranges: bool) -> Look {
    match look_of_base(base, base_kind, built_in) {
        never @ (Look::Never | Look::Unknown) => never,
        _ if ranges => Look::Range,
        look => look,
    }
}

fn look_of_base(base: &str, base_kind: &str, built_in: bool) -> Look {
    const NEVER: [&str; 33] = [
        "bool",
        "int2",
        "int4",
        "int8",
        "float4",
        "float8",
        "numeric",
        "money",
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "interval",
        "uuid",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "bit",
        "varbit",
        "oid",
        "xid",
        "tid",
        "pg_lsn",
        "point",
        "line",
        "lseg",
        "box",
        "path",
        "polygon",
        "circle",
        "char",
    ];
    match base {
        _ if base_kind == "c" => Look::Composite,
        _ if base_kind == "e" => Look::Never,
        "citext" => Look::OwnText,
        "hstore" => Look::Within,
        _ if !built_in => Look::Unknown,
        "bytea" => Look::Bytes,
        "text" | "varchar" | "bpchar" | "name" => Look::Text,
        "json" | "jsonb" | "xml" => Look::Within,
        base if NEVER.contains(&base) => Look::Never,
        _ => Look::Unknown,
    }
}

/// One reading of the table, whatever the number of columns.
fn tags(from: &str, looks: &[Looked]) -> String {
    let mut values = Vec::new();
    let mut branches = Vec::new();
    for (at, Looked { column, look, arrays }) in looks.iter().enumerate() {
        let column = format!("t.{}", quote(column));
        match arrays {
            0 => values.push(format!("({at}, {})", tag(&column, *look))),
            _ => branches.push(format!(
                "SELECT {at}, 'a' || ({}) FROM {}",
                tag("e.e", *look),
                elements(&column, *arrays)
            )),
        }
    }
    if !values.is_empty() {
        branches.insert(0, format!("VALUES {}", values.join(", ")));
    }
    format!(
        "SELECT v.n, v.tag, count(*) FROM {from} AS t CROSS JOIN LATERAL ({}) AS v(n, tag)
         WHERE v.tag IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
        branches.join(" UNION ALL ")
    )
}

/// The elements of an array, as `e.e`. Those of an array of domains over arrays are arrays themselves. In a list of columns
/// an element that is composite stays one value.
fn elements(array: &str, arrays: i32) -> String {
    let inner = (1..arrays).fold(array.to_owned(), |inner, _| format!("unnest({inner})"));
    format!("(SELECT unnest({inner}) AS e) e")
}

/// The tag of one value, NULL for all that is none of ours. A value that is stored out of line is fetched only as far
/// as its header, unless it is one of ours in base64.
fn tag(column: &str, look: Look) -> String {
    match look {
        Look::Bytes => {
            let beginning = format!("encode(substring({column} FROM 1 FOR {HEAD_CHARS}), 'escape')");
            format!(
                "CASE WHEN substring({column} FROM 1 FOR 2) = '\\x0d0c'::bytea
                  THEN 'r' || encode(substring({column} FROM 1 FOR 8), 'hex')
                  WHEN substring({column} FROM 1 FOR 1) = '\\x44'::bytea AND {is_header}
                  THEN {form} || {head} END",
                head = head(&beginning),
                is_header = is_header(&head(&beginning)),
                form = form(
                    &format!("position('-'::bytea IN {column}) > 0 OR position('_'::bytea IN {column}) > 0"),
                    &format!(
                        "rtrim(encode(substring({column} FROM greatest(octet_length({column}) - 15, 1)), 'escape'), E' \\t\\r\\n')"
                    ),
                    &symbols(column, &format!("encode({column}, 'escape')")),
                ),
            )
        }
        Look::Text | Look::OwnText => {
            let text = match look {
                Look::Text => format!("({column}::text COLLATE \"C\")"),
                _ => shown(column),
            };
            format!(
                "CASE WHEN left({text}, 1) = 'D' AND {is_header} THEN {form} || {head}
                      WHEN strpos(lower(left({text}, 6)), '0d0c') IN (1, 3)
                      THEN 'h' || substring({text} FROM '^(?:0[xX]|\\\\x)?(0[dD]0[cC][0-9a-fA-F]{{4,12}})')
                      ELSE {within} END",
                form = form(
                    &format!("strpos({text}, '-') > 0 OR strpos({text}, '_') > 0"),
                    &format!("rtrim(right({text}, 16), E' \\t\\r\\n')"),
                    &symbols(&text, &text),
                ),
                head = head(&format!("left({text}, {HEAD_CHARS})")),
                is_header = is_header(&head(&format!("left({text}, {HEAD_CHARS})"))),
                within = within(&text),
            )
        }
        Look::Within => within(&shown(column)),
        Look::Composite | Look::Range => {
            let text = shown(column);
            let letter = if look == Look::Range { 'g' } else { 'c' };
            format!(
                "'{letter}' || COALESCE({within}, CASE WHEN strpos({text}, 'x0d0c') > 0
                     THEN 'h' || substring({text} FROM '\\\\x(0d0c[0-9a-f]{{4,12}})') END)",
                within = within(&text)
            )
        }
        Look::Never | Look::Unknown => "NULL".to_owned(),
    }
}

/// As the type's own output has it. A cast could be one that the owner of a type made, and would run in the name of the agent.
fn shown(column: &str) -> String {
    format!("(concat({column}) COLLATE \"C\")")
}

/// The symbols of a header, whatever lines they stand in.
fn head(beginning: &str) -> String {
    format!("left(translate({beginning}, E'\\r\\n', ''), {BASE64_HEADER_CHARS})")
}

/// How many symbols of base64 there are, whatever lines they stand in. What is larger than any value of ours is not made anew.
fn symbols(value: &str, text: &str) -> String {
    format!(
        "CASE WHEN octet_length({value}) <= {BASE64_BYTES_MAX} THEN length(translate({text}, E' \\t\\r\\n', ''))
              ELSE octet_length({value}) END"
    )
}

/// Whether these are a header's first symbols, or all that there is of one.
fn is_header(head: &str) -> String {
    let [one, other] = BASE64_HEADER_PATTERNS;
    format!(
        "(left({head}, 3) = 'DQw' AND ({head} ~ '^(?:{one}|{other})' OR length(rtrim({head}, '=')) < {BASE64_HEADER_CHARS}))"
    )
}

/// Whatever else begins like one by chance, what looks like a header counts. A regular expression takes four bytes a letter,
/// so of what is large no more is looked through.
fn within(text: &str) -> String {
    let [one, other] = BASE64_HEADER_PATTERNS;
    let part = format!("substring({text} FROM greatest(strpos({text}, 'DQw') - 1, 1) FOR {WITHIN_CHARS_MAX})");
    format!(
        "CASE WHEN strpos({text}, 'DQw') > 0
              THEN 'e' || substring({part} FROM '(?:^|[^A-Za-z0-9+/_-])((?:{one}|{other}))') END"
    )
}

fn form(url_safe: &str, end: &str, length: &str) -> String {
    let length = format!("({length})");
    format!(
        "CASE WHEN {url_safe} THEN CASE WHEN right({end}, 1) = '=' OR {length} % 4 = 0 THEN 's' ELSE 'v' END
              WHEN right({end}, 1) = '=' OR {length} % 4 = 0 THEN 'b' ELSE 'u' END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_may_hold_text_or_bytes_is_looked_into_or_told() {
        let look = |base, base_kind, built_in| super::look(base, base_kind, built_in, false);
        assert_eq!(look("bytea", "b", true), Look::Bytes);
        assert_eq!(look("varchar", "b", true), Look::Text);
        assert_eq!(look("jsonb", "b", true), Look::Within);
        assert_eq!(look("address", "c", false), Look::Composite);
        assert_eq!(look("ltree", "b", false), Look::Unknown);
        assert_eq!(look("int4", "b", true), Look::Never);
        assert_eq!(look("mood", "e", false), Look::Never);
        assert_eq!((look("citext", "b", false), look("citext", "e", false)), (Look::OwnText, Look::Never));
        assert_eq!(look("bytea", "b", false), Look::Unknown);
        assert_eq!(look("tsquery", "b", true), Look::Unknown);
        let bound = |base, base_kind, built_in| super::look(base, base_kind, built_in, true);
        assert_eq!((bound("text", "b", true), bound("login", "c", false)), (Look::Range, Look::Range));
        assert_eq!((bound("numeric", "b", true), bound("mood", "e", false)), (Look::Never, Look::Never));
        assert_eq!(bound("ltree", "b", false), Look::Unknown);
    }
}
