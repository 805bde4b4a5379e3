//! Scratch tables and floors in MariaDB and MySQL. They stand beside the user's tables, under names of Keyturn's own.

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::super::scratch::{LedgerBefore, Scratch, ScratchNames, ScratchRow, back};
use super::{Connected, connect, ledger, sessions};
use crate::EngineError;
use crate::error::{Doing, mariadb_number};
use crate::ledger::{LedgerMark, SCRATCH_ROTATIONS, direction_text, epoch_number};
use crate::targets::{ColumnTarget, TableTarget};

/// As the engine's sessions, but the optimizer is the server's own and what waits may wait longer.
const SETTINGS: &str = "SET SESSION innodb_lock_wait_timeout = 30, lock_wait_timeout = 30, optimizer_switch = DEFAULT";

/// Rows of one INSERT, each with four placeholders.
const INSERT_ROWS_MAX: usize = 250;

pub(super) struct MariadbScratch {
    connection: MySqlConnection,
    names: ScratchNames,
}

impl MariadbScratch {
    pub(super) async fn open(options: &MySqlConnectOptions, names: ScratchNames) -> Result<Self, EngineError> {
        let Connected { mut connection, make, .. } = connect(options).await?;
        sqlx::raw_sql(SETTINGS)
            .execute(&mut connection)
            .await
            .doing(|| format!("setting up a {} session", make.name()))?;
        Ok(Self { connection, names })
    }

    /// Reviewed: every name in these statements is one of [`ScratchNames`].
    async fn run(&mut self, doing: &str, sql: String) -> Result<(), EngineError> {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection).await.map(drop).doing(|| doing.to_owned())
    }

    async fn taken(&mut self) -> Result<Option<String>, EngineError> {
        let [source, work, copy] = self.names.all();
        sqlx::query(
            "SELECT TABLE_NAME FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN (?, ?, ?) LIMIT 1",
        )
        .bind(source)
        .bind(work)
        .bind(copy)
        .fetch_optional(&mut self.connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .doing(|| "looking for scratch tables".to_owned())
    }

    async fn forget_like(&mut self, pattern: &str) -> Result<(), EngineError> {
        for sql in [
            "DELETE FROM keyturn_shard WHERE rotation LIKE ?",
            "DELETE FROM keyturn_shadow WHERE rotation LIKE ?",
            "DELETE FROM keyturn_rotation WHERE rotation LIKE ?",
        ] {
            sqlx::query(sql)
                .bind(pattern)
                .execute(&mut self.connection)
                .await
                .doing(|| "removing a measurement from the ledger".to_owned())?;
        }
        Ok(())
    }
}

/// A table as an application might have it, with its primary key and two more indexes.
fn definition(name: &str, indexed: bool) -> String {
    let indexes = if indexed { ", KEY token (token), KEY changed (changed_at)" } else { "" };
    format!(
        "CREATE TABLE {name} (
             id BIGINT NOT NULL PRIMARY KEY, token CHAR(36) CHARACTER SET ascii NOT NULL, changed_at DATETIME NOT NULL,
             value LONGBLOB NOT NULL{indexes}
         ) ENGINE = InnoDB"
    )
}

#[async_trait]
impl Scratch for MariadbScratch {
    async fn make(&mut self) -> Result<LedgerBefore, EngineError> {
        let before =
            if ledger::exists(&mut self.connection).await? { LedgerBefore::Present } else { LedgerBefore::Absent };
        ledger::create(&mut self.connection).await?;
        if let Some(open) = ledger::open_rotation(&mut self.connection, None).await? {
            return Err(EngineError::LedgerOpen(open));
        }
        if let Some(name) = self.taken().await? {
            return Err(EngineError::ScratchTaken(name));
        }
        self.run("making a scratch table", definition(self.names.source, false)).await?;
        Ok(before)
    }

    async fn fill(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError> {
        let doing = || "filling a scratch table".to_owned();
        let source = self.names.source;
        let mut transaction = self.connection.begin().await.doing(doing)?;
        for rows in rows.chunks(INSERT_ROWS_MAX) {
            let tuples = vec!["(?, ?, FROM_UNIXTIME(?), ?)"; rows.len()].join(", ");
            // Reviewed: as in `run`.
            let sql = format!("INSERT INTO {source} (id, token, changed_at, value) VALUES {tuples}");
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for row in rows {
                query = query.bind(row.id).bind(row.token.as_str()).bind(row.changed_s).bind(row.value.as_slice());
            }
            query.execute(&mut *transaction).await.doing(doing)?;
        }
        transaction.commit().await.doing(doing)
    }

    async fn renew(&mut self) -> Result<(), EngineError> {
        let ScratchNames { source, work, .. } = self.names;
        let doing = "making a scratch table anew";
        self.run(doing, format!("DROP TABLE IF EXISTS {work}")).await?;
        self.run(doing, definition(work, true)).await?;
        self.run(doing, format!("INSERT INTO {work} SELECT * FROM {source} ORDER BY id")).await?;
        self.run(doing, format!("ANALYZE TABLE {work}")).await
    }

    async fn update_floor(&mut self) -> Result<(), EngineError> {
        let sql = format!("UPDATE {} SET value = CONCAT(SUBSTRING(value, 2), SUBSTRING(value, 1, 1))", self.names.work);
        self.run("updating every row of a scratch table", sql).await
    }

    async fn copy_floor(&mut self) -> Result<(), EngineError> {
        let ScratchNames { work, copy, .. } = self.names;
        let doing = "copying a scratch table";
        self.run(doing, definition(copy, false)).await?;
        self.run(doing, format!("INSERT INTO {copy} SELECT * FROM {work} ORDER BY id")).await?;
        self.run(doing, format!("ALTER TABLE {copy} ADD KEY token (token), ADD KEY changed (changed_at)")).await
    }

    async fn drop_copy(&mut self) -> Result<(), EngineError> {
        self.run("dropping a copy", format!("DROP TABLE {}", self.names.copy)).await
    }

    async fn read(&mut self, id: i64) -> Result<Vec<u8>, EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("SELECT value FROM {} WHERE id = ?", self.names.work)))
            .bind(id)
            .fetch_one(&mut self.connection)
            .await
            .and_then(|row| row.try_get(0))
            .doing(|| "reading a row of a scratch table".to_owned())
    }

    async fn write(&mut self, id: i64, value: &[u8]) -> Result<(), EngineError> {
        // Reviewed: as in `run`.
        sqlx::query(AssertSqlSafe(format!("UPDATE {} SET value = ? WHERE id = ?", self.names.work)))
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
        ledger::insert_header(&mut self.connection, mark).await
    }

    async fn turn_back(&mut self, mark: &LedgerMark) -> Result<LedgerMark, EngineError> {
        let back = back(mark.rotation);
        sqlx::query("UPDATE keyturn_rotation SET direction = ?, epoch = ? WHERE rotation = ?")
            .bind(direction_text(back.direction))
            .bind(epoch_number(&back))
            .bind(back.rotation.to_string())
            .execute(&mut self.connection)
            .await
            .doing(|| "turning a measurement back".to_owned())?;
        Ok(back)
    }

    async fn left(&mut self) -> Result<Vec<LedgerMark>, EngineError> {
        let rotations: Vec<String> = sqlx::query("SELECT rotation FROM keyturn_rotation WHERE rotation LIKE ?")
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
        self.forget_like(&mark.rotation.to_string()).await
    }

    async fn end_sessions(&mut self) -> Result<(), EngineError> {
        if !self.names.ends_sessions {
            return Ok(());
        }
        // Of those that have entered a shard of a measurement; the others hold nothing.
        let doing = || "ending what was given up".to_owned();
        let holders: Vec<String> = sqlx::query("SELECT DISTINCT holder FROM keyturn_shard WHERE rotation LIKE ?")
            .bind(SCRATCH_ROTATIONS)
            .fetch_all(&mut self.connection)
            .await
            .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
            .doing(doing)?;
        for holder in holders {
            sessions::end_named(&mut self.connection, &holder).await?;
        }
        Ok(())
    }

    async fn remove(&mut self, before: LedgerBefore) -> Result<(), EngineError> {
        for name in self.names.all() {
            self.run("removing the scratch tables", format!("DROP TABLE IF EXISTS {name}")).await?;
        }
        if ledger::exists(&mut self.connection).await? {
            self.forget_like(SCRATCH_ROTATIONS).await?;
        }
        if before == LedgerBefore::Absent {
            // Without the right to drop the ledger's tables, which the work itself does not need, they stay, empty.
            match ledger::drop_unused(&mut self.connection).await {
                Err(EngineError::Database { source, .. }) if mariadb_number(&source) == Some(1142) => {}
                other => other?,
            }
        }
        Ok(())
    }

    async fn end(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}
