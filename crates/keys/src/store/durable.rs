//! Changes of files that are on the disk when the function returns, and that a crash leaves either undone or done.
//!
//! A file is written beside its place, flushed, and then moved or linked into it; then the directory is flushed, as
//! the new name lives there. What a crash leaves behind ends in `.tmp` and is overwritten by the next try; what fails,
//! as on a full disk, leaves nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use fail_points::Point;
use nix::fcntl::OFlag;

use super::StoreError;

/// Behind the name of a file that is still being written.
pub(super) const HALF_WRITTEN: &str = ".tmp";
/// Keys are for their owner alone.
const MODE: u32 = 0o600;
/// The bits of a mode that say who may read and write.
const PERMISSIONS: u32 = 0o777;
/// A store of a thousand keys is a third of this; a larger file is none of ours.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Keeps a second process from changing the same directory. Ends with the value, or with the process.
pub(super) struct Lock {
    pub(super) directory: File,
}

impl Lock {
    /// Does not wait: whoever holds it is either done in a moment or has been stopped.
    pub(super) fn take(directory: &Path) -> Result<Self, StoreError> {
        let file = File::open(directory).map_err(failed("open", directory))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy { directory: directory.to_owned() }),
            Err(TryLockError::Error(error)) => Err(failed("lock", directory)(error)),
        }
    }
}

impl Drop for Lock {
    /// Closing alone would not do: a child that another thread has just forked has the file open until it runs its program.
    fn drop(&mut self) {
        // The file is closed next, which is all that is left to do.
        let _ = self.directory.unlock();
    }
}

/// Makes a change with a fail point on either side.
pub(super) fn at<T>(
    point: Point,
    path: &Path,
    change: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    point.before().map_err(failed("change", path))?;
    let changed = change()?;
    point.after().map_err(failed("change", path))?;
    Ok(changed)
}

/// The content of a file; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    // Whoever may write into the folder may have laid a pipe there, which would be waited for.
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = match opened.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
        Ok((true, file)) => file,
        Ok((false, _)) => {
            return Err(failed("read", path)(io::Error::new(ErrorKind::InvalidInput, "it is no plain file")));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut content = Vec::new();
    // One byte more, so that a larger file is not taken for one of exactly the limit.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed("read", path))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(failed("read", path)(io::Error::new(ErrorKind::FileTooLarge, "larger than 1 MiB")));
    }
    Ok(Some(content))
}

/// Puts a file in its place, over what may be there.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let half_written = write_beside(path, content, None)?;
    rename(&half_written, path)
}

/// Puts a file in its place, with the owner and the permissions of another: what replaces the application's file must
/// be readable for the same users, and for no others.
pub(super) fn replace_like(path: &Path, content: &[u8], model: &Path) -> Result<(), StoreError> {
    let half_written = write_beside(path, content, Some(model))?;
    rename(&half_written, path)
}

/// Puts a file in its place unless there is one. Returns whether it did.
pub(super) fn create(path: &Path, content: &[u8]) -> Result<bool, StoreError> {
    let half_written = write_beside(path, content, None)?;
    let created = link(&half_written, path)?;
    remove(&half_written)?;
    Ok(created)
}

/// Moves a file over another, in one step.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    crash::point().and_then(|()| fs::rename(from, to)).map_err(failed("rename a file to", to))?;
    sync_directory(parent(to))
}

/// Gives a file a second name unless that is taken. Returns whether it did.
pub(super) fn link(from: &Path, to: &Path) -> Result<bool, StoreError> {
    match crash::point().and_then(|()| fs::hard_link(from, to)) {
        Ok(()) => sync_directory(parent(to)).map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed("link a file to", to)(error)),
    }
}

/// Deletes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match crash::point().and_then(|()| fs::remove_file(path)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("delete", path)(error)),
    }
    // Even when it was gone already: the process that deleted it may have died before this.
    sync_directory(parent(path))
}

/// Flushes the names in a directory.
pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    let flush = || crash::point().and_then(|()| File::open(directory)).and_then(|file| file.sync_all());
    flush().map_err(failed("flush", directory))
}

/// The directory that a file's name lives in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The name under which a file is written before it is whole.
pub(super) fn half_written(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(HALF_WRITTEN);
    PathBuf::from(name)
}

/// Writes and flushes a file under its half-written name, and returns that. Its owner's alone, or as `model` is.
fn write_beside(path: &Path, content: &[u8], model: Option<&Path>) -> Result<PathBuf, StoreError> {
    let half_written = half_written(path);
    // Deleted and made anew, so that neither a link nor looser permissions of an earlier one are inherited.
    remove(&half_written)?;
    let write = || -> io::Result<()> {
        crash::point()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&half_written)?;
        if let Some(model) = model {
            let wanted = fs::metadata(model)?;
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (wanted.uid(), wanted.gid()) {
                fchown(&file, Some(wanted.uid()), Some(wanted.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(wanted.mode() & PERMISSIONS))?;
        }
        crash::point()?;
        file.write_all(content)?;
        crash::point()?;
        file.sync_all()
    };
    if let Err(error) = write() {
        // On a full disk it would take room for nothing. Best effort: the next try overwrites what is left.
        let _ = crash::point().and_then(|()| fs::remove_file(&half_written));
        return Err(failed("write", &half_written)(error));
    }
    Ok(half_written)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File { what, path: path.to_owned(), source }
}

/// Where a crash is possible: before every single change. Tests let the process die there; otherwise it is nothing.
#[cfg(not(test))]
mod crash {
    pub(super) const fn point() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod crash {
    use std::cell::Cell;
    use std::io;

    thread_local! {
        static POINTS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Runs `work` and lets it die at the given point. Returns `None` if it ended before.
    pub(in crate::store) fn at<T>(point: u32, work: impl FnOnce() -> T) -> Option<T> {
        POINTS_LEFT.set(Some(point));
        let result = work();
        let died = POINTS_LEFT.replace(None) == Some(0);
        died.then_some(result)
    }

    /// After the point of death every change fails, so that nothing of the dead process happens any more.
    pub(super) fn point() -> io::Result<()> {
        match POINTS_LEFT.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the test let the process die here")),
            Some(left) => {
                POINTS_LEFT.set(Some(left - 1));
                Ok(())
            }
        }
    }
}
