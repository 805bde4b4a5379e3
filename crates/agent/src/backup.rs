//! What the agent needs of whoever can make backups: it decides when and of what, and knows neither the databases' own
//! tools nor temporary servers. The binary brings them, for `keyturn db backup` as for a rotation.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use keys::SecretKey;
use reencrypt::RestoreLogins;
use rotation::{DatabaseBackup, Fault, FolderArchive};

use crate::config::{BackupConfig, Config};

/// One thing to be backed up.
pub struct BackupJob<'a> {
    /// The node's configuration: its database, its tables, its folder.
    pub config: &'a Config,
    /// Where backups lie, and as whom they are made.
    pub settings: &'a BackupConfig,
    /// What the files' names begin with. A backup of this name that is there whole is not made again.
    pub name: &'a str,
    /// The key that the database's values open with.
    pub key: &'a SecretKey,
    /// Told what is being done, in words.
    pub told: &'a (dyn Fn(&str) + Send + Sync),
}

/// The size of a backup: of a file, or of all files in a folder. Links are not followed, and are none.
pub fn backup_bytes(path: &Path) -> io::Result<u64> {
    let found = path.symlink_metadata()?;
    if found.is_file() {
        return Ok(found.len());
    }
    if !found.is_dir() {
        let what = format!("{} is neither a file nor a folder", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    std::fs::read_dir(path)?.try_fold(0, |bytes, entry| Ok(bytes + backup_bytes(&entry?.path())?))
}

/// Makes backups, proves them, loads them.
#[async_trait]
pub trait BackupTools: Send + Sync + fmt::Debug {
    /// Makes a backup of the whole database and proves it.
    async fn make(&self, job: &BackupJob<'_>) -> Result<DatabaseBackup, Fault>;

    /// Proves one that is there. It must lie in the folder of the settings, since whoever asks may not be trusted.
    async fn prove(&self, job: &BackupJob<'_>, path: &Path) -> Result<DatabaseBackup, Fault>;

    /// Proves one, wherever an administrator has it, while the database may be damaged or gone, and finds out which of
    /// these keys it is under.
    async fn examine(&self, job: &BackupJob<'_>, keys: &[SecretKey], path: &Path) -> Result<DatabaseBackup, Fault>;

    /// Archives the application's folder.
    async fn archive(&self, job: &BackupJob<'_>) -> Result<FolderArchive, Fault>;

    /// Loads a backup that was proved into an empty database, owners and rights with it, if its file is still what was
    /// proved. Of a database that has a server; a file is copied.
    async fn load(&self, backup: &DatabaseBackup, logins: &RestoreLogins) -> Result<(), Fault>;
}

/// As the agent holds them.
pub type SharedBackupTools = Arc<dyn BackupTools>;
