//! Scratch tables and floors in SQLite.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::scratch::{LedgerBefore, Scratch, ScratchNames, ScratchRow, back};
use super::ledger;
use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, SCRATCH_ROTATIONS};
use crate::targets::{ColumnTarget, TableTarget};

/// How long to wait for the lock: a statement that was given up goes on to its end in its own thread.
const BUSY_TIME_MAX: Duration = Duration::from_secs(60);

pub(super) struct SqliteScratch {
    connection: SqliteConnection,
    names: ScratchNames,
}

impl SqliteScratch {
    /// The options are those of the engine's sessions: commits are synchronised as fully, the journal is the file's own.
    pub(super) async fn open(options: &SqliteConnectOptions, names: ScratchNames) -> Result<Self, EngineError> {
        let file = options.get_filename().to_owned();
        let options = options.clone().busy_timeout(BUSY_TIME_MAX).disable_statement_logging();
        let connection =
            SqliteConnection::connect_with(&options).await.doing(|| format!("opening {}", file.display()))?;
        Ok(Self { connection, names })
    }

    /// Reviewed: every name in these statements is one of [`ScratchNames`].
    async fn run(&mut self, doing: &str, sql: String) -> Result<(), EngineError> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.map(drop).doing(|| doing.to_owned())
    }

    /// All statements in one transaction.
    async fn run_at_once(&mut self, doing: &str, sql: String) -> Result<(), EngineError> {
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.doing(|| doing.to_owned())?;
        // Reviewed: as in `run`.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.doing(|| doing.to_owned())?;
        transaction.commit().await.doing(|| doing.to_owned())
    }
}

/// Filled, then indexed; the primary key is the table's own order.
fn copy(from: &str, to: &str) -> String {
    format!(
        "CREATE TABLE main.{to} (
             id INTEGER PRIMARY KEY, token TEXT NOT NULL, changed_at INTEGER NOT NULL, value BLOB NOT NULL);
         INSERT INTO main.{to} SELECT id, token, changed_at, value FROM main.{from} ORDER BY id;
         CREATE INDEX main.{to}_token ON {to} (token);
         CREATE INDEX main.{to}_changed ON {to} (changed_at)"
    )
}

#[async_trait]
impl Scratch for SqliteScratch {
    async fn make(&mut self) -> Result<LedgerBefore, EngineError> {
        let before =
            if ledger::exists(&mut self.connection).await? { LedgerBefore::Present } else { LedgerBefore::Absent };
        ledger::create(&mut self.connection).await?;
        if let Some(open) = ledger::open_rotation(&mut self.connection).await? {
            return Err(EngineError::LedgerOpen(open));
        }
        let [source, work, copy] = self.names.all();
        let taken: Option<String> =
            sqlx::query("SELECT name FROM main.sqlite_schema WHERE name COLLATE NOCASE IN (?, ?, ?) LIMIT 1")
                .bind(source)
                .bind(work)
                .bind(copy)
                .fetch_optional(&mut self.connection)
                .await
                .and_then(|row| row.map(|row| row.try_get(0)).transpose())
                .doing(|| "looking for scratch tables".to_owned())?;
        if let Some(name) = taken {
            return Err(EngineError::ScratchTaken(name));
        }
        self.run(
            "making a scratch table",
            format!(
                "CREATE TABLE main.{source} (
                     id INTEGER PRIMARY KEY, token TEXT NOT NULL, changed_at INTEGER NOT NULL, value BLOB NOT NULL)"
            ),
        )
        .await?;
        Ok(before)
    }

    async fn fill(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError> {
        let doing = || "filling a scratch table".to_owned();
        // Reviewed: as in `run`.
        let sql = format!("INSERT INTO main.{} (id, token, changed_at, value) VALUES (?, ?, ?, ?)", self.names.source);
        let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await.doing(doing)?;
        for row in rows {
            sqlx::query(AssertSqlSafe(sql.clone()))
                .bind(row.id)
                .bind(row.token.as_str())
                .bind(row.changed_s)
                .bind(row.value.as_slice())
                .execute(&mut *transaction)
                .await
                .doing(doing)?;
        }
        transaction.commit().await.doing(doing)
    }

    async fn renew(&mut self) -> Result<(), EngineError> {
        let ScratchNames { source, work, .. } = self.names;
        let doing = "making a scratch table anew";
        self.run_at_once(doing, format!("DROP TABLE IF EXISTS main.{work}; {}", copy(source, work))).await?;
        // The log is folded into the file, so that no measurement pays for what came before it.
        self.run(doing, "PRAGMA main.wal_checkpoint(TRUNCATE)".to_owned()).await
    }

    async fn update_floor(&mut self) -> Result<(), EngineError> {
        let sql = format!(
            "UPDATE main.{} SET value = CAST(substr(value, 2) || substr(value, 1, 1) AS BLOB)",
            self.names.work
        );
        self.run_at_once("updating every row of a scratch table", sql).await
    }

    async fn copy_floor(&mut self) -> Result<(), EngineError> {
        let ScratchNames { work, copy: name, .. } = self.names;
        self.run_at_once("copying a scratch table", copy(work, name)).await
    }

    async fn drop_copy(&mut self) -> Result<(), EngineError> {
        self.run("dropping a copy", format!("DROP TABLE main.{}", self.names.copy)).await
    }

    async fn read(&mut self, id: i64) -> Result<Vec<u8>, EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("SELECT value FROM main.{} WHERE id = ?", self.names.work)))
            .bind(id)
            .fetch_one(&mut self.connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| "reading a row of a scratch table".to_owned())
    }

    async fn write(&mut self, id: i64, value: &[u8]) -> Result<(), EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("UPDATE main.{} SET value = ? WHERE id = ?", self.names.work)))
            .bind(value)
            .bind(id)
            .execute(&mut self.connection)
            .await
            .doing(|| "writing a row of a scratch table".to_owned())?;
        Ok(())
    }

    fn target(&self) -> TableTarget {
        TableTarget {
            schema: None,
            name: self.names.work.to_owned(),
            key: vec!["id".to_owned()],
            columns: vec![ColumnTarget::raw("value")],
        }
    }

    async fn open_ledger(&mut self, mark: &LedgerMark) -> Result<(), EngineError> {
        ledger::open(&mut self.connection, mark).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<LedgerMark, EngineError> {
        let back = back(mark.rotation);
        ledger::open(&mut self.connection, &back).await?;
        Ok(back)
    }

    async fn left(&mut self) -> Result<Vec<LedgerMark>, EngineError> {
        let rotations: Vec<String> = sqlx::query("SELECT rotation FROM main.keyturn_rotation WHERE rotation LIKE ?")
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
        ledger::forget(&mut self.connection, &mark.rotation.to_string()).await
    }

    async fn end_sessions(&mut self) -> Result<(), EngineError> {
        // Whoever still works holds the lock for one statement at most, and it is waited for.
        Ok(())
    }

    async fn remove(&mut self, before: LedgerBefore) -> Result<(), EngineError> {
        for name in self.names.all() {
            self.run("removing the scratch tables", format!("DROP TABLE IF EXISTS main.{name}")).await?;
        }
        ledger::forget(&mut self.connection, SCRATCH_ROTATIONS).await?;
        if before == LedgerBefore::Absent {
            ledger::drop_unused(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn end(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}
