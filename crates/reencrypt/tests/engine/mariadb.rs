//! A temporary MariaDB server on a unix socket, started by the first test that needs it and removed after the last.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;

const MISSING: &str = "MariaDB's server programs are not installed; run: sudo apt-get install mariadb-server-core";

/// How long a server may refuse connections while it starts.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// So that statements of the tests mean the same in all databases.
const SETTINGS: &str = "
    SET sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES', time_zone = '+00:00',
        autocommit = 1, completion_type = 0;
    SET NAMES utf8mb4 COLLATE utf8mb4_bin";

/// A running server. Stopped and removed on drop, and also when this process is killed: a shell holds the other end of a
/// pipe and ends the server when the pipe closes.
pub(crate) struct Server {
    directory: TempDir,
    options: String,
    keeper: Mutex<Option<(Child, ChildStdin)>>,
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static NAMES: AtomicU32 = AtomicU32::new(0);

/// The server of this process.
pub(crate) fn shared() -> Arc<Server> {
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start(""));
        *shared = Arc::downgrade(&server);
        server
    })
}

impl Server {
    /// A server of one's own, with further options.
    pub(crate) fn start(options: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("kt-maria-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        if nix::unistd::geteuid().is_root() {
            let user = user();
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let server = Self { directory, options: options.to_owned(), keeper: Mutex::new(None) };
        let output = server
            .command("mariadb-install-db")
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ])
            .arg(format!("--datadir={}/data", server.path()))
            // Not the one of the whole machine, where two that are installed at once take each other's files.
            .arg(format!("--tmpdir={}", server.path()))
            .args(["--innodb-flush-method=nosync", "--innodb-log-file-size=16M"])
            .output()
            .expect(MISSING);
        assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout));
        server.run();
        server
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// A command as a user that may run a server, which refuses root.
    fn command(&self, program: &str) -> Command {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&folders)
            .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
            .map(|folder| folder.join(program))
            .find(|path| path.exists())
            .expect(MISSING);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            let user = user();
            command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]);
            command.args(["--clear-groups", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir("/");
        command
    }

    fn run(&self) {
        let server = self.command("mariadbd");
        let words: Vec<String> = std::iter::once(server.get_program())
            .chain(server.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let directory = self.path();
        let script = format!(
            "rm -f {directory}/s; {} --no-defaults --datadir={directory}/data --socket={directory}/s --skip-networking \
             --tmpdir={directory} --pid-file={directory}/pid --innodb-flush-method=nosync --innodb-buffer-pool-size=64M \
             --innodb-log-file-size=16M --max-connections=300 {} >>{directory}/log 2>&1 & \
             while [ ! -S {directory}/s ] && kill -0 $! 2>/dev/null; do sleep 0.02; done; \
             echo up; read -r _; kill -TERM $!; wait $!",
            words.join(" "),
            self.options,
        );
        let mut keeper =
            Command::new("sh").arg("-c").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let stdin = keeper.stdin.take().unwrap();
        *self.keeper.lock().unwrap() = Some((keeper, stdin));
    }

    /// Kills the server, and starts it again.
    pub(crate) fn crash_and_restart(&self) {
        let pid: i32 = fs::read_to_string(self.directory.path().join("pid")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        self.stop();
        self.run();
    }

    fn stop(&self) {
        if let Some((mut keeper, stdin)) = self.keeper.lock().unwrap().take() {
            drop(stdin);
            keeper.wait().unwrap();
        }
    }

    /// `mariadb://` URL of a user and database on the socket.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("mariadb://{user}@localhost/{database}?socket={}/s", self.path())
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Where a database lies, and whom its files belong to.
    pub(crate) fn folder(&self, database: &str) -> (PathBuf, nix::unistd::User) {
        (self.directory.path().join("data").join(database), user())
    }

    /// A session of the administrator.
    pub(crate) async fn superuser(&self, database: &str) -> MySqlConnection {
        let began = Instant::now();
        loop {
            // The socket exists a moment before the server takes connections.
            match MySqlConnection::connect(&self.url("root", database)).await {
                Ok(mut connection) => {
                    sqlx::raw_sql(SETTINGS).execute(&mut connection).await.unwrap();
                    return connection;
                }
                Err(sqlx::Error::Io(_)) if began.elapsed() < START_TIME_MAX => tokio::task::yield_now().await,
                Err(error) => panic!("{error}\n{}", self.log()),
            }
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A database of its own for one test, and a number that makes its users' names its own.
    pub(crate) async fn database(&self) -> (String, u32) {
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("vault_{number}");
        let mut superuser = self.superuser("mysql").await;
        let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut superuser).await.unwrap();
        superuser.close().await.unwrap();
        (name, number)
    }
}

/// As whom the server runs: the user that the package of a permanent server makes, or the one that every system has.
fn user() -> nix::unistd::User {
    let user = |name| nix::unistd::User::from_name(name).unwrap();
    user("mysql").or_else(|| user("nobody")).unwrap()
}

/// Whether anybody on the server waits for a row's lock. The list of transactions would not do: it is made anew only when
/// nobody has asked for a while.
pub(crate) async fn waits_for_a_row(watcher: &mut MySqlConnection) -> bool {
    let row =
        sqlx::raw_sql("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'").fetch_one(watcher).await.unwrap();
    row.try_get::<String, _>(1).unwrap() != "0"
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
