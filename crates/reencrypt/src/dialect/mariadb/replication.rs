//! How far the replicas of a MariaDB or MySQL server are behind. The server itself does not know, so each replica is asked, by the URL
//! that is configured for it.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlRow};
use sqlx::{Connection as _, Row as _};

use super::with_our_settings;
use crate::EngineError;
use crate::config::DatabaseUrlError;
use crate::pace::Lag;

/// How long a replica may take to answer, with the connection the first time. It is asked once a second, and writers wait
/// meanwhile; one that is as busy as it is behind must be heard all the same.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(1_500);

/// After how long one is asked again that did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// What the configured URLs say.
pub(super) fn parse(urls: &[String]) -> Result<Vec<MySqlConnectOptions>, EngineError> {
    let parse = |url: &String| {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        if !matches!(scheme, "mariadb" | "mysql") {
            return Err(EngineError::Url(DatabaseUrlError::Scheme(scheme.to_owned())));
        }
        let options = MySqlConnectOptions::from_str(url);
        options.map(with_our_settings).map_err(|error| EngineError::Url(DatabaseUrlError::Malformed(error)))
    };
    urls.iter().map(parse).collect()
}

/// The replicas as one session asks after them.
pub(super) struct Replicas(Vec<Replica>);

struct Replica {
    options: MySqlConnectOptions,
    connection: Option<MySqlConnection>,
    /// Not to be asked before.
    asked_again: Option<Instant>,
}

impl Replicas {
    pub(super) fn new(options: &[MySqlConnectOptions]) -> Self {
        let replica =
            |options: &MySqlConnectOptions| Replica { options: options.clone(), connection: None, asked_again: None };
        Self(options.iter().map(replica).collect())
    }

    /// The slowest one's; none where there is none that tells.
    pub(super) async fn lag(&mut self) -> Option<Lag> {
        let lags = join_all(self.0.iter_mut().map(Replica::lag)).await;
        lags.into_iter().flatten().max().map(Lag::Seconds)
    }

    pub(super) async fn end(self) {
        for connection in self.0.into_iter().filter_map(|replica| replica.connection) {
            // An error there loses nothing.
            let _ = connection.close().await;
        }
    }
}

impl Replica {
    async fn lag(&mut self) -> Option<u64> {
        if self.asked_again.is_some_and(|again| Instant::now() < again) {
            return None;
        }
        let kept = self.connection.take();
        match tokio::time::timeout(ANSWER_TIME_MAX, ask(kept, &self.options)).await {
            Ok(Ok((connection, lag))) => {
                self.connection = Some(connection);
                lag
            }
            Ok(Err(error)) => self.give_up(&error.to_string()),
            Err(_) => self.give_up("it did not answer in time"),
        }
    }

    fn give_up(&mut self, why: &str) -> Option<u64> {
        tracing::warn!(host = self.options.get_host(), why, "a replica cannot be asked after");
        self.asked_again = Some(Instant::now() + RETRY_AFTER);
        None
    }
}

async fn ask(
    kept: Option<MySqlConnection>,
    options: &MySqlConnectOptions,
) -> Result<(MySqlConnection, Option<u64>), sqlx::Error> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => MySqlConnection::connect_with(options).await?,
    };
    let rows = sqlx::raw_sql("SHOW /*M! ALL REPLICAS */ /*!80400 REPLICA */ STATUS").fetch_all(&mut connection).await?;
    let mut slowest = None;
    for row in &rows {
        slowest = slowest.max(behind(&status(row)?));
    }
    Ok((connection, slowest))
}

/// What a replica says of one of its primaries.
struct Status {
    receives: bool,
    applies: bool,
    seconds: Option<u64>,
    /// Wanted: it is to stay behind by so much.
    delay: u64,
}

fn status(row: &MySqlRow) -> Result<Status, sqlx::Error> {
    // MariaDB's names, and MySQL's.
    let named = |maria: &'static str, my: &'static str| match row.try_column(maria) {
        Ok(_) => maria,
        Err(_) => my,
    };
    let runs =
        |column: &str| Ok::<_, sqlx::Error>(row.try_get_unchecked::<String, _>(column)?.eq_ignore_ascii_case("yes"));
    let seconds: Option<i64> = row.try_get_unchecked(named("Seconds_Behind_Master", "Seconds_Behind_Source"))?;
    let delay: i64 = row.try_get_unchecked("SQL_Delay")?;
    Ok(Status {
        receives: runs(named("Slave_IO_Running", "Replica_IO_Running"))?,
        applies: runs(named("Slave_SQL_Running", "Replica_SQL_Running"))?,
        seconds: seconds.and_then(|seconds| u64::try_from(seconds).ok()),
        delay: u64::try_from(delay).unwrap_or_default(),
    })
}

/// Seconds. One that receives nothing at present does not count; one that receives and does not apply is behind without end.
fn behind(status: &Status) -> Option<u64> {
    match (status.receives, status.applies) {
        (false, _) => None,
        (true, false) => Some(u64::MAX),
        (true, true) => status.seconds.map(|seconds| seconds.saturating_sub(status.delay)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_while_it_receives() {
        let of = |receives, applies, seconds, delay| behind(&Status { receives, applies, seconds, delay });
        assert_eq!(of(true, true, Some(7), 0), Some(7));
        assert_eq!(of(true, true, Some(3607), 3600), Some(7), "what it is to stay behind does not count");
        assert_eq!(of(true, true, Some(1), 3600), Some(0));
        assert_eq!(of(true, true, None, 0), None, "it does not know yet");
        assert_eq!(of(true, false, None, 0), Some(u64::MAX), "it stands still");
        assert_eq!(of(false, true, None, 0), None, "it is gone");
    }

    #[test]
    fn urls_of_replicas_need_no_database_and_are_never_quoted() {
        assert!(parse(&["mariadb://monitor@replica:3306".to_owned()]).is_ok());
        let Err(error) = parse(&["postgres://monitor:hunter2@replica".to_owned()]) else { panic!("not refused") };
        assert!(!error.to_string().contains("hunter2"));
    }
}
