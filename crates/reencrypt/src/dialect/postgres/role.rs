//! Fences the application's role in PostgreSQL, proves that nobody else is left, and gives the role back.

use std::time::{Duration, Instant};

use fail_points::point;
use rotation::Direction;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Row as _};

use super::ledger::{self, Hold};
use super::{APPLICATION_PREFIX, Shared};
use crate::EngineError;
use crate::dialect::durable;
use crate::dialect::polls::Polls;
use crate::error::Doing;
use crate::ledger::{LedgerMark, SCRATCH_ROTATIONS, direction_text, epoch_number};
use crate::table::quote;

/// How long the sessions that we end may take to end.
const TERMINATE_MAX: Duration = Duration::from_secs(5);

/// What is changed of a role and must come back.
#[derive(Debug, Serialize, Deserialize)]
struct RoleSaved {
    version: u32,
    role: String,
    can_login: bool,
    connection_limit: i32,
}

struct RoleFound {
    can_login: bool,
    connection_limit: i32,
    superuser: bool,
    replication: bool,
}

pub(super) async fn check_rights(connection: &mut PgConnection, shared: &Shared) -> Result<(), EngineError> {
    let doing = || "asking for the rights of the agent's role".to_owned();
    let mut problems = Vec::new();
    let row = sqlx::query(
        "SELECT pg_is_in_recovery(),
                (SELECT has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE')
                 FROM pg_namespace n WHERE n.nspname = 'keyturn'),
                has_database_privilege(current_database(), 'CREATE'),
                session_user::text,
                (SELECT rolsuper FROM pg_roles WHERE rolname = session_user),
                (SELECT rolcreaterole FROM pg_roles WHERE rolname = session_user),
                pg_has_role(session_user, 'pg_signal_backend', 'USAGE'),
                pg_has_role(session_user, 'pg_read_all_stats', 'USAGE'),
                current_setting('server_version_num')::int4,
                current_database()::text",
    )
    .fetch_one(&mut *connection)
    .await
    .doing(doing)?;
    let flag = |at: usize| row.try_get::<bool, _>(at).doing(doing);
    let user: String = row.try_get(3).doing(doing)?;
    let superuser = flag(4)?;
    let version: i32 = row.try_get(8).doing(doing)?;
    let database: String = row.try_get(9).doing(doing)?;
    if flag(0)? {
        problems.push("the server is a standby, which takes no writes; name the primary in the url".to_owned());
    }
    match row.try_get::<Option<bool>, _>(1).doing(doing)? {
        Some(true) => {}
        Some(false) => problems.push(format!("schema keyturn is not its own: GRANT ALL ON SCHEMA keyturn TO {user}")),
        None if flag(2)? => {}
        None => problems.push(format!(
            "it may not make the ledger's schema: CREATE SCHEMA keyturn AUTHORIZATION {user}, in database {database}"
        )),
    }
    if !superuser && !flag(7)? {
        problems.push(format!("it cannot tell other sessions apart: GRANT pg_read_all_stats TO {user}"));
    }
    if let Some(role) = &shared.application_role {
        if *role == user {
            problems.push(format!("application_role is the agent's own role {user}; give the agent a role of its own"));
        }
        match found(connection, role).await? {
            None => problems.push(format!("application_role {role:?} does not exist")),
            Some(found) => {
                if (found.superuser || found.replication) && !superuser {
                    problems.push(format!(
                        "role {role} is a superuser or may replicate, so only a superuser can fence it; \
                         give the application a plain role"
                    ));
                }
                if !superuser {
                    let may_end = flag(6)? || has_role(connection, role, "USAGE").await?;
                    if !may_end {
                        problems.push(format!(
                            "it may not end the application's sessions: GRANT pg_signal_backend TO {user}"
                        ));
                    }
                    // From 16 on, CREATEROLE reaches only roles that were granted with ADMIN OPTION.
                    let may_alter = flag(5)?
                        && (version < 160_000 || has_role(connection, role, "MEMBER WITH ADMIN OPTION").await?);
                    if !may_alter {
                        problems.push(format!("it may not fence role {role}: ALTER ROLE {user} CREATEROLE"));
                    }
                }
            }
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

async fn has_role(connection: &mut PgConnection, role: &str, how: &str) -> Result<bool, EngineError> {
    sqlx::query("SELECT pg_has_role(session_user, $1::text::name, $2)")
        .bind(role)
        .bind(how)
        .fetch_one(connection)
        .await
        .and_then(|row| row.try_get(0))
        .doing(|| format!("asking for the rights on role {role}"))
}

async fn found(connection: &mut PgConnection, role: &str) -> Result<Option<RoleFound>, EngineError> {
    let doing = || format!("looking role {role} up");
    let row =
        sqlx::query("SELECT rolcanlogin, rolconnlimit, rolsuper, rolreplication FROM pg_roles WHERE rolname = $1")
            .bind(role)
            .fetch_optional(connection)
            .await
            .doing(doing)?;
    let Some(row) = row else { return Ok(None) };
    let read = || {
        Ok(RoleFound {
            can_login: row.try_get(0)?,
            connection_limit: row.try_get(1)?,
            superuser: row.try_get(2)?,
            replication: row.try_get(3)?,
        })
    };
    read().map(Some).doing(doing)
}

pub(super) async fn fence(
    connection: &mut PgConnection,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    ledger::create(connection).await?;
    let doing = || "fencing the database".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    // The role changes in the transaction that holds the header, so a fence that comes late cannot shut the
    // application out after the rotation has gone on.
    let open: Option<String> = sqlx::query(
        "SELECT rotation FROM keyturn.rotation WHERE NOT closed AND rotation <> $1 AND rotation NOT LIKE $2 LIMIT 1",
    )
    .bind(mark.rotation.to_string())
    .bind(SCRATCH_ROTATIONS)
    .fetch_optional(&mut *transaction)
    .await
    .and_then(|row| row.map(|row| row.try_get(0)).transpose())
    .doing(doing)?;
    if let Some(open) = open {
        return Err(EngineError::LedgerOpen(open));
    }
    ledger::insert_header(&mut transaction, mark).await?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    if let Some(role) = &shared.application_role {
        shut(&mut transaction, role, &mut header).await?;
    }
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(LEDGER_OPENED), transaction).await.doing(doing)?;

    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        if let Some(role) = &shared.application_role {
            end_sessions_of(connection, role, mark).await?;
        }
        let remaining = others(connection, shared).await?;
        if remaining.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= shared.sessions_wait {
            return Err(EngineError::SessionsRemain(remaining));
        }
        polls.wait().await;
    }
}

/// Takes the right to log in away, and notes what it was. What was noted before stays: it is from before our fence.
async fn shut(
    connection: &mut PgConnection,
    role: &str,
    header: &mut crate::ledger::Header,
) -> Result<(), EngineError> {
    let missing = || EngineError::Role { role: role.to_owned(), problem: "it does not exist".to_owned() };
    let found = found(connection, role).await?.ok_or_else(missing)?;
    if !header.role_fenced {
        let saved = RoleSaved {
            version: 1,
            role: role.to_owned(),
            can_login: found.can_login,
            connection_limit: found.connection_limit,
        };
        let text = serde_json::to_string(&saved).expect("plain strings and numbers always have a JSON form");
        header.role_saved = Some(text);
        header.role_fenced = true;
    }
    if found.can_login {
        // Reviewed: the role is a quoted identifier.
        alter(connection, role, format!("ALTER ROLE {} NOLOGIN", quote(role))).await?;
    }
    Ok(())
}

async fn alter(connection: &mut PgConnection, role: &str, sql: String) -> Result<(), EngineError> {
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
            let problem = "the agent's role may not alter it".to_owned();
            Err(EngineError::Role { role: role.to_owned(), problem })
        }
        Err(error) => Err(error).doing(|| format!("altering role {role}")),
    }
}

/// Ends the application's sessions in this database, while the header is held and still ours.
async fn end_sessions_of(connection: &mut PgConnection, role: &str, mark: &LedgerMark) -> Result<(), EngineError> {
    let doing = || format!("ending the sessions of role {role}");
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)?;
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE usename = $1 AND datname = current_database() AND pid <> pg_backend_pid()",
    )
    .bind(role)
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    transaction.commit().await.doing(doing)
}

/// Everybody else in this database: sessions that are neither ours nor allowed, and prepared transactions, which
/// hold changes that may still be committed. The server's own workers do not count, and neither do those that only
/// stream the log or help a session that counts itself.
async fn others(connection: &mut PgConnection, shared: &Shared) -> Result<Vec<String>, EngineError> {
    let doing = || "looking for other sessions".to_owned();
    let rows = sqlx::query(
        "SELECT a.pid, COALESCE(a.usename, '')::text, COALESCE(a.application_name, ''),
                COALESCE(host(a.client_addr), 'a local socket'), COALESCE(a.backend_type, 'client backend')
         FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.usesysid IS NOT NULL
           AND COALESCE(a.backend_type, 'client backend') NOT IN ('autovacuum worker', 'parallel worker', 'walsender')
           AND a.usename <> session_user AND a.usename <> ALL ($1)
         ORDER BY a.pid",
    )
    .bind(&shared.allowed_session_users)
    .fetch_all(&mut *connection)
    .await
    .doing(doing)?;
    let mut others = Vec::new();
    for row in &rows {
        let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
        let pid: i32 = row.try_get(0).doing(doing)?;
        let (user, application, client, kind) = (text(1)?, text(2)?, text(3)?, text(4)?);
        others.push(format!("{kind} {pid} of user {user:?}, application {application:?}, from {client}"));
    }
    let prepared = sqlx::query("SELECT gid, owner::text FROM pg_prepared_xacts WHERE database = current_database()")
        .fetch_all(connection)
        .await
        .doing(doing)?;
    for row in &prepared {
        let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
        others.push(format!("prepared transaction {:?} of user {:?}", text(0)?, text(1)?));
    }
    Ok(others)
}

pub(super) async fn turn_back(
    connection: &mut PgConnection,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    ledger::create(connection).await?;
    // A turn back that itself comes late must end nobody's session.
    if let Some(header) = ledger::header(connection, &mark.rotation, Hold::Glance).await? {
        header.admit_epoch(mark)?;
    }
    end_other_workers(connection).await?;
    let doing = || "turning the ledger back".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    ledger::insert_header(&mut transaction, mark).await?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit_epoch(mark)?;
    header.epoch = epoch_number(mark);
    direction_text(mark.direction).clone_into(&mut header.direction);
    // A role that was never fenced was never lifted either: then no row was touched, and it stays as it is.
    let fenced = match (&header.role_saved, &shared.application_role) {
        (Some(_), Some(role)) => {
            shut(&mut transaction, role, &mut header).await?;
            Some(role)
        }
        (None, _) | (_, None) => None,
    };
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(LEDGER_TURNED_BACK), transaction).await.doing(doing)?;
    if let Some(role) = fenced {
        end_all_sessions_of(connection, role, shared, mark).await?;
    }
    Ok(())
}

/// Ends the sessions of all other workers, wherever they are. One that is stopped inside a transaction would
/// otherwise hold the header for as long as it likes. All are told first, and then waited for together.
pub(super) async fn end_other_workers(connection: &mut PgConnection) -> Result<(), EngineError> {
    let doing = || "ending the sessions of other workers".to_owned();
    let told: Vec<i32> = sqlx::query(
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename = session_user AND pid <> pg_backend_pid()
           AND starts_with(application_name, $1)",
    )
    .bind(APPLICATION_PREFIX)
    .fetch_all(&mut *connection)
    .await
    .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
    .doing(doing)?;
    let started = Instant::now();
    let mut polls = Polls::new();
    while !told.is_empty() && started.elapsed() < TERMINATE_MAX {
        let are_left: bool = sqlx::query("SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = ANY ($1))")
            .bind(&told)
            .fetch_one(&mut *connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(doing)?;
        if !are_left {
            break;
        }
        polls.wait().await;
    }
    Ok(())
}

async fn end_all_sessions_of(
    connection: &mut PgConnection,
    role: &str,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        end_sessions_of(connection, role, mark).await?;
        let left: i64 =
            sqlx::query("SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND datname = current_database()")
                .bind(role)
                .fetch_one(&mut *connection)
                .await
                .and_then(|row| row.try_get(0))
                .doing(|| format!("counting the sessions of role {role}"))?;
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() >= shared.sessions_wait {
            return Err(EngineError::SessionsRemain(vec![format!("{left} of user {role:?} that do not end")]));
        }
        polls.wait().await;
    }
}

pub(super) async fn lift_fence(connection: &mut PgConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Err(EngineError::LedgerMissing(mark.rotation));
    }
    let doing = || "lifting the fence".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    header.let_in |= mark.direction == Direction::Forward;
    give_back(&mut transaction, &mut header).await?;
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(FENCE_LIFTED), transaction).await.doing(doing)
}

/// Gives the role back what was noted. The note stays, as a sign that there is a fence to put up again.
async fn give_back(connection: &mut PgConnection, header: &mut crate::ledger::Header) -> Result<(), EngineError> {
    let (Some(text), true) = (&header.role_saved, header.role_fenced) else { return Ok(()) };
    let unreadable =
        |_| EngineError::LedgerUnreadable("the note of the application's role has another form".to_owned());
    let saved: RoleSaved = serde_json::from_str(text).map_err(unreadable)?;
    let login = if saved.can_login { "LOGIN" } else { "NOLOGIN" };
    // Reviewed: a quoted identifier, a keyword and a number.
    let sql = format!("ALTER ROLE {} {login} CONNECTION LIMIT {}", quote(&saved.role), saved.connection_limit);
    alter(connection, &saved.role, sql).await?;
    header.role_fenced = false;
    Ok(())
}

pub(super) async fn close(connection: &mut PgConnection, mark: &LedgerMark) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Err(EngineError::LedgerMissing(mark.rotation));
    }
    let doing = || "closing the ledger".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    if header.closed && header.direction == direction_text(mark.direction) {
        return Ok(());
    }
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    header.closed = true;
    // Never leave a fence behind that nothing would lift any more.
    give_back(&mut transaction, &mut header).await?;
    ledger::update_header(&mut transaction, mark, &header).await?;
    // The shards of this rotation stay as evidence; those of earlier ones have served.
    sqlx::query(
        "DELETE FROM keyturn.shard s USING keyturn.rotation r
         WHERE r.rotation = s.rotation AND r.closed AND s.rotation <> $1",
    )
    .bind(mark.rotation.to_string())
    .execute(&mut *transaction)
    .await
    .doing(doing)?;
    durable::commit(point!(LEDGER_CLOSED), transaction).await.doing(doing)
}
