//! What can go wrong with the engine's work, and how each of it is told to a person and to the coordinators.

use std::error::Error as _;
use std::fmt::Write as _;

use rotation::{Fault, FaultCode, RotationId};
use sqlx::mysql::MySqlDatabaseError;

use crate::DatabaseUrlError;

/// Why the engine did not do what it was asked to. No text in it holds a secret or a value of a row.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The URL cannot be used.
    #[error("the database url cannot be used")]
    Url(#[source] DatabaseUrlError),
    /// The rest of the database's configuration cannot be used.
    #[error("the agent's [database] configuration cannot be used: {0}")]
    Configuration(String),
    /// Registered tables or columns that cannot be worked on; every one is named.
    #[error("targets.toml does not fit the database: {}", .0.join("; "))]
    Targets(Vec<String>),
    /// Columns that hold ciphertexts, which a rotation would leave behind; every one is named.
    #[error(
        "columns hold ciphertexts that the farm's key may open, and targets.toml neither registers nor excludes them: {}",
        .0.join(", ")
    )]
    Unregistered(Vec<String>),
    /// The database refused, or the connection to it was lost.
    #[error("{doing} failed")]
    Database {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// Another process is in the middle of a transaction that writes, and does not end it.
    #[error("{doing} failed: {} writes to the database and does not end", if .by.is_empty() { "another process".to_owned() } else { .by.join(" and ") })]
    Busy {
        /// What was being done.
        doing: String,
        /// Who it is, as far as can be seen.
        by: Vec<String>,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// The database refused, in Preflight, what every chunk would do.
    #[error("a trial of writing {table} was refused, and nothing was changed; every write of a rotation would fail so")]
    Trial {
        /// The table.
        table: String,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// A row that the server neither sends nor takes at once.
    #[error(
        "{row} holds {bytes} bytes, and the server sends and takes at most {bytes_max} at once (max_allowed_packet)"
    )]
    RowTooLarge {
        /// Table and key.
        row: String,
        /// What its registered columns hold together.
        bytes: u64,
        /// The server's setting.
        bytes_max: u64,
    },
    /// The database did not answer in time.
    #[error("{doing}: the database did not answer within {seconds} s")]
    TimedOut {
        /// What was being done.
        doing: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Sessions of somebody else remain.
    #[error("sessions that are not ours remain in the database: {}", .0.join("; "))]
    SessionsRemain(Vec<String>),
    /// Whether somebody else has the database open cannot be found out.
    #[error("whether another program has the database open cannot be found out: {0}")]
    SessionsUnknown(String),
    /// Rights or a state of the server that the work needs and has not; every one is named.
    #[error("the agent's role cannot do its work on this server: {}", .0.join("; "))]
    Rights(Vec<String>),
    /// The server was told to take no writes, though it would take the agent's.
    #[error("the server is read-only (read_only is on), as a replica is, or a primary that another takes the place of")]
    ReadOnly,
    /// The application's role cannot be fenced.
    #[error("the application's role {role:?} cannot be fenced: {problem}")]
    Role {
        /// The role.
        role: String,
        /// Why not.
        problem: String,
    },
    /// A value opens under no known key.
    #[error("{count} values open under no known key; the first is {first}")]
    Undecryptable {
        /// Table, column, key and reason.
        first: String,
        /// How many were met in the batch.
        count: u64,
    },
    /// A value is under a key that it must not be under.
    #[error("{at} {problem}")]
    UnexpectedKey {
        /// Table, column and key.
        at: String,
        /// Which key, as the end of the sentence.
        problem: &'static str,
    },
    /// Rows appeared, vanished or changed under way.
    #[error("rows of {table} changed while they must not: {what}")]
    RowsChanged {
        /// The table.
        table: String,
        /// Which, and how it was seen.
        what: String,
    },
    /// What was brought back is not what was there before.
    #[error("the content digest of shard {shard} of {table} differs: {before} before, {after} after")]
    DigestDiffers {
        /// The shard.
        shard: String,
        /// The table.
        table: String,
        /// When it was turned.
        before: String,
        /// Now.
        after: String,
    },
    /// The ledger has gone on without this worker.
    #[error("this work is too late: {0}")]
    Superseded(String),
    /// What another session had begun came about while this one was about to begin.
    #[error("{0} failed: the tables were renamed meanwhile, by a session that was thought to be lost")]
    Overtaken(String),
    /// The ledger does not know the rotation, so the database was never fenced for it, or has lost history since.
    #[error("the ledger in the database knows nothing of rotation {0}")]
    LedgerMissing(RotationId),
    /// Another rotation has not closed its ledger.
    #[error("the ledger in the database is still open for rotation {0}")]
    LedgerOpen(String),
    /// The ledger holds what cannot be read.
    #[error("the ledger in the database cannot be read: {0}")]
    LedgerUnreadable(String),
    /// A database under the name that one loaded from a backup would have.
    #[error("database {0} is there, and this login did not load it from this backup")]
    NotLoaded(String),
    /// A file that is no whole database.
    #[error("the database file is damaged: {0}")]
    Damaged(String),
    /// The database's history is not the one that was verified.
    #[error("the database is not the one that was verified: {0}")]
    Position(String),
    /// The ledger has the form of an earlier release, and a rotation in it is not closed.
    #[error("the ledger in the database has the form of an earlier release, in which rotation {0} is still open")]
    LedgerOld(String),
    /// Tables that were to be re-encrypted by shadow and cannot be; every one is named with its obstacle.
    #[error("strategy shadow was asked for, and it is impossible: {}", .0.join("; "))]
    Shadows(Vec<String>),
    /// The copies would not fit.
    #[error(
        "the copies of the tables need {needed_bytes} bytes, and {free_bytes} are free where the database keeps them"
    )]
    Space {
        /// Copies with their indexes.
        needed_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// A shadow is not where the work needs it to be.
    #[error("the shadow of table {table} {problem}")]
    ShadowState {
        /// The table.
        table: String,
        /// Where it is, as the end of the sentence.
        problem: String,
    },
    /// A shard of a table that is not registered here.
    #[error("the shard is of table {0:?}, which this node's targets.toml does not register")]
    UnknownTable(String),
    /// A shard whose bounds are no keys of its table.
    #[error("the bounds of shard {0} are no keys of its table")]
    ShardBounds(String),
    /// Somebody else repairs rows.
    #[error("another `keyturn db doctor --repair` is at work on this database")]
    RepairUnderWay,
    /// A scratch table's name is taken, perhaps by a measurement that was killed.
    #[error("the scratch table {0} exists already")]
    ScratchTaken(String),
    /// This release cannot do it on this database.
    #[error("{0}")]
    Unsupported(String),
    /// The engine itself failed.
    #[error("the engine failed: {0}")]
    Internal(String),
}

/// Says what was being done when the database refused.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, EngineError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, EngineError> {
        self.map_err(|source| EngineError::Database { doing: what(), source })
    }
}

impl EngineError {
    /// What a trial of writing met, unless it passes by itself or is not the database's.
    pub(crate) fn of_trial(self, table: &str) -> Self {
        match self {
            Self::Database { source: source @ sqlx::Error::Database(_), .. } if !is_passing(&source) => {
                Self::Trial { table: table.to_owned(), source }
            }
            other => other,
        }
    }

    /// The fault to report, without the node.
    pub fn fault(&self) -> Fault {
        let mut message = self.to_string();
        match self {
            Self::Database { source, .. } | Self::Trial { source, .. } => {
                let text = words(source).unwrap_or_else(|| chain(source));
                let _ = write!(message, ": {text}");
            }
            other => {
                if let Some(source) = other.source() {
                    let _ = write!(message, ": {}", chain(source));
                }
            }
        }
        Fault {
            code: self.code(),
            node: None,
            message,
            next_step: self.next_step().to_owned(),
            retryable: self.is_retryable(),
        }
    }

    /// The kind of fault.
    pub const fn code(&self) -> FaultCode {
        match self {
            Self::Url(_)
            | Self::Configuration(_)
            | Self::Database { .. }
            | Self::TimedOut { .. }
            | Self::ReadOnly
            | Self::Overtaken(_) => FaultCode::Database,
            Self::ScratchTaken(_) | Self::Unsupported(_) | Self::RepairUnderWay | Self::Busy { .. } => {
                FaultCode::Database
            }
            Self::Rights(_)
            | Self::Role { .. }
            | Self::LedgerOpen(_)
            | Self::LedgerUnreadable(_)
            | Self::Damaged(_)
            | Self::NotLoaded(_)
            | Self::LedgerOld(_)
            | Self::Space { .. }
            | Self::ShadowState { .. } => FaultCode::Database,
            Self::Targets(_) | Self::UnknownTable(_) | Self::Trial { .. } | Self::Shadows(_) => FaultCode::Targets,
            Self::RowTooLarge { .. } => FaultCode::Targets,
            Self::Unregistered(_) => FaultCode::UnregisteredColumns,
            Self::SessionsRemain(_) | Self::SessionsUnknown(_) => FaultCode::SessionsRemain,
            Self::Undecryptable { .. } => FaultCode::Undecryptable,
            Self::UnexpectedKey { .. } => FaultCode::UnexpectedKey,
            Self::RowsChanged { .. } => FaultCode::RowsChanged,
            Self::DigestDiffers { .. } => FaultCode::DigestDiffers,
            Self::Superseded(_) => FaultCode::Superseded,
            Self::LedgerMissing(_) | Self::Position(_) => FaultCode::DatabasePosition,
            Self::ShardBounds(_) | Self::Internal(_) => FaultCode::Internal,
        }
    }

    /// Whether the database could not be reached at all, or no longer.
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Database { source, .. } => match source {
                sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => true,
                sqlx::Error::Database(error) => error
                    .code()
                    .is_some_and(|code| code.starts_with("08") || code.starts_with("57P") || code.starts_with("28")),
                _ => false,
            },
            Self::TimedOut { .. } => true,
            _ => false,
        }
    }

    /// Whether the same work may succeed if simply tried again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_passing(source),
            // It may be about to become the primary, or the url to lead to another server.
            Self::TimedOut { .. } | Self::Busy { .. } | Self::Overtaken(_) | Self::ReadOnly => true,
            Self::Url(_)
            | Self::Configuration(_)
            | Self::Targets(_)
            | Self::Unregistered(_)
            | Self::Trial { .. }
            | Self::RowTooLarge { .. }
            | Self::SessionsRemain(_)
            | Self::SessionsUnknown(_)
            | Self::Rights(_)
            | Self::Role { .. }
            | Self::Undecryptable { .. }
            | Self::UnexpectedKey { .. }
            | Self::RowsChanged { .. }
            | Self::DigestDiffers { .. }
            | Self::Superseded(_)
            | Self::LedgerMissing(_)
            | Self::LedgerOpen(_)
            | Self::LedgerUnreadable(_)
            | Self::Damaged(_)
            | Self::NotLoaded(_)
            | Self::LedgerOld(_)
            | Self::Shadows(_)
            | Self::Space { .. }
            | Self::ShadowState { .. }
            | Self::Position(_)
            | Self::UnknownTable(_)
            | Self::ShardBounds(_)
            | Self::ScratchTaken(_)
            | Self::RepairUnderWay
            | Self::Unsupported(_)
            | Self::Internal(_) => false,
        }
    }

    /// What a person can do about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Url(_) => {
                "correct the url where it comes from: --database, or [database] in the agent's configuration (then restart the agent)"
            }
            Self::Configuration(_) => "correct [database] in the agent's configuration and restart the agent",
            Self::Targets(_) => {
                "correct targets.toml on every node and restart the agents, or correct the tables or grants it names \
                 (docs/database.md)"
            }
            Self::Unregistered(_) => {
                "`keyturn db scan --config FILE --targets FILE` writes a targets.toml that registers them; use it on every \
                 node, or add an [[exclude]] with the reason, and restart the agents (docs/database.md)"
            }
            Self::Database { source, .. } | Self::Trial { source, .. } => database_next_step(source),
            Self::RowTooLarge { .. } => {
                "raise max_allowed_packet on the server, for good and with SET GLOBAL, above twice what the row holds"
            }
            Self::Busy { .. } => {
                "let the process that is named go on (SIGCONT), or end it: the work then goes on by itself"
            }
            Self::ReadOnly => "point the url in the agent's [database] configuration to the primary",
            Self::TimedOut { .. } => "see whether the database answers, and what locks it waits for",
            Self::SessionsRemain(_) => {
                "stop the program that holds the session, or end the session, and start the rotation again"
            }
            Self::SessionsUnknown(_) => "run the agent as a user that may see the application's processes",
            Self::Rights(_) => "give the agent's role the grants of docs/database.md",
            Self::Role { .. } => "correct application_role, or give the agent's role the grants of docs/database.md",
            Self::Undecryptable { .. } => {
                "repair the values, or accept them by key and raw digest with `keyturn rotation plan --accept`"
            }
            Self::UnexpectedKey { .. } => {
                "find out who wrote the value or moved its row while nobody may, or whether the database comes from a later \
                 backup; put back what was there, and plan again"
            }
            Self::RowsChanged { .. } => "find out who writes to the database while the farm is offline, and stop it",
            Self::DigestDiffers { .. } => {
                "do not start the application; compare the database with its backup, then `keyturn rotation retry`"
            }
            Self::Superseded(_) => "nothing: the work has moved on without this worker",
            Self::Overtaken(_) => "nothing: asked again, it finds out how far things have come",
            Self::LedgerMissing(_) | Self::Position(_) => {
                "check that no other server or backup has taken the database's place, then retry or abort; at admit, where \
                 nothing is aborted any more: `keyturn recover` on every node"
            }
            Self::LedgerOpen(_) => "end that rotation first: `keyturn rotation status`, or `keyturn recover`",
            Self::Damaged(_) => "restore a backup that is whole: `keyturn recover --backup`",
            Self::NotLoaded(_) => "find out who made it, drop or rename it, then run `keyturn recover --backup` again",
            Self::LedgerUnreadable(_) => "use the release that wrote the ledger on every node",
            Self::LedgerOld(_) => "end that rotation with the release that began it, then go on with this one",
            Self::Shadows(_) => "leave --strategy at auto: such tables are re-encrypted in place",
            Self::Space { .. } => "make room on the database's disk, or plan with --strategy in-place",
            Self::ShadowState { .. } => "see `keyturn rotation status`, and retry; abort if it stays so",
            Self::UnknownTable(_) | Self::ShardBounds(_) => "make targets.toml the same on every node and plan again",
            Self::RepairUnderWay => "wait for its end",
            Self::ScratchTaken(_) => {
                "see whether another measurement runs; if none does, drop the tables that it names and its kin"
            }
            Self::Unsupported(_) => "use another database system, or leave it out",
            Self::Internal(_) => "see the agent's log",
        }
    }
}

/// The error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Some of the driver's errors repeat their source in their own text.
        if !text.ends_with(&cause) {
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text
}

/// Whether it passes by itself: a lost connection, a restarting server, a lock held by another.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) if database.try_downcast_ref::<MySqlDatabaseError>().is_some() => {
            mariadb_number(error).is_some_and(is_passing_mariadb)
        }
        sqlx::Error::Database(database) => match (sqlite_code(error), database.code()) {
            (Some(code), _) => is_passing_sqlite(code),
            (None, Some(code)) => is_passing_sqlstate(&code),
            (None, None) => false,
        },
        _ => false,
    }
}

/// Classes 08 connection, 53 resources, 57P operator intervention; serialization, deadlock, lock and idle time-outs; and what
/// a standby says that takes no writes: it may be about to become the primary.
fn is_passing_sqlstate(code: &str) -> bool {
    code.starts_with("08")
        || code.starts_with("53")
        || code.starts_with("57P")
        || matches!(code, "40001" | "40P01" | "55P03" | "25P03" | "57014" | "25006")
}

/// SQLite's primary codes: 5 busy, 6 locked, 10 input/output, 13 full. The upper bits say more and do not matter here.
const fn is_passing_sqlite(code: i32) -> bool {
    matches!(code & 0xff, 5 | 6 | 10 | 13)
}

/// The code of what SQLite says; a SQLSTATE is longer.
fn sqlite_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse().ok().filter(|_| code.len() < 5)
}

/// The number of what MariaDB or MySQL says; its SQLSTATE is too coarse to decide anything by.
pub(crate) fn mariadb_number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

/// Connections: 1040, 1203, 1226 too many, 1053 shutdown, 1152 to 1161 lost, 1927 ended by somebody. Locks: 1205 time-out,
/// 1213 deadlock, 1020 changed by another. Statements: 1317 interrupted, 1969 out of time. Space: 1, 3, 20, 1021, 1026, 1030,
/// 1041, 1114. Of MySQL alone: 3024 out of time, 3032 and 3168 not available, 3169 ended by somebody, 4031 silent for too long,
/// 3675 no space.
const fn is_passing_mariadb(number: u16) -> bool {
    matches!(
        number,
        1 | 3 | 20 | 1020 | 1021 | 1026 | 1030 | 1037..=1041 | 1053 | 1114 | 1152 | 1154..=1161 | 1203 | 1205 | 1213 | 1226 | 1317 | 1927 | 1969 | 3024 | 3032 | 3168 | 3169 | 3675 | 4031
    )
}

fn mariadb_next_step(number: u16) -> Option<&'static str> {
    Some(match number {
        1044 | 1095 | 1142 | 1143 | 1227 | 1370 => {
            "give the agent's account the grants of docs/database.md, and EXECUTE on functions that the table's \
             constraints and generated columns use"
        }
        1045 | 1049 | 1130 | 1698 | 3118 | 4151 => "correct the url in the agent's [database] configuration",
        1 | 3 | 20 | 1021 | 1026 | 1030 | 1041 | 1114 | 3675 => "make room on the database's disk",
        1205 | 1213 | 1317 | 1969 | 3024 => "see which session holds the lock, and try again",
        1290 | 1792 | 1836 => "point the url in the agent's [database] configuration to the primary",
        1153 => "raise max_allowed_packet on the server, for good and with SET GLOBAL",
        1062 | 1048 | 1451 | 1452 | 3819 | 4025 => {
            "see what the constraint demands of the ciphertexts; correct the rows or the constraint, or drop it for \
             the rotation"
        }
        1034 | 1194 | 1712 | 1877 => "see the database server's log, and check the table and its indexes for damage",
        1146 | 1054 | 1072 | 1176 => "put the table back as it was: it was altered, renamed or dropped meanwhile",
        1406 | 1366 | 1292 | 1264 | 1305 | 1411 | 1630 | 1690 | 1901 | 3854 => {
            "see what the table's constraints and generated columns do with the ciphertexts (docs/database.md)"
        }
        _ => return None,
    })
}

/// By the class of the SQLSTATE, MariaDB's or MySQL's number, or SQLite's primary code. Only what may be the network or the server says so.
fn database_next_step(error: &sqlx::Error) -> &'static str {
    // What it said itself it said being reached, unless it says that this will pass.
    let unknown = match error.as_database_error() {
        Some(_) if !is_passing(error) => "correct what the database names; its log may say more",
        _ => "see whether the database runs and can be reached from this node",
    };
    if let Some(number) = mariadb_number(error) {
        return mariadb_next_step(number).unwrap_or(unknown);
    }
    if let Some(code) = sqlite_code(error) {
        return sqlite_next_step(code);
    }
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| sqlstate_next_step(&code)).unwrap_or(unknown)
}

fn sqlstate_next_step(code: &str) -> Option<&'static str> {
    Some(match (code.get(..2)?, code) {
        (_, "42501") => {
            "give the agent's role the grants of docs/database.md, and EXECUTE on functions that the table's \
             constraints, indexes and generated columns use"
        }
        (_, "28000" | "28P01" | "3D000") => "correct the url in the agent's [database] configuration",
        (_, "53100") => "make room on the database's disk",
        (_, "53200") => {
            "give the server more memory; where it is out of shared memory, more locks: raise max_locks_per_transaction \
             and restart it"
        }
        (_, "22021" | "22P05") => {
            "correct the text that has no form in UTF-8; the key columns of a registered table must have one"
        }
        (_, "25006") => "point the url in the agent's [database] configuration to the primary",
        (_, "40P01" | "55P03" | "57014") => "see which session holds the lock, and try again",
        (_, "55000") => {
            "mend what the database names; a published table needs a replica identity: \
             ALTER TABLE ... REPLICA IDENTITY DEFAULT, or take it out of the publication for the rotation"
        }
        (_, "42883" | "42P01" | "42703" | "42704" | "3F000") => {
            "put the table back as it was, if it was altered or dropped meanwhile; otherwise give the function in its \
             constraint, index or generated column a search_path of its own (ALTER FUNCTION ... SET search_path): the \
             agent's sessions have pg_catalog alone"
        }
        ("23", _) => {
            "see what the constraint demands of the ciphertexts; correct the rows or the constraint, or drop it for \
             the rotation"
        }
        ("22" | "42" | "P0" | "38" | "39" | "44" | "54", _) => {
            "see what the table's constraints, indexes and generated columns do with the ciphertexts (docs/database.md)"
        }
        ("XX", _) => "see the database server's log, and check the table and its indexes for damage",
        _ => return None,
    })
}

/// No room for the shared memory that lies beside a database with a write-ahead log.
const SQLITE_IOERR_SHMSIZE: i32 = 10 | 19 << 8;

/// By the primary code: 1 what it cannot understand, 3 and 8 not permitted, 5 and 6 locked, 11 and 26 damaged, 13 full,
/// 14 cannot be opened, 19 a constraint.
const fn sqlite_next_step(code: i32) -> &'static str {
    if code == SQLITE_IOERR_SHMSIZE {
        return "make room on the database's disk";
    }
    match code & 0xff {
        1 => {
            "put the table back as it was, if it was altered or dropped meanwhile; otherwise take what the database names \
             out of it for the rotation: functions of the application's own are not known to the agent"
        }
        3 | 8 => "let the agent's user write the database's file and its folder",
        5 | 6 => "find the program that holds the database's lock",
        11 | 26 => "check the database's file for damage (PRAGMA integrity_check)",
        13 => "make room on the database's disk",
        14 => "check the path in the url and the file's permissions",
        19 => {
            "see what the constraint demands of the ciphertexts; correct the rows or the constraint, or drop it for \
             the rotation"
        }
        _ => "see whether the database's file can be read and written on this node",
    }
}

/// The server's message, its detail and the constraint, once; the driver's own text adds the line of the server's
/// source. A detail about a constraint or a value quotes the row, which belongs into no message.
fn words(error: &sqlx::Error) -> Option<String> {
    // Duplicate and unfit values are quoted in the message itself.
    if let Some(number @ (1062 | 1292 | 1366 | 1411 | 1690 | 3854)) = mariadb_number(error) {
        return Some(format!(
            "a value was refused by a constraint, a column's type or what a column is computed by (the server's error {number})"
        ));
    }
    if sqlite_code(error) == Some(SQLITE_IOERR_SHMSIZE) {
        return Some("its disk is full: there is no room for what lies beside it in write-ahead mode".to_owned());
    }
    let error = error.as_database_error()?;
    let mut words = error.message().to_owned();
    if let Some(server) = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
        let quotes_rows = server.code().starts_with("22") || server.code().starts_with("23");
        if let Some(detail) = server.detail().filter(|_| !quotes_rows) {
            let _ = write!(words, " ({detail})");
        }
    }
    if let Some(constraint) = error.constraint().filter(|constraint| !words.contains(*constraint)) {
        let _ = write!(words, " (constraint {constraint})");
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_may_be_tried_again_and_the_message_says_why() {
        let source = sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by peer"));
        let fault = EngineError::Database { doing: "reading connections".to_owned(), source }.fault();
        assert_eq!(fault.code, FaultCode::Database);
        assert!(fault.retryable);
        assert!(fault.message.contains("reading connections failed"));
        assert_eq!(fault.message.matches("reset by peer").count(), 1, "{}", fault.message);
    }

    #[test]
    fn what_a_retry_cannot_mend_is_not_retried() {
        assert!(!EngineError::Superseded("the ledger is at epoch 9".to_owned()).is_retryable());
        assert!(!EngineError::Targets(vec!["x".to_owned()]).is_retryable());
    }

    #[test]
    fn codes_of_busy_and_restarting_databases_pass() {
        assert!(is_passing_sqlite(5) && is_passing_sqlite(517) && !is_passing_sqlite(19));
        for code in ["57P01", "57P03", "08006", "53300", "40P01"] {
            assert!(is_passing_sqlstate(code), "{code}");
        }
        assert!(!is_passing_sqlstate("42501") && !is_passing_sqlstate("42P01"));
    }

    #[test]
    fn only_what_may_be_the_network_is_answered_with_looking_whether_the_database_can_be_reached() {
        for code in ["23514", "23505", "42501", "55000", "42883", "22001", "P0001", "XX000"] {
            assert!(sqlstate_next_step(code).is_some_and(|step| !step.contains("reached")), "{code}");
        }
        for code in ["08006", "57P01", "57P03", "53300", ""] {
            assert_eq!(sqlstate_next_step(code), None, "{code}");
        }
        assert!(sqlstate_next_step("55000").is_some_and(|step| step.contains("REPLICA IDENTITY")));
        for step in
            [sqlstate_next_step("42P01"), sqlstate_next_step("42703"), mariadb_next_step(1146), mariadb_next_step(1176)]
        {
            assert!(step.is_some_and(|step| step.contains("put the table back")), "{step:?}");
        }
        assert!(sqlite_next_step(1).contains("put the table back"));
        assert!(sqlite_next_step(SQLITE_IOERR_SHMSIZE).contains("make room"));
        assert!(sqlite_next_step(275).contains("constraint") && sqlite_next_step(517).contains("lock"));
    }
}
