//! Which of the two makes a server is, MariaDB or MySQL. They speak one protocol, and most of the SQL here is for both: what only
//! MariaDB is to read stands in `/*M! … */`, what only MySQL is to read in `/*!80400 … */`. What differs in more than a
//! few words asks here.

use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use crate::EngineError;
use crate::error::Doing;

/// The oldest MariaDB with one atomic RENAME of several tables and the columns of the catalog that are read.
const MARIADB_MIN: (u32, u32) = (10, 6);

/// The oldest MySQL that is tested for: the first release of its long-term series. Also in every `/*!80400`.
const MYSQL_MIN: (u32, u32) = (8, 4);

/// What MySQL calls itself where its own makers, Debian, Ubuntu or a provider have built it. What is called otherwise is something
/// else that speaks the same protocol, and nobody knows what it does.
const MYSQL_COMMENTS: [&str; 6] = ["mysql ", "(debian)", "(ubuntu)", "(google)", "homebrew", "source distribution"];

/// What others put into their version.
const OTHERS: [&str; 5] = ["tidb", "percona", "oceanbase", "vitess", "polardb"];

/// A variable that only Amazon's Aurora has, which otherwise calls itself MySQL.
const AURORA: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name = 'aurora_version'";

/// Seconds in which a session may say nothing while it has a transaction, where the server has no time limit for just that.
const IN_TRANSACTION: &str = "SET SESSION wait_timeout = 15";

/// What it is otherwise, as in the settings of every session.
const OUTSIDE: &str = "SET SESSION wait_timeout = 28800";

/// The make of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    MariaDb,
    MySql,
}

/// A server as it introduces itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Introduction<'a> {
    pub(super) version: &'a str,
    /// `@@version_comment`.
    pub(super) comment: &'a str,
    /// Whether it is Amazon's Aurora.
    pub(super) aurora: bool,
}

impl Make {
    /// Which it is; else why this release does not work with it.
    pub(super) fn of(server: Introduction<'_>) -> Result<Self, String> {
        let Introduction { version, comment, aurora } = server;
        if aurora {
            return Err(format!("the server is Aurora ({version}), which is neither MariaDB nor MySQL inside"));
        }
        if is_mariadb(version) {
            return at_least(version.trim_start_matches("5.5.5-"), MARIADB_MIN)
                .then_some(Self::MariaDb)
                .ok_or_else(|| format!("the server is MariaDB {version}; 10.6 or later is needed"));
        }
        let (called, of_version) = (comment.to_ascii_lowercase(), version.to_ascii_lowercase());
        let is_known = MYSQL_COMMENTS.iter().any(|known| called.starts_with(known));
        if !is_known || OTHERS.iter().any(|other| of_version.contains(other)) {
            return Err(format!(
                "the server calls itself {comment:?}, version {version}; this release works with MariaDB and with MySQL"
            ));
        }
        at_least(version, MYSQL_MIN)
            .then_some(Self::MySql)
            .ok_or_else(|| format!("the server is MySQL {version}; 8.4 or later is needed"))
    }

    /// What people call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::MariaDb => "MariaDB",
            Self::MySql => "MySQL",
        }
    }

    /// Before a transaction: from here on the server ends the session soon, should it stop, so that what it has locked is let
    /// go. MariaDB does so by itself, by the settings of the session; MySQL knows a limit for sessions alone, which would
    /// end one that waits for its next page as well.
    pub(super) async fn enter_transaction(self, connection: &mut MySqlConnection) -> Result<(), EngineError> {
        self.limit_silence(connection, IN_TRANSACTION).await
    }

    /// After it, however it went.
    pub(super) async fn leave_transaction(self, connection: &mut MySqlConnection) -> Result<(), EngineError> {
        self.limit_silence(connection, OUTSIDE).await
    }

    /// Does what is one transaction between the two.
    pub(super) async fn in_transaction<T>(
        self,
        connection: &mut MySqlConnection,
        work: impl AsyncFnOnce(&mut MySqlConnection) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.enter_transaction(connection).await?;
        let done = work(connection).await;
        let left = self.leave_transaction(connection).await;
        let done = done?;
        left.map(|()| done)
    }

    async fn limit_silence(self, connection: &mut MySqlConnection, sql: &'static str) -> Result<(), EngineError> {
        match self {
            Self::MariaDb => Ok(()),
            Self::MySql => sqlx::raw_sql(sql)
                .execute(connection)
                .await
                .map(drop)
                .doing(|| "limiting how long the session may be silent".to_owned()),
        }
    }
}

fn is_mariadb(version: &str) -> bool {
    version.to_ascii_lowercase().contains("mariadb")
}

fn at_least(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

/// What the server says of itself: its make, and how many bytes it sends and takes at once.
pub(super) async fn introduce(connection: &mut MySqlConnection) -> Result<(Make, usize), EngineError> {
    let doing = || "asking the database server what it is".to_owned();
    let row = sqlx::raw_sql("SELECT VERSION(), @@version_comment, @@max_allowed_packet")
        .fetch_one(&mut *connection)
        .await
        .doing(doing)?;
    let (version, comment): (String, String) = (row.try_get(0).doing(doing)?, row.try_get(1).doing(doing)?);
    let packet: u64 = row.try_get_unchecked(2).doing(doing)?;
    let aurora = match is_mariadb(&version) {
        true => false,
        false => sqlx::raw_sql(AURORA).fetch_optional(connection).await.doing(doing)?.is_some(),
    };
    let make = Make::of(Introduction { version: &version, comment: &comment, aurora });
    let make = make.map_err(|problem| EngineError::Rights(vec![problem]))?;
    Ok((make, usize::try_from(packet).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str, comment: &str) -> Result<Make, String> {
        Make::of(Introduction { version, comment, aurora: false })
    }

    #[test]
    fn servers_of_both_makes_are_told_apart() {
        for version in ["10.6.0-MariaDB", "10.11.19-MariaDB-0+deb12u1", "11.4.2-MariaDB-log", "5.5.5-10.6.3-MariaDB"] {
            assert_eq!(of(version, "Debian 12"), Ok(Make::MariaDb), "{version}");
        }
        for (version, comment) in [
            ("8.4.0", "MySQL Community Server - GPL"),
            ("8.4.6-commercial", "MySQL Enterprise Server - Commercial"),
            ("9.7.4-2", "(Debian)"),
            ("10.0.1", "Source distribution"),
        ] {
            assert_eq!(of(version, comment), Ok(Make::MySql), "{version}");
        }
    }

    #[test]
    fn servers_that_are_too_old_or_of_another_make_are_refused_by_name() {
        let refused = |version: &str, comment: &str, expected: &str| {
            let problem = of(version, comment).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        refused("10.5.23-MariaDB", "Debian", "MariaDB 10.5.23-MariaDB; 10.6 or later");
        refused("8.0.36", "MySQL Community Server - GPL", "MySQL 8.0.36; 8.4 or later");
        refused("8.3.0", "(Ubuntu)", "8.4 or later");
        refused("8.0.11-TiDB-v7.5.0", "TiDB Server (Apache License 2.0)", "TiDB");
        refused("8.4.3-3", "Percona Server (GPL), Release 3", "Percona");
        refused("8.4.3-3.tidb", "Source distribution", "tidb");
        let aurora = Make::of(Introduction { version: "8.4.0", comment: "Source distribution", aurora: true });
        assert!(aurora.is_err_and(|problem| problem.contains("Aurora")));
    }
}
