//! Scratch tables and floors in PostgreSQL. They stand in the ledger's schema, so that the agent's role needs no further
//! right for them.

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::scratch::{LedgerBefore, Scratch, ScratchNames, ScratchRow, back};
use super::{connect, ledger};
use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, SCRATCH_ROTATIONS, direction_text, epoch_number};
use crate::targets::{ColumnTarget, TableTarget};

/// The ledger's schema.
const SCHEMA: &str = "keyturn";

/// As durable as the engine's sessions; the planner is the database's own.
const SETTINGS: &str = "
    SET search_path = pg_catalog, pg_temp;
    SET synchronous_commit = on;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_read_only = off;
    SET lock_timeout = '30s';
    SET statement_timeout = 0;
    SET idle_session_timeout = 0;
";

/// How long an interrupted statement may take to end, milliseconds.
const TERMINATE_MS: i64 = 30_000;

pub(super) struct PostgresScratch {
    connection: PgConnection,
    names: ScratchNames,
    /// The other sessions of this measurement are called so too.
    application: String,
}

impl PostgresScratch {
    pub(super) async fn open(options: &PgConnectOptions, names: ScratchNames) -> Result<Self, EngineError> {
        let application = options.get_application_name().unwrap_or_default().to_owned();
        // A statement that takes long is what is measured.
        let mut connection = connect(&options.clone().disable_statement_logging()).await?;
        sqlx::raw_sql(SETTINGS)
            .execute(&mut connection)
            .await
            .doing(|| "setting up a PostgreSQL session".to_owned())?;
        Ok(Self { connection, names, application })
    }

    /// Reviewed: every name in these statements is one of [`ScratchNames`].
    async fn run(&mut self, doing: &str, sql: String) -> Result<u64, EngineError> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await;
        done.map(|done| done.rows_affected()).doing(|| doing.to_owned())
    }

    async fn taken(&mut self) -> Result<Option<String>, EngineError> {
        sqlx::query(
            "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = ANY ($2) ORDER BY 1 LIMIT 1",
        )
        .bind(SCHEMA)
        .bind(self.names.all().map(str::to_owned).to_vec())
        .fetch_optional(&mut self.connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .doing(|| "looking for scratch tables".to_owned())
    }

    async fn checkpoint(&mut self) -> Result<(), EngineError> {
        match sqlx::raw_sql("CHECKPOINT").execute(&mut self.connection).await {
            Ok(_) => Ok(()),
            // A right of its own, which the agent's role need not have; then every method begins in the middle of one.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Ok(()),
            Err(error) => Err(error).doing(|| "writing a checkpoint".to_owned()),
        }
    }
}

/// The three indexes of a scratch table.
fn indexes(table: &str) -> String {
    format!(
        "ALTER TABLE {SCHEMA}.{table} ADD CONSTRAINT {table}_pkey PRIMARY KEY (id);
         CREATE INDEX {table}_token ON {SCHEMA}.{table} (token);
         CREATE INDEX {table}_changed ON {SCHEMA}.{table} (changed_at)"
    )
}

#[async_trait]
impl Scratch for PostgresScratch {
    async fn make(&mut self) -> Result<LedgerBefore, EngineError> {
        let before = match ledger::exists(&mut self.connection).await? {
            true => LedgerBefore::Present,
            false if ledger::has_schema(&mut self.connection).await? => LedgerBefore::Absent,
            false => LedgerBefore::NoSchema,
        };
        ledger::create(&mut self.connection).await?;
        if let Some(open) = ledger::open_rotation(&mut self.connection).await? {
            return Err(EngineError::LedgerOpen(open));
        }
        if let Some(name) = self.taken().await? {
            return Err(EngineError::ScratchTaken(format!("{SCHEMA}.{name}")));
        }
        let source = self.names.source;
        self.run(
            "making a scratch table",
            format!(
                "CREATE TABLE {SCHEMA}.{source} (
                     id bigint NOT NULL, token text NOT NULL, changed_at timestamptz NOT NULL, value bytea NOT NULL
                 ) WITH (autovacuum_enabled = off)"
            ),
        )
        .await?;
        Ok(before)
    }

    async fn fill(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError> {
        // Reviewed: as in `run`.
        let sql = format!(
            "INSERT INTO {SCHEMA}.{} (id, token, changed_at, value)
             SELECT id, token, to_timestamp(changed), value
             FROM unnest($1::int8[], $2::text[], $3::int8[], $4::bytea[]) AS u(id, token, changed, value)",
            self.names.source
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(rows.iter().map(|row| row.id).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.token.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.changed_s).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.value.as_slice()).collect::<Vec<_>>())
            .execute(&mut self.connection)
            .await
            .doing(|| "filling a scratch table".to_owned())?;
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), EngineError> {
        let ScratchNames { source, work, .. } = self.names;
        // Autovacuum would fall into one measurement and not into another.
        self.run(
            "making a scratch table anew",
            format!(
                "DROP TABLE IF EXISTS {SCHEMA}.{work};
                 CREATE TABLE {SCHEMA}.{work} (LIKE {SCHEMA}.{source}) WITH (autovacuum_enabled = off);
                 INSERT INTO {SCHEMA}.{work} SELECT * FROM {SCHEMA}.{source};
                 {}",
                indexes(work)
            ),
        )
        .await?;
        self.run("cleaning up a scratch table", format!("VACUUM (ANALYZE) {SCHEMA}.{work}")).await?;
        self.checkpoint().await
    }

    async fn update_floor(&mut self) -> Result<(), EngineError> {
        let sql = format!(
            "UPDATE {SCHEMA}.{} SET value = set_byte(value, length(value) - 1, get_byte(value, length(value) - 1) # 255)",
            self.names.work
        );
        self.run("updating every row of a scratch table", sql).await?;
        Ok(())
    }

    async fn copy_floor(&mut self) -> Result<(), EngineError> {
        let ScratchNames { work, copy, .. } = self.names;
        self.run(
            "copying a scratch table",
            format!(
                "CREATE TABLE {SCHEMA}.{copy} WITH (autovacuum_enabled = off) AS TABLE {SCHEMA}.{work};
                 {}",
                indexes(copy)
            ),
        )
        .await?;
        Ok(())
    }

    async fn drop_copy(&mut self) -> Result<(), EngineError> {
        self.run("dropping a copy", format!("DROP TABLE {SCHEMA}.{}", self.names.copy)).await.map(drop)
    }

    async fn read(&mut self, id: i64) -> Result<Vec<u8>, EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("SELECT value FROM {SCHEMA}.{} WHERE id = $1", self.names.work)))
            .bind(id)
            .fetch_one(&mut self.connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| "reading a row of a scratch table".to_owned())
    }

    async fn write(&mut self, id: i64, value: &[u8]) -> Result<(), EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("UPDATE {SCHEMA}.{} SET value = $2 WHERE id = $1", self.names.work)))
            .bind(id)
            .bind(value)
            .execute(&mut self.connection)
            .await
            .doing(|| "writing a row of a scratch table".to_owned())?;
        Ok(())
    }

    fn target(&self) -> TableTarget {
        TableTarget {
            schema: Some(SCHEMA.to_owned()),
            name: self.names.work.to_owned(),
            key: vec!["id".to_owned()],
            columns: vec![ColumnTarget::raw("value")],
        }
    }

    async fn open_ledger(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        ledger::insert_header(&mut self.connection, mark).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<LedgerMark, EngineError> {
        let back = back(mark.rotation);
        sqlx::query("UPDATE keyturn.rotation SET direction = $2, epoch = $3 WHERE rotation = $1")
            .bind(back.rotation.to_string())
            .bind(direction_text(back.direction))
            .bind(epoch_number(&back))
            .execute(&mut self.connection)
            .await
            .doing(|| "turning a measurement back".to_owned())?;
        Ok(back)
    }

    async fn left(&mut self) -> Result<Vec<LedgerMark>, EngineError> {
        let rotations: Vec<String> = sqlx::query("SELECT rotation FROM keyturn.rotation WHERE rotation LIKE $1")
            .bind(SCRATCH_ROTATIONS)
            .fetch_all(&mut self.connection)
            .await
            .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
            .doing(|| "looking for measurements".to_owned())?;
        let mut left = Vec::new();
        for rotation in rotations.iter().filter_map(|rotation| rotation.parse().ok()) {
            left.push(self.turn_back(&back(rotation)).await?);
        }
        Ok(left)
    }

    async fn forget(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        sqlx::query("DELETE FROM keyturn.rotation WHERE rotation = $1")
            .bind(mark.rotation.to_string())
            .execute(&mut self.connection)
            .await
            .doing(|| "removing a measurement from the ledger".to_owned())?;
        Ok(())
    }

    async fn end_sessions(&mut self) -> Result<(), EngineError> {
        if !self.names.ends_sessions {
            return Ok(());
        }
        sqlx::query(
            "SELECT pg_terminate_backend(pid, $2) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = session_user AND pid <> pg_backend_pid()
               AND application_name = $1",
        )
        .bind(&self.application)
        .bind(TERMINATE_MS)
        .execute(&mut self.connection)
        .await
        .doing(|| "ending what was given up".to_owned())?;
        Ok(())
    }

    async fn remove(&mut self, before: LedgerBefore) -> Result<(), EngineError> {
        let doing = || "removing the scratch tables".to_owned();
        for name in self.names.all() {
            self.run("removing the scratch tables", format!("DROP TABLE IF EXISTS {SCHEMA}.{name}")).await?;
        }
        sqlx::query("DELETE FROM keyturn.rotation WHERE rotation LIKE $1")
            .bind(SCRATCH_ROTATIONS)
            .execute(&mut self.connection)
            .await
            .doing(doing)?;
        match before {
            LedgerBefore::Present => {}
            LedgerBefore::Absent => ledger::drop_unused(&mut self.connection, false).await?,
            LedgerBefore::NoSchema => ledger::drop_unused(&mut self.connection, true).await?,
        }
        Ok(())
    }

    async fn end(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}
