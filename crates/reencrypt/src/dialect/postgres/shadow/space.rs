//! The room that copies need. PostgreSQL tells how large tables are, not how much is free; that is asked of the file
//! system where the server's files are in reach of this process.

use std::path::Path;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::super::layout::relation;
use crate::EngineError;
use crate::error::Doing;
use crate::shadow::Space;
use crate::table::Table;

/// Where the table's files are, for who may know it: its tablespace or the data directory; nothing unless the server is
/// on this host. The settings' view leaves out what the role may not see.
const PLACE: &str = "
    SELECT pg_total_relation_size(c.oid),
           CASE WHEN inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr()
                THEN COALESCE(NULLIF(pg_tablespace_location(c.reltablespace), ''),
                              (SELECT setting FROM pg_settings WHERE name = 'data_directory')) END
    FROM pg_class c WHERE c.oid = $1::regclass";

/// Of all of these; the least free place counts.
pub(in super::super) async fn space(connection: &mut PgConnection, tables: &[Table]) -> Result<Space, EngineError> {
    let mut space = Space::default();
    for table in tables {
        let doing = || format!("measuring {}", table.label);
        let row = sqlx::query(PLACE).bind(relation(table)).fetch_one(&mut *connection).await.doing(doing)?;
        let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<Option<String>, _>(1)?));
        let (bytes, place) = read().doing(doing)?;
        space.needed_bytes += u64::try_from(bytes).unwrap_or_default();
        if let Some(free) = place.and_then(|place| free_bytes(Path::new(&place))) {
            space.free_bytes = Some(space.free_bytes.map_or(free, |other| other.min(free)));
        }
    }
    Ok(space)
}

/// None where the place cannot be looked at, as in a container or as another user.
fn free_bytes(place: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(place).ok()?;
    found.blocks_available().checked_mul(found.fragment_size())
}
