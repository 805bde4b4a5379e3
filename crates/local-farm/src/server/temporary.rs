//! A PostgreSQL server of the demo's own: a fresh cluster on a unix socket, gone when the demo ends.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::Instant;

use super::binaries::Binaries;
use crate::process::ProcessIdentity;

/// A fresh cluster is up in under a second; a busy machine gets this long.
pub(super) const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often a starting server is asked.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// How much of a server's log is repeated.
const LOG_BYTES_MAX: usize = 16 * 1024;

/// A path of a unix socket has at most 107 bytes, `/.s.PGSQL.5432` included.
const SOCKET_FOLDER_BYTES_MAX: usize = 90;

/// `/keyturn-maria-`, and what makes the name of a folder its own.
const FOLDER_NAME_BYTES_MAX: usize = 21;

/// A running server. Its processes end when it is dropped.
#[derive(Debug)]
pub(super) struct TemporaryServer {
    binaries: Binaries,
    /// Holds `data` and is itself the folder of the socket.
    folder: TempDir,
    log: Log,
    child: Child,
    process: ProcessIdentity,
}

impl TemporaryServer {
    /// Makes a cluster and starts it.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let folder = folder("keyturn-pg-").context("creating a folder for PostgreSQL")?;
        if let Some(user) = binaries.user() {
            nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid))
                .context("giving PostgreSQL's folder to the user postgres")?;
        }
        let mut initdb = binaries.command("initdb");
        initdb.arg("--pgdata").arg(folder.path().join("data"));
        // Only this user and root get to the socket, so who comes in is trusted.
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        initdb.stdout(Stdio::null());
        run(initdb, "initdb").await?;
        Self::on(binaries, folder, "postgres", "postgres").await
    }

    /// Starts one on the cluster that is in `data` of this folder, and waits until this role gets into this database.
    pub(super) async fn on(binaries: Binaries, folder: TempDir, role: &str, database: &str) -> anyhow::Result<Self> {
        let log = Log::new()?;
        let (child, process) = spawn(&binaries, folder.path(), &log)?;
        let mut server = Self { binaries, folder, log, child, process };
        server.wait_ready(role, database).await?;
        Ok(server)
    }

    /// The URL of a database on it for a role.
    pub(super) fn url(&self, role: &str, database: &str) -> String {
        let socket = encoded(&self.folder.path().display().to_string());
        format!("postgres://{role}@{socket}/{}", encoded(database))
    }

    #[cfg(test)]
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the server as `systemctl restart` would, and starts it again.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        self.end().await?;
        (self.child, self.process) = spawn(&self.binaries, self.folder.path(), &self.log)?;
        self.wait_ready("postgres", "postgres").await
    }

    /// Writes everything in a database as SQL.
    pub(super) async fn dump(&self, database: &str, path: &Path) -> anyhow::Result<()> {
        let file = fs::File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut dump = self.binaries.command("pg_dump");
        dump.arg("--host").arg(self.folder.path()).args(["--username=postgres", "--dbname", database]);
        dump.stdout(file);
        run(dump, "pg_dump").await
    }

    /// Ends the server and removes its files.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.end().await
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        // SIGINT: end sessions, write everything, end.
        self.process.signal(Signal::SIGINT)?;
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(ended) => ended.map(drop).context("waiting for PostgreSQL to end"),
            Err(_) => bail!("PostgreSQL did not end within {} s", STOP_LIMIT.as_secs()),
        }
    }

    async fn wait_ready(&mut self, role: &str, database: &str) -> anyhow::Result<()> {
        let options = PgConnectOptions::from_str(&self.url(role, database))?;
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match PgConnection::connect_with(&options).await {
                Ok(connection) => return connection.close().await.context("closing a connection to PostgreSQL"),
                Err(error) => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("PostgreSQL ended at once ({status}): {}", self.log.text());
                    }
                    if Instant::now() >= deadline {
                        return Err(error).context("PostgreSQL did not take connections in time");
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for TemporaryServer {
    fn drop(&mut self) {
        // SIGQUIT: the server ends all its processes at once. Killed itself, it would leave them to find out.
        let _ = self.process.signal(Signal::SIGQUIT);
        wait_for_end(&self.process);
    }
}

/// As a part of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Waits until a process that was told to end has ended, before its folder goes; without holding up other tasks.
pub(super) fn wait_for_end(process: &ProcessIdentity) {
    let wait = || {
        let deadline = std::time::Instant::now() + STOP_LIMIT;
        while process.is_alive() && std::time::Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
    };
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(wait),
        Ok(_) | Err(_) => wait(),
    }
}

/// What a server says: in a file without a name, since its folder belongs to another user, who could lay a link there.
#[derive(Debug)]
pub(super) struct Log(fs::File);

impl Log {
    pub(super) fn new() -> anyhow::Result<Self> {
        tempfile::tempfile().map(Self).context("making the server's log")
    }

    /// For a process to write into.
    pub(super) fn output(&self) -> anyhow::Result<Stdio> {
        self.0.try_clone().map(Stdio::from).context("sharing the log")
    }

    /// Its beginning, in which a server that does not start says why.
    pub(super) fn text(&self) -> String {
        let mut bytes = vec![0; LOG_BYTES_MAX];
        let length = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

/// Where folders of servers are made: `TMPDIR`, unless a socket's path there would be too long.
pub(super) fn place() -> PathBuf {
    let chosen = std::env::temp_dir();
    let short = chosen.as_os_str().len() + FOLDER_NAME_BYTES_MAX <= SOCKET_FOLDER_BYTES_MAX;
    if short { chosen } else { PathBuf::from("/tmp") }
}

/// A folder that only its owner may enter, with a path short enough for a socket.
pub(super) fn folder(prefix: &str) -> std::io::Result<TempDir> {
    tempfile::Builder::new().prefix(prefix).tempdir_in(place())
}

fn spawn(binaries: &Binaries, folder: &Path, log: &Log) -> anyhow::Result<(Child, ProcessIdentity)> {
    let mut postgres = binaries.command("postgres");
    postgres.arg("-D").arg(folder.join("data")).arg("-k").arg(folder);
    postgres.args(["-c", "listen_addresses=", "-c", "max_connections=60"]);
    // A signal from the terminal is for the demo, which ends the server in order; and dropping the handle must not
    // kill the server without its processes.
    postgres.process_group(0).kill_on_drop(false);
    postgres.stdin(Stdio::null()).stdout(log.output()?).stderr(log.output()?);
    let child = postgres.spawn().context("starting PostgreSQL")?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let process = pid.and_then(ProcessIdentity::of).context("PostgreSQL ended before it began")?;
    Ok((child, process))
}

pub(super) async fn run(mut command: Command, what: &str) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("starting {what}; setpriv is in Debian's package util-linux"));
        }
        other => other.with_context(|| format!("starting {what}"))?,
    };
    let output = output.wait_with_output().await.with_context(|| format!("waiting for {what}"))?;
    ensure!(output.status.success(), "{what} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(())
}
