//! The database of a demo: a SQLite file, a PostgreSQL or MariaDB server of this machine's own binaries, or a running one.

mod binaries;
mod copied;
mod mariadb;
mod restoring;
mod roles;
mod room;
mod spare;
mod temporary;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode};

use crate::database::Database;
pub use copied::CopiedServer;
use mariadb::{ADMINISTRATOR, TemporaryMariadb, Users};
pub use restoring::Extension;
use roles::Roles;
pub use room::{NoRoom, room_aside};
pub use spare::SpareDatabase;
use temporary::TemporaryServer;

/// What the parts of the farm need to reach the vault's database.
#[derive(Debug)]
pub(crate) struct VaultDatabase {
    /// As whom the application comes.
    pub(crate) application_url: String,
    /// As whom the agents come.
    pub(crate) agent_url: String,
    /// The application's role, which is fenced; `None` where there are no roles.
    pub(crate) application_role: Option<String>,
    /// As whom the demo seeds, breaks and checks.
    admin_url: String,
    place: Place,
}

/// Where the database is.
#[derive(Debug)]
enum Place {
    File(PathBuf),
    Temporary(Box<TemporaryServer>),
    TemporaryMariadb(Box<TemporaryMariadb>),
    Running { server_url: String, roles: Roles },
    RunningMariadb { server_url: String, users: Users },
}

/// Where a database was left.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    /// A SQLite file.
    File(PathBuf),
    /// A file of SQL.
    Dump(PathBuf),
    /// A database of that name on the server of the URL.
    OnServer(String),
}

/// A database that cannot be had: wrong usage, with what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UnusableDatabase(String);

impl VaultDatabase {
    /// Prepares an empty database. `folder` is for files of the demo's own.
    pub(crate) async fn prepare(database: &str, folder: &Path) -> anyhow::Result<Self> {
        match database {
            "sqlite" => Self::file(folder),
            "postgres" => Self::temporary().await,
            "mariadb" => Self::temporary_mariadb().await,
            url if url.starts_with("postgres://") || url.starts_with("postgresql://") => Self::running(url).await,
            url if url.starts_with("mariadb://") || url.starts_with("mysql://") => Self::running_mariadb(url).await,
            _ => bail!(UnusableDatabase(
                "--database takes sqlite, postgres, mariadb, or the postgres:// or mariadb:// URL of a running server \
                 with an administrator's login"
                    .to_owned()
            )),
        }
    }

    fn file(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("database");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join("vault.sqlite");
        fs::File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
        let url = format!("sqlite://{}", path.display());
        Ok(Self {
            application_url: url.clone(),
            agent_url: url.clone(),
            application_role: None,
            admin_url: url,
            place: Place::File(path),
        })
    }

    async fn temporary() -> anyhow::Result<Self> {
        let server = TemporaryServer::start().await?;
        let server_url = server.url("postgres", "postgres");
        let roles = Roles::create(&server_url, None).await?;
        Ok(Self {
            application_url: server.url(&roles.application, &roles.database),
            agent_url: server.url(&roles.agent, &roles.database),
            application_role: Some(roles.application.clone()),
            admin_url: server.url("postgres", &roles.database),
            place: Place::Temporary(Box::new(server)),
        })
    }

    async fn running(server_url: &str) -> anyhow::Result<Self> {
        let roles = Roles::create(server_url, Some(&roles::random_suffix())).await?;
        Ok(Self {
            application_url: roles.url(server_url, &roles.application)?,
            agent_url: roles.url(server_url, &roles.agent)?,
            application_role: Some(roles.application.clone()),
            admin_url: roles.admin_url(server_url)?,
            place: Place::Running { server_url: server_url.to_owned(), roles },
        })
    }

    async fn temporary_mariadb() -> anyhow::Result<Self> {
        let server = TemporaryMariadb::start().await?;
        let users = Users::create(&server.url(ADMINISTRATOR, "mysql"), None).await?;
        Ok(Self {
            application_url: server.url(&users.application, &users.database),
            agent_url: server.url(&users.agent, &users.database),
            application_role: Some(users.application.clone()),
            admin_url: server.url(ADMINISTRATOR, &users.database),
            place: Place::TemporaryMariadb(Box::new(server)),
        })
    }

    async fn running_mariadb(server_url: &str) -> anyhow::Result<Self> {
        let users = Users::create(server_url, Some(&roles::random_suffix())).await?;
        Ok(Self {
            application_url: users.url(server_url, &users.application)?,
            agent_url: users.url(server_url, &users.agent)?,
            application_role: Some(users.application.clone()),
            admin_url: users.admin_url(server_url)?,
            place: Place::RunningMariadb { server_url: server_url.to_owned(), users },
        })
    }

    /// `sqlite`, `postgres` or `mariadb`.
    pub(crate) const fn kind(&self) -> &'static str {
        match self.place {
            Place::File(_) => "sqlite",
            Place::Temporary(_) | Place::Running { .. } => "postgres",
            Place::TemporaryMariadb(_) | Place::RunningMariadb { .. } => "mariadb",
        }
    }

    /// Connects with all rights, for as long as the caller keeps it: a rotation refuses to go on beside it.
    pub(crate) fn connect(&self) -> anyhow::Result<Database> {
        Database::open(&self.admin_url, "keyturn-demo", 1)
    }

    /// After seeding: gives the roles their rights on the tables.
    pub(crate) async fn grant(&self) -> anyhow::Result<()> {
        match &self.place {
            Place::File(_) => Ok(()),
            Place::Temporary(_) => roles::grant(&self.admin_url, &Roles::of_own_server()).await,
            Place::Running { roles, .. } => roles::grant(&self.admin_url, roles).await,
            Place::TemporaryMariadb(_) => mariadb::grant(&self.admin_url, &Users::of_own_server()).await,
            Place::RunningMariadb { users, .. } => mariadb::grant(&self.admin_url, users).await,
        }
    }

    /// Restarts the server, as an operator of it might in the middle of everything.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        match &mut self.place {
            Place::Temporary(server) => server.restart().await,
            Place::TemporaryMariadb(server) => server.restart().await,
            Place::File(_) => bail!(UnusableDatabase("SQLite has no server that could be restarted".to_owned())),
            Place::Running { .. } | Place::RunningMariadb { .. } => {
                bail!(UnusableDatabase("the demo restarts no server but its own".to_owned()))
            }
        }
    }

    /// Leaves what another program can read, and says where. Nobody else may have it open any more.
    pub(crate) async fn keep(&self, folder: &Path) -> anyhow::Result<Kept> {
        match &self.place {
            Place::File(path) => {
                // The log is folded into the file, so that the one file is the whole database.
                let options: SqliteConnectOptions = self.admin_url.parse()?;
                let connection = SqliteConnection::connect_with(&options.journal_mode(SqliteJournalMode::Delete)).await;
                connection.context("opening the database to keep it")?.close().await.context("closing the database")?;
                Ok(Kept::File(path.clone()))
            }
            Place::Temporary(server) => {
                let dump = dump_file(folder)?;
                server.dump(&Roles::of_own_server().database, &dump).await?;
                Ok(Kept::Dump(dump))
            }
            Place::TemporaryMariadb(server) => {
                let dump = dump_file(folder)?;
                server.dump(&Users::of_own_server().database, &dump).await?;
                Ok(Kept::Dump(dump))
            }
            Place::Running { roles, .. } => Ok(Kept::OnServer(roles.database.clone())),
            Place::RunningMariadb { users, .. } => Ok(Kept::OnServer(users.database.clone())),
        }
    }

    /// What is made on somebody else's server and must be removed from it, however the demo ends.
    pub(crate) fn leftovers(&self) -> Option<Leftovers> {
        match &self.place {
            Place::File(_) | Place::Temporary(_) | Place::TemporaryMariadb(_) => None,
            Place::Running { server_url, roles } => {
                Some(Leftovers { server_url: server_url.clone(), made: Made::Postgres(roles.clone()) })
            }
            Place::RunningMariadb { server_url, users } => {
                Some(Leftovers { server_url: server_url.clone(), made: Made::Mariadb(users.clone()) })
            }
        }
    }

    /// Ends the demo's own server.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        match self.place {
            Place::File(_) | Place::Running { .. } | Place::RunningMariadb { .. } => Ok(()),
            Place::Temporary(server) => server.stop().await,
            Place::TemporaryMariadb(server) => server.stop().await,
        }
    }
}

fn dump_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join("database");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder.join("vault.sql"))
}

/// A database and roles on somebody else's server.
#[derive(Debug)]
pub(crate) struct Leftovers {
    server_url: String,
    made: Made,
}

#[derive(Debug)]
enum Made {
    Postgres(Roles),
    Mariadb(Users),
}

impl Leftovers {
    /// Removes them.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        match self.made {
            Made::Postgres(roles) => roles.drop_all(&self.server_url).await,
            Made::Mariadb(users) => users.drop_all(&self.server_url).await,
        }
    }
}

#[cfg(test)]
mod tests;
