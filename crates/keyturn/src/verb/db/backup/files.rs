//! Files of the backup folder: for their owner alone, under another name until they are whole, described beside
//! themselves so that a later look tells what they hold and whether they were damaged since.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rotation::{DatabaseBackup, Digest};
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The format of a description.
const FORMAT: &str = "keyturn-backup 1";
/// What is not whole yet has this at the end of its name.
const PARTIAL: &str = ".partial";
/// What SQLite puts beside a database, behind its name.
const OF_A_DATABASE: [&str; 3] = ["-journal", "-wal", "-shm"];
/// Bits of a mode that let others than the owner write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In a folder with this bit nobody replaces another's file.
const STICKY: u32 = 0o1000;
/// How often it is looked whether another backup into the same folder has ended.
const LOCK_POLL: Duration = Duration::from_millis(100);
/// A description names tables and counts; a file of this size is none.
const DESCRIPTION_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The folder, held against every other backup into it.
pub(super) struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What is known of a backup without opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) format: String,
    pub(super) farm: String,
    /// The database's name on its server, or the file's path.
    pub(super) database: String,
    pub(super) backup: DatabaseBackup,
}

impl Folder {
    /// Makes the folder, or sees that nobody else can enter it; waits until nobody else makes a backup there, and
    /// removes what one left that was killed.
    pub(super) async fn enter(path: &Path) -> Result<Self, Problem> {
        private_folder(path)?;
        let lock = path.join(".lock");
        let mut file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let lock = loop {
            let opened = file.map_err(|error| unusable(path, &error))?;
            match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => break lock,
                Err((returned, nix::errno::Errno::EWOULDBLOCK)) => {
                    tokio::time::sleep(LOCK_POLL).await;
                    file = Ok(returned);
                }
                Err((_, errno)) => return Err(unusable(path, &errno.into())),
            }
        };
        let folder = Self { path: path.to_owned(), _lock: lock };
        folder.remove_partial().map_err(|error| unusable(path, &error))?;
        Ok(folder)
    }

    /// Under which name a file is made that shall have this one.
    pub(super) fn partial(&self, name: &str) -> Partial {
        Partial { path: self.path.join(format!("{name}{PARTIAL}")), whole: self.path.join(name) }
    }

    pub(super) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn remove_partial(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if is_partial(&entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whether a file of this name is not whole, or belongs to a database that is not.
fn is_partial(name: &str) -> bool {
    let name = OF_A_DATABASE.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    name.ends_with(PARTIAL)
}

/// A file that is not whole yet. Removed when it is dropped before.
pub(super) struct Partial {
    pub(super) path: PathBuf,
    whole: PathBuf,
}

impl Partial {
    /// Makes it, empty, for its owner alone.
    pub(super) fn create(&self) -> Result<File, Problem> {
        let made = File::options().read(true).write(true).create_new(true).mode(0o600).open(&self.path);
        made.map_err(|error| not_written(&self.path, &error))
    }

    /// Flushes it, gives it its name, and makes that durable.
    pub(super) fn keep(self) -> Result<PathBuf, Problem> {
        let kept = (|| {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, &self.whole)?;
            File::open(self.whole.parent().unwrap_or(Path::new(".")))?.sync_all()
        })();
        kept.map_err(|error| not_written(&self.whole, &error))?;
        Ok(self.whole.clone())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Named otherwise by now, or never made: as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the description of a backup lies.
fn beside(backup: &Path) -> PathBuf {
    let mut name = backup.as_os_str().to_owned();
    name.push(".json");
    PathBuf::from(name)
}

/// Writes it, whole or not at all.
pub(super) fn describe(farm: &str, database: &str, backup: &DatabaseBackup) -> Result<(), Problem> {
    let (farm, database) = (farm.to_owned(), database.to_owned());
    let description = Description { format: FORMAT.to_owned(), farm, database, backup: backup.clone() };
    let bytes = serde_json::to_vec_pretty(&description).expect("a description has string keys only");
    let whole = beside(Path::new(&backup.path));
    let mut path = whole.as_os_str().to_owned();
    path.push(PARTIAL);
    let partial = Partial { path: PathBuf::from(path), whole };
    io::Write::write_all(&mut partial.create()?, &bytes).map_err(|error| not_written(&partial.path, &error))?;
    partial.keep().map(drop)
}

/// Reads it; `None` when the backup has none.
pub(super) fn description(backup: &Path) -> Result<Option<Description>, Problem> {
    let path = beside(backup);
    let unreadable = |why: String| {
        Problem::refused(
            "backup-damaged",
            format!("{} does not describe a backup: {why}", path.display()),
            "take another backup; without its description a damaged one cannot be told from a whole one",
        )
    };
    match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
        Ok(found) if found.len() > DESCRIPTION_BYTES_MAX => return Err(unreadable("it is too large".to_owned())),
        Ok(_) => {}
    }
    let bytes = fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let description: Description = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
    if description.format != FORMAT {
        return Err(unreadable(format!("its format is {:?}, and this release reads {FORMAT:?}", description.format)));
    }
    Ok(Some(description))
}

/// Size and BLAKE3 of a file, read as a stream.
pub(super) async fn digest(path: &Path) -> Result<(u64, Digest), Problem> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut hasher = blake3::Hasher::new();
        let mut file = File::open(&owned)?;
        let bytes = io::copy(&mut file, &mut hasher)?;
        Ok((bytes, Digest::new(*hasher.finalize().as_bytes())))
    });
    read.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error: io::Error| {
        Problem::refused(
            "backup-unreadable",
            format!("the backup {} cannot be read", path.display()),
            "give the path of a backup on this node",
        )
        .because(&error)
    })
}

/// Sees that the backup lies in the folder, as a plain file or a folder of its own: whoever asked for it may not be trusted.
/// All that is not so is refused in the same words, and nothing outside the folder is looked at.
pub(super) fn inside(folder: &Path, path: &Path) -> Result<PathBuf, Problem> {
    let outside = || {
        Problem::refused(
            "backup-unreadable",
            format!("{} is not in the backup folder of this node's configuration", path.display()),
            format!("put the backup, and the .json beside it, into {}", folder.display()),
        )
    };
    let real = folder.canonicalize().map_err(|error| unusable(folder, &error))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let name = path.file_name().filter(|_| parent == Path::new("") || parent == folder || parent == real);
    let found = real.join(name.ok_or_else(outside)?);
    match found.symlink_metadata() {
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => Ok(found),
        Ok(_) | Err(_) => Err(outside()),
    }
}

/// What the disk of a folder still takes.
pub(super) fn free_bytes(folder: &Path) -> Result<u64, Problem> {
    let found = nix::sys::statvfs::statvfs(folder).map_err(|errno| unusable(folder, &errno.into()))?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}

/// Sees that nobody but us or root may write the file, or put another in its place.
pub(super) fn only_ours(path: &Path) -> Result<(), Problem> {
    let exposed = |what: &Path| {
        Problem::refused(
            "backup-exposed",
            format!("others than its owner may write {}, or it is another user's", what.display()),
            "copy the backup, and the .json beside it, into a folder of your own with mode 0700",
        )
    };
    let own = nix::unistd::Uid::effective().as_raw();
    let ours = |metadata: &fs::Metadata| [own, 0].contains(&metadata.uid());
    let looked = |path: &Path| fs::metadata(path).map_err(|error| exposed(path).because(&error));
    let file = looked(path)?;
    if !ours(&file) || file.mode() & WRITABLE_BY_OTHERS != 0 {
        return Err(exposed(path));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = looked(folder)?;
    if !ours(&found) || (found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0) {
        return Err(exposed(folder));
    }
    Ok(())
}

/// Makes the folder, or sees that nobody else can enter it.
pub(super) fn private_folder(folder: &Path) -> Result<(), Problem> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| unusable(folder, &error))?;
    let metadata = fs::metadata(folder).map_err(|error| unusable(folder, &error))?;
    if metadata.permissions().mode() & 0o077 != 0 || metadata.uid() != nix::unistd::Uid::effective().as_raw() {
        return Err(Problem::refused(
            "folder-exposed",
            format!("{} is not for its owner alone, and a backup holds every ciphertext", folder.display()),
            "chmod 0700 it, owned by whom keyturn runs as, or choose another folder",
        ));
    }
    Ok(())
}

fn unusable(folder: &Path, error: &io::Error) -> Problem {
    Problem::refused("write-file", format!("{} cannot be used", folder.display()), "choose another folder")
        .because(error)
}

fn not_written(path: &Path, error: &io::Error) -> Problem {
    Problem::refused(
        "write-file",
        format!("{} could not be written", path.display()),
        "look at the folder's rights and at the space on the disk",
    )
    .because(error)
}

/// A problem whose cause is that the disk is full says so, whichever tool met it.
pub(super) fn name_full_disk(problem: Problem, folder: &Path) -> Problem {
    let texts = problem.causes.iter().chain([&problem.message]);
    let full = [
        "No space left on device",
        "database or disk is full",
        "os error 28",
        "os error 122",
        // MariaDB's tool and its server.
        "errno 28",
        "Got error 28",
        "Disk full",
    ];
    if !texts.into_iter().any(|text| full.iter().any(|words| text.contains(words))) {
        return problem;
    }
    Problem {
        code: "disk-full".to_owned(),
        next_step: format!(
            "make room on the disk of {} (or of TMPDIR, where the backup is restored aside), then try again; what was \
             half made is removed",
            folder.display()
        ),
        ..problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_half_made_is_taken_for_it() {
        for name in ["demo.db.partial", "demo.db.partial-wal", "demo.db.partial-journal", "demo.db.json.partial"] {
            assert!(is_partial(name), "{name}");
        }
        for name in ["x.partial-20260101.db", "x.partial-20260101.db.json", "x.partial.db-wal", "demo.db"] {
            assert!(!is_partial(name), "{name}");
        }
    }

    #[test]
    fn what_is_outside_is_refused_in_the_same_words_whether_it_is_there_or_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("backups");
        fs::create_dir(&inner).expect("made");
        for path in ["there", "backups/there"] {
            fs::write(folder.path().join(path), "").expect("written");
        }
        std::os::unix::fs::symlink(folder.path().join("there"), inner.join("link")).expect("linked");
        let said = |path: &Path| {
            let problem = inside(&inner, path).expect_err("refused");
            (problem.message.replace(&path.display().to_string(), "X"), problem.causes)
        };
        let there = said(&folder.path().join("there"));
        for path in ["gone", "backups/gone", "backups/../there", "backups/link", "gone/there", "backups"] {
            assert_eq!(said(&folder.path().join(path)), there, "{path}");
        }
        assert_eq!(said(Path::new("../there")), there);
        let found = inner.canonicalize().expect("it is there").join("there");
        for path in [Path::new("there"), &inner.join("there"), &found] {
            assert_eq!(inside(&inner, path).expect("inside"), found);
        }
    }

    /// As the first release wrote it: every later one reads it.
    const DESCRIBED: &str = include_str!("../../../../../../tests/compatibility/backup-1.json");

    #[test]
    fn the_kept_description_is_read_and_written_as_it_was_and_another_format_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("demo.dump");
        fs::write(beside(&path), DESCRIBED).expect("written");
        let found = description(&path).expect("read").expect("there is one");
        assert_eq!((&*found.farm, &*found.database), ("demo", "vault"));
        assert_eq!(found.backup.tables["public.connections"].values_opened, 1_998);
        assert_eq!(found.backup.position.as_ref().map(|position| position.position), Some(26_738_688));
        let backup = DatabaseBackup { path: path.display().to_string(), ..found.backup };
        describe("demo", "vault", &backup).expect("described");
        let written = fs::read_to_string(beside(&path)).expect("there");
        assert_eq!(written.replace(&backup.path, "/backups/demo.dump"), DESCRIBED.trim_end());
        fs::write(beside(&path), DESCRIBED.replace("keyturn-backup 1", "keyturn-backup 2")).expect("written");
        let refused = description(&path).expect_err("refused");
        assert!(refused.message.contains("\"keyturn-backup 2\""), "{}", refused.message);
    }

    #[test]
    fn a_backup_that_others_may_write_or_exchange_is_not_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("backup");
        fs::write(&path, "").expect("written");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        for (file, place, ours) in [
            (0o600, 0o700, true),
            (0o644, 0o755, true),
            (0o664, 0o700, false),
            (0o600, 0o777, false),
            (0o600, 0o1777, true),
        ] {
            set(&path, file);
            set(folder.path(), place);
            assert_eq!(only_ours(&path).is_ok(), ours, "{file:o} in {place:o}");
        }
    }
}
