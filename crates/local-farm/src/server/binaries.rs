//! Where this machine's PostgreSQL programs are, and as whom they run.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::unistd::{Uid, User};
use tokio::process::Command;

use super::UnusableDatabase;

/// Where Debian and its kin put every installed version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The user that PostgreSQL's packages make; its programs refuse to run as root.
const USER: &str = "postgres";

/// What a server and its tools may see of our environment.
const ENVIRONMENT: [&str; 3] = ["PATH", "LANG", "TZ"];

/// PostgreSQL's programs.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    folder: PathBuf,
    /// As whom to run them; `None` to stay who we are.
    user: Option<User>,
}

impl Binaries {
    /// Finds the newest installed version.
    pub(super) fn find() -> anyhow::Result<Self> {
        let folder = newest_version().or_else(on_path).ok_or_else(|| {
            UnusableDatabase(
                "this machine has no PostgreSQL server; run `apt-get install postgresql`, or use --database sqlite"
                    .to_owned(),
            )
        })?;
        Self::of(folder)
    }

    /// Those of one major version. What is on the path says itself if it is another.
    pub(super) fn of_version(major: u32) -> anyhow::Result<Self> {
        let installed = Path::new(VERSIONS).join(major.to_string()).join("bin");
        let folder = Some(installed).filter(|folder| has_server(folder)).or_else(on_path).ok_or_else(|| {
            UnusableDatabase(format!("this machine has no server of PostgreSQL {major}; install postgresql-{major}"))
        })?;
        Self::of(folder)
    }

    fn of(folder: PathBuf) -> anyhow::Result<Self> {
        let user = if Uid::effective().is_root() {
            let user = User::from_name(USER).context("looking for the user postgres")?.ok_or_else(|| {
                UnusableDatabase(
                    "PostgreSQL does not run as root, and there is no user postgres; run `apt-get install postgresql`"
                        .to_owned(),
                )
            })?;
            Some(user)
        } else {
            None
        };
        Ok(Self { folder, user })
    }

    /// The user that the server's files must belong to, if another.
    pub(super) const fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// One of the programs, run as the right user.
    pub(super) fn command(&self, program: &str) -> Command {
        let program = self.folder.join(program);
        let mut command = match &self.user {
            None => self::program(program),
            Some(user) => {
                let mut command = self::program("setpriv");
                command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
                command.args(["--clear-groups", "--"]).arg(program);
                command
            }
        };
        // The folder we are in may be closed to that user.
        command.current_dir("/").env("LC_ALL", "C.UTF-8").kill_on_drop(true);
        command
    }
}

/// A program that sees of our own environment only what is harmless; the rest may hold secrets.
pub(super) fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

fn newest_version() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name().and_then(OsStr::to_str)?.parse().ok()?;
        let folder = path.join("bin");
        has_server(&folder).then_some((version, folder))
    });
    versions.max().map(|(_, folder)| folder)
}

fn on_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| has_server(folder))
}

fn has_server(folder: &Path) -> bool {
    ["initdb", "postgres", "pg_dump"].iter().all(|program| folder.join(program).is_file())
}
