//! Finds out which other processes have a file open, as the kernel tells it: SQLite knows no sessions.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::EngineError;
use crate::dialect::polls::Polls;

/// Longer command lines are cut in messages.
const COMMAND_CHARS_MAX: usize = 80;

/// Waits until no other process has the file open, and names those that do not go.
pub(super) async fn wait_until_alone(device: u64, inode: u64, wait_max: Duration) -> Result<(), EngineError> {
    let started = Instant::now();
    let mut polls = Polls::new();
    loop {
        let others = tokio::task::spawn_blocking(move || holders(Path::new("/proc"), device, inode))
            .await
            .map_err(|error| EngineError::Internal(format!("looking at processes ended early: {error}")))?
            .map_err(|error| EngineError::SessionsUnknown(format!("/proc cannot be read: {error}")))?;
        if others.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= wait_max {
            return Err(EngineError::SessionsRemain(others.into_values().collect()));
        }
        polls.wait().await;
    }
}

/// Other processes that have the file open, by process id. Their descriptors tell; where those may not be seen
/// (processes of another user), the locks tell, which SQLite holds in write-ahead mode for as long as it is open.
fn holders(proc: &Path, device: u64, inode: u64) -> io::Result<BTreeMap<u32, String>> {
    let own = std::process::id();
    let mut holders = BTreeMap::new();
    let mut hidden = 0_u32;
    for entry in fs::read_dir(proc)? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let descriptors = match fs::read_dir(entry.path().join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                hidden += 1;
                continue;
            }
            // It ended while we looked.
            Err(_) => continue,
        };
        let holds = |descriptor: io::Result<fs::DirEntry>| {
            descriptor
                .and_then(|descriptor| fs::metadata(descriptor.path()))
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (device, inode))
        };
        if pid != own && descriptors.into_iter().any(holds) {
            holders.insert(pid, named(&entry.path(), pid));
        }
    }
    if hidden > 0 {
        tracing::warn!(hidden, "the files of other users' processes cannot be seen; only their locks can");
    }
    let locks = fs::read_to_string(proc.join("locks")).unwrap_or_default();
    for pid in lockers(&locks, device, inode) {
        if pid != own {
            holders.entry(pid).or_insert_with(|| named(&proc.join(pid.to_string()), pid));
        }
    }
    Ok(holders)
}

/// Names who is in the way of a transaction that could not begin.
pub(super) fn blamed<T>(path: &Path, done: Result<T, EngineError>) -> Result<T, EngineError> {
    done.map_err(|error| match error {
        EngineError::Busy { doing, by: _, source } => EngineError::Busy { doing, by: writers(path), source },
        other => other,
    })
}

/// Who keeps others from writing to the database in this file, by the locks that the kernel shows: the writer that is in
/// the middle of a transaction. In write-ahead mode its lock is on the file beside.
fn writers(path: &Path) -> Vec<String> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let shared_memory = PathBuf::from(format!("{}-shm", path.display()));
    let own = std::process::id();
    let mut writers = BTreeMap::new();
    for metadata in [path, &shared_memory].into_iter().filter_map(|file| fs::metadata(file).ok()) {
        let held = locks.lines().filter(|line| line.contains(" WRITE ") && !line.contains("->"));
        for pid in held.filter_map(|line| locker(line, metadata.dev(), metadata.ino())) {
            if pid != own {
                let process = Path::new("/proc").join(pid.to_string());
                let stopped = if is_stopped(&process) { ", which is stopped" } else { "" };
                writers.insert(pid, format!("{}{stopped}", named(&process, pid)));
            }
        }
    }
    writers.into_values().collect()
}

/// Whether a process stands still, by a signal or a debugger: the state behind its name, which may hold anything.
fn is_stopped(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// Processes that hold a lock on the file, from lines such as
/// `1: POSIX  ADVISORY  READ 1234 08:01:98765 1073741826 1073742335`, where major and minor are hexadecimal.
fn lockers(locks: &str, device: u64, inode: u64) -> Vec<u32> {
    locks.lines().filter_map(|line| locker(line, device, inode)).collect()
}

fn locker(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "READ" && *word != "WRITE");
    let pid = words.nth(1)?.parse().ok()?;
    let mut file = words.next()?.split(':');
    let same = u64::from_str_radix(file.next()?, 16).ok()? == major(device)
        && u64::from_str_radix(file.next()?, 16).ok()? == minor(device)
        && file.next()?.parse::<u64>().ok()? == inode;
    same.then_some(pid)
}

/// As the GNU C library takes a device number apart.
const fn major(device: u64) -> u64 {
    ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)
}

const fn minor(device: u64) -> u64 {
    (device & 0xff) | ((device >> 12) & !0xff)
}

fn named(process: &Path, pid: u32) -> String {
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let command: String =
        String::from_utf8_lossy(&command).replace('\0', " ").chars().take(COMMAND_CHARS_MAX).collect();
    match command.trim() {
        "" => format!("process {pid}"),
        // The program alone: arguments may hold what does not belong into a log.
        command => format!("process {pid} ({})", command.split(' ').next().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_has_the_file_open_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vault.db");
        fs::write(&path, "x").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        // What another test starts has all our descriptors for a moment.
        let soon = |expected: &[u32]| {
            (0..100).find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                let found = holders(Path::new("/proc"), metadata.dev(), metadata.ino()).unwrap();
                found.keys().copied().eq(expected.iter().copied()).then_some(found)
            })
        };
        let own = fs::File::open(&path).unwrap();
        assert!(soon(&[]).is_some(), "our own descriptor does not count");
        let mut cat = Command::new("cat").stdin(own).arg("-").arg("/dev/stdin").stdout(Stdio::null()).spawn().unwrap();
        // `cat` ends at once at the file's end; `sleep` keeps what it inherits.
        cat.wait().unwrap();
        let open = fs::File::open(&path).unwrap();
        let mut sleeper = Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
        let found = soon(&[sleeper.id()]).unwrap();
        assert!(found[&sleeper.id()].contains("sleep"), "{found:?}");
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(soon(&[]).is_some());
    }

    #[test]
    fn locks_tell_what_descriptors_hide() {
        let device = 0x0801;
        let locks = "1: POSIX  ADVISORY  READ 1234 08:01:98765 1073741826 1073742335\n\
                     2: FLOCK  ADVISORY  WRITE 77 08:01:98766 0 EOF\n\
                     3: -> POSIX  ADVISORY  WRITE 99 08:01:98765 0 EOF\n";
        assert_eq!(lockers(locks, device, 98765), [1234, 99]);
        assert_eq!(lockers(locks, device, 98766), [77]);
        assert!(lockers(locks, 0x0802, 98765).is_empty());
    }
}
