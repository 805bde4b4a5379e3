//! The files in an instance's folder: its settings, the mark that it is to stay offline, and which process it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::Settings;
use crate::process::ProcessIdentity;

/// The folder of one instance.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn settings_path(&self) -> PathBuf {
        self.path.join("instance.toml")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.path.join("vault.log")
    }

    fn process_path(&self) -> PathBuf {
        self.path.join("vault.pid")
    }

    fn offline_path(&self) -> PathBuf {
        self.path.join("offline")
    }

    pub(crate) fn settings(&self) -> anyhow::Result<Settings> {
        Settings::load(&self.settings_path())
    }

    /// The process that runs now; `None` when none does.
    pub(crate) fn process(&self) -> anyhow::Result<Option<ProcessIdentity>> {
        Ok(ProcessIdentity::read(&self.process_path())?.filter(|process| process.is_alive()))
    }

    /// Makes this process the instance. The lock is released when the process ends, however it ends.
    pub(super) fn become_the_instance(&self) -> anyhow::Result<Flock<File>> {
        let path = self.path.join("vault.lock");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => bail!("this instance runs already; see {}", self.process_path().display()),
            Err((_, error)) => return Err(error).with_context(|| format!("locking {}", path.display())),
        };
        ProcessIdentity::own()?.write(&self.process_path())?;
        Ok(lock)
    }

    pub(super) fn is_offline_for_good(&self) -> bool {
        self.offline_path().exists()
    }

    /// Has the instance stay offline, also over a restart of the machine.
    pub(super) fn mark_offline(&self) -> anyhow::Result<()> {
        let path = self.offline_path();
        File::create(&path)
            .and_then(|file| file.sync_all())
            .and_then(|()| File::open(&self.path)?.sync_all())
            .with_context(|| format!("creating {}", path.display()))
    }

    /// Lets the instance run again.
    pub(super) fn unmark_offline(&self) -> anyhow::Result<()> {
        let path = self.offline_path();
        match fs::remove_file(&path) {
            Ok(()) => File::open(&self.path)?.sync_all().with_context(|| format!("removing {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("removing {}", path.display())),
        }
    }
}
