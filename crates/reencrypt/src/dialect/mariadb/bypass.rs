//! Who in MySQL comes past a fence of the application's accounts, or cannot be shut out by it. MariaDB knows neither.

use sqlx::Row as _;
use sqlx::mysql::{MySqlArguments, MySqlConnection};
use sqlx::query::Query;
use sqlx::{MySql, query};

use super::Shared;
use super::grants::{self, Grants};
use super::make::Make;
use crate::EngineError;
use crate::error::{Doing, mariadb_number};

/// Accounts that may come as another, whose lock is not looked at then. The one that may come as anybody is the
/// administrator's, who may do everything anyway.
const PROXIES: &str = "
    SELECT CONCAT(QUOTE(p.User), '@', QUOTE(p.Host)) FROM mysql.proxies_priv p
    LEFT JOIN mysql.user u ON u.User = p.User AND u.Host = p.Host
    WHERE CAST(p.Proxied_user AS BINARY) = CAST(? AS BINARY)
       OR (p.Proxied_user = '' AND COALESCE(u.Super_priv, 'N') <> 'Y')";

/// Which of the application's accounts, and of the roles that they have, has the right that only its like may touch.
const SYSTEM_USERS: &str = "
    WITH RECURSIVE held (user, host) AS (
        SELECT User, Host FROM mysql.user WHERE CAST(User AS BINARY) = CAST(? AS BINARY)
        UNION
        SELECT e.FROM_USER, e.FROM_HOST FROM mysql.role_edges e JOIN held h ON e.TO_USER = h.user AND e.TO_HOST = h.host
    )
    SELECT CONCAT(QUOTE(g.USER), '@', QUOTE(g.HOST)) FROM mysql.global_grants g
    JOIN held h ON g.USER = h.user AND g.HOST = h.host WHERE g.PRIV = 'SYSTEM_USER'";

/// Who in MySQL could come past a fence of the application's accounts, and what would keep the fence from being put up.
pub(super) async fn problems(
    connection: &mut MySqlConnection,
    application: &str,
    grants: &Grants,
    account: &str,
) -> Result<Vec<String>, EngineError> {
    let mut problems = Vec::new();
    let mut unreadable = |tables: &[&str]| {
        let missing: Vec<String> =
            tables.iter().map(|table| format!("GRANT SELECT ON mysql.{table} TO {account}")).collect();
        problems.push(format!("it cannot see who may come past the fence: {}", missing.join(", ")));
    };
    let proxies = named(connection, query(PROXIES).bind(application)).await?;
    if proxies.is_none() {
        unreadable(&["proxies_priv"]);
    }
    let system_users = named(connection, query(SYSTEM_USERS).bind(application)).await?;
    if system_users.is_none() {
        unreadable(&["role_edges", "global_grants"]);
    }
    if let Some(proxies) = proxies.filter(|found| !found.is_empty()) {
        problems.push(format!(
            "{} may come as the application although its account is locked: REVOKE PROXY for the rotation",
            proxies.join(", ")
        ));
    }
    if let Some(found) = system_users.filter(|found| !found.is_empty() && !grants.on_server("SYSTEM_USER")) {
        problems.push(format!(
            "{} has SYSTEM_USER, and who lacks it may neither lock such an account nor end its sessions: take it from \
             there, or GRANT SYSTEM_USER ON *.* TO {account}",
            found.join(", ")
        ));
    }
    Ok(problems)
}

/// The accounts that are the answer; nothing, if it may not be asked.
async fn named(
    connection: &mut MySqlConnection,
    asked: Query<'_, MySql, MySqlArguments>,
) -> Result<Option<Vec<String>>, EngineError> {
    let doing = || "looking who may come past the fence".to_owned();
    match asked.fetch_all(connection).await {
        Ok(rows) => rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map(Some).doing(doing),
        Err(error) if matches!(mariadb_number(&error), Some(1142 | 1143)) => Ok(None),
        Err(error) => Err(error).doing(doing),
    }
}

/// The same, refused, for who is about to put a fence up.
pub(super) async fn check(connection: &mut MySqlConnection, make: Make, shared: &Shared) -> Result<(), EngineError> {
    let (Make::MySql, Some(application)) = (make, &shared.application_role) else { return Ok(()) };
    let grants = Grants::of(connection, make).await?;
    let (_, account) = grants::whose(connection).await?;
    let problems = problems(connection, application, &grants, &account).await?;
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}
