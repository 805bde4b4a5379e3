//! `keyturn db backup`: a backup of the whole database, proved by restoring it aside and opening rows of it with the key of
//! this node, and an archive of the application's folder. A rotation has the same made by its agents.

mod archive;
mod contents;
mod files;
mod login;
mod mariadb;
mod physical;
mod postgres;
mod prove;
mod said;
mod tools;

use std::path::PathBuf;

use agent::BackupConfig;
use clap::Args;
use reencrypt::{DatabaseConfig, Targets};
use rotation::{BackedUpTable, DatabaseKind};
use serde::Serialize;

use super::{Database, database, on};
use crate::exit::Exit;
use crate::output::{OutputArgs, Table, date_time, duration, fields, file_date, note, now_ms, thousands};
use crate::problem::Problem;
use crate::process::forbid_core_dumps;
use crate::verb::key::{agent_config, store_problem};

pub(crate) use tools::backup_tools;

/// What is backed up, and where to.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The agent's configuration, which names the database, targets.toml and the key store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The URL of a running database, @FILE with it, or - for standard input, instead of the one in the configuration; its
    /// login is used throughout. sqlite, postgres or mariadb for a temporary one of this machine's own binaries, which is empty
    #[arg(long, value_name = "DATABASE", value_parser = database)]
    database: Option<Database>,
    /// The folder for backups, for its owner alone [default: the directory that the configuration names]
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was made, and how it was proved.
#[derive(Debug, Serialize)]
struct Evidence {
    database: DatabaseKind,
    /// The backup.
    path: PathBuf,
    bytes: u64,
    /// BLAKE3 of it.
    digest: String,
    made_at_ms: u64,
    /// How long making it took, and how long proving it.
    made_ms: u64,
    proved_ms: u64,
    /// In words.
    tested: String,
    key: String,
    tables: Vec<TableEvidence>,
    /// The archive of the application's folder.
    folder_archive: PathBuf,
}

#[derive(Debug, Serialize)]
struct TableEvidence {
    table: String,
    /// In the backup, which has as many as the database had while it was made.
    rows: u64,
    rows_restored: u64,
    rows_opened: u64,
    values_opened: u64,
}

impl Backup {
    /// Makes it, restores it aside, proves it. Told to end, it takes with it what it began.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        let config = agent_config(&self.config)?;
        on(self.database.as_ref(), Some(&config), async |database, stop| {
            tokio::select! {
                made = self.make(&config, database) => made,
                () = stop => Ok(Exit::Interrupted),
            }
        })
        .await
    }

    async fn make(&self, config: &agent::Config, database: DatabaseConfig) -> Result<Exit, Problem> {
        let settings = match (&config.backup, &self.output_dir) {
            (Some(settings), None) => settings.clone(),
            (Some(settings), Some(folder)) => BackupConfig { directory: folder.clone(), ..settings.clone() },
            (None, Some(folder)) => BackupConfig::of(folder.clone()),
            (None, None) => {
                return Err(Problem::usage(
                    "it is not said where to",
                    "add --output-dir, or [backup] directory to the agent's configuration",
                ));
            }
        };
        config.check_backup(&settings).map_err(|error| configuration(&error))?;
        let store = agent::open_store(config);
        let keys = store.current().map_err(|error| store_problem("encryption.config cannot be read", &error))?;
        let job = agent::BackupJob {
            config,
            settings: &settings,
            name: &format!("{}-{}", config.farm, file_date(now_ms())),
            key: &keys.active().secret,
            told: &|words| note(&format!("waiting for {words}")),
        };
        let mut source = tools::Source::of(&job)?;
        if let Some(given) = &self.database {
            source.login.clone_from(&database.url);
            source.engine = database;
            if let Database::Spare(_) = given {
                // It has none of the tables.
                source.targets = Targets::none();
            }
        }
        let full = |problem| files::name_full_disk(problem, &settings.directory);
        let backup = tools::make_of(&job, &source).await.map_err(full)?;
        let folder = archive::archive(&job).await.map_err(full)?;
        let table = |(table, found): (String, BackedUpTable)| TableEvidence {
            table,
            rows: found.rows,
            rows_restored: found.rows,
            rows_opened: found.rows_opened,
            values_opened: found.values_opened,
        };
        let evidence = Evidence {
            database: backup.position.as_ref().map_or(DatabaseKind::Sqlite, |position| position.identity.kind),
            path: backup.path.into(),
            bytes: backup.bytes,
            digest: backup.digest.to_string(),
            made_at_ms: backup.made_at.get(),
            made_ms: backup.made_ms,
            proved_ms: backup.proved_ms,
            tested: backup.proof,
            key: backup.key.to_string(),
            tables: backup.tables.into_iter().map(table).collect(),
            folder_archive: folder.path.into(),
        };
        self.output.print(&evidence, || text(&evidence))?;
        Ok(Exit::Done)
    }
}

fn configuration(error: &agent::ConfigError) -> Problem {
    Problem::refused("configuration", "the agent's configuration cannot be used", "correct it and try again")
        .because(error)
}

fn text(evidence: &Evidence) -> String {
    let mut table = Table::new(&["TABLE", "ROWS", "RESTORED", "ROWS OPENED", "VALUES OPENED"]);
    for row in &evidence.tables {
        table.row([
            row.table.clone(),
            thousands(row.rows),
            thousands(row.rows_restored),
            thousands(row.rows_opened),
            thousands(row.values_opened),
        ]);
    }
    let head = fields(&[
        ("Backup", evidence.path.display().to_string()),
        ("Size", format!("{} bytes", thousands(evidence.bytes))),
        ("Digest", evidence.digest.clone()),
        ("Made", format!("{} in {}", date_time(evidence.made_at_ms), duration(evidence.made_ms))),
        ("Tested", format!("{}, in {}", evidence.tested, duration(evidence.proved_ms))),
        ("Key", evidence.key.clone()),
        ("Folder", evidence.folder_archive.display().to_string()),
    ]);
    format!("{head}\n\n{}", table.render())
}
