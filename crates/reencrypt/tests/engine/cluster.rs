//! A temporary PostgreSQL cluster on a unix socket, started by the first test that needs it and removed when the tests end.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

const MISSING: &str = "PostgreSQL's server programs are not installed; run: sudo apt-get install postgresql";

/// How long a server may refuse connections while it starts.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// A running server. Stopped and removed on drop, and also when this process ends or is killed: a shell holds the other end
/// of a pipe and, when the pipe closes without a word, ends the server and removes its folder.
pub(crate) struct Cluster {
    directory: TempDir,
    binaries: PathBuf,
    keeper: Mutex<Option<(Child, ChildStdin)>>,
}

static SHARED: LazyLock<Arc<Cluster>> = LazyLock::new(|| Arc::new(Cluster::start()));
static NAMES: AtomicU32 = AtomicU32::new(0);

/// The cluster of this process.
pub(crate) fn shared() -> Arc<Cluster> {
    Arc::clone(&SHARED)
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let cluster = Self::empty();
        let output = cluster
            .command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(cluster.directory.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        cluster.run();
        cluster
    }

    /// A standby that streams from this server.
    pub(crate) fn standby(&self) -> Self {
        let standby = Self::empty();
        let output = self
            .command("pg_basebackup")
            .args(["--username=postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--host"])
            .arg(self.directory.path())
            .arg("--pgdata")
            .arg(standby.directory.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        standby.run();
        standby
    }

    fn empty() -> Self {
        let binaries = binaries();
        let directory = tempfile::Builder::new().prefix("kt-pg-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::geteuid().is_root() {
            let user = nix::unistd::User::from_name("postgres").unwrap().expect(MISSING);
            for path in [directory.path(), &data] {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        Self { directory, binaries, keeper: Mutex::new(None) }
    }

    /// A command as a user that may run a server; initdb and postgres refuse root.
    fn command(&self, program: &str) -> Command {
        let path = self.binaries.join(program);
        if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path);
            command.current_dir("/");
            command
        } else {
            Command::new(path)
        }
    }

    fn run(&self) {
        let server = self.command("postgres");
        let words: Vec<String> = std::iter::once(server.get_program())
            .chain(server.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let directory = self.directory.path().to_str().unwrap();
        let script = format!(
            "{} -D {directory}/data -c listen_addresses= -c unix_socket_directories={directory} -c fsync=off \
             -c autovacuum=off -c max_connections=200 -c max_prepared_transactions=5 >>{directory}/log 2>&1 & \
             while [ ! -S {directory}/.s.PGSQL.5432 ] && kill -0 $! 2>/dev/null; do sleep 0.02; done; \
             echo up; read -r _ || gone=1; kill -INT $!; wait $!; [ -z \"$gone\" ] || rm -rf {directory}",
            words.join(" ")
        );
        let mut keeper =
            Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stdin = keeper.stdin.take().unwrap();
        *self.keeper.lock().unwrap() = Some((keeper, stdin));
    }

    /// Stops the server at once, as a crash would leave it, and starts it again.
    pub(crate) fn crash_and_restart(&self) {
        let pid: i32 = fs::read_to_string(self.directory.path().join("data/postmaster.pid"))
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT).unwrap();
        self.stop();
        self.run();
    }

    fn stop(&self) {
        if let Some((mut keeper, mut stdin)) = self.keeper.lock().unwrap().take() {
            stdin.write_all(b"\n").unwrap();
            keeper.wait().unwrap();
        }
    }

    /// `postgres://` URL of a role and database on the socket.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        let host = self.directory.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{host}/{database}")
    }

    /// Where the server's socket is.
    pub(crate) fn socket_directory(&self) -> &Path {
        self.directory.path()
    }

    /// A session of the superuser.
    pub(crate) async fn superuser(&self, database: &str) -> PgConnection {
        // The socket exists a moment before the server takes connections.
        let began = Instant::now();
        loop {
            match PgConnection::connect(&self.url("postgres", database)).await {
                Ok(connection) => return connection,
                Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("57P03") => {
                    tokio::task::yield_now().await;
                }
                // And it is bound before it is listened on.
                Err(sqlx::Error::Io(error))
                    if error.kind() == std::io::ErrorKind::ConnectionRefused && began.elapsed() < START_TIME_MAX =>
                {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}\n{}", self.log()),
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A database of its own for one test, and a number that makes its roles' names its own.
    pub(crate) async fn database(&self, options: &str) -> (String, u32) {
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("vault_{number}");
        let mut superuser = self.superuser("postgres").await;
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name} {options}")))
            .execute(&mut superuser)
            .await
            .unwrap();
        (name, number)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn binaries() -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect())
        .unwrap_or_default();
    versions.retain(|path| path.join("initdb").exists());
    versions.sort();
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(|folder: &PathBuf| Path::new(folder).join("initdb").exists())
    };
    versions.pop().or_else(on_path).expect(MISSING)
}
