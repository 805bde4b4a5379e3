//! A MariaDB server of the demo's own: a fresh data directory on a unix socket, gone when the demo ends.

mod users;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr as _;

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use sqlx::Connection as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::UnusableDatabase;
use super::binaries;
use super::temporary::{Log, POLL, START_LIMIT, STOP_LIMIT, folder, run, wait_for_end};
use crate::process::ProcessIdentity;

pub(super) use users::{RESTORER, Users, grant, leave_to_restorer};

/// The programs that are needed, and Debian's packages that have them.
const PROGRAMS: [&str; 3] = ["mariadbd", "mariadb-install-db", "mariadb-dump"];
const PACKAGES: &str = "mariadb-server-core mariadb-client";

/// As whom a server runs, which refuses to run as root: the user that the package of a permanent server makes, or the
/// one that every system has and that owns nothing.
const USERS: [&str; 2] = ["mysql", "nobody"];

/// Where the server stands, which need not be on everybody's path.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Who may do everything; without a password, as only this user and root get to the socket.
pub(super) const ADMINISTRATOR: &str = "root";

/// MariaDB's programs.
#[derive(Debug, Clone)]
struct Programs {
    /// As whom to run them; `None` to stay who we are.
    user: Option<User>,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        if let Some(missing) = PROGRAMS.into_iter().find(|program| path_of(program).is_none()) {
            return Err(UnusableDatabase(format!(
                "this machine has no {missing}; run `apt-get install {PACKAGES}`, or use --database sqlite"
            ))
            .into());
        }
        if !Uid::effective().is_root() {
            return Ok(Self { user: None });
        }
        for name in USERS {
            if let Some(user) = User::from_name(name).with_context(|| format!("looking for the user {name}"))? {
                return Ok(Self { user: Some(user) });
            }
        }
        let problem = format!("MariaDB does not run as root, and there is no user {}", USERS.join(" or "));
        Err(UnusableDatabase(problem).into())
    }

    /// One of the programs, run as the right user.
    fn command(&self, program: &str) -> Command {
        let path = path_of(program).unwrap_or_else(|| PathBuf::from(program));
        let mut command = match &self.user {
            None => binaries::program(path),
            Some(user) => {
                let mut command = binaries::program("setpriv");
                command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
                command.args(["--clear-groups", "--"]).arg(path);
                command
            }
        };
        // The folder we are in may be closed to that user.
        command.current_dir("/").env("LC_ALL", "C.UTF-8").kill_on_drop(true);
        // Nobody's settings but these.
        command.arg("--no-defaults");
        command
    }
}

fn path_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct TemporaryMariadb {
    programs: Programs,
    /// Holds `data` and the socket.
    folder: TempDir,
    log: Log,
    child: Child,
    process: ProcessIdentity,
}

impl TemporaryMariadb {
    /// Makes a data directory and starts a server on it.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let folder = folder("keyturn-maria-").context("creating a folder for MariaDB")?;
        if let Some(user) = &programs.user {
            nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))
                .with_context(|| format!("giving MariaDB's folder to the user {}", user.name))?;
        }
        let mut install = programs.command("mariadb-install-db");
        install.arg(format!("--datadir={}", folder.path().join("data").display()));
        // Not the one of the whole machine, where two that are installed at once take each other's files.
        install.arg(format!("--tmpdir={}", folder.path().display()));
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
        install.stdout(Stdio::null());
        run(install, "mariadb-install-db").await?;
        let log = Log::new()?;
        let (child, process) = spawn(&programs, folder.path(), &log)?;
        let mut server = Self { programs, folder, log, child, process };
        server.wait_ready().await?;
        Ok(server)
    }

    /// The URL of a database on it for a user.
    pub(super) fn url(&self, user: &str, database: &str) -> String {
        format!("mariadb://{user}@localhost/{database}?socket={}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Ends the server as `systemctl restart` would, and starts it again.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.end().await?;
        (self.child, self.process) = spawn(&self.programs, self.folder.path(), &self.log)?;
        self.wait_ready().await
    }

    /// Writes everything in a database as SQL.
    pub(super) async fn dump(&self, database: &str, path: &Path) -> anyhow::Result<()> {
        let file = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut dump = self.programs.command("mariadb-dump");
        dump.arg(format!("--socket={}", self.socket().display())).arg(format!("--user={ADMINISTRATOR}"));
        dump.args(["--single-transaction", "--hex-blob", database]);
        dump.stdout(file);
        run(dump, "mariadb-dump").await
    }

    /// Ends the server and removes its files.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        // SIGTERM: end sessions, write everything, end.
        self.process.signal(Signal::SIGTERM)?;
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).context("waiting for MariaDB to end"),
            Err(_) => bail!("MariaDB did not end within {} s", STOP_LIMIT.as_secs()),
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let options = MySqlConnectOptions::from_str(&self.url(ADMINISTRATOR, "mysql"))?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match MySqlConnection::connect_with(&options).await {
                Ok(connection) => return connection.close().await.context("closing a connection to MariaDB"),
                Err(error) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("MariaDB ended at once ({status}): {}", self.log.text());
                    }
                    if Instant::now() >= deadline {
                        return Err(error).context("MariaDB did not take connections in time");
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for TemporaryMariadb {
    fn drop(&mut self) {
        // One process, whose files go with it.
        let _ = self.process.signal(Signal::SIGKILL);
        wait_for_end(&self.process);
    }
}

fn spawn(programs: &Programs, folder: &Path, log: &Log) -> anyhow::Result<(Child, ProcessIdentity)> {
    let mut server = programs.command("mariadbd");
    for (option, file) in [("datadir", "data"), ("socket", "socket"), ("pid-file", "pid")] {
        server.arg(format!("--{option}={}", folder.join(file).display()));
    }
    server.arg(format!("--tmpdir={}", folder.display()));
    server.args(["--skip-networking", "--max-connections=100", "--character-set-server=utf8mb4"]);
    // A row of a backup that is restored here may be as large as any.
    server.arg("--max-allowed-packet=1G");
    // As the engine's own figures are told for a machine of its size; the default is half of it.
    server.args(["--innodb-buffer-pool-size=512M", "--innodb-log-file-size=256M"]);
    // A signal from the terminal is for the demo, which ends the server in order.
    server.process_group(0).kill_on_drop(false);
    server.stdin(Stdio::null()).stdout(log.output()?).stderr(log.output()?);
    let child = server.spawn().context("starting MariaDB")?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = pid.and_then(ProcessIdentity::of).context("MariaDB ended before it began")?;
    Ok((child, process))
}
