//! Puts a database that was restored from a backup into the place of a damaged one. The damaged one is moved aside, never
//! dropped. Everything is named after the backup, so that whoever was interrupted finds how far it came.

use std::path::{Path, PathBuf};

use crate::config::Location;
use crate::dialect::{MariadbPlace, PostgresPlace, SqlitePlace};
use crate::{DatabaseConfig, EngineError};

/// Digits of the backup's digest in the names of what is made of it. Enough to tell backups of one database apart.
const TAG_DIGITS: usize = 12;

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreStage {
    /// The database is as it was; nothing of the backup is whole beside it.
    Untouched,
    /// The backup is loaded beside it.
    Loaded,
    /// The backup is in its place, and what was there is moved aside.
    InPlace,
    /// As `InPlace`, but what it was loaded into is left behind, with none of its tables.
    LeftBehind,
}

/// The place that a database has, and what a backup of it is loaded beside it as.
pub struct RestorePlace {
    place: Place,
}

/// The logins with which a backup is loaded into the database that was made for it.
pub struct RestoreLogins {
    /// For all of it.
    pub url: String,
    /// For the ledger, where it has a schema of its own: the agents', whose it is. Who restores need not be able to act in
    /// their name, which may alter roles.
    pub ledger_url: Option<String>,
}

enum Place {
    Mariadb(Box<MariadbPlace>),
    Postgres(Box<PostgresPlace>),
    Sqlite(SqlitePlace),
}

impl RestorePlace {
    /// The place of the configured database, for the backup of this digest. `login` is the URL of a role that may make and
    /// rename databases; a file needs none.
    pub fn new(config: &DatabaseConfig, login: Option<&str>, digest: &str) -> Result<Self, EngineError> {
        let tag: String = digest.chars().take(TAG_DIGITS).collect();
        let parse = |url: &str| Location::parse(url).map_err(EngineError::Url);
        let place = match parse(&config.url)? {
            Location::Sqlite(options) => {
                Place::Sqlite(SqlitePlace::new(options.get_filename().to_owned(), &tag, digest, config.sessions_wait))
            }
            Location::Postgres(options) => {
                let Location::Postgres(login) = parse(login.unwrap_or(&config.url))? else {
                    return Err(of_another_system());
                };
                Place::Postgres(Box::new(PostgresPlace::new(*options, *login, &tag, digest, config)))
            }
            Location::Mariadb(options) => {
                let url = login.unwrap_or(&config.url);
                let Location::Mariadb(login) = parse(url)? else { return Err(of_another_system()) };
                Place::Mariadb(Box::new(MariadbPlace::new(*options, *login, url, &tag, digest, config)))
            }
        };
        Ok(Self { place })
    }

    /// The name of the database, as it tells databases of one farm apart: of a server's its name, else the file's path.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Mariadb(place) => place.name().to_owned(),
            Place::Postgres(place) => place.name().to_owned(),
            Place::Sqlite(place) => place.name(),
        }
    }

    /// Under which name the damaged database is kept, in words.
    pub fn kept_as(&self) -> String {
        match &self.place {
            Place::Mariadb(place) => format!("database {}", place.aside()),
            Place::Postgres(place) => format!("database {}", place.aside()),
            Place::Sqlite(place) => place.aside().display().to_string(),
        }
    }

    /// Whether the backup is loaded by one as whom any function of the database may do anything.
    pub async fn loads_as_superuser(&self) -> Result<bool, EngineError> {
        match &self.place {
            Place::Postgres(place) => place.loads_as_superuser().await,
            // Nothing that is called while rows are loaded can be a function of the database there.
            Place::Mariadb(_) | Place::Sqlite(_) => Ok(false),
        }
    }

    /// How far it has come.
    pub async fn stage(&self) -> Result<RestoreStage, EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.stage().await,
            Place::Postgres(place) => place.stage().await,
            Place::Sqlite(place) => place.stage(),
        }
    }

    /// Makes an empty database beside the damaged one and answers how to come there; what an earlier attempt had half loaded
    /// goes. `None` where a file is simply [copied](Self::copy).
    pub async fn prepare(&self) -> Result<Option<RestoreLogins>, EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.prepare().await.map(|url| Some(RestoreLogins { url, ledger_url: None })),
            Place::Postgres(place) => place.prepare().await.map(Some),
            Place::Sqlite(_) => Ok(None),
        }
    }

    /// Whether what was loaded by an earlier attempt is still what the backup holds, as far as that can be told cheaply.
    pub fn is_as_loaded(&self) -> Result<bool, EngineError> {
        match &self.place {
            // It says itself of which backup it is.
            Place::Mariadb(_) | Place::Postgres(_) => Ok(true),
            Place::Sqlite(place) => place.is_as_loaded(),
        }
    }

    /// Copies the backup of a SQLite database beside the damaged one. What is copied must be of the backup's digest.
    pub fn copy(&self, backup: &Path) -> Result<(), EngineError> {
        match &self.place {
            Place::Mariadb(_) | Place::Postgres(_) => Ok(()),
            Place::Sqlite(place) => place.copy(backup),
        }
    }

    /// What was loaded is whole: gives it the rights and settings that belong to the database itself, and its name.
    pub async fn loaded(&self) -> Result<(), EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.loaded().await,
            Place::Postgres(place) => place.loaded().await,
            Place::Sqlite(place) => place.loaded(),
        }
    }

    /// Where the loaded database can be looked at: as the agent's own role, but in MariaDB, where that has no right on it.
    pub async fn loaded_url(&self) -> Result<String, EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.loaded_url().await,
            Place::Postgres(place) => place.loaded_url(),
            Place::Sqlite(place) => Ok(place.loaded_url()),
        }
    }

    /// Drops what is [left behind](RestoreStage::LeftBehind).
    pub async fn clear_up(&self) -> Result<(), EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.clear_up().await,
            // They change names, so nothing is.
            Place::Postgres(_) | Place::Sqlite(_) => Ok(()),
        }
    }

    /// Moves the damaged database aside and the loaded one into its place. Refused while anybody has it open. With
    /// `lift_fence` the application's role is let in again, which a rotation that goes with the damaged one had shut out.
    pub async fn put_in_place(&self, lift_fence: bool) -> Result<(), EngineError> {
        match &self.place {
            Place::Mariadb(place) => place.put_in_place(lift_fence).await,
            Place::Postgres(place) => place.put_in_place(lift_fence).await,
            Place::Sqlite(place) => place.put_in_place().await,
        }
    }
}

fn of_another_system() -> EngineError {
    EngineError::Configuration("the URL to restore with is of another system".to_owned())
}

/// A file's name with something at its end.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
