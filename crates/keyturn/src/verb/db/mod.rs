//! `keyturn db`: a database by itself, without coordinators: what it holds, under which keys, and how fast it is.

mod backup;
mod bench;
mod doctor;
mod scan;

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;

use clap::{Args, Subcommand};
use reencrypt::{DatabaseConfig, EngineError, Targets, TargetsError};

use crate::database_url;
use crate::exit::Exit;
use crate::output::note;
use crate::problem::Problem;
use crate::process::told_to_end;

pub(crate) use backup::backup_tools;

/// What can be done with a database.
#[derive(Debug, Subcommand)]
pub(crate) enum Db {
    /// Find every column that holds ciphertexts, and write a ready targets.toml
    Scan(scan::Scan),
    /// Tell under which key every registered value is, and turn stragglers to the active one
    Doctor(doctor::Doctor),
    /// Make a backup of the whole database, restore it aside, and open rows of it
    Backup(backup::Backup),
    /// Measure how fast keys turn in a database, against what the database itself can do
    Bench(bench::Bench),
}

impl Db {
    /// Does it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        match self {
            Self::Scan(verb) => verb.run().await,
            Self::Doctor(verb) => verb.run().await,
            Self::Backup(verb) => verb.run().await,
            Self::Bench(verb) => verb.run().await,
        }
    }
}

/// A database on the command line. A URL may hold a password, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
enum Database {
    /// One of this machine's own binaries, for as long as the verb runs: `sqlite`, `postgres` or `mariadb`.
    Spare(String),
    /// A running one.
    Url(String),
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spare(kind) => f.debug_tuple("Spare").field(kind).finish(),
            Self::Url(_) => f.write_str("Url(…)"),
        }
    }
}

/// Ready when the verb was told to end.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does the work on the database that was named: a running one, the agent's, or a temporary one that is removed afterwards,
/// also when the verb is told to end.
async fn on(
    database: Option<&Database>,
    config: Option<&agent::Config>,
    work: impl AsyncFnOnce(DatabaseConfig, Stop) -> Result<Exit, Problem>,
) -> Result<Exit, Problem> {
    let kind = match database {
        Some(Database::Spare(kind)) => kind,
        Some(Database::Url(url)) => return work(reached(Some(url), config)?, Box::pin(interrupted())).await,
        None => return work(reached(None, config)?, Box::pin(interrupted())).await,
    };
    let mut stop: Stop = Box::pin(interrupted());
    let spare = tokio::select! {
        prepared = local_farm::SpareDatabase::prepare(kind) => prepared.map_err(|error| spare_problem(&error))?,
        () = stop.as_mut() => return Ok(Exit::Interrupted),
    };
    let exit = work(DatabaseConfig::new(spare.url()), stop).await;
    spare.end().await.map_err(|error| spare_problem(&error))?;
    exit
}

fn spare_problem(error: &anyhow::Error) -> Problem {
    if error.is::<local_farm::WrongUsage>() {
        return Problem::usage(error.to_string(), "`keyturn db --help` says what each verb takes");
    }
    Problem::refused("database", "there is no temporary database", "give the URL of a running one with --database")
        .because(error.as_ref())
}

fn database(text: &str) -> Result<Database, String> {
    if matches!(text, "sqlite" | "postgres" | "mariadb") {
        Ok(Database::Spare(text.to_owned()))
    } else if text.contains("://") || text == "-" || text.starts_with('@') {
        database_url::given(text).map(Database::Url)
    } else {
        Err("use sqlite, postgres, mariadb, the URL of a running database, @FILE with one in it, or -".to_owned())
    }
}

/// The agent's configuration, which names the database, its login and targets.toml.
#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// The agent's configuration, which names the database and targets.toml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Option<agent::Config>, Problem> {
        self.config.as_deref().map(super::key::agent_config).transpose()
    }
}

/// What the engine connects with: by URL, or as the agent does.
fn reached(url: Option<&str>, config: Option<&agent::Config>) -> Result<DatabaseConfig, Problem> {
    match (url, config) {
        (Some(url), _) => Ok(DatabaseConfig::new(url)),
        (None, Some(config)) => config.database.engine(&config.node).map_err(|error| {
            Problem::refused("configuration", "the agent's [database] cannot be used", "correct it and try again")
                .because(&error)
        }),
        (None, None) => Err(Problem::usage(
            "it is not said which database",
            "add --config with the agent's configuration, or --database",
        )),
    }
}

/// What the agent's targets.toml registers and excludes; nothing without a configuration, or before there is a file.
fn registered(config: Option<&agent::Config>) -> Result<Option<Targets>, Problem> {
    let Some(config) = config else { return Ok(None) };
    match Targets::load(&config.database.targets) {
        Ok(targets) => Ok(Some(targets)),
        Err(TargetsError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        // A file that says nothing yet is where one begins.
        Err(TargetsError::NoTables) => Ok(None),
        Err(error) => Err(Problem::refused(
            "targets",
            format!("{} cannot be used", config.database.targets.display()),
            "correct it (docs/database.md)",
        )
        .because(&error)),
    }
}

/// What the engine could not do.
fn engine_problem(message: &str, error: &EngineError) -> Problem {
    let fault = error.fault();
    let problem = match error.is_connection() {
        true => Problem::unreachable(fault.code.as_str(), message, fault.next_step),
        false => Problem::refused(fault.code.as_str(), message, fault.next_step),
    };
    Problem { causes: vec![fault.message], ..problem }
}

/// Returns on Ctrl-C, and when the process is asked to end.
async fn interrupted() {
    told_to_end().await;
    note("interrupted; cleaning up");
}
