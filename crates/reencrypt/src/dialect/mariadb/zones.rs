//! What of a table the server computes otherwise in our sessions than in the application's: they stand at UTC, and whatever is
//! computed from a `TIMESTAMP` is computed in the time zone of the session that writes the row.

use std::collections::BTreeSet;

use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::quote;
use crate::targets::TableTarget;

/// Columns that are computed, and those that are a point in time.
const COLUMNS: &str = "
    SELECT COLUMN_NAME, LOWER(CAST(COALESCE(GENERATION_EXPRESSION, '') AS CHAR)), EXTRA LIKE '%STORED%' OR EXTRA LIKE '%PERSISTENT%',
           DATA_TYPE = 'timestamp'
    FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?
      AND (COALESCE(GENERATION_EXPRESSION, '') <> '' OR DATA_TYPE = 'timestamp')";

/// Parts of indexes: a column or, in MySQL, an expression.
const PARTS: &str = "
    SELECT INDEX_NAME, COALESCE(COLUMN_NAME, ''), /*M! '' */ /*!80400 LOWER(CAST(COALESCE(EXPRESSION, '') AS CHAR)) */
    FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY INDEX_NAME, SEQ_IN_INDEX";

/// Functions that read the session's time zone whatever they are given.
const FUNCTIONS: [&str; 3] = ["from_unixtime(", "unix_timestamp(", "convert_tz("];

/// A column or a part of an index, and what it is computed from, in small letters as the server words it.
struct Computed {
    name: String,
    expression: String,
    stored: bool,
}

/// Stored columns, and indexes that are written with registered columns, that would come out otherwise: each is a problem.
pub(super) async fn problems(
    connection: &mut MySqlConnection,
    target: &TableTarget,
) -> Result<Vec<String>, sqlx::Error> {
    let mut computed = Vec::new();
    let mut zoned = BTreeSet::new();
    for row in sqlx::query(COLUMNS).bind(&target.name).fetch_all(&mut *connection).await? {
        let (stored, timestamp): (i64, i64) = (row.try_get_unchecked(2)?, row.try_get_unchecked(3)?);
        let (name, expression): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if timestamp != 0 {
            zoned.insert(name.clone());
        }
        if !expression.is_empty() {
            computed.push(Computed { name, expression, stored: stored != 0 });
        }
    }
    let parts = sqlx::query(PARTS).bind(&target.name).fetch_all(connection).await?;
    let parts: Vec<(String, String, String)> = parts
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))
        .collect::<Result<_, sqlx::Error>>()?;
    let mut written: BTreeSet<String> = target.columns.iter().map(|column| column.name.clone()).collect();
    follow(&computed, &mut zoned, reads_time);
    follow(&computed, &mut written, reads);
    let stored = computed.iter().filter(|column| column.stored && zoned.contains(&column.name));
    let stored = stored.map(|column| format!("has the stored column {}", quote(&column.name)));
    let of_index = |index: &str, has: &dyn Fn(&str, &str) -> bool| {
        parts.iter().any(|(of, column, expression)| of == index && has(column, expression))
    };
    let indexes: BTreeSet<&str> = parts.iter().map(|(index, ..)| index.as_str()).collect();
    let otherwise = indexes.into_iter().filter(|index| {
        let computed_from_time = |column: &str, expression: &str| {
            computed.iter().any(|it| it.name == column && zoned.contains(column)) || reads_time(expression, &zoned)
        };
        of_index(index, &computed_from_time)
            && of_index(index, &|column, expression| written.contains(column) || reads(expression, &written))
    });
    let otherwise = otherwise.map(|index| format!("has the index {}", quote(index)));
    let why = "computed from a point in time in the time zone of whoever writes the row, which would come out otherwise at UTC, \
               where the agents write; drop it for the rotation and make it again afterwards";
    Ok(stored.chain(otherwise).map(|what| format!("{what}, which is {why}")).collect())
}

/// Adds the columns that are computed from those, by however many steps.
fn follow(computed: &[Computed], of: &mut BTreeSet<String>, reads: impl Fn(&str, &BTreeSet<String>) -> bool) {
    loop {
        let found: Vec<&Computed> =
            computed.iter().filter(|column| !of.contains(&column.name) && reads(&column.expression, of)).collect();
        if found.is_empty() {
            return;
        }
        of.extend(found.into_iter().map(|column| column.name.clone()));
    }
}

fn reads(expression: &str, columns: &BTreeSet<String>) -> bool {
    columns.iter().any(|column| expression.contains(&quote(&column.to_lowercase())))
}

/// Whether a time is there at all is the same in every zone.
fn reads_time(expression: &str, times: &BTreeSet<String>) -> bool {
    let asks = times.iter().any(|column| {
        let name = quote(&column.to_lowercase());
        let mut rest = expression.to_owned();
        for absent in [format!("{name} is null"), format!("{name} is not null"), format!("isnull({name})")] {
            rest = rest.replace(&absent, "");
        }
        rest.contains(&name)
    });
    asks || FUNCTIONS.iter().any(|function| expression.contains(function))
}
