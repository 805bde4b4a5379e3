//! The application's database as a test sees it from outside.

use std::path::PathBuf;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

/// One table `entries` with a number and a ciphertext, and the ledger beside it.
#[async_trait]
pub(crate) trait Database: Send + Sync {
    /// What the agent's configuration says of it, but for the targets.
    fn configuration(&self) -> String;

    /// Makes the table and fills it.
    async fn seed(&self, rows: Vec<(i64, String)>);

    /// Everything in it, in order.
    async fn rows(&self) -> Vec<(i64, String)>;

    /// The tables that are not the ledger's: the application's, their copies, and originals that are kept.
    async fn tables(&self) -> Vec<String>;

    /// Remembers how everything is.
    async fn snapshot(&self);

    /// Brings everything back to how it was remembered. Nobody may use it meanwhile.
    async fn restore(&self);
}

/// A file.
pub(crate) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// At this path.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    async fn open(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(&self.path).create_if_missing(true);
        SqlitePool::connect_with(options).await.unwrap()
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        PathBuf::from(format!("{}{suffix}", self.path.display()))
    }
}

#[async_trait]
impl Database for Sqlite {
    fn configuration(&self) -> String {
        format!("url = \"sqlite://{}\"\n", self.path.display())
    }

    async fn seed(&self, rows: Vec<(i64, String)>) {
        let database = self.open().await;
        sqlx::query("CREATE TABLE entries (id INTEGER PRIMARY KEY, secret TEXT)").execute(&database).await.unwrap();
        // So that a copy has something to build.
        sqlx::query("CREATE INDEX entries_by_length ON entries (length(secret))").execute(&database).await.unwrap();
        for (id, secret) in rows {
            sqlx::query("INSERT INTO entries VALUES (?, ?)").bind(id).bind(secret).execute(&database).await.unwrap();
        }
        database.close().await;
    }

    async fn rows(&self) -> Vec<(i64, String)> {
        let database = self.open().await;
        let rows = sqlx::query_as("SELECT id, secret FROM entries ORDER BY id").fetch_all(&database).await.unwrap();
        database.close().await;
        rows
    }

    async fn tables(&self) -> Vec<String> {
        let database = self.open().await;
        let names: Vec<(String,)> = sqlx::query_as(
            "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND (name = 'entries' OR name GLOB 'keyturn_????????_*') ORDER BY name",
        )
        .fetch_all(&database)
        .await
        .unwrap();
        database.close().await;
        names.into_iter().map(|(name,)| name).collect()
    }

    async fn snapshot(&self) {
        // Opened and closed, so that a journal that a crash left is played back first.
        self.rows().await;
        std::fs::copy(&self.path, self.beside(".kept")).unwrap();
    }

    async fn restore(&self) {
        for suffix in ["-journal", "-wal", "-shm"] {
            let _ = std::fs::remove_file(self.beside(suffix));
        }
        // Written into the same file: its identity stands in the signed plan.
        std::fs::write(&self.path, std::fs::read(self.beside(".kept")).unwrap()).unwrap();
    }
}
