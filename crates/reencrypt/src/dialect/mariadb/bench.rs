//! Scratch tables and floors in MariaDB.

use async_trait::async_trait;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::super::scratch::{LedgerBefore, Scratch, ScratchNames, ScratchRow, back};
use super::{connect, ledger};
use crate::EngineError;
use crate::error::Doing;
use crate::ledger::{LedgerMark, SCRATCH_ROTATIONS, direction_text, epoch_number};
use crate::targets::{ColumnTarget, TableTarget};

pub(super) struct MariadbScratch {
    connection: MySqlConnection,
    names: ScratchNames,
    /// Bytes that one statement may have.
    packet_bytes_max: usize,
}

impl MariadbScratch {
    /// The settings are those of the engine's sessions: they leave the planner and durability to the server.
    pub(super) async fn open(options: &MySqlConnectOptions, names: ScratchNames) -> Result<Self, EngineError> {
        // A statement that takes long is what is measured.
        let (connection, packet_bytes_max) = connect(&options.clone().disable_statement_logging()).await?;
        Ok(Self { connection, names, packet_bytes_max })
    }

    /// Reviewed: every name in these statements is one of [`ScratchNames`].
    async fn run(&mut self, doing: &str, statements: &[String]) -> Result<(), EngineError> {
        for sql in statements {
            let sql = AssertSqlSafe(sql.clone());
            sqlx::raw_sql(sql).execute(&mut self.connection).await.doing(|| doing.to_owned())?;
        }
        Ok(())
    }

    async fn insert(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError> {
        // Reviewed: as in `run`.
        let sql = format!(
            "INSERT INTO {} (id, token, changed_at, value) VALUES {}",
            self.names.source,
            vec!["(?, ?, FROM_UNIXTIME(?), ?)"; rows.len()].join(", ")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for row in rows {
            query = query.bind(row.id).bind(row.token.as_str()).bind(row.changed_s).bind(row.value.as_slice());
        }
        query.execute(&mut self.connection).await.doing(|| "filling a scratch table".to_owned())?;
        Ok(())
    }
}

const COLUMNS: &str = "id BIGINT NOT NULL PRIMARY KEY, token VARCHAR(36) CHARACTER SET ascii NOT NULL, \
                       changed_at DATETIME NOT NULL, value LONGBLOB NOT NULL";

/// Filled in the order of its key, then indexed.
fn copy(from: &str, to: &str) -> Vec<String> {
    vec![
        format!("CREATE TABLE {to} ({COLUMNS}) ENGINE = InnoDB"),
        format!("INSERT INTO {to} SELECT id, token, changed_at, value FROM {from} ORDER BY id"),
        format!("ALTER TABLE {to} ADD INDEX {to}_token (token), ADD INDEX {to}_changed (changed_at)"),
    ]
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
        let [source, work, copy] = self.names.all();
        let taken: Option<String> = sqlx::query(
            "SELECT TABLE_NAME FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN (?, ?, ?) LIMIT 1",
        )
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
        self.run("making a scratch table", &[format!("CREATE TABLE {source} ({COLUMNS}) ENGINE = InnoDB")]).await?;
        Ok(before)
    }

    async fn fill(&mut self, rows: &[ScratchRow]) -> Result<(), EngineError> {
        let bytes: usize = rows.iter().map(|row| row.value.len() + 128).sum();
        let parts = (2 * bytes / self.packet_bytes_max.max(1) + 1).min(rows.len().max(1));
        for part in rows.chunks(rows.len().div_ceil(parts).max(1)) {
            self.insert(part).await?;
        }
        Ok(())
    }

    async fn renew(&mut self) -> Result<(), EngineError> {
        let ScratchNames { source, work, .. } = self.names;
        let mut statements = vec![format!("DROP TABLE IF EXISTS {work}")];
        statements.extend(copy(source, work));
        statements.push(format!("ANALYZE TABLE {work}"));
        self.run("making a scratch table anew", &statements).await?;
        // What is dirty is written out, so that no measurement pays for what came before it; a right that the account
        // need not have.
        let _ = sqlx::raw_sql("FLUSH TABLES").execute(&mut self.connection).await;
        Ok(())
    }

    async fn update_floor(&mut self) -> Result<(), EngineError> {
        let sql = format!("UPDATE {} SET value = CONCAT(SUBSTRING(value, 2), SUBSTRING(value, 1, 1))", self.names.work);
        self.run("updating every row of a scratch table", &[sql]).await
    }

    async fn copy_floor(&mut self) -> Result<(), EngineError> {
        self.run("copying a scratch table", &copy(self.names.work, self.names.copy)).await
    }

    async fn drop_copy(&mut self) -> Result<(), EngineError> {
        self.run("dropping a copy", &[format!("DROP TABLE {}", self.names.copy)]).await
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
        // A session that lost its client ends with its statement; its locks are waited for.
        Ok(())
    }

    async fn remove(&mut self, before: LedgerBefore) -> Result<(), EngineError> {
        let drops: Vec<String> = self.names.all().iter().map(|name| format!("DROP TABLE IF EXISTS {name}")).collect();
        self.run("removing the scratch tables", &drops).await?;
        self.forget_like(SCRATCH_ROTATIONS).await?;
        if before == LedgerBefore::Absent {
            let doing = || "looking whether the ledger is used".to_owned();
            let used: i64 = sqlx::query("SELECT COUNT(*) FROM keyturn_rotation")
                .fetch_one(&mut self.connection)
                .await
                .and_then(|row| row.try_get(0))
                .doing(doing)?;
            if used == 0 {
                let tables = ["keyturn_shard", "keyturn_shadow", "keyturn_rotation"];
                let drops: Vec<String> = tables.iter().map(|name| format!("DROP TABLE IF EXISTS {name}")).collect();
                self.run("removing the ledger that only measurements used", &drops).await?;
            }
        }
        Ok(())
    }

    async fn end(self: Box<Self>) {
        let _ = self.connection.close().await;
    }
}

impl MariadbScratch {
    /// Removes headers whose ids are like this, and their shards.
    async fn forget_like(&mut self, rotations: &str) -> Result<(), EngineError> {
        for sql in [
            "DELETE FROM keyturn_shard WHERE rotation LIKE ?",
            "DELETE FROM keyturn_shadow WHERE rotation LIKE ?",
            "DELETE FROM keyturn_rotation WHERE rotation LIKE ?",
        ] {
            sqlx::query(sql)
                .bind(rotations)
                .execute(&mut self.connection)
                .await
                .doing(|| "removing a measurement from the ledger".to_owned())?;
        }
        Ok(())
    }
}
