//! A PostgreSQL server on the database's machine, and standbys of it that follow as long as they are let.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tempfile::TempDir;

use super::block_on;
use super::network::{DATA, Network, address};
use crate::support::succeed;

const MISSING: &str = "PostgreSQL's server programs are not installed; run: sudo apt-get install postgresql";

/// How long a server may take to come up, to copy another one, or to see that it is promoted.
const UP_LIMIT: Duration = Duration::from_secs(60);

/// The last byte of the address of the database's machine.
pub(crate) const NUMBER: u8 = 100;

/// The machine that all servers run on.
pub(crate) const MACHINE: &str = "db";

/// A running server. It is stopped when this is dropped.
pub(crate) struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A new, empty one.
    pub(crate) fn start(network: &Network, port: u16) -> Self {
        let mut server = Self::empty(port);
        succeed(
            as_postgres("initdb")
                .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D"])
                .arg(server.data()),
        );
        let all = "local all all trust\nlocal replication all trust\nhost all all 10.72.0.0/24 trust\n";
        fs::write(server.data().join("pg_hba.conf"), all).expect("written");
        server.run(network);
        server
    }

    /// A copy of this one that streams from it, and that it does not wait for.
    pub(crate) fn standby(&self, network: &Network, port: u16) -> Self {
        let mut standby = Self::empty(port);
        succeed(
            as_postgres("pg_basebackup")
                .args(["--username=postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
                .args(["--port", &self.port.to_string(), "--host"])
                .arg(self.folder.path())
                .arg("--pgdata")
                .arg(standby.data()),
        );
        standby.run(network);
        let follows = "SELECT EXISTS (SELECT 1 FROM pg_stat_wal_receiver WHERE status = 'streaming')";
        standby.await_true(follows);
        standby
    }

    fn empty(port: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("kt-pg-").tempdir_in("/tmp").expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let server = Self { folder, port, process: None };
        fs::create_dir(server.data()).expect("an empty folder");
        fs::set_permissions(server.data(), fs::Permissions::from_mode(0o700)).expect("it is ours");
        let user = nix::unistd::User::from_name("postgres").ok().flatten().expect(MISSING);
        for path in [server.folder.path().to_owned(), server.data()] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("run as root");
        }
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts it and waits until it answers.
    pub(crate) fn run(&mut self, network: &Network) {
        let log = fs::File::options().create(true).append(true).open(self.folder.path().join("log")).expect("a log");
        let mut command = network.on(MACHINE, "setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(binary("postgres"));
        command.arg("-D").arg(self.data());
        let settings = [
            format!("listen_addresses={}", address(DATA, NUMBER)),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.folder.path().display()),
            "fsync=off".to_owned(),
            "max_connections=100".to_owned(),
        ];
        for setting in settings {
            command.args(["-c", &setting]);
        }
        command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone().expect("shared")).stderr(log);
        self.process = Some(command.spawn().expect("nsenter runs"));
        self.await_true("SELECT true");
    }

    /// The machine is gone: nothing is flushed, nobody is told.
    pub(crate) fn kill(&mut self) {
        // The server's other processes see that the first one has ended, and end too.
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it is ours");
        process.wait().expect("it ends");
        let socket = self.folder.path().join(format!(".s.PGSQL.{}", self.port));
        let _ = fs::remove_file(socket);
    }

    /// A standby hears no more of the server it follows: what that one commits from now on is lost with it.
    pub(crate) fn stop_following(&self) {
        self.execute("ALTER SYSTEM SET primary_conninfo = ''");
        self.execute("SELECT pg_reload_conf()");
        self.await_true("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)");
    }

    /// A standby takes the place of the server that it followed.
    pub(crate) fn promote(&self) {
        self.execute("SELECT pg_promote()");
        self.await_true("SELECT NOT pg_is_in_recovery()");
    }

    /// A superuser's session, past every network.
    pub(crate) fn connect(&self) -> PgConnection {
        let began = Instant::now();
        loop {
            match block_on(PgConnection::connect(&self.socket_url("vault"))) {
                Ok(connection) => return connection,
                Err(error) if began.elapsed() > UP_LIMIT => panic!("{error}\n{}", self.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The URL of a database for the superuser, on the socket.
    pub(crate) fn socket_url(&self, database: &str) -> String {
        let host = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}:{}/{database}", self.port)
    }

    /// Runs statements in a database as the superuser.
    pub(crate) fn execute_in(&self, database: &str, sql: &str) {
        let url = self.socket_url(database);
        block_on(async {
            let mut connection = PgConnection::connect(&url).await.expect("it answers");
            sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap_or_else(|error| {
                panic!("{sql}: {error}");
            });
            connection.close().await.expect("closed");
        });
    }

    fn execute(&self, sql: &str) {
        self.execute_in("postgres", sql);
    }

    /// Waits until the server answers this question with yes.
    #[track_caller]
    pub(crate) fn await_true(&self, sql: &'static str) {
        let began = Instant::now();
        loop {
            let answer = block_on(async {
                let mut connection = PgConnection::connect(&self.socket_url("postgres")).await?;
                let answer: bool = sqlx::query(sql).fetch_one(&mut connection).await?.try_get(0)?;
                connection.close().await?;
                Ok::<_, sqlx::Error>(answer)
            });
            if matches!(answer, Ok(true)) {
                return;
            }
            assert!(began.elapsed() < UP_LIMIT, "{sql}: {answer:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = i32::try_from(process.id()).expect("a process id");
            // At once, without waiting for sessions. SIGKILL would leave its other processes to notice by themselves.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
            let _ = process.wait();
        }
    }
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(binary(program));
    command.current_dir("/");
    command
}

fn binary(program: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect(MISSING);
    let mut found: Vec<PathBuf> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(program)))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().expect(MISSING)
}
