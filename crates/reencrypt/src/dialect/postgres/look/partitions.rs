//! The partitions of a table some of whose rows are another server's: those that are here are read by themselves, since
//! whoever reads the table has the other server asked.

use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::EngineError;
use crate::error::Doing;
use crate::table::quote;

/// What holds rows below the table, and what keeps the role from reading these columns of it.
const PARTITIONS: &str = "
    SELECT n.nspname::text, c.relname::text, c.relkind = 'f', has_schema_privilege(n.oid, 'USAGE'),
           row_security_active(c.oid),
           (SELECT bool_and(has_column_privilege(c.oid, x.name, 'SELECT')) FROM unnest($2::text[]) AS x(name))
    FROM pg_partition_tree($1::oid::regclass) p
    JOIN pg_class c ON c.oid = p.relid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'f')
    ORDER BY 1, 2";

/// A table in pieces.
pub(super) struct Partitions {
    /// What to read for these columns of the table; `None` when nothing of it can be read here.
    pub(super) from: Option<String>,
    /// Schema and name of each partition that is not read, and why.
    pub(super) unread: Vec<(String, String, &'static str)>,
}

/// `None` for a table that is read whole, because no partition of it is a foreign table.
pub(super) async fn partitions(
    connection: &mut PgConnection,
    oid: i64,
    columns: &[&str],
) -> Result<Option<Partitions>, EngineError> {
    let doing = || "listing the partitions of a table".to_owned();
    let rows = sqlx::query(PARTITIONS).bind(oid).bind(columns).fetch_all(connection).await.doing(doing)?;
    let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
    let (mut parts, mut unread, mut is_elsewhere) = (Vec::new(), Vec::new(), false);
    for row in &rows {
        let (schema, name, foreign, obstacle) = read(row).doing(doing)?;
        is_elsewhere |= foreign;
        match obstacle {
            Some(obstacle) => unread.push((schema, name, obstacle)),
            None => parts.push(format!("SELECT {} FROM ONLY {}.{}", quoted.join(", "), quote(&schema), quote(&name))),
        }
    }
    let from = (!parts.is_empty()).then(|| format!("({})", parts.join(" UNION ALL ")));
    Ok(is_elsewhere.then_some(Partitions { from, unread }))
}

fn read(row: &PgRow) -> Result<(String, String, bool, Option<&'static str>), sqlx::Error> {
    let flag = |at: usize| row.try_get::<bool, _>(at);
    let foreign = flag(2)?;
    let obstacle = match () {
        () if foreign => Some(super::FOREIGN),
        () if !flag(3)? => Some(super::NO_USAGE),
        () if flag(4)? => Some(super::POLICIES),
        () if !flag(5)? => Some("the role may not SELECT it, and another partition of its table is a foreign table"),
        () => None,
    };
    Ok((row.try_get(0)?, row.try_get(1)?, foreign, obstacle))
}
