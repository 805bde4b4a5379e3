//! Small files that survive a crash: a reader sees the old content or the new, never half of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fail_points::Point;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The end of the name of a file that is still being written.
const HALF_WRITTEN: &str = "tmp";

/// A file of the agent's state that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// It is there and cannot be read.
    #[error("reading {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what this release writes. Never taken for an absent file: what it said would be forgotten.
    #[error(
        "{path} is not a file that this release wrote; restore it, or, if the node is to start from nothing, move it \
         away and enroll the node again"
    )]
    Malformed {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It belongs to another format or version.
    #[error("{path} has format {found}, and this release reads {expected}; run the release that wrote it")]
    Format {
        /// The file.
        path: String,
        /// What it says.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// It cannot be written.
    #[error("writing {path}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A record with the name and version of its format, as every stored file has.
#[derive(serde::Serialize, serde::Deserialize)]
struct Envelope<T> {
    format: String,
    record: T,
}

/// Only the format, read first, so that a record of another version is told from a broken one.
#[derive(serde::Deserialize)]
struct FormatOnly {
    format: String,
}

/// Reads a record; `None` when there is no file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, format: &'static str) -> Result<Option<T>, DurableError> {
    let name = || path.display().to_string();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DurableError::Read { path: name(), source }),
    };
    let malformed = |source| DurableError::Malformed { path: name(), source };
    let found = serde_json::from_slice::<FormatOnly>(&bytes).map_err(malformed)?.format;
    if found != format {
        return Err(DurableError::Format { path: name(), found, expected: format });
    }
    let envelope: Envelope<T> = serde_json::from_slice(&bytes).map_err(malformed)?;
    Ok(Some(envelope.record))
}

/// Writes a record: a temporary file, fsync, rename, fsync of the folder. A crash leaves the old record or the new.
pub(crate) fn write<T: Serialize>(
    path: &Path,
    format: &'static str,
    record: &T,
    point: Point,
) -> Result<(), DurableError> {
    let envelope = Envelope { format: format.to_owned(), record };
    let bytes = serde_json::to_vec_pretty(&envelope).expect("the agent's records have string keys only");
    replace(path, &bytes, point).map_err(|source| DurableError::Write { path: path.display().to_string(), source })
}

/// Removes a record and makes that durable. Absent already is fine.
pub(crate) fn remove(path: &Path, point: Point) -> Result<(), DurableError> {
    let removed = match point.before().and_then(|()| fs::remove_file(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    removed
        .and_then(|()| sync_folder(path))
        .and_then(|()| point.after())
        .map_err(|source| DurableError::Write { path: path.display().to_string(), source })
}

fn replace(path: &Path, bytes: &[u8], point: Point) -> io::Result<()> {
    /// Two writers in one process never share a temporary file.
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{serial}.{HALF_WRITTEN}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        point.before()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        // Best effort: a left-over temporary file is never read.
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| sync_folder(path)).and_then(|()| point.after())
}

/// Deletes what writes left half-written that were cut off. Only while nobody else writes in this folder.
pub(crate) fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == HALF_WRITTEN) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use fail_points::point;

    use super::*;

    const FORMAT: &str = "keyturn-test 1";

    #[test]
    fn a_record_comes_back_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert_eq!(read::<u64>(&path, FORMAT).unwrap(), None);
        write(&path, FORMAT, &7_u64, point!(AGENT_FENCE)).unwrap();
        write(&path, FORMAT, &8_u64, point!(AGENT_FENCE)).unwrap();
        assert_eq!(read::<u64>(&path, FORMAT).unwrap(), Some(8));
        remove(&path, point!(HELD_RELEASED)).unwrap();
        remove(&path, point!(HELD_RELEASED)).unwrap();
        assert_eq!(read::<u64>(&path, FORMAT).unwrap(), None);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "no temporary file is left");
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_record() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write(&path, FORMAT, &7_u64, point!(AGENT_FENCE)).unwrap();
        fs::write(folder.path().join("record.1-0.tmp"), b"{\"format\":").unwrap();
        assert_eq!(read::<u64>(&path, FORMAT).unwrap(), Some(7));
        sweep(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "and what it left goes with the next start");
        assert_eq!(read::<u64>(&path, FORMAT).unwrap(), Some(7));
    }

    #[test]
    fn a_broken_or_foreign_record_is_not_taken_for_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        for broken in ["", "{", "{\"format\":\"keyturn-test 1\"}"] {
            fs::write(&path, broken).unwrap();
            assert!(matches!(read::<u64>(&path, FORMAT), Err(DurableError::Malformed { .. })), "{broken:?}");
        }
        write(&path, "keyturn-test 2", &7_u64, point!(AGENT_FENCE)).unwrap();
        assert!(matches!(read::<u64>(&path, FORMAT), Err(DurableError::Format { .. })));
    }
}
