//! How the engine reaches its database, and whose sessions it may find there.

use std::fmt;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::percent;

/// Connections that an engine holds at once unless configured: two shards with a reader and a writer each, and one
/// for everything else.
pub(crate) const CONNECTIONS_MAX_DEFAULT: u32 = 5;

/// A shard needs a reader and a writer, so fewer connections could never do any work.
pub(crate) const CONNECTIONS_MIN: u32 = 2;

/// How long other sessions may take to go by themselves unless configured: an agent between two assignments, an
/// instance that is exiting.
const SESSIONS_WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// How far the slowest standby may fall behind unless configured: what one replays within seconds if it has to take over.
const REPLICATION_LAG_BYTES_MAX_DEFAULT: u64 = 256 * 1024 * 1024;

/// The same in seconds, where standbys tell it so.
const REPLICATION_LAG_SECONDS_MAX_DEFAULT: u64 = 30;

/// How slow a shard may become for a standby's sake unless configured. At this rate a million rows take a quarter of an
/// hour on one agent.
const LAGGING_ROWS_PER_SECOND_MIN_DEFAULT: NonZeroU32 = NonZeroU32::new(1000).expect("it is not zero");

/// How the engine reaches its database.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// `postgres://ROLE:PASSWORD@HOST/DATABASE` (a directory with a unix socket as percent-encoded host),
    /// `mariadb://USER:PASSWORD@HOST/DATABASE` (`?socket=PATH` for a unix socket; `mysql://` is the same, and the server says
    /// which of the two it is) or
    /// `sqlite:///PATH`. May hold a password, so `Debug` leaves it out.
    pub url: String,
    /// The role of the application, which is fenced while rows are turned. In MariaDB and MySQL the name of the
    /// user, for all its hosts. Not in SQLite.
    pub application_role: Option<String>,
    /// Further roles whose sessions may stay while the application is fenced, besides the agent's own.
    pub allowed_session_users: Vec<String>,
    /// How many connections may be open at once; at least 2.
    pub connections_max: u32,
    /// How long other sessions may take to go by themselves before they are reported.
    pub sessions_wait: Duration,
    /// How far the slowest streaming standby may fall behind, bytes of history that it has not replayed. From half of it
    /// on, rows are written more slowly.
    pub replication_lag_bytes_max: u64,
    /// The same where standbys tell in seconds how far they are behind: in MariaDB and MySQL.
    pub replication_lag_seconds_max: u64,
    /// In MariaDB and MySQL, whose servers do not know how far their replicas are behind: where to ask each of them. May hold
    /// passwords, so `Debug` leaves them out.
    pub replica_urls: Vec<String>,
    /// Rows a second below which a standby does not slow a shard down: one that hangs must not keep the farm offline for
    /// ever.
    pub lagging_rows_per_second_min: NonZeroU32,
    /// Who works, shown as `keyturn-agent/NAME` in the database's list of sessions. The node's id.
    pub client_name: String,
}

impl DatabaseConfig {
    /// A SQLite file, to be read and not written.
    pub fn sqlite_file(path: &Path) -> Self {
        Self::new(format!("{}?mode=ro", sqlite_url(path)))
    }

    /// The configuration for this URL, everything else by default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            application_role: None,
            allowed_session_users: Vec::new(),
            connections_max: CONNECTIONS_MAX_DEFAULT,
            sessions_wait: SESSIONS_WAIT_DEFAULT,
            replication_lag_bytes_max: REPLICATION_LAG_BYTES_MAX_DEFAULT,
            replication_lag_seconds_max: REPLICATION_LAG_SECONDS_MAX_DEFAULT,
            replica_urls: Vec::new(),
            lagging_rows_per_second_min: LAGGING_ROWS_PER_SECOND_MIN_DEFAULT,
            client_name: format!("process-{}", std::process::id()),
        }
    }
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("url", &"[redacted]")
            .field("application_role", &self.application_role)
            .field("allowed_session_users", &self.allowed_session_users)
            .field("connections_max", &self.connections_max)
            .field("sessions_wait", &self.sessions_wait)
            .field("replication_lag_bytes_max", &self.replication_lag_bytes_max)
            .field("replication_lag_seconds_max", &self.replication_lag_seconds_max)
            .field("replica_urls", &self.replica_urls.len())
            .field("lagging_rows_per_second_min", &self.lagging_rows_per_second_min)
            .field("client_name", &self.client_name)
            .finish()
    }
}

/// The URL of a SQLite file, whatever its name holds.
pub(crate) fn sqlite_url(path: &Path) -> String {
    format!("sqlite://{}", percent::encoded(path.as_os_str().as_bytes()))
}

/// A database URL that cannot be used. Never quotes the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseUrlError {
    /// No scheme that this release speaks.
    #[error(
        "the database url begins with {0:?}, and this release speaks postgres://, mariadb://, mysql:// and sqlite://"
    )]
    Scheme(String),
    /// The driver does not understand the rest.
    #[error("the database url cannot be understood")]
    Malformed(#[source] sqlx::Error),
    /// SQLite in memory cannot be shared with the application.
    #[error("the database url names no file: write sqlite:///absolute/path")]
    NoFile,
    /// No tool of the database could be told so.
    #[error("the database url's {0} holds a line break, which no tool of the database takes; name a file")]
    Control(&'static str),
    /// MariaDB and MySQL would connect, and know no table by its name alone.
    #[error("the database url names no database: write mariadb://user@host/database")]
    NoDatabase,
}

/// A database URL, understood.
#[derive(Clone)]
pub(crate) enum Location {
    Mariadb(Box<MySqlConnectOptions>),
    Postgres(Box<PgConnectOptions>),
    Sqlite(Box<SqliteConnectOptions>),
}

impl Location {
    pub(crate) fn parse(url: &str) -> Result<Self, DatabaseUrlError> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "postgres" | "postgresql" => {
                Ok(Self::Postgres(Box::new(PgConnectOptions::from_str(url).map_err(DatabaseUrlError::Malformed)?)))
            }
            "mariadb" | "mysql" => {
                let options = MySqlConnectOptions::from_str(url).map_err(DatabaseUrlError::Malformed)?;
                if options.get_database().is_none() {
                    return Err(DatabaseUrlError::NoDatabase);
                }
                Ok(Self::Mariadb(Box::new(options)))
            }
            "sqlite" => {
                let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
                if path.is_empty() || path.starts_with(":memory:") || path.starts_with('?') {
                    return Err(DatabaseUrlError::NoFile);
                }
                let options = SqliteConnectOptions::from_str(url).map_err(DatabaseUrlError::Malformed)?;
                Ok(Self::Sqlite(Box::new(options)))
            }
            other => Err(DatabaseUrlError::Scheme(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_the_configuration_shows_no_password() {
        let mut config = DatabaseConfig::new("postgres://agent:hunter2@db/vault");
        config.replica_urls.push("mariadb://monitor:hunter2@replica".to_owned());
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_scheme_decides_the_dialect() {
        let parse = Location::parse;
        assert!(matches!(parse("postgres://a@%2Frun%2Fpostgresql/vault"), Ok(Location::Postgres(_))));
        assert!(matches!(parse("sqlite:///var/lib/vault.db"), Ok(Location::Sqlite(_))));
        assert!(matches!(parse("mysql://a@b/c"), Ok(Location::Mariadb(_))));
        assert!(matches!(parse("mariadb://a@localhost/c?socket=/run/mysqld/mysqld.sock"), Ok(Location::Mariadb(_))));
        assert!(matches!(parse("mariadb://a@b"), Err(DatabaseUrlError::NoDatabase)));
        assert!(matches!(parse("oracle://a@b/c"), Err(DatabaseUrlError::Scheme(scheme)) if scheme == "oracle"));
        assert!(matches!(parse("sqlite::memory:"), Err(DatabaseUrlError::NoFile)));
        assert!(matches!(parse("sqlite://"), Err(DatabaseUrlError::NoFile)));
    }

    #[test]
    fn a_file_is_found_whatever_its_name_holds() {
        for path in ["/a/plain.db", "/a b/50%?mode=rw#x&y=ü.db"] {
            let Ok(Location::Sqlite(options)) = Location::parse(&DatabaseConfig::sqlite_file(Path::new(path)).url)
            else {
                panic!("{path} is not understood")
            };
            assert_eq!(options.get_filename(), Path::new(path));
        }
    }

    #[test]
    fn errors_about_the_url_do_not_quote_it() {
        let Err(error) = Location::parse("oracle://agent:hunter2@db/vault") else { panic!("not refused") };
        assert!(!error.to_string().contains("hunter2"));
    }
}
