//! The vault's database on a MariaDB server with its two users: the application, which is fenced while keys turn, and the
//! agents. docs/database.md lists the same grants.

use std::str::FromStr as _;

use anyhow::Context as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use super::super::UnusableDatabase;
use super::super::roles::{Place, random_hex};
use crate::tables::TABLES;

/// The tables of the ledger.
const LEDGER: [&str; 4] = ["keyturn_rotation", "keyturn_shard", "keyturn_shadow", "keyturn_note"];

/// Names of what is made on a server. All of them are made here, of letters, digits and `_`.
#[derive(Debug, Clone)]
pub(in crate::server) struct Users {
    pub(in crate::server) database: String,
    pub(in crate::server) application: String,
    pub(in crate::server) agent: String,
    /// Both users' password on a server of somebody else's.
    password: Option<String>,
}

impl Users {
    /// What they are called on the demo's own server.
    pub(in crate::server) fn of_own_server() -> Self {
        Self {
            database: "vault".to_owned(),
            application: "vault_app".to_owned(),
            agent: "keyturn_agent".to_owned(),
            password: None,
        }
    }

    /// Makes database and users; with a suffix to every name on somebody else's server, where nothing may clash.
    pub(in crate::server) async fn create(server_url: &str, suffix: Option<&str>) -> anyhow::Result<Self> {
        let mut users = Self::of_own_server();
        if let Some(suffix) = suffix {
            for name in [&mut users.database, &mut users.application, &mut users.agent] {
                *name = format!("{name}_{suffix}");
            }
            users.password = Some(random_hex(16));
        }
        let password = users.password.as_ref().map_or(String::new(), |password| format!(" IDENTIFIED BY '{password}'"));
        let mut connection = connect(server_url).await?;
        refuse_mysql(&mut connection).await?;
        for user in [&users.application, &users.agent] {
            execute(&mut connection, format!("CREATE USER {user}@'%'{password}")).await?;
        }
        let database = format!("CREATE DATABASE {} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", users.database);
        execute(&mut connection, database).await?;
        connection.close().await.context("closing the connection to MariaDB")?;
        Ok(users)
    }

    /// The URL of the database for one of the users.
    pub(in crate::server) fn url(&self, server_url: &str, user: &str) -> anyhow::Result<String> {
        let place = Place::of(server_url)?;
        let password = self.password.as_ref().map_or(String::new(), |password| format!(":{password}"));
        Ok(format!("{}{user}{password}@{}/{}{}", place.scheme, place.host, self.database, place.options))
    }

    /// The URL of the database for the one whose login is in the server's URL.
    pub(in crate::server) fn admin_url(&self, server_url: &str) -> anyhow::Result<String> {
        let place = Place::of(server_url)?;
        Ok(format!("{}{}{}/{}{}", place.scheme, place.login, place.host, self.database, place.options))
    }

    /// Removes database and users again.
    pub(in crate::server) async fn drop_all(&self, server_url: &str) -> anyhow::Result<()> {
        let mut connection = connect(server_url).await?;
        for user in [&self.application, &self.agent] {
            // Their sessions first: a dropped user's go on.
            execute(&mut connection, format!("KILL USER {user}")).await?;
            execute(&mut connection, format!("DROP USER {user}@'%'")).await?;
        }
        execute(&mut connection, format!("DROP DATABASE {}", self.database)).await?;
        connection.close().await.context("closing the connection to MariaDB")
    }
}

/// Gives both users what they need on the tables.
pub(in crate::server) async fn grant(admin_url: &str, users: &Users) -> anyhow::Result<()> {
    let Users { database, application, agent, .. } = users;
    let mut connection = connect(admin_url).await?;
    let mut statements = vec![
        format!("GRANT PROCESS, CONNECTION ADMIN, CREATE USER ON *.* TO {agent}@'%'"),
        format!("GRANT SELECT (Host, User, Priv) ON mysql.global_priv TO {agent}@'%'"),
    ];
    for table in LEDGER {
        statements.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {database}.{table} TO {agent}@'%'"));
    }
    for table in &TABLES {
        let columns = table.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ");
        let name = table.name;
        statements.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.{name} TO {application}@'%'"));
        statements.push(format!("GRANT SELECT, TRIGGER, UPDATE ({columns}) ON {database}.{name} TO {agent}@'%'"));
    }
    for statement in statements {
        execute(&mut connection, statement).await?;
    }
    connection.close().await.context("closing the connection to MariaDB")
}

/// As whom a backup is restored aside.
pub(in crate::server) const RESTORER: &str = "keyturn_restorer";

/// Leaves a temporary server to one user that may do everything in the one database, and make things in anybody's name; so
/// nobody else is left, in whose name more could be done. What a backup defines or calls can do no more than that user.
pub(in crate::server) async fn leave_to_restorer(admin_url: &str) -> anyhow::Result<()> {
    let database = Users::of_own_server().database;
    let mut connection = connect(admin_url).await?;
    for statement in [
        format!("CREATE USER {RESTORER}@localhost"),
        format!("GRANT ALL PRIVILEGES ON {database}.* TO {RESTORER}@localhost"),
        format!("GRANT SET USER, BINLOG REPLAY ON *.* TO {RESTORER}@localhost"),
    ] {
        execute(&mut connection, statement).await?;
    }
    let others: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT CONCAT(QUOTE(User), '@', QUOTE(Host)) FROM mysql.user WHERE is_role = 'N' AND User <> '{RESTORER}'"
    )))
    .fetch_all(&mut connection)
    .await
    .context("reading the temporary server's users")?;
    if !others.is_empty() {
        execute(&mut connection, format!("DROP USER {}", others.join(", "))).await?;
    }
    connection.close().await.context("closing the connection to MariaDB")
}

/// Before anything is made: rights and accounts are others there.
async fn refuse_mysql(connection: &mut MySqlConnection) -> anyhow::Result<()> {
    let version: String = sqlx::query_scalar("SELECT VERSION()")
        .fetch_one(connection)
        .await
        .context("asking for the server's version")?;
    if version.to_ascii_lowercase().contains("mariadb") {
        return Ok(());
    }
    let problem = format!("the demo's farm stands on MariaDB, and the server of the URL is MySQL {version}");
    Err(UnusableDatabase(problem).into())
}

async fn connect(url: &str) -> anyhow::Result<MySqlConnection> {
    // Without the URL in the error: it may hold a password.
    let options = MySqlConnectOptions::from_str(url).context("the database's URL is not a usable MariaDB URL")?;
    MySqlConnection::connect_with(&options).await.context("connecting to MariaDB; is it up, and is the login right?")
}

async fn execute(connection: &mut MySqlConnection, statement: String) -> anyhow::Result<()> {
    // Not the whole statement: it may hold a password.
    let what = statement.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop).with_context(|| {
        format!(
            "{what} … was refused by MariaDB; the URL must have the login of an administrator of release 10.6 or later"
        )
    })
}
