//! Which process a pid stands for: pids are reused, so a process is known by its pid and the moment it started.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often a process that should end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The fields of `/proc/PID/stat` after the command: the third (state) is the first of them.
const STATE_FIELD: usize = 0;

/// Field 22, the start time in clock ticks since boot, counted like [`STATE_FIELD`].
const START_TIME_FIELD: usize = 19;

/// One process, told apart from a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessIdentity {
    /// The process id.
    pub(crate) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now; `None` when there is none.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (_, start_ticks) = state_and_start(pid)?;
        Some(Self { pid, start_ticks })
    }

    /// This very process.
    pub(crate) fn own() -> anyhow::Result<Self> {
        let pid = Pid::this().as_raw();
        Self::of(pid).with_context(|| format!("reading /proc/{pid}/stat; the demo needs Linux with /proc mounted"))
    }

    /// Reads what [`ProcessIdentity::write`] wrote; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let identity = serde_json::from_str(&text).with_context(|| format!("{} is not a pid file", path.display()))?;
        Ok(Some(identity))
    }

    /// Writes the identity whole, or not at all.
    pub(crate) fn write(self, path: &Path) -> anyhow::Result<()> {
        let unfinished = path.with_extension("new");
        fs::write(&unfinished, serde_json::to_vec(&self)?)
            .and_then(|()| fs::rename(&unfinished, path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Whether it still runs. A zombie that nobody has waited for yet does not.
    pub(crate) fn is_alive(self) -> bool {
        state_and_start(self.pid)
            .is_some_and(|(state, start)| start == self.start_ticks && state != 'Z' && state != 'X')
    }

    /// Sends a signal, unless it is gone. Says whether it was still there.
    pub(crate) fn signal(self, signal: Signal) -> anyhow::Result<bool> {
        if !self.is_alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => bail!("sending {signal} to process {}: {error}", self.pid),
        }
    }

    /// Waits until it is gone; false when it still runs after `limit`.
    pub(crate) async fn wait_gone(self, limit: Duration) -> bool {
        let gone = async {
            while self.is_alive() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(limit, gone).await.is_ok()
    }
}

/// State letter and start time of a process.
fn state_and_start(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command stands in parentheses and may hold spaces and parentheses itself; the last one ends it.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let state = fields.get(STATE_FIELD)?.chars().next()?;
    let start = fields.get(START_TIME_FIELD)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_reused_pid_is_another_one() {
        let own = ProcessIdentity::own().unwrap();
        assert!(own.is_alive());
        let earlier = ProcessIdentity { start_ticks: own.start_ticks - 1, ..own };
        assert!(!earlier.is_alive());
        assert!(!earlier.signal(Signal::SIGTERM).unwrap(), "a process of another start time must never get a signal");
    }

    #[tokio::test]
    async fn a_child_that_was_killed_is_gone_even_before_it_was_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let identity = ProcessIdentity::of(child.id().try_into().unwrap()).unwrap();
        assert!(identity.is_alive());
        assert!(identity.signal(Signal::SIGKILL).unwrap());
        assert!(identity.wait_gone(Duration::from_secs(10)).await);
        child.wait().unwrap();
    }

    #[test]
    fn a_pid_file_survives_the_round_trip_and_a_missing_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert_eq!(ProcessIdentity::read(&path).unwrap(), None);
        let own = ProcessIdentity::own().unwrap();
        own.write(&path).unwrap();
        assert_eq!(ProcessIdentity::read(&path).unwrap(), Some(own));
    }
}
