//! An empty database of this machine's own binaries, for measurements and for proving backups: gone when it is no longer wanted.

use anyhow::{Context as _, bail};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};
use tempfile::TempDir;

use super::mariadb::{self, Users};
use super::restoring::{self, Extension, RESTORER};
use super::roles::Roles;
use super::{Place, UnusableDatabase, VaultDatabase};
use crate::WrongUsage;

/// An empty database on a temporary server, or in a temporary file. Gone when it is dropped.
#[derive(Debug)]
pub struct SpareDatabase {
    database: VaultDatabase,
    _folder: TempDir,
}

impl SpareDatabase {
    /// Makes one: `sqlite`, `postgres` or `mariadb`. Fails with [`WrongUsage`] when this machine has no such server.
    pub async fn prepare(database: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("keyturn-db-").tempdir().context("creating a folder")?;
        let database = match VaultDatabase::prepare(database, folder.path()).await {
            Ok(database) => database,
            Err(error) if error.is::<UnusableDatabase>() => return Err(WrongUsage(format!("{error:#}")).into()),
            Err(error) => return Err(error),
        };
        if let Place::File(_) = database.place {
            // As the sample vault and most applications have it.
            let options: SqliteConnectOptions = database.admin_url.parse()?;
            let connection = SqliteConnection::connect_with(&options.journal_mode(SqliteJournalMode::Wal)).await;
            connection.context("opening the database")?.close().await.context("closing the database")?;
        }
        Ok(Self { database, _folder: folder })
    }

    /// Its URL, with all rights.
    pub fn url(&self) -> &str {
        &self.database.admin_url
    }

    /// Prepares it for a backup of somebody else's database: roles of these names are there, without any right, and these
    /// extensions. Answers the URL of a role that owns it and may do nothing beyond it, as which all that the backup defines
    /// is made and run. MariaDB knows neither role nor extension of a database; nobody is left there but that one user.
    pub async fn for_restore(&self, roles: &[String], extensions: &[Extension]) -> anyhow::Result<String> {
        match &self.database.place {
            Place::Temporary(server) => {
                let database = Roles::of_own_server().database;
                restoring::prepare(self.url(), &database, roles, extensions).await?;
                Ok(server.url(RESTORER, &database))
            }
            Place::TemporaryMariadb(server) => {
                mariadb::leave_to_restorer(self.url()).await?;
                Ok(server.url(mariadb::RESTORER, &Users::of_own_server().database))
            }
            Place::File(_) | Place::Running { .. } | Place::RunningMariadb { .. } => {
                bail!("a {} database is not restored into as a role of its own", self.database.kind())
            }
        }
    }

    /// Ends its server and removes its files.
    pub async fn end(self) -> anyhow::Result<()> {
        self.database.end().await
    }
}
