//! A role that owns the database of a temporary PostgreSQL server, and may do nothing beyond it. What is restored into
//! it brings functions along, which indexes, checks and views call: they run as that role, and never as a superuser.

use std::str::FromStr as _;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _};

/// Reads rows whatever policies say, and has tables of extensions filled as the backup has them.
pub(super) const RESTORER: &str = "keyturn_restorer";

/// Schemas that every database has.
const ALWAYS_THERE: [&str; 2] = ["pg_catalog", "public"];

/// An extension, and the schema that its objects are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Where its objects are.
    pub schema: String,
}

/// Makes the role and gives the database to it; makes roles of these names, without any right, and these extensions, of
/// which only a superuser may make some.
pub(super) async fn prepare(
    admin_url: &str,
    database: &str,
    roles: &[String],
    extensions: &[Extension],
) -> anyhow::Result<()> {
    let options = PgConnectOptions::from_str(admin_url).context("the temporary server's URL")?;
    let mut connection = PgConnection::connect_with(&options).await.context("connecting to the temporary server")?;
    run(&mut connection, format!("CREATE ROLE {RESTORER} LOGIN NOSUPERUSER BYPASSRLS")).await?;
    run(&mut connection, format!("GRANT pg_read_all_data, pg_write_all_data TO {RESTORER}")).await?;
    run(&mut connection, format!("ALTER DATABASE {} OWNER TO {RESTORER}", quote(database))).await?;
    let there: Vec<String> = sqlx::query_scalar("SELECT rolname::text FROM pg_roles")
        .fetch_all(&mut connection)
        .await
        .context("reading the temporary server's roles")?;
    for role in roles.iter().filter(|role| !there.contains(role)) {
        run(&mut connection, format!("CREATE ROLE {}", quote(role))).await?;
    }
    for Extension { name, schema } in extensions {
        if !ALWAYS_THERE.contains(&schema.as_str()) {
            let made = format!("CREATE SCHEMA IF NOT EXISTS {} AUTHORIZATION {RESTORER}", quote(schema));
            run(&mut connection, made).await?;
        }
        let made = format!("CREATE EXTENSION IF NOT EXISTS {} SCHEMA {}", quote(name), quote(schema));
        run(&mut connection, made).await?;
    }
    let wrappers: Vec<String> = sqlx::query_scalar("SELECT fdwname::text FROM pg_foreign_data_wrapper")
        .fetch_all(&mut connection)
        .await
        .context("reading the temporary server's foreign data wrappers")?;
    for wrapper in wrappers {
        run(&mut connection, format!("GRANT USAGE ON FOREIGN DATA WRAPPER {} TO {RESTORER}", quote(&wrapper))).await?;
    }
    connection.close().await.context("closing the connection to the temporary server")
}

async fn run(connection: &mut PgConnection, statement: String) -> anyhow::Result<()> {
    let doing = format!("{statement:?} was refused by the temporary server");
    // Reviewed: every name in it is a quoted identifier.
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop).context(doing)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
