//! MariaDB 10.6 and MySQL 8.4, and later: connecting with the settings that the work needs, and what the session answers.

mod accounts;
mod bench;
mod bypass;
mod catalog;
mod definitions;
mod grants;
mod ground;
mod history;
mod ledger;
mod look;
mod make;
mod mend;
mod place;
mod replication;
mod rows;
mod sessions;
mod shadow;
mod statement;
mod zones;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fail_points::point;
use rotation::{DatabaseIdentity, DatabaseKind, DatabasePosition, RotationId, ShardId};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{ConnectOptions as _, Connection, Row as _};

use self::make::Make;
use super::found::Seen;
use super::scratch::{Scratch, ScratchNames};
use super::{Chunk, Dialect, PageLimit, Scan, Session, Turn, Use, Written};
use crate::dialect::durable;
use crate::error::Doing;
use crate::history::{LedgerRotation, NoteKind};
use crate::key::Key;
use crate::ledger::{Claim, LedgerMark, Pass, ShardRecord};
use crate::pace::Lag;
use crate::shadow::{BuildStep, HeldReaders, Pair, Shadow, Space};
use crate::sink::PageSink;
use crate::table::{Change, KeyRange, Row, Table};
use crate::targets::Exclude;
use crate::{DatabaseConfig, EngineError, Targets};

/// Agents that may write at once. Beyond this, on the hardware of a vault, they wait for the same log and disk.
const WRITERS_MAX: u32 = 8;

/// How long a connection may take to come about before the database counts as unreachable.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long it may take until the log is flushed up to where it stood. The server does it once a second by itself.
const FLUSH_TIME_MAX: Duration = Duration::from_secs(15);

/// Said of a server of MySQL.
const NO_BACKUPS: &str = "Keyturn makes, proves and puts back backups of MariaDB, and this server is MySQL: back it up with its own \
     tools, and plan with --no-backup";

/// Why a table of MySQL goes in place.
const NO_COPIES: &str = "copies are made on MariaDB only, and this server is MySQL";

const IDENTITY: &str = "
    SELECT /*M! CAST(@@server_id AS CHAR) */ /*!80400 @@server_uuid */, @@hostname, @@port, @@datadir, DATABASE()";

/// Where InnoDB's log stands, and up to where it is flushed: MariaDB's names and MySQL's.
const LOG: &str = "
    SHOW GLOBAL STATUS WHERE Variable_name IN
        ('Innodb_lsn_current', 'Innodb_lsn_flushed', 'Innodb_redo_log_current_lsn', 'Innodb_redo_log_flushed_to_disk_lsn')";

/// How often it is looked how far the log is flushed.
const FLUSH_POLL: Duration = Duration::from_millis(50);

/// Statements kept prepared; a batch's has hundreds of placeholders, so only few.
const STATEMENTS_KEPT_MAX: usize = 16;

/// What every session needs, whatever the server's or the account's defaults are:
/// a value that does not fit is an error, and a date that nobody would take any more can still be set to itself; in MariaDB
/// a backslash is a backslash (MySQL would read what it has stored of functional indexes otherwise, and damage them);
/// text compares byte by byte unless a column's own collation is named; times are in UTC; each statement sees what is
/// committed; nobody waits for ever for a lock, and a worker that is stopped inside a transaction is ended by the server,
/// but not one that waits for the next page (in MySQL by [`Make::enter_transaction`]); a constraint holds for us too;
/// keys that MySQL has made by itself are shown; and nothing that was set to spare a careless user stops a statement half-way.
const SETTINGS: &str = "
    SET SESSION
        sql_mode = CONCAT('STRICT_ALL_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION'
                          /*M! , ',NO_BACKSLASH_ESCAPES' */),
        time_zone = '+00:00',
        autocommit = 1,
        completion_type = 0,
        innodb_lock_wait_timeout = 5,
        lock_wait_timeout = 5,
        /*M! idle_transaction_timeout = 15,
             idle_write_transaction_timeout = 0,
             idle_readonly_transaction_timeout = 0,
             max_statement_time = 0,
             check_constraint_checks = 1, */
        /*!80400 max_execution_time = 0,
                 show_gipk_in_create_table_and_information_schema = ON, */
        wait_timeout = 28800,
        net_read_timeout = 120,
        net_write_timeout = 28800,
        foreign_key_checks = 1,
        unique_checks = 1,
        sql_safe_updates = 0,
        sql_select_limit = 18446744073709551615,
        sql_big_selects = 1,
        sql_auto_is_null = 0,
        optimizer_switch = 'default';
    SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE;
    SET NAMES utf8mb4 COLLATE utf8mb4_bin;
";

/// Why a password does not get to a server.
const UNENCRYPTED: &str = "the server wants a password by caching_sha2_password, which travels over encrypted connections alone, \
     and this one is not: put ssl-mode=VERIFY_IDENTITY and ssl-ca=PATH (or ssl-mode=REQUIRED) into the url, and see that TLS is on at \
     the server (docs/database.md)";

pub(crate) use place::MariadbPlace;

/// What the sessions of one engine share.
#[derive(Debug)]
struct Shared {
    application_role: Option<String>,
    allowed_session_users: Vec<String>,
    sessions_wait: Duration,
    /// For the other sessions of a swap.
    options: MySqlConnectOptions,
    replicas: Vec<MySqlConnectOptions>,
}

pub(crate) struct Mariadb {
    shared: Arc<Shared>,
    /// Known once a connection was made.
    make: OnceLock<Make>,
}

impl Mariadb {
    pub(crate) fn new(options: MySqlConnectOptions, config: &DatabaseConfig) -> Result<Self, EngineError> {
        let options = with_our_settings(options);
        let shared = Shared {
            application_role: config.application_role.clone(),
            allowed_session_users: config.allowed_session_users.clone(),
            sessions_wait: config.sessions_wait,
            options,
            replicas: replication::parse(&config.replica_urls)?,
        };
        Ok(Self { shared: Arc::new(shared), make: OnceLock::new() })
    }
}

/// One connection.
struct MariadbSession {
    connection: MySqlConnection,
    make: Make,
    shared: Arc<Shared>,
    /// Bytes that one statement, and one row of an answer, may have.
    packet_bytes_max: usize,
    /// Holds tables for a swap.
    guard: Option<shadow::Guard>,
    replicas: replication::Replicas,
}

#[async_trait]
impl Dialect for Mariadb {
    fn kind(&self) -> DatabaseKind {
        DatabaseKind::Mariadb
    }

    fn writers_max(&self) -> u32 {
        WRITERS_MAX
    }

    fn page_rows_max(&self, _table: &Table) -> usize {
        // A page is written by as many statements as it takes.
        usize::MAX
    }

    fn auto_shadow(&self) -> Result<(), &'static str> {
        match self.make.get() {
            Some(Make::MySql) => Err(NO_COPIES),
            Some(Make::MariaDb) | None => Err("on MariaDB copying rows costs the server more than updating them"),
        }
    }

    fn compares_copied(&self) -> bool {
        // The server copies from the original itself, and later than the row was read.
        true
    }

    async fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        let Connected { connection, make, packet_bytes_max } = connect(&self.shared.options).await?;
        let _ = self.make.set(make);
        let shared = Arc::clone(&self.shared);
        let replicas = replication::Replicas::new(&shared.replicas);
        Ok(Box::new(MariadbSession { connection, make, shared, packet_bytes_max, guard: None, replicas }))
    }

    async fn scratch(&self, names: ScratchNames) -> Result<Box<dyn Scratch>, EngineError> {
        Ok(Box::new(bench::MariadbScratch::open(&self.shared.options, names).await?))
    }

    async fn see(&self) -> Result<Seen, EngineError> {
        look::see(&self.shared.options).await
    }

    async fn missing(&self, excludes: &[Exclude]) -> Result<Vec<String>, EngineError> {
        if excludes.is_empty() { Ok(Vec::new()) } else { look::missing(&self.shared.options, excludes).await }
    }
}

/// What the driver would set by itself is set by [`SETTINGS`], and more.
fn with_our_settings(options: MySqlConnectOptions) -> MySqlConnectOptions {
    options
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
        .statement_cache_capacity(STATEMENTS_KEPT_MAX)
        // A scan is one statement that lasts as long as its rows are worked on; that is no reason to warn.
        .disable_statement_logging()
}

/// A connection with our settings.
struct Connected {
    connection: MySqlConnection,
    make: Make,
    /// Bytes that one statement, and one row of an answer, may have.
    packet_bytes_max: usize,
}

async fn connect(options: &MySqlConnectOptions) -> Result<Connected, EngineError> {
    let connecting = MySqlConnection::connect_with(options);
    let doing = || "connecting to the MariaDB or MySQL server".to_owned();
    let mut connection = match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
        // What the driver says where the password would have to travel as everybody could read it, since it speaks no RSA.
        Ok(Err(sqlx::Error::Configuration(said))) if said.to_string().contains("RSA") => {
            return Err(EngineError::Configuration(UNENCRYPTED.to_owned()));
        }
        Ok(connected) => connected.doing(doing)?,
        Err(_) => return Err(EngineError::TimedOut { doing: doing(), seconds: CONNECT_TIME_MAX.as_secs() }),
    };
    let (make, packet_bytes_max) = make::introduce(&mut connection).await?;
    let setting = || format!("setting up a {} session", make.name());
    sqlx::raw_sql(SETTINGS).execute(&mut connection).await.doing(setting)?;
    Ok(Connected { connection, make, packet_bytes_max })
}

impl MariadbSession {
    /// The sessions that hold the tables of a swap.
    fn take_guard(&mut self) -> Result<shadow::Guard, EngineError> {
        self.guard.take().ok_or_else(|| EngineError::Internal("no tables are held for a swap".to_owned()))
    }

    /// How far the log has come: where it stands, and up to where it is flushed.
    async fn log(&mut self) -> Result<(u64, u64), EngineError> {
        let doing = || "asking for the position of the database's history".to_owned();
        let rows = sqlx::raw_sql(LOG).fetch_all(&mut self.connection).await.doing(doing)?;
        let (mut current, mut flushed) = (0, 0);
        for row in &rows {
            let name: String = row.try_get(0).doing(doing)?;
            let value: String = row.try_get(1).doing(doing)?;
            let value = value.parse().unwrap_or_default();
            if name.to_ascii_lowercase().contains("flushed") { flushed = value } else { current = value }
        }
        Ok((current, flushed))
    }
}

#[async_trait]
impl Session for MariadbSession {
    async fn identity(&mut self) -> Result<DatabaseIdentity, EngineError> {
        // MariaDB gives itself no identity that would be worth the name: what it has is derived from the machine's
        // network card and the port, and so the same for two servers of one machine. MySQL has one for each data directory.
        let row = sqlx::raw_sql(IDENTITY)
            .fetch_one(&mut self.connection)
            .await
            .doing(|| "asking for the database's identity".to_owned())?;
        let read = || {
            let port: u64 = row.try_get_unchecked(2)?;
            let (server, host, folder, database): (String, String, String, String) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(3)?, row.try_get(4)?);
            Ok(format!("server {server} at {host}:{port} in {folder}, database {database}"))
        };
        let identity = read().doing(|| "reading the database's identity".to_owned())?;
        Ok(DatabaseIdentity { kind: DatabaseKind::Mariadb, identity })
    }

    async fn position(&mut self) -> Result<DatabasePosition, EngineError> {
        let identity = self.identity().await?;
        // The log of InnoDB, which every server has, and not the binary log, which need not be on. What is committed is
        // in it; what is flushed is what a crash cannot take away.
        let (goal, mut flushed) = self.log().await?;
        let started = Instant::now();
        while flushed < goal {
            if started.elapsed() >= FLUSH_TIME_MAX {
                let doing = "waiting until everything is flushed to disk".to_owned();
                return Err(EngineError::TimedOut { doing, seconds: FLUSH_TIME_MAX.as_secs() });
            }
            tokio::time::sleep(FLUSH_POLL).await;
            flushed = self.log().await?.1;
        }
        Ok(DatabasePosition { identity, timeline: 0, position: flushed })
    }

    async fn tables(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, self.make, targets, Use::Turn).await
    }

    async fn tables_to_read(&mut self, targets: &Targets) -> Result<Vec<Table>, EngineError> {
        catalog::tables(&mut self.connection, self.make, targets, Use::Read).await
    }

    async fn check_rights(&mut self) -> Result<(), EngineError> {
        grants::check(&mut self.connection, self.make, &self.shared).await
    }

    async fn check_backups(&mut self) -> Result<(), EngineError> {
        match self.make {
            Make::MariaDb => Ok(()),
            Make::MySql => Err(EngineError::Unsupported(NO_BACKUPS.to_owned())),
        }
    }

    async fn check_backup_rights(&mut self) -> Result<(), EngineError> {
        grants::check_backup(&mut self.connection).await
    }

    async fn page(&mut self, scan: &Scan<'_>, limit: PageLimit) -> Result<Vec<Row>, EngineError> {
        rows::page(&mut self.connection, scan, limit, self.packet_bytes_max).await
    }

    async fn scan(&mut self, scan: &Scan<'_>, sink: &mut PageSink) -> Result<(), EngineError> {
        rows::scan(&mut self.connection, scan, sink, self.packet_bytes_max).await
    }

    async fn row(&mut self, table: &Table, key: &Key) -> Result<Option<Row>, EngineError> {
        rows::row(&mut self.connection, table, key).await
    }

    async fn count(&mut self, table: &Table, range: &KeyRange) -> Result<u64, EngineError> {
        rows::count(&mut self.connection, table, range).await
    }

    async fn enter(&mut self, claim: &Claim) -> Result<ShardRecord, EngineError> {
        ledger::enter(&mut self.connection, claim).await
    }

    async fn record(
        &mut self,
        rotation: &RotationId,
        shard: ShardId,
        pass: Pass,
    ) -> Result<Option<ShardRecord>, EngineError> {
        ledger::record(&mut self.connection, rotation, shard, pass).await
    }

    async fn commit(&mut self, chunk: &Chunk<'_>) -> Result<Written, EngineError> {
        durable::around(point!(CHUNK), ledger::commit(&mut self.connection, self.make, chunk, self.packet_bytes_max))
            .await
    }

    async fn try_write(&mut self, table: &Table, key: &Key, turn: Turn<'_>) -> Result<bool, EngineError> {
        rows::try_write(&mut self.connection, table, key, turn, self.packet_bytes_max).await
    }

    async fn fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        accounts::fence(&mut self.connection, self.make, &self.shared, mark).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        accounts::turn_back(&mut self.connection, self.make, &self.shared, mark).await
    }

    async fn lift_fence(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        accounts::lift_fence(&mut self.connection, self.make, mark).await
    }

    async fn was_let_in(&mut self, rotation: &RotationId) -> Result<bool, EngineError> {
        ledger::was_let_in(&mut self.connection, rotation).await
    }

    async fn close(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        accounts::close(&mut self.connection, self.make, mark).await
    }

    async fn history(&mut self) -> Result<Vec<LedgerRotation>, EngineError> {
        history::history(&mut self.connection).await
    }

    async fn note(&mut self, rotation: &RotationId, kind: NoteKind, node: &str) -> Result<(), EngineError> {
        history::note(&mut self.connection, self.make, rotation, kind, node).await
    }

    async fn hold_repairs(&mut self) -> Result<(), EngineError> {
        mend::hold(&mut self.connection).await
    }

    async fn mend(&mut self, table: &Table, changes: &[Change]) -> Result<Written, EngineError> {
        mend::mend(&mut self.connection, self.make, table, changes, self.packet_bytes_max).await
    }

    async fn replication_lag(&mut self) -> Result<Option<Lag>, EngineError> {
        Ok(self.replicas.lag().await)
    }

    async fn shadow_obstacle(&mut self, table: &Table) -> Result<Option<String>, EngineError> {
        match self.make {
            Make::MariaDb => shadow::obstacle(&mut self.connection, table).await,
            Make::MySql => Ok(Some(NO_COPIES.to_owned())),
        }
    }

    async fn space(&mut self, tables: &[Table]) -> Result<Space, EngineError> {
        shadow::space(&mut self.connection, tables).await
    }

    async fn shadow(&mut self, mark: &LedgerMark, table: &Table) -> Result<Shadow, EngineError> {
        match self.make {
            Make::MariaDb => shadow::shadow(&mut self.connection, mark, table).await,
            Make::MySql => Err(EngineError::Unsupported(NO_COPIES.to_owned())),
        }
    }

    async fn shadows(&mut self, rotation: &RotationId) -> Result<Vec<Shadow>, EngineError> {
        match self.make {
            Make::MariaDb => shadow::shadows(&mut self.connection, rotation).await,
            Make::MySql => ledger::exists(&mut self.connection).await.map(|_| Vec::new()),
        }
    }

    async fn build_steps(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<Vec<BuildStep>, EngineError> {
        shadow::build_steps(&mut self.connection, mark, pair).await
    }

    async fn build(&mut self, mark: &LedgerMark, pair: &Pair, _step: &BuildStep) -> Result<(), EngineError> {
        shadow::build(&mut self.connection, mark, pair).await
    }

    async fn built(&mut self, mark: &LedgerMark, pair: &Pair) -> Result<(), EngineError> {
        shadow::built(&mut self.connection, mark, pair).await
    }

    async fn hold_for_swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<HeldReaders, EngineError> {
        if self.make == Make::MySql {
            return Err(EngineError::Unsupported(NO_COPIES.to_owned()));
        }
        let (guard, readers) = shadow::hold(&mut self.connection, &self.shared, mark, pairs).await?;
        self.guard = Some(guard);
        Ok(readers)
    }

    async fn swap(&mut self, mark: &LedgerMark, pairs: &[Pair]) -> Result<(), EngineError> {
        let guard = self.take_guard()?;
        shadow::swap(&mut self.connection, guard, mark, pairs).await
    }

    async fn swap_back(&mut self, mark: &LedgerMark, back: &[Pair], kept: &[Pair]) -> Result<(), EngineError> {
        let guard = self.take_guard()?;
        shadow::swap_back(&mut self.connection, guard, mark, back, kept).await
    }

    async fn release(&mut self) -> Result<(), EngineError> {
        shadow::release(self.take_guard()?).await
    }

    async fn drop_shadows(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        match self.make {
            Make::MariaDb => shadow::drop_shadows(&mut self.connection, mark).await,
            Make::MySql => Ok(()),
        }
    }

    async fn retire(&mut self, rotation: &RotationId) -> Result<(), EngineError> {
        match self.make {
            Make::MariaDb => shadow::retire(&mut self.connection, rotation).await,
            Make::MySql => ledger::exists(&mut self.connection).await.map(drop),
        }
    }

    async fn end(self: Box<Self>) {
        // A connection that does not close in an orderly way is closed by dropping it; the server notices either.
        let _ = self.connection.close().await;
        self.replicas.end().await;
    }
}

/// An identifier for SQL.
fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text for SQL; in our sessions a backslash means nothing to MariaDB, and to MySQL that the next letter is meant.
fn literal(text: &str, make: Make) -> String {
    let text = text.replace('\'', "''");
    match make {
        Make::MariaDb => format!("'{text}'"),
        Make::MySql => format!("'{}'", text.replace('\\', "\\\\")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quote("a`; DROP TABLE b; --"), "`a``; DROP TABLE b; --`");
        assert_eq!(literal("o'hara\\", Make::MariaDb), "'o''hara\\'");
        assert_eq!(literal("o'hara\\", Make::MySql), "'o''hara\\\\'");
    }
}
