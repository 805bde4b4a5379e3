//! The place of a SQLite database: a file and its write-ahead log, moved aside together.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::others;
use crate::EngineError;
use crate::config::sqlite_url;
use crate::error::Doing;
use crate::restore::{RestoreStage, beside};

/// What belongs to a database file: committed pages that are not folded into it yet, and their index.
const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];
/// How much is copied at once.
const COPY_BYTES: usize = 1024 * 1024;

/// A database file, and the names of what is made of one backup of it.
pub(crate) struct SqlitePlace {
    live: PathBuf,
    loading: PathBuf,
    ready: PathBuf,
    aside: PathBuf,
    /// BLAKE3 of the backup, in hexadecimal.
    digest: String,
    sessions_wait: Duration,
}

impl SqlitePlace {
    pub(crate) fn new(live: PathBuf, tag: &str, digest: &str, sessions_wait: Duration) -> Self {
        let name = |what: &str| beside(&live, &format!(".{what}-{tag}"));
        let (loading, ready, aside) = (name("loading"), name("restored"), name("damaged"));
        Self { loading, ready, aside, live, digest: digest.to_owned(), sessions_wait }
    }

    pub(crate) fn name(&self) -> String {
        self.live.canonicalize().unwrap_or_else(|_| self.live.clone()).display().to_string()
    }

    pub(crate) fn aside(&self) -> &Path {
        &self.aside
    }

    pub(crate) fn loaded_url(&self) -> String {
        sqlite_url(&self.ready)
    }

    pub(crate) fn stage(&self) -> Result<RestoreStage, EngineError> {
        let there = |path: &Path| match path.symlink_metadata() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(sqlx::Error::Io(error)).doing(|| self.doing()),
        };
        Ok(match (there(&self.ready)?, there(&self.aside)?) {
            (true, _) => RestoreStage::Loaded,
            (false, true) => RestoreStage::InPlace,
            (false, false) => RestoreStage::Untouched,
        })
    }

    pub(crate) fn copy(&self, backup: &Path) -> Result<(), EngineError> {
        let copied = (|| {
            remove(&self.loading)?;
            // Owner and mode as the application has them, or nobody could open it.
            let live = fs::metadata(&self.live).ok();
            let mut from = File::open(backup)?;
            let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.loading)?;
            if let Some(live) = &live {
                std::os::unix::fs::fchown(&to, Some(live.uid()), Some(live.gid()))?;
            }
            let digest = copy(&mut from, &mut to)?;
            if let Some(live) = &live {
                to.set_permissions(fs::Permissions::from_mode(live.mode() & 0o777))?;
            }
            to.sync_all()?;
            Ok(digest)
        })();
        let digest =
            copied.map_err(sqlx::Error::Io).doing(|| format!("copying {} beside the database", backup.display()))?;
        if digest == self.digest {
            return Ok(());
        }
        Err(EngineError::Damaged(format!("{} changed since it was proved", backup.display())))
    }

    pub(crate) fn is_as_loaded(&self) -> Result<bool, EngineError> {
        let read = File::open(&self.ready).and_then(|mut file| copy(&mut file, &mut io::sink()));
        read.map(|digest| digest == self.digest).map_err(sqlx::Error::Io).doing(|| self.doing())
    }

    pub(crate) fn loaded(&self) -> Result<(), EngineError> {
        let named = fs::rename(&self.loading, &self.ready).and_then(|()| self.sync());
        named.map_err(sqlx::Error::Io).doing(|| self.doing())
    }

    pub(crate) async fn put_in_place(&self) -> Result<(), EngineError> {
        match fs::metadata(&self.live) {
            Ok(live) => others::wait_until_alone(live.dev(), live.ino(), self.sessions_wait).await?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(sqlx::Error::Io(error)).doing(|| self.doing()),
        }
        if !self.is_as_loaded()? {
            return Err(EngineError::Damaged(format!("{} changed since it was copied", self.ready.display())));
        }
        self.exchange().map_err(sqlx::Error::Io).doing(|| self.doing())
    }

    /// Under its own name there is always a database. Its log moves before the name does: left behind, it would be taken
    /// for the restored one's.
    fn exchange(&self) -> io::Result<()> {
        match fs::hard_link(&self.live, &self.aside) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            // It was lost altogether. That it was replaced must show all the same.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // A link of that name, wherever it leads, is as good a sign, and not followed.
                match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.aside) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    Ok(_) | Err(_) => {}
                }
            }
            Err(error) => return Err(error),
        }
        self.sync()?;
        for ending in LOGS {
            match fs::rename(beside(&self.live, ending), beside(&self.aside, ending)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        self.sync()?;
        // Whoever looked at the copy has left nothing that belongs to it: an index of an empty log.
        for ending in LOGS {
            remove(&beside(&self.ready, ending))?;
        }
        fs::rename(&self.ready, &self.live)?;
        self.sync()
    }

    fn sync(&self) -> io::Result<()> {
        let folder = self.live.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }

    fn doing(&self) -> String {
        format!("putting a restored database into the place of {}", self.live.display())
    }
}

/// Copies, and answers the BLAKE3 of the very bytes that were copied.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            length => {
                hasher.update(&piece[..length]);
                to.write_all(&piece[..length])?;
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, SqlitePlace) {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("vault.db");
        for (name, text) in [("vault.db", "damaged"), ("vault.db-wal", "its log"), ("backup", "restored")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let digest = blake3::hash(b"restored").to_hex();
        let place = SqlitePlace::new(live, "abc", &digest, Duration::from_secs(1));
        (folder, place)
    }

    fn read(folder: &tempfile::TempDir, name: &str) -> Option<String> {
        fs::read_to_string(folder.path().join(name)).ok()
    }

    #[tokio::test]
    async fn the_damaged_file_and_its_log_are_moved_aside_together() {
        let (folder, place) = folder();
        assert_eq!(place.stage().unwrap(), RestoreStage::Untouched);
        place.copy(&folder.path().join("backup")).unwrap();
        assert_eq!(place.stage().unwrap(), RestoreStage::Untouched, "not whole before it has its name");
        place.loaded().unwrap();
        assert_eq!(place.stage().unwrap(), RestoreStage::Loaded);
        place.put_in_place().await.unwrap();
        assert_eq!(place.stage().unwrap(), RestoreStage::InPlace);
        assert_eq!(read(&folder, "vault.db").as_deref(), Some("restored"));
        assert_eq!(read(&folder, "vault.db-wal"), None, "the old log is not taken for the new one's");
        assert_eq!(read(&folder, "vault.db.damaged-abc").as_deref(), Some("damaged"));
        assert_eq!(read(&folder, "vault.db.damaged-abc-wal").as_deref(), Some("its log"));
    }

    #[tokio::test]
    async fn killed_between_any_two_names_it_goes_on() {
        let (folder, place) = folder();
        place.copy(&folder.path().join("backup")).unwrap();
        place.loaded().unwrap();
        // As far as a first attempt came that was killed before the last rename.
        fs::hard_link(folder.path().join("vault.db"), folder.path().join("vault.db.damaged-abc")).unwrap();
        fs::rename(folder.path().join("vault.db-wal"), folder.path().join("vault.db.damaged-abc-wal")).unwrap();
        assert_eq!(place.stage().unwrap(), RestoreStage::Loaded);
        place.put_in_place().await.unwrap();
        assert_eq!(read(&folder, "vault.db").as_deref(), Some("restored"));
        assert_eq!(read(&folder, "vault.db.damaged-abc").as_deref(), Some("damaged"));
        assert_eq!(read(&folder, "vault.db.damaged-abc-wal").as_deref(), Some("its log"));
    }

    #[tokio::test]
    async fn a_lost_file_is_replaced_once() {
        let (folder, place) = folder();
        fs::remove_file(folder.path().join("vault.db")).unwrap();
        // A link that somebody laid there is not followed.
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &place.aside).unwrap();
        place.copy(&folder.path().join("backup")).unwrap();
        place.loaded().unwrap();
        place.put_in_place().await.unwrap();
        assert_eq!(read(&folder, "vault.db").as_deref(), Some("restored"));
        assert_eq!(place.stage().unwrap(), RestoreStage::InPlace);
        assert_eq!(read(&folder, "elsewhere"), None);
    }

    #[tokio::test]
    async fn what_is_not_what_was_proved_takes_no_place() {
        let (folder, place) = folder();
        fs::write(folder.path().join("backup"), "exchanged").unwrap();
        assert!(matches!(place.copy(&folder.path().join("backup")), Err(EngineError::Damaged(_))));
        fs::write(folder.path().join("backup"), "restored").unwrap();
        place.copy(&folder.path().join("backup")).unwrap();
        place.loaded().unwrap();
        assert!(place.is_as_loaded().unwrap());
        fs::write(folder.path().join("vault.db.restored-abc"), "exchanged").unwrap();
        assert!(!place.is_as_loaded().unwrap());
        assert!(matches!(place.put_in_place().await, Err(EngineError::Damaged(_))));
        assert_eq!(read(&folder, "vault.db").as_deref(), Some("damaged"));
    }
}
