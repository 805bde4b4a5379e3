//! The same table in PostgreSQL and MariaDB, on temporary servers of this machine's own binaries.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::cluster::{self, Cluster};
use crate::mariadb::{self, Server};
use crate::support::database::Database;

/// A database of a cluster, as which the agent comes as the superuser.
pub(crate) struct Postgres {
    cluster: Arc<Cluster>,
    name: String,
    /// It stands in the signed plan.
    oid: i64,
    application: String,
}

impl Postgres {
    pub(crate) async fn new() -> Self {
        let cluster = cluster::shared();
        let (name, number) = cluster.database("").await;
        let application = format!("app_{number}");
        let mut superuser = cluster.superuser(&name).await;
        run_postgres(&mut superuser, format!("CREATE ROLE {application} LOGIN")).await;
        let (oid,): (i64,) = sqlx::query_as("SELECT oid::int8 FROM pg_database WHERE datname = current_database()")
            .fetch_one(&mut superuser)
            .await
            .unwrap();
        superuser.close().await.unwrap();
        Self { cluster, name, oid, application }
    }

    /// Copies a database that nobody uses any more; whoever is left in it goes.
    async fn copy(&self, from: &str, into: &str, options: String) {
        let mut superuser = self.cluster.superuser("postgres").await;
        run_postgres(&mut superuser, format!("DROP DATABASE IF EXISTS {into} WITH (FORCE)")).await;
        let gone = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{from}'";
        run_postgres(&mut superuser, gone.replace("{from}", from)).await;
        run_postgres(&mut superuser, format!("CREATE DATABASE {into} TEMPLATE {from} {options}")).await;
        superuser.close().await.unwrap();
    }

    fn kept(&self) -> String {
        format!("{}_kept", self.name)
    }
}

async fn run_postgres(connection: &mut PgConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

#[async_trait]
impl Database for Postgres {
    fn configuration(&self) -> String {
        let url = self.cluster.url("postgres", &self.name);
        format!("url = \"{url}\"\napplication_role = \"{}\"\n", self.application)
    }

    async fn seed(&self, rows: Vec<(i64, String)>) {
        let mut superuser = self.cluster.superuser(&self.name).await;
        let table = "CREATE TABLE entries (id bigint PRIMARY KEY, secret text);
                     CREATE INDEX entries_by_length ON entries (length(secret))";
        run_postgres(&mut superuser, table.to_owned()).await;
        for (id, secret) in rows {
            let insert = sqlx::query("INSERT INTO entries VALUES ($1, $2)").bind(id).bind(secret);
            insert.execute(&mut superuser).await.unwrap();
        }
        superuser.close().await.unwrap();
    }

    async fn rows(&self) -> Vec<(i64, String)> {
        let mut superuser = self.cluster.superuser(&self.name).await;
        let rows = sqlx::query_as("SELECT id, secret FROM public.entries ORDER BY id").fetch_all(&mut superuser).await;
        superuser.close().await.unwrap();
        rows.unwrap()
    }

    async fn tables(&self) -> Vec<String> {
        let mut superuser = self.cluster.superuser(&self.name).await;
        let names: Vec<(String,)> =
            sqlx::query_as("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
                .fetch_all(&mut superuser)
                .await
                .unwrap();
        superuser.close().await.unwrap();
        names.into_iter().map(|(name,)| name).collect()
    }

    async fn snapshot(&self) {
        self.copy(&self.name, &self.kept(), String::new()).await;
        let mut superuser = self.cluster.superuser("postgres").await;
        let login = "COMMENT ON ROLE {role} IS '{login}'".replace("{role}", &self.application);
        let (can_login,): (bool,) = sqlx::query_as("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1")
            .bind(&self.application)
            .fetch_one(&mut superuser)
            .await
            .unwrap();
        // Roles belong to the whole server; its comment remembers whether it could log in.
        let login = login.replace("{login}", if can_login { "LOGIN" } else { "NOLOGIN" });
        run_postgres(&mut superuser, login).await;
        superuser.close().await.unwrap();
    }

    async fn restore(&self) {
        self.copy(&self.kept(), &self.name, format!("OID = {}", self.oid)).await;
        let mut superuser = self.cluster.superuser("postgres").await;
        let (login,): (String,) =
            sqlx::query_as("SELECT shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname = $1")
                .bind(&self.application)
                .fetch_one(&mut superuser)
                .await
                .unwrap();
        run_postgres(&mut superuser, format!("ALTER ROLE {} {login}", self.application)).await;
        superuser.close().await.unwrap();
    }
}

/// A database of a server, as which the agent comes as root.
pub(crate) struct Mariadb {
    server: Arc<Server>,
    name: String,
    application: String,
}

impl Mariadb {
    pub(crate) async fn new() -> Self {
        let server = mariadb::shared();
        let (name, number) = server.database().await;
        let application = format!("app_{number}");
        let mut superuser = server.superuser(&name).await;
        run_mariadb(&mut superuser, format!("CREATE USER {application}@localhost; CREATE DATABASE {name}_kept")).await;
        superuser.close().await.unwrap();
        Self { server, name, application }
    }

    /// Makes every table of one database anew in the other, with its rows, and drops what was there before.
    async fn copy(&self, from: &str, into: &str) {
        let mut superuser = self.server.superuser(into).await;
        for name in tables_of(&mut superuser, into).await {
            run_mariadb(&mut superuser, format!("DROP TABLE \"{into}\".\"{name}\"")).await;
        }
        for name in tables_of(&mut superuser, from).await {
            let sql = format!(
                "CREATE TABLE \"{into}\".\"{name}\" LIKE \"{from}\".\"{name}\";
                 INSERT INTO \"{into}\".\"{name}\" SELECT * FROM \"{from}\".\"{name}\""
            );
            run_mariadb(&mut superuser, sql).await;
        }
        superuser.close().await.unwrap();
    }
}

async fn run_mariadb(connection: &mut MySqlConnection, sql: String) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
}

async fn tables_of(connection: &mut MySqlConnection, database: &str) -> Vec<String> {
    let sql = "SELECT CAST(TABLE_NAME AS CHAR CHARACTER SET utf8mb4) FROM information_schema.TABLES
               WHERE TABLE_SCHEMA = ? ORDER BY 1";
    let names: Vec<(String,)> = sqlx::query_as(sql).bind(database).fetch_all(connection).await.unwrap();
    names.into_iter().map(|(name,)| name).collect()
}

#[async_trait]
impl Database for Mariadb {
    fn configuration(&self) -> String {
        let url = self.server.url("root", &self.name);
        format!("url = \"{url}\"\napplication_role = \"{}\"\n", self.application)
    }

    async fn seed(&self, rows: Vec<(i64, String)>) {
        let mut superuser = self.server.superuser(&self.name).await;
        let table = "CREATE TABLE entries (id BIGINT PRIMARY KEY, secret TEXT, KEY by_beginning (secret(8)))";
        run_mariadb(&mut superuser, table.to_owned()).await;
        for (id, secret) in rows {
            let insert = sqlx::query("INSERT INTO entries VALUES (?, ?)").bind(id).bind(secret);
            insert.execute(&mut superuser).await.unwrap();
        }
        superuser.close().await.unwrap();
    }

    async fn rows(&self) -> Vec<(i64, String)> {
        let mut superuser = self.server.superuser(&self.name).await;
        let rows = sqlx::query_as("SELECT id, secret FROM entries ORDER BY id").fetch_all(&mut superuser).await;
        superuser.close().await.unwrap();
        rows.unwrap()
    }

    async fn tables(&self) -> Vec<String> {
        let mut superuser = self.server.superuser(&self.name).await;
        let mut names = tables_of(&mut superuser, &self.name).await;
        superuser.close().await.unwrap();
        let ledger = ["keyturn_note", "keyturn_rotation", "keyturn_shadow", "keyturn_shard"];
        names.retain(|name| !ledger.contains(&name.as_str()));
        names
    }

    async fn snapshot(&self) {
        self.copy(&self.name, &format!("{}_kept", self.name)).await;
    }

    async fn restore(&self) {
        self.copy(&format!("{}_kept", self.name), &self.name).await;
    }
}
