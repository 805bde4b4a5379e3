//! Commands that outlived an agent that was killed: named in small files while they run, ended when the agent comes
//! back, before anything else is begun. Otherwise a late `offline` could stop an instance that was started since.
//!
//! These files need no fsync: what they speak of does not outlive the machine either.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// The name of a running command; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Named {
    path: PathBuf,
}

impl Drop for Named {
    fn drop(&mut self) {
        // Left behind, it names a process that has ended, and is passed over.
        let _ = fs::remove_file(&self.path);
    }
}

/// Names the leader of a process group that was just started.
pub(crate) fn name(folder: &Path, leader: Pid) -> io::Result<Named> {
    let named = Named { path: folder.join(leader.to_string()) };
    fs::create_dir_all(folder)?;
    fs::write(&named.path, started(leader)?)?;
    Ok(named)
}

/// Ends every command that is named and still runs. Returns how many.
pub(crate) fn end_all(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let mut ended = 0;
    for entry in entries {
        let path = entry?.path();
        let leader = path.file_name().and_then(|name| name.to_str()?.parse().ok()).map(Pid::from_raw);
        let then = fs::read_to_string(&path)?;
        // The same number and the same start: not another process that got the number since.
        if let Some(leader) = leader.filter(|leader| started(*leader).is_ok_and(|now| now == then)) {
            killpg(leader, Signal::SIGKILL)?;
            ended += 1;
        }
        fs::remove_file(&path)?;
    }
    Ok(ended)
}

/// When a process started, in the kernel's own count: field 22 of its stat, the 20th after the name, which may
/// hold anything.
fn started(process: Pid) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has too few fields"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
        (child, id)
    }

    #[test]
    fn a_command_that_outlived_its_agent_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        // A killed agent drops nothing.
        std::mem::forget(name(folder.path(), id).unwrap());
        assert_eq!(end_all(folder.path()).unwrap(), 1);
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
        assert_eq!(end_all(folder.path()).unwrap(), 0);
    }

    #[test]
    fn another_process_with_the_number_of_an_ended_command_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        fs::write(folder.path().join(id.to_string()), "1").unwrap();
        assert_eq!(end_all(folder.path()).unwrap(), 0);
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_command_that_ended_is_named_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (mut child, id) = sleeper();
        drop(name(folder.path(), id).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
