//! `keyturn db backup`: a backup of the whole database, proved by restoring it aside and opening rows of it with the key of
//! this node, and an archive of the application's folder.

mod postgres;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Args;
use keys::SecretKey;
use reencrypt::{CensusRequest, DatabaseConfig, Engine, TableCensus, Targets};
use rotation::DatabaseKind;
use serde::Serialize;

use super::engine_problem;
use crate::exit::Exit;
use crate::output::{OutputArgs, Table, date_time, fields, file_date, note, now_ms, thousands};
use crate::problem::Problem;
use crate::process::forbid_core_dumps;
use crate::verb::key::{agent_config, store_problem};

/// Rows of each table that are opened, before and after. All would double a large backup's time.
const SAMPLE_ROWS: u64 = 1_000;

/// What is backed up, and where to.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The agent's configuration, which names the database, targets.toml and the key store
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
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
    made_at_ms: u64,
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
    rows: u64,
    rows_restored: u64,
    rows_opened: u64,
    values_opened: u64,
}

impl Backup {
    /// Makes it, restores it aside, proves it.
    pub(crate) async fn run(self) -> Result<Exit, Problem> {
        forbid_core_dumps()?;
        let config = agent_config(&self.config)?;
        let configured = config.backup.as_ref();
        let folder = self.output_dir.as_deref().or(configured.map(|backup| backup.directory.as_path()));
        let folder = folder.ok_or_else(|| {
            Problem::usage(
                "it is not said where to",
                "add --output-dir, or [backup] directory to the agent's configuration",
            )
        })?;
        private_folder(folder)?;
        let store = agent::open_store(&config);
        let keys = store.current().map_err(|error| store_problem("encryption.config cannot be read", &error))?;
        let key = keys.active().secret.clone();
        let database = config.database.engine(&config.node).map_err(|error| configuration(&error))?;
        let targets = Targets::load(&config.database.targets).map_err(|error| {
            Problem::refused("targets", "targets.toml cannot be used", "correct it (docs/database.md)").because(&error)
        })?;
        let live = connect(&database, &targets).await?;
        let before = census(&live, &key).await?;

        let made_at_ms = now_ms();
        let name = format!("{}-{}", config.farm, file_date(made_at_ms));
        note(&format!("backing up the {} database", live.kind()));
        let (path, restored, tested) = match live.kind() {
            DatabaseKind::Sqlite => {
                let path = folder.join(format!("{name}.db"));
                live.copy_into(&path).await.map_err(|error| engine_problem("the database was not copied", &error))?;
                let copy = DatabaseConfig::new(format!("sqlite://{}", path.display()));
                let restored = census(&connect(&copy, &targets).await?, &key).await?;
                (path, restored, "the copy was opened as a database of its own")
            }
            DatabaseKind::Postgres => {
                let path = folder.join(format!("{name}.dump"));
                let url = match configured {
                    Some(backup) => backup.url().map_err(|error| configuration(&error))?,
                    None => None,
                };
                postgres::dump(url.as_deref().unwrap_or(&database.url), &path).await?;
                note("restoring it into a temporary server");
                let spare = local_farm::SpareDatabase::prepare("postgres").await.map_err(|error| {
                    Problem::refused(
                        "not-proved",
                        format!("{} was made, but there is no temporary server to restore it into", path.display()),
                        "install PostgreSQL's server programs here, or restore it elsewhere before you rely on it",
                    )
                    .because(error.as_ref())
                })?;
                let proved = prove_postgres(&path, &spare, &targets, &key).await;
                if let Err(error) = spare.end().await {
                    tracing::warn!("ending the temporary server: {error:#}");
                }
                (path, proved?, "it was restored into a temporary server of this machine")
            }
            DatabaseKind::Mariadb => {
                return Err(Problem::refused(
                    "unsupported",
                    "this release makes no backup of MariaDB",
                    "use mariadb-dump --single-transaction, and restore it once to see that it can be",
                ));
            }
        };
        let after = census(&live, &key).await?;
        let tables = compare(&before, &after, &restored, &path)?;
        let folder_archive = folder.join(format!("{name}-{}-folder.tar", config.node));
        archive(&config.store.directory, &folder_archive).await?;
        let evidence = Evidence {
            database: live.kind(),
            bytes: std::fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or_default(),
            path,
            made_at_ms,
            tested: format!("{tested}, rows were counted, and the first {SAMPLE_ROWS} of every table opened"),
            key: key.id().to_string(),
            tables,
            folder_archive,
        };
        self.output.print(&evidence, || text(&evidence))?;
        Ok(Exit::Done)
    }
}

async fn prove_postgres(
    path: &Path,
    spare: &local_farm::SpareDatabase,
    targets: &Targets,
    key: &SecretKey,
) -> Result<Vec<TableCensus>, Problem> {
    postgres::restore(path, spare.url()).await?;
    census(&connect(&DatabaseConfig::new(spare.url()), targets).await?, key).await
}

async fn connect(database: &DatabaseConfig, targets: &Targets) -> Result<Engine, Problem> {
    let connected = Engine::connect(database, targets.clone()).await;
    connected.map_err(|error| engine_problem("the database cannot be reached", &error))
}

async fn census(engine: &Engine, key: &SecretKey) -> Result<Vec<TableCensus>, Problem> {
    let keys = std::slice::from_ref(key);
    let request = CensusRequest { keys, accepted: &[], sample_rows: Some(SAMPLE_ROWS), shards: &[] };
    engine.census(&request, &|_| {}).await.map_err(|error| engine_problem("the rows could not be opened", &error))
}

/// The backup must hold what the database held: as many rows as before or after or in between, since the farm may have
/// served meanwhile, and no more values that do not open.
fn compare(
    before: &[TableCensus],
    after: &[TableCensus],
    restored: &[TableCensus],
    path: &Path,
) -> Result<Vec<TableEvidence>, Problem> {
    let mut tables = Vec::new();
    for ((before, after), restored) in before.iter().zip(after).zip(restored) {
        let rows = before.rows.min(after.rows)..=before.rows.max(after.rows);
        let unopened = before.unopened.max(after.unopened);
        let opened = restored.by_key.values().sum();
        if !rows.contains(&restored.rows) || restored.unopened > unopened {
            return Err(Problem::refused(
                "not-proved",
                format!(
                    "{} holds {} rows of table {} of which {} values do not open; the database has {} rows and {}",
                    path.display(),
                    restored.rows,
                    before.table,
                    restored.unopened,
                    after.rows,
                    unopened
                ),
                "do not rely on this backup; make it again, in a quieter hour if the table changes fast",
            ));
        }
        tables.push(TableEvidence {
            table: before.table.clone(),
            rows: after.rows,
            rows_restored: restored.rows,
            rows_opened: restored.rows_read,
            values_opened: opened,
        });
    }
    Ok(tables)
}

/// The folder with `encryption.config` and what is configured beside it, as it is.
async fn archive(folder: &Path, path: &Path) -> Result<(), Problem> {
    let problem = |what: String| {
        Problem::refused(
            "archive",
            format!("the application's folder {} {what}", folder.display()),
            "look at its rights",
        )
    };
    let file = private_file(path)?;
    let made = tokio::process::Command::new("tar")
        .args(["--create", "--file", "-", "--directory"])
        .arg(folder)
        .arg(".")
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| problem("could not be archived".to_owned()).because(&error))?;
    if made.status.success() {
        return Ok(());
    }
    Err(problem(format!("was not archived: {}", String::from_utf8_lossy(&made.stderr).trim())))
}

/// A new file for its owner alone.
fn private_file(path: &Path) -> Result<File, Problem> {
    File::options().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        Problem::refused(
            "write-file",
            format!("{} could not be written", path.display()),
            "look at the folder's rights and at the space on the disk",
        )
        .because(&error)
    })
}

/// Makes the folder, or sees that nobody else can enter it.
fn private_folder(folder: &Path) -> Result<(), Problem> {
    let unusable = |error: &std::io::Error| {
        Problem::refused("write-file", format!("{} cannot be used", folder.display()), "choose another folder")
            .because(error)
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| unusable(&error))?;
    let metadata = std::fs::metadata(folder).map_err(|error| unusable(&error))?;
    if metadata.permissions().mode() & 0o077 != 0 || metadata.uid() != nix::unistd::Uid::effective().as_raw() {
        return Err(Problem::refused(
            "folder-exposed",
            format!("{} is not for its owner alone, and a backup holds every ciphertext", folder.display()),
            "chmod 0700 it, owned by whom keyturn runs as, or choose another folder",
        ));
    }
    Ok(())
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
        ("Made", date_time(evidence.made_at_ms)),
        ("Tested", evidence.tested.clone()),
        ("Key", evidence.key.clone()),
        ("Folder", evidence.folder_archive.display().to_string()),
    ]);
    format!("{head}\n\n{}", table.render())
}
