//! The sessions of a MariaDB or MySQL server: who else is there, how ours are told apart, and how one is ended.

use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::make::Make;
use super::{Shared, grants};
use crate::EngineError;
use crate::dialect::polls::Polls;
use crate::error::{Doing, mariadb_number};

/// How long a session that we end may take to end, what it has begun being rolled back.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// How long to wait for the one that may alter accounts, before its session is ended. What it does takes
/// milliseconds; longer than this it has been stopped.
const TURN_TIME_MAX_SECONDS: u32 = 5;

/// The name of the lock of whoever has the turn. MySQL 9 has no MD5 any more.
const TURN: &str = "CONCAT('keyturn.turn.', /*M! MD5(DATABASE()) */ /*!80400 LEFT(SHA2(DATABASE(), 256), 32) */)";

/// All sessions, one row each. MySQL's own list fails while anybody's statement holds bytes that are no text, but this one of
/// its does not. It has whoever the server had room to register, of the kinds of threads that it had room for: `ground` refuses a
/// server that ever lacked either, or that does not list this session itself.
const LIST: &str = "/*M! information_schema.PROCESSLIST */ /*!80400 performance_schema.processlist */";

/// Events that the server would run by itself: those of this database; and in MySQL, where they run unless somebody has stopped
/// them, those of others too that the application has made, or that name this database. An account sees what it has the
/// right EVENT on.
const EVENTS: &str = "
    SELECT CASE WHEN EVENT_SCHEMA = DATABASE() THEN EVENT_NAME ELSE CONCAT(EVENT_SCHEMA, '.', EVENT_NAME) END
    FROM information_schema.EVENTS
    WHERE STATUS = 'ENABLED' AND @@GLOBAL.event_scheduler = 'ON'
      AND (EVENT_SCHEMA = DATABASE()
           OR (? AND (CAST(LEFT(DEFINER, CHAR_LENGTH(DEFINER) - CHAR_LENGTH(SUBSTRING_INDEX(DEFINER, '@', -1)) - 1) AS BINARY)
                          = CAST(? AS BINARY)
                      OR LOCATE(LOWER(CONVERT(DATABASE() USING utf8mb4)),
                                LOWER(CONVERT(EVENT_DEFINITION USING utf8mb4))) > 0)))";

/// The error of a session that has gone meanwhile.
const NO_SUCH_THREAD: u16 = 1094;

/// Takes a lock of a name that nobody else has, held until this session ends, and answers the name. A number of a
/// session comes again after a restart of the server; a name does not.
pub(super) async fn take_name(connection: &mut MySqlConnection) -> Result<String, EngineError> {
    let doing = || "giving the session a name".to_owned();
    let name: String = sqlx::raw_sql("SELECT CONCAT('keyturn.', UUID())")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    if lock(connection, &name, 0).await? {
        return Ok(name);
    }
    Err(EngineError::Internal("the lock of a name that was just made is taken".to_owned()))
}

/// Ends the session that holds this name, if any does and it is not this one.
pub(super) async fn end_named(connection: &mut MySqlConnection, name: &str) -> Result<(), EngineError> {
    let found: Option<i64> =
        sqlx::query("SELECT CAST(h.id AS SIGNED) FROM (SELECT IS_USED_LOCK(?) AS id) h WHERE h.id <> CONNECTION_ID()")
            .bind(name)
            .fetch_optional(&mut *connection)
            .await
            .and_then(|row| row.map(|row| row.try_get(0)).transpose())
            .doing(|| "looking for the session of an earlier worker".to_owned())?
            .flatten();
    match found {
        Some(session) => end(connection, &[session]).await,
        None => Ok(()),
    }
}

/// The turn of one session to alter the application's accounts. Altering an account commits whatever transaction is
/// open, so the ledger's header cannot be held meanwhile; this lock is, and whoever has it is the only one that turns
/// the header, puts the fence up or takes it down. A holder that was stopped is ended by the next, so that it alters
/// nothing when it wakes. Whoever has the turn is about to hold the header, and the server ends it should it stop.
pub(super) async fn take_turn(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    let doing = || "waiting for the turn to alter accounts".to_owned();
    // Reviewed: a constant.
    let name: String = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {TURN}")))
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(doing)?;
    for ends_the_holder in [false, true] {
        if ends_the_holder {
            end_named(connection, &name).await?;
        }
        if lock(connection, &name, TURN_TIME_MAX_SECONDS).await? {
            return make.enter_transaction(connection).await;
        }
    }
    Err(EngineError::TimedOut { doing: doing(), seconds: u64::from(TURN_TIME_MAX_SECONDS) })
}

/// Lets the next one.
pub(super) async fn give_turn_up(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    make.leave_transaction(connection).await?;
    // Reviewed: a constant.
    sqlx::raw_sql(AssertSqlSafe(format!("DO RELEASE_LOCK({TURN})")))
        .execute(connection)
        .await
        .doing(|| "giving up the turn to alter accounts".to_owned())?;
    Ok(())
}

async fn lock(connection: &mut MySqlConnection, name: &str, seconds: u32) -> Result<bool, EngineError> {
    let taken: Option<i64> = sqlx::query("SELECT GET_LOCK(?, ?)")
        .bind(name)
        .bind(seconds)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get_unchecked(0))
        .doing(|| "taking a lock".to_owned())?;
    Ok(taken == Some(1))
}

/// Ends these sessions and waits until they have gone.
pub(super) async fn end(connection: &mut MySqlConnection, sessions: &[i64]) -> Result<(), EngineError> {
    if sessions.is_empty() {
        return Ok(());
    }
    ask_to_end(connection, sessions).await?;
    let doing = || "waiting for a session to end".to_owned();
    let list = sessions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        // Reviewed: numbers only.
        let sql = format!("SELECT COUNT(*) FROM {LIST} WHERE ID IN ({list})");
        let left: i64 = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(doing)?;
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() >= END_TIME_MAX {
            return Err(EngineError::TimedOut { doing: doing(), seconds: END_TIME_MAX.as_secs() });
        }
        polls.wait().await;
    }
}

async fn ask_to_end(connection: &mut MySqlConnection, sessions: &[i64]) -> Result<(), EngineError> {
    for session in sessions {
        // Reviewed: a number.
        let sql = format!("KILL CONNECTION {session}");
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *connection).await {
            Ok(_) => {}
            Err(error) if mariadb_number(&error) == Some(NO_SUCH_THREAD) => {}
            Err(error) => return Err(error).doing(|| format!("ending session {session}")),
        }
    }
    Ok(())
}

/// Asks the sessions of a user to end, whatever database they have chosen, and answers how many there are.
pub(super) async fn end_those_of(
    connection: &mut MySqlConnection,
    make: Make,
    user: &str,
) -> Result<usize, EngineError> {
    grants::check_sight_of_sessions(connection, make).await?;
    let sessions = of_user(connection, user, false).await?;
    ask_to_end(connection, &sessions).await?;
    Ok(sessions.len())
}

/// Ends the sessions of all other workers in this database. One that is stopped inside a transaction would otherwise
/// hold the header for as long as it likes. The agents' account is theirs alone, so whoever has it is one.
pub(super) async fn end_other_workers(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    let user: String = sqlx::raw_sql("SELECT SUBSTRING_INDEX(USER(), '@', 1)")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| "asking for the agents' account".to_owned())?;
    let sessions = of_user(connection, &user, true).await?;
    end(connection, &sessions).await
}

async fn of_user(connection: &mut MySqlConnection, user: &str, here: bool) -> Result<Vec<i64>, EngineError> {
    let doing = || format!("looking for the sessions of user {user}");
    // Reviewed: a constant.
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT CAST(ID AS SIGNED) FROM {LIST}
         WHERE CAST(USER AS BINARY) = CAST(? AS BINARY) AND (NOT ? OR DB = DATABASE()) AND ID <> CONNECTION_ID()"
    )))
    .bind(user)
    .bind(here)
    .fetch_all(connection)
    .await
    .doing(doing)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(doing)
}

/// Everybody else who may be at work in this database: sessions that have chosen it or none, and the threads that apply
/// another server's changes, unless they are ours or allowed; prepared transactions, which hold changes that may still
/// be committed and do not say where; and events that the server would run by itself. Threads that only send the
/// binary log or wait for an event's time do not count.
pub(super) async fn others(
    connection: &mut MySqlConnection,
    make: Make,
    shared: &Shared,
) -> Result<Vec<String>, EngineError> {
    grants::check_sight(connection, make).await?;
    let doing = || "looking for other sessions".to_owned();
    // Reviewed: a constant.
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT CAST(ID AS SIGNED), COALESCE(USER, ''), COALESCE(HOST, ''), COALESCE(DB, ''), COALESCE(COMMAND, '') FROM {LIST}
         WHERE (DB = DATABASE() OR DB IS NULL) AND ID <> CONNECTION_ID()
           AND CAST(COALESCE(USER, '') AS BINARY) <> CAST(SUBSTRING_INDEX(USER(), '@', 1) AS BINARY)
           AND COALESCE(COMMAND, '') NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID')
         ORDER BY ID"
    )))
    .fetch_all(&mut *connection)
    .await
    .doing(doing)?;
    let mut others = Vec::new();
    for row in &rows {
        let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
        let session: i64 = row.try_get(0).doing(doing)?;
        let (user, host, database, command) = (text(1)?, text(2)?, text(3)?, text(4)?);
        if shared.allowed_session_users.contains(&user) {
            continue;
        }
        let host = if host.is_empty() || host == "localhost" { "a local socket".to_owned() } else { host };
        let place =
            if database.is_empty() { "no database chosen".to_owned() } else { format!("database {database:?}") };
        others.push(format!("session {session} of user {user:?}, {place}, from {host} ({command})"));
    }
    let prepared = sqlx::raw_sql("XA RECOVER").fetch_all(&mut *connection).await.doing(doing)?;
    for row in &prepared {
        let name: Vec<u8> = row.try_get_unchecked(3).doing(doing)?;
        others.push(format!("prepared transaction {:?}", String::from_utf8_lossy(&name)));
    }
    let events = sqlx::query(EVENTS)
        .bind(make == Make::MySql)
        .bind(shared.application_role.as_deref())
        .fetch_all(connection)
        .await
        .doing(doing)?;
    for row in &events {
        let name: String = row.try_get(0).doing(doing)?;
        others.push(format!("the event {name:?}, which the server may run at any time (ALTER EVENT ... DISABLE)"));
    }
    Ok(others)
}
