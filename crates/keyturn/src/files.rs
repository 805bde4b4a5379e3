//! Files that a command writes: never over another, and those with secrets for their owner alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::problem::Problem;

/// Certificates, bundles and lists are far smaller; the limit keeps a wrong path from filling the memory.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Room to find a file's end without growing.
const SPARE_BYTES: usize = 64;

/// Writes a new file that only its owner may read, durably. Refuses to overwrite.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    create(path, bytes, 0o600).map_err(|error| not_written(path, &error))
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn not_written(path: &Path, error: &io::Error) -> Problem {
    let next = match error.kind() {
        io::ErrorKind::AlreadyExists => "nothing is ever overwritten: choose another path, or move the old file away",
        _ => "look at the folder's existence and rights, and at the space on the disk",
    };
    Problem::refused("write-file", format!("{} could not be written", path.display()), next).because(error)
}

/// Writes a new file that everybody may read: it holds no secret. Refuses to overwrite.
pub(crate) fn write_shared(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    create(path, bytes, 0o644).map_err(|error| not_written(path, &error))
}

/// The same, and puts it into the place of one that is there, whole or not at all.
pub(crate) fn replace_shared(path: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    create(&beside, bytes, 0o644).map_err(|error| not_written(&beside, &error))?;
    std::fs::rename(&beside, path).map_err(|error| {
        let _ = std::fs::remove_file(&beside);
        not_written(path, &error)
    })
}

/// Refuses early what [`write_new`] would refuse late, before anybody is asked for a password.
pub(crate) fn refuse_existing(path: &Path) -> Result<(), Problem> {
    if path.symlink_metadata().is_ok() {
        return Err(Problem::refused(
            "write-file",
            format!("{} exists already", path.display()),
            "nothing is ever overwritten: choose another path, or move the old file away",
        ));
    }
    Ok(())
}

/// Reads a file whole.
pub(crate) fn read(path: &Path, what: &str) -> Result<Vec<u8>, Problem> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        // Reserved whole: it may be a key, and growing would leave copies behind.
        let length = file.metadata()?.len().min(FILE_BYTES_MAX);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + SPARE_BYTES);
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| {
        Problem::refused(
            "read-file",
            format!("the {what} {} could not be read", path.display()),
            "look at the path and at the file's rights",
        )
        .because(&error)
    })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Problem::refused(
            "read-file",
            format!("the {what} {} is larger than {FILE_BYTES_MAX} bytes", path.display()),
            "look at the path: this is some other file",
        ));
    }
    Ok(bytes)
}
