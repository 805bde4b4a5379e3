//! Temporary MariaDB and MySQL servers on unix sockets, each started by the first test that needs it and removed when the tests
//! end.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;

const MISSING: &str = "MariaDB's server programs are not installed; run: sudo apt-get install mariadb-server-core";

/// Where MySQL's server is, as `tests/mysql` has told.
const MYSQL: &str = "KEYTURN_TEST_MYSQL";

const MYSQL_MISSING: &str =
    "there is no MySQL server; run tests/mysql, and set KEYTURN_TEST_MYSQL to the folder that it prints";

/// How long a server may refuse connections while it starts.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// So that statements of the tests mean the same in all databases.
const SETTINGS: &str = "
    SET sql_mode = CONCAT('ANSI_QUOTES,PIPES_AS_CONCAT,STRICT_ALL_TABLES' /*M! , ',NO_BACKSLASH_ESCAPES' */), time_zone = '+00:00',
        autocommit = 1, completion_type = 0 /*!80400 , cte_max_recursion_depth = 100000 */;
    SET NAMES utf8mb4 COLLATE utf8mb4_bin";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Make {
    MariaDb,
    MySql,
}

/// A running server. Stopped and removed on drop, and also when this process ends or is killed: a shell holds the other end
/// of a pipe and, when the pipe closes without a word, ends the server and removes its folder.
pub(crate) struct Server {
    pub(crate) make: Make,
    directory: TempDir,
    options: String,
    keeper: Mutex<Option<(Child, ChildStdin)>>,
}

static SHARED_MARIADB: LazyLock<Arc<Server>> = LazyLock::new(|| Arc::new(Server::start("")));
static SHARED_MYSQL: LazyLock<Arc<Server>> = LazyLock::new(|| Arc::new(Server::start_of(Make::MySql, "")));
static NAMES: AtomicU32 = AtomicU32::new(0);

/// The MariaDB server of this process.
pub(crate) fn shared() -> Arc<Server> {
    shared_of(Make::MariaDb)
}

/// The one of this make.
pub(crate) fn shared_of(make: Make) -> Arc<Server> {
    Arc::clone(match make {
        Make::MariaDb => &SHARED_MARIADB,
        Make::MySql => &SHARED_MYSQL,
    })
}

impl Server {
    /// A MariaDB server of one's own, with further options.
    pub(crate) fn start(options: &str) -> Self {
        Self::start_of(Make::MariaDb, options)
    }

    /// The same of this make.
    pub(crate) fn start_of(make: Make, options: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("kt-maria-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let server = Self { make, directory, options: options.to_owned(), keeper: Mutex::new(None) };
        match make {
            Make::MariaDb => server.install_mariadb(),
            Make::MySql => server.install_mysql(),
        }
        server.run();
        server
    }

    fn install_mariadb(&self) {
        if nix::unistd::geteuid().is_root() {
            let user = user();
            chown(self.directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        let output = self
            .command("mariadb-install-db")
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ])
            .arg(format!("--datadir={}/data", self.path()))
            // Not the one of the whole machine, where two that are installed at once take each other's files.
            .arg(format!("--tmpdir={}", self.path()))
            .args(["--innodb-flush-method=nosync", "--innodb-log-file-size=16M"])
            // Pages have the size with which the server was installed.
            .args(self.options.split_whitespace().filter(|option| option.starts_with("--innodb-page-size=")))
            .output()
            .expect(MISSING);
        assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Installing takes seconds, so that was done once and is copied.
    fn install_mysql(&self) {
        let data = mysql_folder().join("data");
        let copied = Command::new("cp")
            .args(["-a", "--sparse=always"])
            .arg(data)
            .arg(format!("{}/data", self.path()))
            .status()
            .unwrap();
        assert!(copied.success(), "copying {MYSQL_MISSING}");
        // Its identity is its own, whoever has started the one that is copied.
        let _ = fs::remove_file(self.directory.path().join("data/auto.cnf"));
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// A command as a user that may run a server, which refuses root.
    fn command(&self, program: &str) -> Command {
        if self.make == Make::MySql {
            return Command::new(mysql_folder().join(program));
        }
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
        let (program, options) = match self.make {
            Make::MariaDb => ("mariadbd", "--innodb-log-file-size=16M".to_owned()),
            // It runs as whoever the tests run as, since its folder may be closed to anybody else.
            Make::MySql => (
                "mysqld",
                format!(
                    "--user={} --mysqlx=OFF --secure-file-priv=NULL --skip-log-bin --innodb-redo-log-capacity=32M",
                    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
                ),
            ),
        };
        let server = self.command(program);
        let words: Vec<String> = std::iter::once(server.get_program())
            .chain(server.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let directory = self.path();
        let script = format!(
            "rm -f {directory}/s; {} --no-defaults --datadir={directory}/data --socket={directory}/s --skip-networking \
             --tmpdir={directory} --pid-file={directory}/pid --innodb-flush-method=nosync --innodb-buffer-pool-size=64M \
             {options} --max-connections=300 {} >>{directory}/log 2>&1 & \
             while [ ! -S {directory}/s ] && kill -0 $! 2>/dev/null; do sleep 0.02; done; \
             echo up; read -r _ || gone=1; kill -TERM $!; wait $!; [ -z \"$gone\" ] || rm -rf {directory}",
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
        if let Some((mut keeper, mut stdin)) = self.keeper.lock().unwrap().take() {
            stdin.write_all(b"\n").unwrap();
            keeper.wait().unwrap();
        }
    }

    /// `mariadb://` URL of a user and database on the socket.
    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        match self.make {
            Make::MariaDb => format!("mariadb://{user}@localhost/{database}?socket={}/s", self.path()),
            // In clear, so that a proxy can read along; the accounts have no passwords.
            Make::MySql => {
                format!("mysql://{user}@localhost/{database}?socket={}/s&ssl-mode=DISABLED", self.path())
            }
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Where a database lies, and whom its files belong to.
    pub(crate) fn folder(&self, database: &str) -> (PathBuf, nix::unistd::User) {
        let user = match self.make {
            Make::MariaDb => user(),
            Make::MySql => nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap(),
        };
        (self.directory.path().join("data").join(database), user)
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

/// What `tests/mysql` has made, here or in the folder that a variable names.
fn mysql_folder() -> PathBuf {
    let named = std::env::var_os(MYSQL).map(PathBuf::from);
    let folder = named.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/mysql/bin")));
    assert!(folder.join("mysqld").is_file(), "{MYSQL_MISSING}");
    folder
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
