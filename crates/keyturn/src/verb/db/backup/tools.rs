//! Backups as the agent asks for them: made, proved, archived, loaded.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use agent::{BackupJob, BackupTools, SharedBackupTools};
use async_trait::async_trait;
use keys::SecretKey;
use reencrypt::{DatabaseConfig, Engine, RestoreLogins, RestorePlace, TableCensus, Targets};
use rotation::{DatabaseBackup, DatabaseKind, Digest, Fault, FaultCode, FolderArchive, KeyId, Millis};
use tokio::process::Command;

use super::super::engine_problem;
use super::files::{self, Folder, name_full_disk};
use super::prove::{self, Live};
use super::{archive, configuration, mariadb, physical, postgres};
use crate::output::now_ms;
use crate::problem::Problem;

/// The databases' own tools, and temporary servers of this machine's binaries.
#[derive(Debug)]
struct Tools;

/// For the agent and the verbs.
pub(crate) fn backup_tools() -> SharedBackupTools {
    Arc::new(Tools)
}

#[async_trait]
impl BackupTools for Tools {
    async fn make(&self, job: &BackupJob<'_>) -> Result<DatabaseBackup, Fault> {
        make(job).await.map_err(|problem| fault(name_full_disk(problem, &job.settings.directory)))
    }

    async fn prove(&self, job: &BackupJob<'_>, path: &Path) -> Result<DatabaseBackup, Fault> {
        prove_shown(job, path).await.map_err(|problem| fault(name_full_disk(problem, &job.settings.directory)))
    }

    async fn examine(&self, job: &BackupJob<'_>, keys: &[SecretKey], path: &Path) -> Result<DatabaseBackup, Fault> {
        examine(job, keys, path).await.map_err(|problem| fault(name_full_disk(problem, &job.settings.directory)))
    }

    async fn archive(&self, job: &BackupJob<'_>) -> Result<FolderArchive, Fault> {
        archive::archive(job).await.map_err(|problem| fault(name_full_disk(problem, &job.settings.directory)))
    }

    async fn load(&self, backup: &DatabaseBackup, logins: &RestoreLogins) -> Result<(), Fault> {
        load(backup, logins).await.map_err(fault)
    }
}

/// Loads a backup into an empty database, if it is still what was proved.
async fn load(backup: &DatabaseBackup, logins: &RestoreLogins) -> Result<(), Problem> {
    let path = Path::new(&backup.path);
    files::only_ours(path)?;
    if files::digest(path).await? != (backup.bytes, backup.digest) {
        return Err(Problem::refused(
            "backup-damaged",
            format!("{} changed since it was proved", path.display()),
            "find out who writes there; nothing was loaded",
        ));
    }
    let url = &logins.url;
    if url.starts_with("postgres") { postgres::load(path, logins).await } else { mariadb::load(path, url).await }
}

/// As a rotation logs it.
fn fault(problem: Problem) -> Fault {
    let causes: Vec<String> =
        problem.causes.iter().filter(|cause| !problem.message.contains(*cause)).cloned().collect();
    let mut message = format!("{} ({})", problem.message, problem.code);
    for cause in causes {
        message.push_str(": ");
        message.push_str(&cause);
    }
    Fault::new(FaultCode::Backup, message, problem.next_step)
}

/// Of which database a backup is made, and with which login.
pub(super) struct Source {
    /// How the engine reaches it.
    pub(super) engine: DatabaseConfig,
    pub(super) targets: Targets,
    /// The URL that the database's own tools connect with.
    pub(super) login: String,
}

impl Source {
    /// What the agent's configuration says.
    pub(super) fn of(job: &BackupJob<'_>) -> Result<Self, Problem> {
        let engine = job.config.database.engine(&job.config.node).map_err(|error| configuration(&error))?;
        let targets = Targets::load(&job.config.database.targets).map_err(|error| {
            Problem::refused("targets", "targets.toml cannot be used", "correct it (docs/database.md)").because(&error)
        })?;
        let login = job.settings.url().map_err(|error| configuration(&error))?;
        let login = login.unwrap_or_else(|| engine.url.clone());
        Ok(Self { engine, targets, login })
    }

    async fn connect(&self) -> Result<Engine, Problem> {
        let engine = prove::connect(&self.engine, &self.targets).await?;
        let backed_up = engine.check_backups().await;
        backed_up.map_err(|error| engine_problem("no backup is made or proved of this database", &error))?;
        Ok(engine)
    }

    /// By which databases of one farm are told apart.
    pub(super) fn name(&self) -> String {
        RestorePlace::new(&self.engine, None, "").map_or_else(|_| String::new(), |place| place.name())
    }
}

/// Makes a backup and proves it. One of this name that is whole is described, not made again.
async fn make(job: &BackupJob<'_>) -> Result<DatabaseBackup, Problem> {
    make_of(job, &Source::of(job)?).await
}

/// The same of any database.
pub(super) async fn make_of(job: &BackupJob<'_>, source: &Source) -> Result<DatabaseBackup, Problem> {
    (job.told)("another backup into the same folder to end");
    let folder = Folder::enter(&job.settings.directory).await?;
    let live = source.connect().await?;
    let name = format!("{}.{}", job.name, extension(live.kind()));
    let whole = folder.path_of(&name);
    if whole.exists()
        && let (_, _, Some(described)) = prove::undamaged(&whole).await?
    {
        return Ok(described.backup);
    }
    (job.told)("a sample of the database to be opened");
    let own = std::slice::from_ref(job.key);
    let before = prove::census(&live, own).await?;
    let position =
        live.position().await.map_err(|error| engine_problem("the database did not say where it stands", &error))?;
    let (made_at, started) = (Millis::new(now_ms()), Instant::now());
    (job.told)("the database to be backed up");
    let partial = folder.partial(&name);
    match live.kind() {
        DatabaseKind::Sqlite => live
            .copy_into(&partial.path)
            .await
            .map_err(|error| engine_problem("the database was not copied", &error))?,
        DatabaseKind::Postgres => {
            drop(partial.create()?);
            postgres::dump(&source.login, &partial.path).await?;
        }
        DatabaseKind::Mariadb => {
            sees_everything(source).await?;
            drop(partial.create()?);
            mariadb::dump(&source.login, &partial.path).await?;
        }
    }
    let (made_ms, started) = (millis(started), Instant::now());
    let (restored, proof) = prove::restored(job, own, live.kind(), &partial.path, source).await?;
    let after = prove::census(&live, own).await?;
    prove::compare(&whole, &Live { before: &before, after: &after }, &restored)?;
    let (bytes, digest) = files::digest(&partial.path).await?;
    let backup = DatabaseBackup {
        node: job.config.node.clone(),
        path: whole.display().to_string(),
        bytes,
        digest,
        made_at,
        shown: false,
        position: Some(position),
        key: job.key.id(),
        tables: prove::tables(restored),
        proof,
        made_ms,
        proved_ms: millis(started),
    };
    // Described first: a backup that has its name has its description.
    files::describe(&job.config.farm, &source.name(), &backup)?;
    partial.keep()?;
    Ok(backup)
}

/// MariaDB's tool passes over in silence what its login may not see.
async fn sees_everything(source: &Source) -> Result<(), Problem> {
    let login = prove::connect(&DatabaseConfig::new(&source.login), &Targets::none()).await?;
    login
        .check_backup_rights()
        .await
        .map_err(|error| engine_problem("the database cannot be backed up with this login", &error))
}

/// Proves one that is there already, in the folder for backups.
async fn prove_shown(job: &BackupJob<'_>, path: &Path) -> Result<DatabaseBackup, Problem> {
    // Nobody else may put anything into the place of what is looked at.
    files::private_folder(&job.settings.directory)?;
    let path = files::inside(&job.settings.directory, path)?;
    let source = Source::of(job)?;
    let live = source.connect().await?;
    let started = Instant::now();
    (job.told)("the backup to be read");
    let own = std::slice::from_ref(job.key);
    if path.is_dir() {
        let opened = physical::opened(job, own, &path, &source, &live).await?;
        let physical::Opened { bytes, digest, census, proof } = opened;
        prove::compare_shown(&path, &prove::census(&live, own).await?, &census)?;
        let found = found(job, &path, (bytes, digest, None), census, job.key.id(), proof, started);
        return Ok(DatabaseBackup { made_at: Millis::new(modified_ms(&path.join(physical::MANIFEST))), ..found });
    }
    let (bytes, digest, description) = prove::undamaged(&path).await?;
    same_database(job, &path, description.as_ref(), &source.name(), live.kind())?;
    let (restored, proof) = prove::restored(job, own, live.kind(), &path, &source).await?;
    prove::compare_shown(&path, &prove::census(&live, own).await?, &restored)?;
    Ok(found(job, &path, (bytes, digest, description), restored, job.key.id(), proof, started))
}

/// Proves one that an administrator puts back, with nothing but the node's keys to compare it with.
async fn examine(job: &BackupJob<'_>, keys: &[SecretKey], path: &Path) -> Result<DatabaseBackup, Problem> {
    let source = Source::of(job)?;
    let live = source.connect().await?;
    let started = Instant::now();
    (job.told)("the backup to be read");
    files::only_ours(path)?;
    if path.is_dir() {
        return Err(physical::not_put_back(path));
    }
    let (bytes, digest, description) = prove::undamaged(path).await?;
    same_database(job, path, description.as_ref(), &source.name(), live.kind())?;
    let (restored, proof) = prove::restored(job, keys, live.kind(), path, &source).await?;
    let key = prove::key_of(path, keys, &restored)?;
    Ok(found(job, path, (bytes, digest, description), restored, key, proof, started))
}

/// One that was there.
fn found(
    job: &BackupJob<'_>,
    path: &Path,
    (bytes, digest, description): (u64, Digest, Option<files::Description>),
    restored: Vec<TableCensus>,
    key: KeyId,
    proof: String,
    started: Instant,
) -> DatabaseBackup {
    let made_at = description.as_ref().map_or(Millis::new(modified_ms(path)), |one| one.backup.made_at);
    DatabaseBackup {
        node: job.config.node.clone(),
        path: path.display().to_string(),
        bytes,
        digest,
        made_at,
        shown: true,
        position: description.and_then(|described| described.backup.position),
        key,
        tables: prove::tables(restored),
        proof,
        made_ms: 0,
        proved_ms: millis(started),
    }
}

/// A backup of another farm or of another database must not pass for one of this. One without a description is judged by
/// its tables and its key alone.
fn same_database(
    job: &BackupJob<'_>,
    path: &Path,
    description: Option<&files::Description>,
    name: &str,
    kind: DatabaseKind,
) -> Result<(), Problem> {
    let Some(described) = description else { return Ok(()) };
    let other = |what: String| {
        Err(Problem::refused(
            "other-database",
            format!("{} is of {what}", path.display()),
            "take a backup of this farm's database; if it was moved or renamed since, take the .json beside the backup away",
        ))
    };
    if described.farm != job.config.farm {
        return other(format!("the farm {:?}, and this node belongs to {:?}", described.farm, job.config.farm));
    }
    if let Some(found) = described.backup.position.as_ref().map(|position| position.identity.kind)
        && found != kind
    {
        return other(format!("a {found} database, and this one is {kind}"));
    }
    if described.database != name {
        return other(format!("database {}, and this one is {name}", described.database));
    }
    Ok(())
}

/// A program of this machine, which sees of our own environment only what is harmless.
pub(super) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_clear().envs(agent::harmless_environment());
    command
}

const fn extension(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::Sqlite => "db",
        DatabaseKind::Postgres => "dump",
        DatabaseKind::Mariadb => "sql",
    }
}

pub(super) fn modified_ms(path: &Path) -> u64 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|at| u64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()).unwrap_or(0)
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
