//! How far the standbys of a PostgreSQL server are behind.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use crate::EngineError;
use crate::error::Doing;

/// Bytes of the log that the slowest one has still to replay. One that does not stream at present, or tells nothing of
/// replaying (a receiver of the log alone), does not count.
pub(super) async fn lag(connection: &mut PgConnection) -> Result<Option<u64>, EngineError> {
    let lag: Option<i64> = sqlx::query(
        "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::int8
         FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn IS NOT NULL",
    )
    .fetch_one(connection)
    .await
    .and_then(|row| row.try_get(0))
    .doing(|| "asking how far the standbys are behind".to_owned())?;
    Ok(lag.map(|lag| u64::try_from(lag).unwrap_or_default()))
}
