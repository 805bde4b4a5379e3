//! Reads the values of a row that is larger than a page: in pieces, as rows of one statement, since the driver has what the
//! server sends at once in memory several times over.

use futures::TryStreamExt as _;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::{bytes_of, read_row};
use crate::EngineError;
use crate::dialect::mariadb::statement::Statement;
use crate::error::Doing;
use crate::key::Key;
use crate::table::{Stored, Table};

/// Bytes of a piece.
const PIECE_BYTES: usize = 1024 * 1024;

/// The values, of which there were so many bytes a moment ago; nothing if the row is gone.
pub(super) async fn values(
    connection: &mut MySqlConnection,
    table: &Table,
    key: &Key,
    bytes: usize,
) -> Result<Option<Vec<Stored>>, EngineError> {
    match in_pieces(connection, table, key, bytes).await? {
        Some(values) => Ok(Some(values)),
        // Gone, or longer than it was, which only a farm that still serves can have made it.
        None => Ok(read_row(connection, table, key, "").await?.map(|row| row.values)),
    }
}

async fn in_pieces(
    connection: &mut MySqlConnection,
    table: &Table,
    key: &Key,
    bytes: usize,
) -> Result<Option<Vec<Stored>>, EngineError> {
    let doing = || format!("reading {}", table.label);
    let mut values: Vec<Stored> = Vec::new();
    let mut lengths = Vec::new();
    let mut pieces = 0;
    let mut rows = statement(table, key, bytes.div_ceil(PIECE_BYTES)).query(false).fetch(connection);
    while let Some(row) = rows.try_next().await.doing(doing)? {
        if row.try_get_unchecked::<i64, _>(0).doing(doing)? != pieces {
            return Ok(None);
        }
        for at in 0..table.columns.len() {
            let length: Option<i64> = row.try_get_unchecked(1 + 2 * at).doing(doing)?;
            let piece: Option<&[u8]> = row.try_get_unchecked(2 + 2 * at).doing(doing)?;
            match (values.get_mut(at), piece) {
                (Some(Stored::Bytes(value)), Some(piece)) => value.extend_from_slice(piece),
                (Some(_), _) => {}
                (None, piece) => {
                    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
                    lengths.push(length);
                    values.push(piece.map_or(Stored::Null, |piece| {
                        let mut value = Vec::with_capacity(length);
                        value.extend_from_slice(piece);
                        Stored::Bytes(value)
                    }));
                }
            }
        }
        pieces += 1;
    }
    let found = values.iter().map(|value| value.bytes().map_or(0, <[u8]>::len));
    let is_whole = pieces > 0 && found.eq(lengths);
    Ok(is_whole.then_some(values))
}

fn statement<'a>(table: &Table, key: &'a Key, pieces: usize) -> Statement<'a> {
    let mut statement = Statement::default();
    statement.sql("SELECT p.n");
    for column in &table.columns {
        let bytes = bytes_of(column);
        statement.sql(&format!(", LENGTH({bytes}), SUBSTRING({bytes}, 1 + p.n * {PIECE_BYTES}, {PIECE_BYTES})"));
    }
    // Its rows come as they stand here; whoever reads them sees to it that they do.
    let numbers: Vec<String> = (0..pieces).map(|at| format!("SELECT CAST({at} AS SIGNED) AS n")).collect();
    statement.sql(" FROM ").sql(&table.from).sql(" AS t JOIN (").sql(&numbers.join(" UNION ALL ")).sql(") AS p WHERE ");
    statement.key_is(table, key);
    statement
}
