//! The place of a MariaDB database: its name, which it cannot change. A backup is loaded into a database beside it, and one
//! RENAME, which is atomic, moves the damaged tables away and the restored ones in. What is not a table moves by being
//! written down and made anew.

use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::definitions::{self, Definition, Kind};
use super::make::Make;
use super::{Connected, accounts, connect, grants, literal, quote};
use crate::error::Doing;
use crate::restore::RestoreStage;
use crate::{DatabaseConfig, EngineError};

/// From where databases are made and tables are moved.
const OUTSIDE: &str = "information_schema";
/// Characters of the longest name.
const NAME_LETTERS_MAX: usize = 64;
/// How often it is looked whether everybody has left.
const POLL: Duration = Duration::from_millis(100);
/// In the loaded database, once it is whole. Its comment says of which backup.
const WHOLE: &str = "keyturn_restore_whole";
/// Beside it, if the application is to be let in once it has its place; for who goes on after an interruption.
const LET_IN: &str = "keyturn_restore_let_in";

/// A database's name, and the names of what is made of one backup of it.
pub(crate) struct MariadbPlace {
    live: String,
    ready: String,
    aside: String,
    login: MySqlConnectOptions,
    /// Who shuts the application out and lets it in again.
    agent: MySqlConnectOptions,
    url: String,
    digest: String,
    application_role: Option<String>,
    sessions_wait: Duration,
}

impl MariadbPlace {
    pub(crate) fn new(
        agent: MySqlConnectOptions,
        login: MySqlConnectOptions,
        url: &str,
        tag: &str,
        digest: &str,
        config: &DatabaseConfig,
    ) -> Self {
        let live = agent.get_database().unwrap_or_default().to_owned();
        let ending = format!("_damaged_{tag}");
        let kept: String = live.chars().take(NAME_LETTERS_MAX.saturating_sub(ending.len())).collect();
        Self {
            ready: format!("keyturn_restored_{tag}"),
            aside: kept + &ending,
            live,
            login: super::with_our_settings(login).database(OUTSIDE),
            agent: super::with_our_settings(agent).database(OUTSIDE),
            url: url.to_owned(),
            digest: digest.to_owned(),
            application_role: config.application_role.clone(),
            sessions_wait: config.sessions_wait,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.live
    }

    pub(crate) fn aside(&self) -> &str {
        &self.aside
    }

    /// In the midst of being put in place it is where it belongs.
    pub(crate) async fn loaded_url(&self) -> Result<String, EngineError> {
        let mut server = self.server().await?;
        let moved = self.tables(&mut server, &self.ready).await?.is_empty();
        end(server).await;
        Ok(with_database(&self.url, if moved { &self.live } else { &self.ready }))
    }

    pub(crate) async fn stage(&self) -> Result<RestoreStage, EngineError> {
        let mut server = self.server().await?;
        let whole = comment_of(&mut server, &self.ready, WHOLE).await?.is_some_and(|of| of == self.digest);
        let aside = self.order_of(&mut server, &self.aside).await?.is_some();
        let ready = self.order_of(&mut server, &self.ready).await?.is_some();
        end(server).await;
        Ok(match (whole, aside, ready) {
            (true, ..) => RestoreStage::Loaded,
            (false, true, true) => RestoreStage::LeftBehind,
            (false, true, false) => RestoreStage::InPlace,
            (false, false, _) => RestoreStage::Untouched,
        })
    }

    /// An empty database of the same character set and order; one that was half loaded goes first.
    pub(crate) async fn prepare(&self) -> Result<String, EngineError> {
        let mut server = self.server().await?;
        refuse_scheduler(&mut server).await?;
        self.run(&mut server, format!("DROP DATABASE IF EXISTS {}", quote(&self.ready))).await?;
        self.create_like(&mut server, &self.ready, &self.live).await?;
        end(server).await;
        Ok(with_database(&self.url, &self.ready))
    }

    /// Writes down everything that is not a table, takes away what would act by itself or hold the tables where they are,
    /// and says that all is there.
    pub(crate) async fn loaded(&self) -> Result<(), EngineError> {
        let mut server = self.server().await?;
        let found = definitions::of(&mut server, &self.ready).await?;
        definitions::write_down(&mut server, &self.ready, &found).await?;
        for definition in found.iter().filter(|found| matches!(found.kind, Kind::Trigger | Kind::Event)) {
            self.run(&mut server, definition.drop_from(&self.ready)).await?;
        }
        self.mark(&mut server, WHOLE).await?;
        end(server).await;
        Ok(())
    }

    /// An empty table in the loaded database.
    async fn mark(&self, server: &mut MySqlConnection, name: &str) -> Result<(), EngineError> {
        let table = format!("{}.{name} (mark INT) ENGINE = InnoDB", quote(&self.ready));
        self.run(
            server,
            format!("CREATE TABLE IF NOT EXISTS {table} COMMENT = {}", literal(&self.digest, Make::MariaDb)),
        )
        .await
    }

    /// Every step may have been done before. With `lift_fence` the application's accounts are let in again, as they were
    /// before the rotation that the restored database knows nothing of.
    pub(crate) async fn put_in_place(&self, lift_fence: bool) -> Result<(), EngineError> {
        let mut server = self.server().await?;
        let wanted = definitions::written_down(&mut server, &self.ready).await?;
        if wanted.iter().any(|definition| definition.kind == Kind::Event) {
            refuse_scheduler(&mut server).await?;
        }
        let restored = self.tables(&mut server, &self.ready).await?;
        if !restored.is_empty() {
            if lift_fence {
                self.mark(&mut server, LET_IN).await?;
            }
            self.exchange(&mut server, &restored).await?;
        }
        definitions::make(&self.login, &self.live, wanted).await?;
        if comment_of(&mut server, &self.ready, LET_IN).await?.is_some() {
            self.let_in(&mut server).await?;
        }
        // From here on it is in its place, whatever is left of this.
        self.run(&mut server, format!("DROP TABLE {}.{WHOLE}", quote(&self.ready))).await?;
        self.run(&mut server, format!("DROP DATABASE {}", quote(&self.ready))).await?;
        end(server).await;
        Ok(())
    }

    /// Drops the database that the backup was loaded into, if its tables are in their place.
    pub(crate) async fn clear_up(&self) -> Result<(), EngineError> {
        if self.stage().await? == RestoreStage::LeftBehind {
            let mut server = self.server().await?;
            self.run(&mut server, format!("DROP DATABASE IF EXISTS {}", quote(&self.ready))).await?;
            end(server).await;
        }
        Ok(())
    }

    /// Up to the RENAME everything can be done again; it is one step.
    async fn exchange(&self, server: &mut MySqlConnection, restored: &[String]) -> Result<(), EngineError> {
        self.create_like(server, &self.live, &self.ready).await?;
        self.empty(server).await?;
        self.refuse_references(server).await?;
        self.create_like(server, &self.aside, &self.live).await?;
        let found = definitions::of(server, &self.live).await?;
        definitions::write_down(server, &self.aside, &found).await?;
        let wanted = definitions::written_down(server, &self.ready).await?;
        let stays = |found: &Definition| {
            found.kind != Kind::Trigger && wanted.iter().any(|one| (one.kind, &one.name) == (found.kind, &found.name))
        };
        for definition in found.iter().filter(|found| !stays(found)) {
            self.run(server, definition.drop_from(&self.live)).await?;
        }
        let damaged = self.tables(server, &self.live).await?;
        let move_to = |tables: &[String], from: &str, to: &str| {
            let moves = tables
                .iter()
                .map(|table| format!("{}.{} TO {}.{}", quote(from), quote(table), quote(to), quote(table)));
            moves.collect::<Vec<_>>()
        };
        let moves = [move_to(&damaged, &self.live, &self.aside), move_to(restored, &self.ready, &self.live)].concat();
        self.run(server, format!("RENAME TABLE {}", moves.join(", "))).await
    }

    /// Sees that nobody is in the live database. Whoever is, is named and refused.
    async fn empty(&self, server: &mut MySqlConnection) -> Result<(), EngineError> {
        let doing = || format!("looking who is in database {}", self.live);
        grants::check_sight_of_sessions(server, Make::MariaDb).await?;
        let started = Instant::now();
        loop {
            let rows = sqlx::query(
                "SELECT CAST(ID AS SIGNED), USER, HOST FROM information_schema.PROCESSLIST
                 WHERE DB = ? AND ID <> CONNECTION_ID() AND COMMAND NOT IN ('Daemon', 'Binlog Dump') ORDER BY ID",
            )
            .bind(&self.live)
            .fetch_all(&mut *server)
            .await
            .doing(doing)?;
            let read = |row: &sqlx::mysql::MySqlRow| {
                let (session, user, host): (i64, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                Ok(format!("session {session} of user {user:?} from {host}"))
            };
            let others: Vec<String> = rows.iter().map(read).collect::<Result<_, _>>().doing(doing)?;
            if others.is_empty() {
                return Ok(());
            }
            if started.elapsed() >= self.sessions_wait {
                return Err(EngineError::SessionsRemain(others));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A foreign key of another database would follow the damaged table.
    async fn refuse_references(&self, server: &mut MySqlConnection) -> Result<(), EngineError> {
        let doing = || format!("looking for foreign keys that lead into database {}", self.live);
        let rows = sqlx::query(
            "SELECT CONSTRAINT_SCHEMA, TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS
             WHERE UNIQUE_CONSTRAINT_SCHEMA = ? AND CONSTRAINT_SCHEMA NOT IN (?, ?)",
        )
        .bind(&self.live)
        .bind(&self.live)
        .bind(&self.aside)
        .fetch_all(server)
        .await
        .doing(doing)?;
        let read = |row: &sqlx::mysql::MySqlRow| {
            let (database, table): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            Ok(format!("{}.{}", quote(&database), quote(&table)))
        };
        let tables: Vec<String> = rows.iter().map(read).collect::<Result<_, _>>().doing(doing)?;
        if tables.is_empty() {
            return Ok(());
        }
        Err(EngineError::Unsupported(format!(
            "foreign keys of {} lead into database {}, and would follow its damaged tables",
            tables.join(", "),
            self.live
        )))
    }

    /// Opens the application's accounts again, but for those that were locked before the last fence, by the damaged database's
    /// ledger; all, if it cannot be read.
    async fn let_in(&self, server: &mut MySqlConnection) -> Result<(), EngineError> {
        let Some(user) = &self.application_role else { return Ok(()) };
        let ledger = format!(
            "SELECT role_saved FROM {}.keyturn_rotation WHERE role_saved IS NOT NULL ORDER BY rotation DESC LIMIT 1",
            quote(&self.aside)
        );
        // Reviewed: a quoted identifier.
        let noted: Option<String> = match sqlx::raw_sql(AssertSqlSafe(ledger)).fetch_optional(&mut *server).await {
            Ok(row) => row.and_then(|row| row.try_get(0).ok()),
            Err(_) => None,
        };
        let noted: Value = noted.and_then(|note| serde_json::from_str(&note).ok()).unwrap_or_default();
        let was_locked = |host: &str| {
            let mut accounts = noted["accounts"].as_array().into_iter().flatten();
            accounts.any(|account| account["host"] == host && account["locked"] == true)
        };
        // By whom they were locked: who restores need not be able to.
        let mut agent = connect(&self.agent).await?.connection;
        for account in accounts::accounts_of(&mut agent, user).await? {
            if !was_locked(&account.host) {
                accounts::alter(&mut agent, Make::MariaDb, user, &account.host, "ACCOUNT UNLOCK").await?;
            }
        }
        end(agent).await;
        Ok(())
    }

    /// Makes a database, unless it is there, with the character set and order of another.
    async fn create_like(&self, server: &mut MySqlConnection, database: &str, like: &str) -> Result<(), EngineError> {
        let order = self.order_of(server, like).await?.map_or_else(String::new, |(set, order)| {
            format!(" CHARACTER SET {} COLLATE {}", quote(&set), quote(&order))
        });
        self.run(server, format!("CREATE DATABASE IF NOT EXISTS {}{order}", quote(database))).await
    }

    /// A database's character set and collation; `None` when there is no such database.
    async fn order_of(
        &self,
        server: &mut MySqlConnection,
        database: &str,
    ) -> Result<Option<(String, String)>, EngineError> {
        let doing = || format!("looking database {database} up");
        let row = sqlx::query(
            "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA
             WHERE SCHEMA_NAME = ?",
        )
        .bind(database)
        .fetch_optional(server)
        .await
        .doing(doing)?;
        row.map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).transpose().doing(doing)
    }

    /// Everything in a database that RENAME moves, but for what a restore has there itself.
    async fn tables(&self, server: &mut MySqlConnection, database: &str) -> Result<Vec<String>, EngineError> {
        let doing = || format!("looking for the tables of database {database}");
        let rows = sqlx::query(
            "SELECT TABLE_NAME FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = ? AND TABLE_TYPE NOT IN ('VIEW', 'SYSTEM VIEW') AND TABLE_NAME NOT IN (?, ?, ?)
             ORDER BY TABLE_NAME",
        )
        .bind(database)
        .bind(WHOLE)
        .bind(LET_IN)
        .bind(definitions::TABLE)
        .fetch_all(server)
        .await
        .doing(doing)?;
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().doing(doing)
    }

    async fn run(&self, server: &mut MySqlConnection, sql: String) -> Result<(), EngineError> {
        // Reviewed: every name in it is a quoted identifier, every text a quoted literal.
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(server)
            .await
            .map(drop)
            .doing(|| format!("putting a restored database into the place of database {}", self.live))
    }

    async fn server(&self) -> Result<MySqlConnection, EngineError> {
        let Connected { connection, make, .. } = connect(&self.login).await?;
        match make {
            Make::MariaDb => Ok(connection),
            Make::MySql => {
                end(connection).await;
                Err(EngineError::Unsupported(super::NO_BACKUPS.to_owned()))
            }
        }
    }
}

/// Events of the backup must not run, neither where it is loaded nor before the farm is whole again.
async fn refuse_scheduler(server: &mut MySqlConnection) -> Result<(), EngineError> {
    let doing = || "asking for the event scheduler".to_owned();
    let row = sqlx::raw_sql("SELECT @@GLOBAL.event_scheduler = 'ON'").fetch_one(server).await.doing(doing)?;
    if row.try_get_unchecked::<i64, _>(0).doing(doing)? == 0 {
        return Ok(());
    }
    Err(EngineError::Unsupported(
        "the event scheduler is on, and would run the events of the backup; SET GLOBAL event_scheduler = OFF until the \
         recovery has ended"
            .to_owned(),
    ))
}

/// The comment of a table; `None` when there is no such table.
async fn comment_of(server: &mut MySqlConnection, database: &str, table: &str) -> Result<Option<String>, EngineError> {
    let doing = || format!("looking table {table} of database {database} up");
    let row =
        sqlx::query("SELECT TABLE_COMMENT FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?")
            .bind(database)
            .bind(table)
            .fetch_optional(server)
            .await
            .doing(doing)?;
    row.map(|row| row.try_get(0)).transpose().doing(doing)
}

/// The same login at the same server, in another database, whose name needs no escapes.
fn with_database(url: &str, database: &str) -> String {
    let (rest, query) = url.find('?').map_or((url, ""), |at| url.split_at(at));
    let authority = rest.find("://").map_or(0, |at| at + 3);
    let end = rest[authority..].find('/').map_or(rest.len(), |at| authority + at);
    format!("{}/{database}{query}", &rest[..end])
}

async fn end(server: MySqlConnection) {
    // An error there loses nothing.
    let _ = server.close().await;
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn another_database_keeps_login_place_and_options() {
        let check = |url: &str, expected: &str| assert_eq!(with_database(url, "x"), expected);
        check("mariadb://a:b@h:5/vault?ssl-mode=REQUIRED", "mariadb://a:b@h:5/x?ssl-mode=REQUIRED");
        check("mariadb://root@localhost/vault?socket=/run/s", "mariadb://root@localhost/x?socket=/run/s");
    }
}
