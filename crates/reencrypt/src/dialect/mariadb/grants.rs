//! What the agent's account may do, as `SHOW GRANTS` tells it, and everything that the work will lack.

use sqlx::mysql::MySqlConnection;
use sqlx::{Row as _, raw_sql};

use super::make::Make;
use super::{Shared, accounts, bypass, ground, quote};
use crate::EngineError;
use crate::error::{Doing, mariadb_number};

/// The tables of the ledger.
const LEDGER: [&str; 4] = ["keyturn_rotation", "keyturn_shard", "keyturn_shadow", "keyturn_note"];

/// What the ledger's tables are used with.
const LEDGER_RIGHTS: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];

/// What `mariadb-dump` needs on the database. What its account may not see it leaves out, most of it without a word.
const BACKUP_RIGHTS: [&str; 4] = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT"];

/// Where rights hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Server,
    /// The name may be a pattern.
    Database(String),
    Table(String, String),
}

/// Rights on whole tables, databases and the server. Rights on single columns are seen elsewhere.
#[derive(Debug, Default)]
pub(super) struct Grants {
    given: Vec<(Vec<String>, Scope)>,
    /// What MySQL takes away again of what is given on the whole server.
    taken: Vec<(Vec<String>, Scope)>,
    /// Whether databases are called by their names alone, and by no patterns, as in MySQL where rights can be taken so.
    without_patterns: bool,
}

impl Grants {
    /// What the account and its role have.
    pub(super) async fn of(connection: &mut MySqlConnection, make: Make) -> Result<Self, EngineError> {
        let doing = || "asking for the grants of the agent's account".to_owned();
        let rows = raw_sql("SHOW GRANTS").fetch_all(&mut *connection).await.doing(doing)?;
        let without_patterns = make == Make::MySql && partial_revokes(connection).await.doing(doing)?;
        let mut grants = Self { without_patterns, ..Self::default() };
        for row in &rows {
            let line: String = row.try_get(0).doing(doing)?;
            grants.add(&line);
        }
        Ok(grants)
    }

    fn add(&mut self, line: &str) {
        self.given.extend(line.strip_prefix("GRANT ").and_then(parse));
        self.taken.extend(line.strip_prefix("REVOKE ").and_then(parse));
    }

    pub(super) fn on_server(&self, right: &str) -> bool {
        self.holds(right, |scope| *scope == Scope::Server)
    }

    /// Whether the right holds for the whole database.
    pub(super) fn on_database(&self, right: &str, database: &str) -> bool {
        let is_taken = self
            .taken
            .iter()
            .any(|(rights, scope)| names(rights, right) && matches!(scope, Scope::Database(name) if name == database));
        self.holds(right, |scope| match scope {
            Scope::Server => !is_taken,
            Scope::Database(name) if self.without_patterns => name == database,
            Scope::Database(pattern) => matches_pattern(pattern, database),
            Scope::Table(..) => false,
        })
    }

    /// Whether the right holds for the whole table.
    pub(super) fn on_table(&self, right: &str, database: &str, table: &str) -> bool {
        self.on_database(right, database)
            || self.holds(right, |scope| matches!(scope, Scope::Table(d, t) if d == database && t == table))
    }

    fn holds(&self, right: &str, scope: impl Fn(&Scope) -> bool) -> bool {
        self.given.iter().any(|(rights, found)| names(rights, right) && scope(found))
    }
}

async fn partial_revokes(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    let row = raw_sql("SELECT @@GLOBAL.partial_revokes").fetch_one(connection).await?;
    row.try_get_unchecked::<i64, _>(0).map(|on| on != 0)
}

fn names(rights: &[String], right: &str) -> bool {
    rights.iter().any(|held| held == right || held == "ALL PRIVILEGES" || held == "ALL")
}

/// `SELECT, UPDATE ON `db`.`t` TO …`, and what MySQL takes away: `SELECT ON `db`.* FROM …`. A right on columns alone has
/// them in brackets and is left out.
fn parse(line: &str) -> Option<(Vec<String>, Scope)> {
    let (rights, rest) = rights(line)?;
    let scope = match rest.strip_prefix("*.*") {
        Some(_) => Scope::Server,
        None => {
            let (database, rest) = unquote(rest)?;
            let rest = rest.strip_prefix('.')?;
            if rest.starts_with('*') { Scope::Database(database) } else { Scope::Table(database, unquote(rest)?.0) }
        }
    };
    Some((rights, scope))
}

/// The rights up to ` ON `, and what follows. Names of columns stand in brackets and may hold anything.
fn rights(text: &str) -> Option<(Vec<String>, &str)> {
    let mut held = Vec::new();
    let mut right = String::new();
    let (mut depth, mut quoted) = (0_u32, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '`' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        let outside = depth == 0 && !quoted;
        let end = outside && text[at..].starts_with(" ON ");
        if end || (outside && letter == ',') {
            held.push(std::mem::take(&mut right).trim().to_owned());
        } else {
            right.push(letter);
        }
        if end {
            held.retain(|right| !right.contains('('));
            return Some((held, &text[at + " ON ".len()..]));
        }
    }
    None
}

/// A name in backticks at the beginning, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text.strip_prefix('`')?;
    loop {
        let (part, after) = rest.split_once('`')?;
        name.push_str(part);
        match after.strip_prefix('`') {
            Some(more) => {
                name.push('`');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// Whether a database is one of those that a grant names: `%` is anything, `_` any letter, a backslash takes that away.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('%') => (0..=name.len())
            .filter(|at| name.is_char_boundary(*at))
            .any(|at| matches_pattern(rest.as_str(), &name[at..])),
        Some(letter) => {
            let (literal, rest) = match letter {
                '\\' => (rest.next(), rest.as_str()),
                '_' => (None, rest.as_str()),
                letter => (Some(letter), rest.as_str()),
            };
            let mut letters = name.chars();
            letters.next().is_some_and(|found| literal.is_none_or(|literal| literal == found))
                && matches_pattern(rest, letters.as_str())
        }
    }
}

/// Names every right and every state of the server that stands in the way.
pub(super) async fn check(connection: &mut MySqlConnection, make: Make, shared: &Shared) -> Result<(), EngineError> {
    let doing = || "asking for the rights of the agent's account".to_owned();
    let grants = Grants::of(connection, make).await?;
    let (database, account) = whose(connection).await?;
    let row = raw_sql(
        "SELECT SUBSTRING_INDEX(USER(), '@', 1), @@GLOBAL.read_only, @@GLOBAL.event_scheduler = 'ON',
                @@GLOBAL.log_bin AND @@SESSION.binlog_format = 'STATEMENT'",
    )
    .fetch_one(&mut *connection)
    .await
    .doing(doing)?;
    let user: String = row.try_get(0).doing(doing)?;
    let flag = |at: usize| row.try_get_unchecked::<i64, _>(at).map(|flag| flag != 0).doing(doing);
    let mut problems = Vec::new();
    if flag(1)? {
        problems.push("the server is read-only, as replicas are; name the primary in the url".to_owned());
    }
    if flag(3)? {
        problems.push(
            "the server's binlog_format is STATEMENT, with which nothing can be written at the isolation that the work \
             needs: SET GLOBAL binlog_format = 'MIXED'"
                .to_owned(),
        );
    }
    if galera(connection).await? {
        problems.push(
            "the server is a node of a Galera cluster, in which the locks of one node do not hold on another; \
             set wsrep_on to OFF on a single node for the rotation"
                .to_owned(),
        );
    }
    for table in LEDGER {
        let missing: Vec<&str> =
            LEDGER_RIGHTS.into_iter().filter(|right| !grants.on_table(right, &database, table)).collect();
        let create = !grants.on_table("CREATE", &database, table) && !table_exists(connection, table).await?;
        let missing: Vec<&str> = missing.into_iter().chain(create.then_some("CREATE")).collect();
        if !missing.is_empty() {
            let table = format!("{}.{table}", quote(&database));
            problems.push(format!("it has no ledger: GRANT {} ON {table} TO {account}", missing.join(", ")));
        }
    }
    problems.extend(ground::problems(connection, make).await?);
    problems.extend(hidden_sessions(&grants, make, &account));
    if flag(2)? {
        problems.extend(hidden_events(&grants, &database, &account));
    }
    if let Some(application) = &shared.application_role {
        if *application == user {
            problems.push(format!("application_role is the agent's own user {user}; give the agent a user of its own"));
        }
        for (right, what) in
            [(end_right(make), "end the application's sessions"), ("CREATE USER", "fence its accounts")]
        {
            if !grants.on_server(right) {
                problems.push(format!("it may not {what}: GRANT {right} ON *.* TO {account}"));
            }
        }
        match accounts::accounts_of(connection, application).await {
            Ok(accounts) if accounts.is_empty() => {
                problems.push(format!("application_role {application:?} does not exist"));
            }
            Ok(_) => {}
            Err(EngineError::Database { source, .. }) if matches!(mariadb_number(&source), Some(1142 | 1143)) => {
                let columns = match make {
                    Make::MariaDb => "(Host, User, Priv) ON mysql.global_priv",
                    Make::MySql => "(Host, User, account_locked, Super_priv) ON mysql.user",
                };
                problems.push(format!("it cannot see the application's accounts: GRANT SELECT {columns} TO {account}"));
            }
            Err(error) => return Err(error),
        }
        if make == Make::MySql {
            problems.extend(bypass::problems(connection, application, &grants, &account).await?);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

/// What it takes to end a session of another account.
const fn end_right(make: Make) -> &'static str {
    match make {
        Make::MariaDb => "CONNECTION ADMIN",
        Make::MySql => "CONNECTION_ADMIN",
    }
}

/// Without it the account sees its own sessions alone, and nobody else seems to be there.
fn hidden_sessions(grants: &Grants, make: Make, account: &str) -> Option<String> {
    let needed: &[&str] = match make {
        Make::MariaDb => &["PROCESS"],
        // MySQL shows transactions that are prepared by a right of its own.
        Make::MySql => &["PROCESS", "XA_RECOVER_ADMIN"],
    };
    let missing: Vec<&str> = needed.iter().copied().filter(|right| !grants.on_server(right)).collect();
    let hidden = !missing.is_empty();
    hidden.then(|| format!("it cannot see other sessions: GRANT {} ON *.* TO {account}", missing.join(", ")))
}

fn hidden_events(grants: &Grants, database: &str, account: &str) -> Option<String> {
    (!grants.on_database("EVENT", database)).then(|| {
        format!(
            "the event scheduler is on, and it cannot see what it would run: GRANT EVENT ON {}.* TO {account}, or \
             SET GLOBAL event_scheduler = OFF",
            quote(database)
        )
    })
}

/// Refuses an account from which sessions are hidden, or events that the server would run: it could not prove that nobody is
/// there.
pub(super) async fn check_sight(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    let doing = || "asking for the event scheduler".to_owned();
    ground::check(connection, make).await?;
    let grants = Grants::of(connection, make).await?;
    let (database, account) = whose(connection).await?;
    let row = raw_sql("SELECT @@GLOBAL.event_scheduler = 'ON'").fetch_one(connection).await.doing(doing)?;
    let scheduled = row.try_get_unchecked::<i64, _>(0).doing(doing)? != 0;
    let events = scheduled.then(|| hidden_events(&grants, &database, &account)).flatten();
    let problems: Vec<String> = hidden_sessions(&grants, make, &account).into_iter().chain(events).collect();
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

/// The same of sessions alone.
pub(super) async fn check_sight_of_sessions(connection: &mut MySqlConnection, make: Make) -> Result<(), EngineError> {
    let grants = Grants::of(connection, make).await?;
    let (_, account) = whose(connection).await?;
    hidden_sessions(&grants, make, &account).map_or(Ok(()), |problem| Err(EngineError::Rights(vec![problem])))
}

/// The database, and the account as it stands in a GRANT.
pub(super) async fn whose(connection: &mut MySqlConnection) -> Result<(String, String), EngineError> {
    let doing = || "asking for the account".to_owned();
    let row =
        raw_sql("SELECT DATABASE(), SUBSTRING_INDEX(CURRENT_USER(), '@', 1), SUBSTRING_INDEX(CURRENT_USER(), '@', -1)")
            .fetch_one(connection)
            .await
            .doing(doing)?;
    let text = |at: usize| row.try_get::<String, _>(at).doing(doing);
    Ok((text(0)?, format!("{}@{}", quote(&text(1)?), quote(&text(2)?))))
}

/// Names every right that the account lacks to dump the whole database.
pub(super) async fn check_backup(connection: &mut MySqlConnection) -> Result<(), EngineError> {
    let grants = Grants::of(connection, Make::MariaDb).await?;
    let (database, account) = whose(connection).await?;
    let missing: Vec<&str> = BACKUP_RIGHTS.into_iter().filter(|right| !grants.on_database(right, &database)).collect();
    let mut problems = Vec::new();
    if !missing.is_empty() {
        let rights = missing.join(", ");
        problems
            .push(format!("it does not see the whole database: GRANT {rights} ON {}.* TO {account}", quote(&database)));
    }
    if !grants.on_table("SELECT", "mysql", "proc") && !grants.on_database("SHOW CREATE ROUTINE", &database) {
        problems.push(format!("it does not see routines: GRANT SELECT ON mysql.proc TO {account}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(EngineError::Rights(problems)) }
}

async fn galera(connection: &mut MySqlConnection) -> Result<bool, EngineError> {
    let doing = || "asking whether the server is part of a cluster".to_owned();
    let rows =
        raw_sql("SHOW GLOBAL VARIABLES WHERE Variable_name = 'wsrep_on'").fetch_all(connection).await.doing(doing)?;
    match rows.first() {
        Some(row) => Ok(row.try_get::<String, _>(1).doing(doing)?.eq_ignore_ascii_case("ON")),
        None => Ok(false),
    }
}

async fn table_exists(connection: &mut MySqlConnection, table: &str) -> Result<bool, EngineError> {
    let count: i64 = sqlx::query(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
    )
    .bind(table)
    .fetch_one(connection)
    .await
    .and_then(|row| row.try_get(0))
    .doing(|| "looking for the ledger".to_owned())?;
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(lines: &[&str]) -> Grants {
        let mut grants = Grants::default();
        lines.iter().for_each(|line| grants.add(line));
        grants
    }

    #[test]
    fn rights_are_read_from_what_the_server_shows() {
        let grants = grants(&[
            "GRANT `r` TO `a`@`localhost`",
            "GRANT PROCESS, CREATE USER, CONNECTION ADMIN ON *.* TO `a`@`localhost` IDENTIFIED BY PASSWORD '*x'",
            "GRANT EVENT ON `vault\\_1%`.* TO `a`@`localhost`",
            "GRANT SELECT, UPDATE (`a, ON b)`, `c`), TRIGGER ON `vault`.`User Entries` TO `a`@`localhost`",
            "GRANT ALL PRIVILEGES ON `own``s`.* TO `a`@`localhost`",
            "SET DEFAULT ROLE `r` FOR `a`@`localhost`",
        ]);
        assert!(grants.on_server("PROCESS") && grants.on_server("CONNECTION ADMIN") && !grants.on_server("EVENT"));
        assert!(grants.on_database("EVENT", "vault_12") && !grants.on_database("EVENT", "vaultx12"));
        assert!(
            grants.on_table("TRIGGER", "vault", "User Entries") && grants.on_table("SELECT", "vault", "User Entries")
        );
        assert!(!grants.on_table("UPDATE", "vault", "User Entries"), "on columns only");
        assert!(!grants.on_table("TRIGGER", "vault", "other"));
        assert!(grants.on_table("CREATE", "own`s", "anything"));
    }

    #[test]
    fn names_of_databases_in_grants_are_patterns() {
        for (pattern, name, expected) in [
            ("vault", "vault", true),
            ("vault", "vault2", false),
            ("v%", "vault", true),
            ("%t", "vault", true),
            ("v_ult", "vault", true),
            ("v\\_ult", "vault", false),
            ("v\\_ult", "v_ult", true),
            ("%", "", true),
            ("_", "", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
    }
}
