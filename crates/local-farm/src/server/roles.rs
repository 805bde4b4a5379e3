//! The vault's database on a PostgreSQL server with its two roles: the application, which is fenced while keys turn,
//! and the agents. docs/database.md lists the same grants.

use std::str::FromStr as _;

use anyhow::Context as _;
use rand::Rng as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

use crate::tables::TABLES;

/// From this release on `CREATEROLE` alters only roles that one has with the admin option.
const ADMIN_OPTION_SINCE: u32 = 160_000;

/// Names of what is made on a server. All of them are made here, of letters, digits and `_`.
#[derive(Debug, Clone)]
pub(super) struct Roles {
    pub(super) database: String,
    pub(super) application: String,
    pub(super) agent: String,
    /// Both roles' password on a server of somebody else's; the demo's own trusts whoever gets to its socket.
    password: Option<String>,
}

impl Roles {
    /// What they are called on the demo's own server.
    pub(super) fn of_own_server() -> Self {
        Self {
            database: "vault".to_owned(),
            application: "vault_app".to_owned(),
            agent: "keyturn_agent".to_owned(),
            password: None,
        }
    }

    /// Makes database and roles; with a suffix to every name on somebody else's server, where nothing may clash.
    pub(super) async fn create(server_url: &str, suffix: Option<&str>) -> anyhow::Result<Self> {
        let mut roles = Self::of_own_server();
        if let Some(suffix) = suffix {
            for name in [&mut roles.database, &mut roles.application, &mut roles.agent] {
                *name = format!("{name}_{suffix}");
            }
            roles.password = Some(random_hex(16));
        }
        let password = roles.password.as_ref().map_or(String::new(), |password| format!(" PASSWORD '{password}'"));
        let mut connection = connect(server_url).await?;
        for role in [&roles.application, &roles.agent] {
            execute(&mut connection, format!("CREATE ROLE {role} LOGIN{password}")).await?;
        }
        execute(&mut connection, format!("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", roles.database))
            .await?;
        connection.close().await.context("closing the connection to PostgreSQL")?;
        Ok(roles)
    }

    /// The URL of the database for one of the roles.
    pub(super) fn url(&self, server_url: &str, role: &str) -> anyhow::Result<String> {
        let place = Place::of(server_url)?;
        let password = self.password.as_ref().map_or(String::new(), |password| format!(":{password}"));
        Ok(format!("{}{role}{password}@{}/{}{}", place.scheme, place.host, self.database, place.options))
    }

    /// The URL of the database for the one whose login is in the server's URL.
    pub(super) fn admin_url(&self, server_url: &str) -> anyhow::Result<String> {
        let place = Place::of(server_url)?;
        Ok(format!("{}{}{}/{}{}", place.scheme, place.login, place.host, self.database, place.options))
    }

    /// Removes database and roles again.
    pub(super) async fn drop_all(&self, server_url: &str) -> anyhow::Result<()> {
        let mut connection = connect(server_url).await?;
        execute(&mut connection, format!("DROP DATABASE {} WITH (FORCE)", self.database)).await?;
        for role in [&self.application, &self.agent] {
            // What it may do to things outside that database, such as a parameter.
            execute(&mut connection, format!("DROP OWNED BY {role} CASCADE")).await?;
            execute(&mut connection, format!("DROP ROLE {role}")).await?;
        }
        connection.close().await.context("closing the connection to PostgreSQL")
    }
}

/// Gives both roles what they need on the tables.
pub(super) async fn grant(admin_url: &str, roles: &Roles) -> anyhow::Result<()> {
    let Roles { database, application, agent, .. } = roles;
    let mut connection = connect(admin_url).await?;
    let mut statements = vec![
        format!("ALTER ROLE {agent} CREATEROLE"),
        format!("GRANT pg_signal_backend, pg_read_all_stats, pg_read_all_data TO {agent}"),
        format!("GRANT SET ON PARAMETER session_replication_role TO {agent}"),
        format!("GRANT CONNECT ON DATABASE {database} TO {agent}, {application}"),
        format!("CREATE SCHEMA keyturn AUTHORIZATION {agent}"),
        format!("GRANT USAGE ON SCHEMA public TO {agent}, {application}"),
    ];
    // A member of the tables' owner can make copies of them and swap them in.
    let admin = connection.server_version_num().is_some_and(|version| version >= ADMIN_OPTION_SINCE);
    statements.push(format!("GRANT {application} TO {agent}{}", if admin { " WITH ADMIN OPTION" } else { "" }));
    statements.push(format!("GRANT CREATE ON SCHEMA public TO {application}"));
    for table in &TABLES {
        statements.push(format!("ALTER TABLE public.{} OWNER TO {application}", table.name));
    }
    for statement in statements {
        execute(&mut connection, statement).await?;
    }
    connection.close().await.context("closing the connection to PostgreSQL")
}

/// Letters that no other demo on the same server has.
pub(super) fn random_suffix() -> String {
    random_hex(4)
}

pub(super) fn random_hex(bytes: usize) -> String {
    let mut drawn = vec![0_u8; bytes];
    rand::rng().fill(drawn.as_mut_slice());
    hex::encode(drawn)
}

async fn connect(url: &str) -> anyhow::Result<PgConnection> {
    // Without the URL in the error: it may hold a password.
    let options = PgConnectOptions::from_str(url).context("the database's URL is not a usable PostgreSQL URL")?;
    let options = options.application_name("keyturn-demo");
    PgConnection::connect_with(&options).await.context("connecting to PostgreSQL; is it up, and is the login right?")
}

async fn execute(connection: &mut PgConnection, statement: String) -> anyhow::Result<()> {
    // Not the whole statement: it may hold a password.
    let what = statement.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop).with_context(|| {
        format!("{what} … was refused by PostgreSQL; the URL must have the login of a superuser of release 15 or later")
    })
}

/// The parts of a URL around its login and database.
pub(super) struct Place<'a> {
    pub(super) scheme: &'a str,
    /// `user:password@`, or nothing.
    pub(super) login: &'a str,
    pub(super) host: &'a str,
    /// `?sslmode=…`, or nothing.
    pub(super) options: &'a str,
}

impl<'a> Place<'a> {
    pub(super) fn of(url: &'a str) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_at(url.find("://").context("the database's URL has no scheme")? + 3);
        let (rest, options) = rest.find('?').map_or((rest, ""), |at| rest.split_at(at));
        let authority = rest.find('/').map_or(rest, |at| &rest[..at]);
        let (login, host) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
        Ok(Self { scheme, login, host, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_of_roles_keep_host_and_options_of_the_servers() {
        let roles = Roles { password: Some("secret".to_owned()), ..Roles::of_own_server() };
        let server = "postgres://me:p%40ss@db.example:5433/postgres?sslmode=require";
        assert_eq!(
            roles.url(server, &roles.agent).unwrap(),
            "postgres://keyturn_agent:secret@db.example:5433/vault?sslmode=require"
        );
        assert_eq!(roles.admin_url(server).unwrap(), "postgres://me:p%40ss@db.example:5433/vault?sslmode=require");
        assert_eq!(roles.admin_url("postgres://%2Frun%2Fpostgresql").unwrap(), "postgres://%2Frun%2Fpostgresql/vault");
    }
}
