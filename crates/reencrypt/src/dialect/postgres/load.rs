//! Writes pages of rows into a shadow: a binary `COPY … FROM STDIN` inside the transaction of the chunk.

use sqlx::postgres::{PgConnection, PgCopyIn};

use super::layout::{Layout, relation};
use crate::EngineError;
use crate::error::Doing;
use crate::table::{Change, Table};

/// Bytes that are handed to the driver at once. Large enough for few messages; the server holds a message whole.
const MESSAGE_BYTES: usize = 256 * 1024;

/// A binary copy's signature, flags and empty extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Inserts every row with its new values, and says how many there were. The caller's transaction decides; after an error
/// the connection is good for nothing but ending it.
pub(super) async fn insert(
    connection: &mut PgConnection,
    table: &Table,
    into: &Table,
    layout: &Layout,
    changes: &[Change],
) -> Result<u64, EngineError> {
    let doing = || format!("filling the copy of {}", table.label);
    let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", relation(into), layout.columns_sql(table));
    let fields = i16::try_from(layout.rest.len() + table.columns.len())
        .map_err(|_| EngineError::Internal(format!("{} has too many columns", table.label)))?;
    let mut copy = connection.copy_in_raw(&sql).await.doing(doing)?;
    let mut message = Vec::with_capacity(MESSAGE_BYTES + MESSAGE_BYTES / 8);
    message.extend_from_slice(HEADER);
    for change in changes {
        message.extend_from_slice(&fields.to_be_bytes());
        if change.row.rest.len() > MESSAGE_BYTES {
            send(&mut copy, &mut message, &change.row.rest).await.doing(doing)?;
        } else {
            message.extend_from_slice(&change.row.rest);
        }
        for (old, new) in change.row.values.iter().zip(&change.new) {
            let value = new.as_deref().or_else(|| old.bytes());
            message.extend_from_slice(&length(value, table)?.to_be_bytes());
            match value {
                Some(value) if value.len() > MESSAGE_BYTES => {
                    send(&mut copy, &mut message, value).await.doing(doing)?;
                }
                value => message.extend_from_slice(value.unwrap_or_default()),
            }
        }
        if message.len() >= MESSAGE_BYTES {
            copy.send(message.as_slice()).await.doing(doing)?;
            message.clear();
        }
    }
    message.extend_from_slice(&TRAILER);
    copy.send(message.as_slice()).await.doing(doing)?;
    copy.finish().await.doing(doing)
}

/// Sends what is collected, and something large in parts: the driver copies whatever it is handed.
async fn send(copy: &mut PgCopyIn<&mut PgConnection>, message: &mut Vec<u8>, large: &[u8]) -> Result<(), sqlx::Error> {
    copy.send(message.as_slice()).await?;
    message.clear();
    for part in large.chunks(MESSAGE_BYTES) {
        copy.send(part).await?;
    }
    Ok(())
}

/// The length of a field, as a binary copy has it.
fn length(value: Option<&[u8]>, table: &Table) -> Result<i32, EngineError> {
    let Some(value) = value else { return Ok(-1) };
    i32::try_from(value.len())
        .map_err(|_| EngineError::Internal(format!("a value of {} is larger than 2 GiB", table.label)))
}
