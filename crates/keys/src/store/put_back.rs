//! The key store as an administrator finds it after a failure: every file with the keys that it really holds, and the
//! renames by which an earlier one becomes `encryption.config` again. No file is ever lost by them.

use std::fs;
use std::path::{Path, PathBuf};

use fail_points::point;
use rotation::KeyId;

use super::durable::{self, Lock};
use super::{KeyStore, StoreError, names};
use crate::KeySet;

/// Behind the name of what was `encryption.config` before an earlier file was put back.
const BAK: &str = "encryption.config.bak";
/// Recoveries of one node whose `.bak` files are all kept; nobody has a hundred.
const BAK_MAX: u32 = 1_000;

/// What the name of a file says that it is. Names may lie; [`StoreFile::keys`] does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileRole {
    /// `encryption.config`.
    Current,
    /// It waits to be activated.
    Pending,
    /// It was `encryption.config` until the date in its name.
    Dated,
    /// Any other name.
    Other,
}

/// A file of the application's folder.
#[derive(Debug)]
pub struct StoreFile {
    /// Its name.
    pub name: String,
    /// What its name says that it is.
    pub role: FileRole,
    /// The keys in it, or why they cannot be read. A file that neither has one of our names nor can be read is not ours.
    pub keys: Result<KeySet, StoreError>,
}

impl StoreFile {
    /// The key that is active in it, if it can be read.
    pub fn active(&self) -> Option<KeyId> {
        self.keys.as_ref().ok().map(|keys| keys.active().secret.id())
    }
}

impl KeyStore {
    /// Every file of the folder that is, or by its name should be, a key store: the current one first, then pending ones,
    /// then dated ones from the newest name to the oldest, then others by name.
    pub fn files(&self) -> Result<Vec<StoreFile>, StoreError> {
        let ours = names::list(&self.config.directory)?;
        let pending: Vec<String> = ours.pending.iter().map(names::pending).collect();
        let role = |name: &String| match name.as_str() {
            names::CURRENT => FileRole::Current,
            _ if pending.contains(name) => FileRole::Pending,
            _ if ours.dated.contains(name) => FileRole::Dated,
            _ => FileRole::Other,
        };
        let mut files = Vec::new();
        for name in self.names()? {
            if ours.half_written.contains(&name) {
                continue;
            }
            let role = role(&name);
            match self.read(&self.config.directory.join(&name)) {
                Ok(Some(keys)) => files.push(StoreFile { name, role, keys: Ok(keys) }),
                Err(error) if role != FileRole::Other => files.push(StoreFile { name, role, keys: Err(error) }),
                Ok(None) | Err(_) => {}
            }
        }
        let date = |file: &StoreFile| ours.dated.iter().position(|dated| *dated == file.name);
        files.sort_by(|a, b| a.role.cmp(&b.role).then(date(b).cmp(&date(a))).then_with(|| a.name.cmp(&b.name)));
        Ok(files)
    }

    /// Renames `encryption.config` to `encryption.config.bak` and the file `name`, in which `key` is active, to
    /// `encryption.config`, so that there is always one. An earlier `.bak` gets a number. Done already, it changes
    /// nothing. A crash in between leaves either the old one or the new one current, and no file is lost.
    pub fn put_back(&self, name: &str, key: KeyId) -> Result<(), StoreError> {
        let directory = &self.config.directory;
        let _lock = Lock::take(directory)?;
        if self.active_in(&self.path()) == Some(key) {
            return durable::sync_directory(directory);
        }
        let from = directory.join(name);
        if self.active_in(&from) != Some(key) {
            return Err(StoreError::NoFileWithKey { directory: directory.clone(), key, files: 1 });
        }
        let bak = directory.join(BAK);
        // What is put back may itself be the `.bak` of an earlier recovery, whose name the current file gets now.
        let from = if from == bak && self.path().exists() { self.number(&bak)? } else { from };
        self.keep_as_bak(&bak)?;
        durable::at(point!(FILE_PUT_BACK), &self.path(), || durable::rename(&from, &self.path()))
    }

    fn active_in(&self, path: &Path) -> Option<KeyId> {
        self.read(path).ok().flatten().map(|set| set.active().secret.id())
    }

    /// Gives the current file, whatever it holds, its second name.
    fn keep_as_bak(&self, bak: &Path) -> Result<(), StoreError> {
        let current = self.path();
        if !current.exists() || same_file(&current, bak)? {
            return Ok(());
        }
        if bak.exists() {
            self.number(bak)?;
            // Two names of one file cannot be renamed over each other; these two are different files, as was seen.
            let beside = durable::half_written(bak);
            durable::remove(&beside)?;
            durable::link(&current, &beside)?;
            return durable::rename(&beside, bak);
        }
        durable::link(&current, bak).map(|_| ())
    }

    /// Gives an earlier `.bak` a number, unless a crash came right after that.
    fn number(&self, bak: &Path) -> Result<PathBuf, StoreError> {
        for number in 1..=BAK_MAX {
            let numbered = self.config.directory.join(format!("{BAK}.{number}"));
            if same_file(bak, &numbered)? || durable::link(bak, &numbered)? {
                return Ok(numbered);
            }
        }
        Err(StoreError::NoDatedName { directory: self.config.directory.clone() })
    }

    /// The names of all regular files of the folder.
    fn names(&self) -> Result<Vec<String>, StoreError> {
        let directory = &self.config.directory;
        let failed = |source| StoreError::File { what: "list", path: directory.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Whether two names stand for one file. A name that does not exist stands for none.
fn same_file(one: &Path, other: &Path) -> Result<bool, StoreError> {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: &Path| match fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { what: "look at", path: path.to_owned(), source }),
    };
    Ok(inode(one)?.is_some_and(|one| inode(other).is_ok_and(|other| other == Some(one))))
}
