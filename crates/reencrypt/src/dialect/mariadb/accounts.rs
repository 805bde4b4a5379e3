//! Fences the application's accounts in MariaDB and MySQL, proves that nobody else is left, and gives the accounts back.

use std::time::Instant;

use fail_points::{Point, point};
use rotation::Direction;
use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Row as _};

use super::ledger::{self, Hold};
use super::make::Make;
use super::{Shared, bypass, ground, literal, sessions};
use crate::EngineError;
use crate::dialect::durable;
use crate::dialect::polls::Polls;
use crate::error::{Doing, mariadb_number};
use crate::ledger::{Header, LedgerMark, direction_text, epoch_number};

/// What is changed of a user and must come back.
#[derive(Debug, Serialize, Deserialize)]
struct UserSaved {
    version: u32,
    user: String,
    accounts: Vec<Account>,
}

/// The accounts of a name; MySQL cannot tell roles from them.
const ACCOUNTS: &str = "
    SELECT Host,
           /*M! COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') FROM mysql.global_priv */
           /*!80400 IF(account_locked = 'Y', '1', '0') FROM mysql.user */
    WHERE CAST(User AS BINARY) = CAST(? AS BINARY)
          /*M! AND COALESCE(JSON_VALUE(Priv, '$.is_role'), '0') <> '1' */
    ORDER BY Host";

/// One account of the application's user: it has one for each host that it may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Account {
    pub(super) host: String,
    locked: bool,
}

/// The accounts of this name; roles are none.
pub(super) async fn accounts_of(connection: &mut MySqlConnection, user: &str) -> Result<Vec<Account>, EngineError> {
    let doing = || format!("looking the accounts of user {user} up");
    let rows = sqlx::query(ACCOUNTS).bind(user).fetch_all(connection).await.doing(doing)?;
    let read = |row: &sqlx::mysql::MySqlRow| {
        Ok(Account { host: row.try_get(0)?, locked: row.try_get::<String, _>(1)? == "1" })
    };
    rows.iter().map(read).collect::<Result<_, _>>().doing(doing)
}

pub(super) async fn fence(
    connection: &mut MySqlConnection,
    make: Make,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    ground::check(connection, make).await?;
    // Again, since Preflight was a while ago.
    bypass::check(connection, make, shared).await?;
    ledger::create(connection).await?;
    sessions::take_turn(connection, make).await?;
    let fenced = put_up(connection, make, shared, mark).await;
    let given_up = sessions::give_turn_up(connection, make).await;
    fenced.and(given_up)?;
    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        if let Some(user) = &shared.application_role {
            end_sessions_of(connection, make, user, mark).await?;
        }
        let remaining = sessions::others(connection, make, shared).await?;
        if remaining.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= shared.sessions_wait {
            return Err(EngineError::SessionsRemain(remaining));
        }
        polls.wait().await;
    }
}

/// Writes the header with the note of how the accounts were, then locks them. In the caller's turn, so nobody else
/// turns the header between the two.
async fn put_up(
    connection: &mut MySqlConnection,
    make: Make,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    let doing = || "fencing the database".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    if let Some(open) = ledger::open_rotation(&mut transaction, Some(&mark.rotation)).await? {
        return Err(EngineError::LedgerOpen(open));
    }
    ledger::insert_header(&mut transaction, mark).await?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    if let Some(user) = &shared.application_role {
        note(&mut transaction, user, &mut header).await?;
    }
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(LEDGER_OPENED), transaction).await.doing(doing)?;
    match &shared.application_role {
        Some(user) => durable::around(point!(ACCOUNTS_LOCKED), lock(connection, make, user)).await,
        None => Ok(()),
    }
}

/// Notes how the accounts are. What was noted before our fence stays; an account that was made since is added.
async fn note(connection: &mut MySqlConnection, user: &str, header: &mut Header) -> Result<(), EngineError> {
    let found = accounts_of(connection, user).await?;
    if found.is_empty() {
        return Err(EngineError::Role { role: user.to_owned(), problem: "it does not exist".to_owned() });
    }
    let mut saved = match (&header.role_saved, header.role_fenced) {
        (Some(text), true) => read_note(text)?,
        (Some(_) | None, _) => UserSaved { version: 1, user: user.to_owned(), accounts: Vec::new() },
    };
    for account in found {
        if !saved.accounts.iter().any(|known| known.host == account.host) {
            saved.accounts.push(account);
        }
    }
    header.role_saved = Some(serde_json::to_string(&saved).expect("plain strings always have a JSON form"));
    header.role_fenced = true;
    Ok(())
}

fn read_note(text: &str) -> Result<UserSaved, EngineError> {
    serde_json::from_str(text).map_err(|_| {
        EngineError::LedgerUnreadable("the note of the application's accounts has another form".to_owned())
    })
}

async fn lock(connection: &mut MySqlConnection, make: Make, user: &str) -> Result<(), EngineError> {
    for account in accounts_of(connection, user).await?.iter().filter(|account| !account.locked) {
        alter(connection, make, user, &account.host, "ACCOUNT LOCK").await?;
    }
    Ok(())
}

pub(super) async fn alter(
    connection: &mut MySqlConnection,
    make: Make,
    user: &str,
    host: &str,
    what: &str,
) -> Result<(), EngineError> {
    // Reviewed: quoted texts and a keyword.
    let sql = format!("ALTER USER IF EXISTS {}@{} {what}", literal(user, make), literal(host, make));
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
        Ok(_) => Ok(()),
        Err(error) if matches!(mariadb_number(&error), Some(1142 | 1227)) => {
            let problem = "the agent's account may not alter it".to_owned();
            Err(EngineError::Role { role: user.to_owned(), problem })
        }
        Err(error) => Err(error).doing(|| format!("altering user {user}")),
    }
}

/// Ends the application's sessions, while the header is held and still ours.
async fn end_sessions_of(
    connection: &mut MySqlConnection,
    make: Make,
    user: &str,
    mark: &LedgerMark,
) -> Result<usize, EngineError> {
    make.in_transaction(connection, async |connection| end_sessions_while_held(connection, make, user, mark).await)
        .await
}

async fn end_sessions_while_held(
    connection: &mut MySqlConnection,
    make: Make,
    user: &str,
    mark: &LedgerMark,
) -> Result<usize, EngineError> {
    let doing = || format!("ending the sessions of user {user}");
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Shared).await?;
    header.ok_or(EngineError::LedgerMissing(mark.rotation))?.admit(mark)?;
    let ended = sessions::end_those_of(&mut transaction, make, user).await?;
    transaction.commit().await.doing(doing)?;
    Ok(ended)
}

pub(super) async fn turn_back(
    connection: &mut MySqlConnection,
    make: Make,
    shared: &Shared,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    ground::check_writable(connection, make).await?;
    ledger::create(connection).await?;
    // A turn back that itself comes late must end nobody's session.
    if let Some(header) = ledger::header(connection, &mark.rotation, Hold::Glance).await? {
        header.admit_epoch(mark)?;
    }
    sessions::end_other_workers(connection).await?;
    sessions::take_turn(connection, make).await?;
    let turned = turn(connection, make, shared, mark).await;
    let given_up = sessions::give_turn_up(connection, make).await;
    let Some(user) = turned? else { return given_up };
    given_up?;
    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        let left = end_sessions_of(connection, make, user, mark).await?;
        if left == 0 {
            return Ok(());
        }
        if started.elapsed() >= shared.sessions_wait {
            return Err(EngineError::SessionsRemain(vec![format!("{left} of user {user:?} that do not end")]));
        }
        polls.wait().await;
    }
}

/// Turns the header, and fences the application again if it was. In the caller's turn.
async fn turn<'a>(
    connection: &mut MySqlConnection,
    make: Make,
    shared: &'a Shared,
    mark: &LedgerMark,
) -> Result<Option<&'a str>, EngineError> {
    let doing = || "turning the ledger back".to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    ledger::insert_header(&mut transaction, mark).await?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit_epoch(mark)?;
    header.epoch = epoch_number(mark);
    direction_text(mark.direction).clone_into(&mut header.direction);
    // A user that was never fenced was never let in again either: then no row was touched, and it stays as it is.
    let fenced = match (&header.role_saved, shared.application_role.as_deref()) {
        (Some(_), Some(user)) => {
            note(&mut transaction, user, &mut header).await?;
            Some(user)
        }
        (None, _) | (_, None) => None,
    };
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(LEDGER_TURNED_BACK), transaction).await.doing(doing)?;
    if let Some(user) = fenced {
        durable::around(point!(ACCOUNTS_LOCKED), lock(connection, make, user)).await?;
    }
    Ok(fenced)
}

pub(super) async fn lift_fence(
    connection: &mut MySqlConnection,
    make: Make,
    mark: &LedgerMark,
) -> Result<(), EngineError> {
    let forward = mark.direction == Direction::Forward;
    let_in(connection, make, mark, ("lifting the fence", point!(FENCE_LIFTED)), |header| header.let_in |= forward).await
}

pub(super) async fn close(connection: &mut MySqlConnection, make: Make, mark: &LedgerMark) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Err(EngineError::LedgerMissing(mark.rotation));
    }
    let header = ledger::header(connection, &mark.rotation, Hold::Glance).await?;
    let header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    if header.closed && header.direction == direction_text(mark.direction) {
        return Ok(());
    }
    // Never leave a fence behind that nothing would lift any more.
    let_in(connection, make, mark, ("closing the ledger", point!(LEDGER_CLOSED)), |header| header.closed = true)
        .await?;
    // The shards of this rotation stay as evidence; those of earlier ones have served.
    sqlx::query(
        "DELETE s FROM keyturn_shard s JOIN keyturn_rotation r ON r.rotation = s.rotation
         WHERE r.closed AND s.rotation <> ?",
    )
    .bind(mark.rotation.to_string())
    .execute(connection)
    .await
    .doing(|| "closing the ledger".to_owned())?;
    Ok(())
}

/// Gives the accounts back what was noted, and then writes that into the header together with `change`. A crash between
/// the two leaves accounts that are open and a header that says otherwise: asked again, it is done again.
async fn let_in(
    connection: &mut MySqlConnection,
    make: Make,
    mark: &LedgerMark,
    doing: (&'static str, Point),
    change: impl FnOnce(&mut Header) + Send,
) -> Result<(), EngineError> {
    if !ledger::exists(connection).await? {
        return Err(EngineError::LedgerMissing(mark.rotation));
    }
    sessions::take_turn(connection, make).await?;
    let done = give_back(connection, make, mark, doing, change).await;
    let given_up = sessions::give_turn_up(connection, make).await;
    done.and(given_up)
}

async fn give_back(
    connection: &mut MySqlConnection,
    make: Make,
    mark: &LedgerMark,
    (what, point): (&'static str, Point),
    change: impl FnOnce(&mut Header) + Send,
) -> Result<(), EngineError> {
    let doing = || what.to_owned();
    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point!(LET_IN_PREPARED), transaction).await.doing(doing)?;

    // The note stays, as a sign that there is a fence to put up again.
    if let (Some(text), true) = (&header.role_saved, header.role_fenced) {
        let saved = read_note(text)?;
        for account in saved.accounts.iter().filter(|account| !account.locked) {
            alter(connection, make, &saved.user, &account.host, "ACCOUNT UNLOCK").await?;
        }
    }

    let mut transaction = connection.begin().await.doing(doing)?;
    let header = ledger::header(&mut transaction, &mark.rotation, Hold::Alone).await?;
    let mut header = header.ok_or(EngineError::LedgerMissing(mark.rotation))?;
    header.admit(mark)?;
    header.epoch = epoch_number(mark);
    header.role_fenced = false;
    change(&mut header);
    ledger::update_header(&mut transaction, mark, &header).await?;
    durable::commit(point, transaction).await.doing(doing)
}
