//! A whole farm of real processes, each machine in a network namespace of its own: three coordinators, three nodes with an
//! agent and an instance each, PostgreSQL. It is turned again and again, and looked at from outside all the time.

mod files;
pub(crate) mod network;
pub(crate) mod proxy;
mod rows;
pub(crate) mod server;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keys::{Password, SecretKey, bundle};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::succeed;
use network::{CONTROL, DATA, Network};
use server::Server;
use watch::Watch;

/// The coordinators' machines; the last byte of their addresses is their number.
pub(crate) const COORDINATORS: [&str; 3] = ["c1", "c2", "c3"];
/// The nodes' machines; the last byte of their addresses is their number and ten.
pub(crate) const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// The operator's machine.
pub(crate) const OPERATOR: &str = "op";
/// A machine for proxies.
pub(crate) const DETOUR: &str = "px";
/// The last byte of its address.
pub(crate) const DETOUR_NUMBER: u8 = 60;

pub(crate) const COORDINATOR_PORT: u16 = 7001;
pub(crate) const AGENT_PORT: u16 = 7101;
/// On loopback, which every machine has of its own.
pub(crate) const INSTANCE_PORT: u16 = 7201;
pub(crate) const DATABASE_PORT: u16 = 5432;

/// Rows in the vault: all of them are read after every rotation.
const ROWS: &str = "400";

/// How long anything may take that a test waits for; the longest deadline of a rotation is two minutes.
const LIMIT: Duration = Duration::from_secs(180);

/// How often it is looked.
const POLL: Duration = Duration::from_millis(100);

/// What a farm is built with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// Where agents and instances find the database.
    pub(crate) database_port: u16,
    /// All processes of these machines run on a clock of their own, which `set_clock` steps.
    pub(crate) clocks: &'static [&'static str],
    /// The coordinators' heartbeat, if it is not to be the usual one.
    pub(crate) heartbeat_ms: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { database_port: DATABASE_PORT, clocks: &[], heartbeat_ms: None }
    }
}

/// The farm. All its processes end when it is dropped.
pub(crate) struct RealFarm {
    // Dropped in this order.
    watch: Watch,
    processes: BTreeMap<&'static str, Child>,
    pub(crate) server: Server,
    pub(crate) network: Network,
    folder: TempDir,
    options: Options,
    /// The number of the bundle that holds the farm's key, and of the newest one.
    current: u32,
    newest: u32,
}

/// A rotation that was started: the process that follows it.
pub(crate) struct Started {
    child: Child,
    bundle: u32,
}

impl RealFarm {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self::with_network(options, |_| {})
    }

    /// With what is to be there before the farm's processes.
    pub(crate) fn with_network(options: Options, first: impl FnOnce(&Network)) -> Self {
        let mut network = Network::new();
        for (machine, number) in COORDINATORS.into_iter().zip(1..) {
            network.machine(machine, number, &[CONTROL]);
        }
        for (machine, number) in NODES.into_iter().zip(11..) {
            network.machine(machine, number, &[CONTROL, DATA]);
        }
        network.machine(OPERATOR, 50, &[CONTROL]);
        network.machine(DETOUR, DETOUR_NUMBER, &[CONTROL]);
        network.machine(server::MACHINE, server::NUMBER, &[DATA]);
        let server = Server::start(&network, DATABASE_PORT);
        first(&network);
        let folder = tempfile::Builder::new().prefix("kt").tempdir().expect("a folder");
        let doors = NODES.map(|node| network.door(node)).into();
        let watch = Watch::new(doors, server.socket_url("vault"));
        let mut farm =
            Self { watch, processes: BTreeMap::new(), server, network, folder, options, current: 0, newest: 0 };
        farm.prepare();
        farm
    }

    fn prepare(&mut self) {
        files::certificates(self);
        files::configurations(self);
        self.write("password", "correct horse\n");
        let first = self.new_bundle();
        for node in NODES {
            let (config, bundle) = (self.path(&format!("{node}/agent.toml")), self.bundle(first));
            let password = self.path("password");
            self.on(node, &["key", "import", "--config", &config, "--bundle", &bundle, "--password-file", &password]);
        }
        files::database(self);
        for node in NODES {
            let folder = self.path(&format!("{node}/instance"));
            self.on(node, &["sample-vault", "start", "--dir", &folder]);
            self.on(node, &["sample-vault", "admit", "--dir", &folder]);
        }
        for machine in COORDINATORS.into_iter().chain(NODES) {
            self.start_process(machine);
        }
        for (node, number) in NODES.into_iter().zip(11..) {
            let address = format!("https://{}:{AGENT_PORT}", network::address(CONTROL, number));
            self.until("the node is enrolled", |farm| farm.operate(&["node", "enroll", node, "--address", &address]));
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a temporary path is UTF-8").to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).expect("written");
    }

    /// The binary, run to its end on a machine.
    #[track_caller]
    pub(crate) fn on(&self, machine: &str, arguments: &[&str]) {
        succeed(self.command(machine).args(arguments));
    }

    fn command(&self, machine: &str) -> Command {
        let mut command = self.network.on(machine, env!("CARGO_BIN_EXE_keyturn"));
        command
            .stdin(Stdio::null())
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("RUST_LOG");
        if self.options.clocks.contains(&machine) {
            files::on_its_own_clock(&mut command, &self.path(&format!("{machine}-clock")));
        }
        command
    }

    /// What an operator's verb prints, if it was done.
    pub(crate) fn operate(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(OPERATOR).args(arguments).args(["--config", &self.path("operator.toml")]).output();
        let output = output.expect("the binary runs");
        output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
    }

    fn json(&self, arguments: &[&str]) -> Option<Value> {
        let text = self.operate(&[arguments, &["-o", "json"]].concat())?;
        Some(serde_json::from_str(&text).expect("one JSON document"))
    }

    /// Waits until it looks so.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, look: impl Fn(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(began.elapsed() < LIMIT, "{what}: not within {} s: {:?}", LIMIT.as_secs(), self.status());
            std::thread::sleep(POLL);
        }
    }

    /// Starts a coordinator or an agent, on its machine.
    pub(crate) fn start_process(&mut self, machine: &'static str) {
        let role = if COORDINATORS.contains(&machine) { "coordinator" } else { "agent" };
        let config = self.path(&format!("{machine}/{role}.toml"));
        let log =
            fs::File::options().create(true).append(true).open(self.path(&format!("{machine}/log"))).expect("a log");
        let child = self.command(machine).args([role, "--config", &config]).stdout(Stdio::null()).stderr(log).spawn();
        self.processes.insert(machine, child.expect("nsenter runs"));
    }

    /// `kill -9` of a coordinator or an agent.
    pub(crate) fn kill_process(&mut self, machine: &'static str) {
        let mut child = self.processes.remove(machine).expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    /// The machine of the coordinator that leads, as the others say.
    pub(crate) fn leader(&self) -> &'static str {
        self.until("somebody leads", |farm| {
            let list = farm.json(&["coordinator", "list"])?;
            let number = list.as_array()?.iter().find(|replica| replica["role"] == "leader")?["id"].as_u64()?;
            Some(COORDINATORS[usize::try_from(number).ok()? - 1])
        })
    }

    fn bundle(&self, number: u32) -> String {
        self.path(&format!("{number}.bundle"))
    }

    fn new_bundle(&mut self) -> u32 {
        self.newest += 1;
        let (bundle, password) = (self.bundle(self.newest), self.path("password"));
        self.on(OPERATOR, &["key", "generate", "--farm", "demo", "--out", &bundle, "--password-file", &password]);
        self.current = self.current.max(1);
        self.watch.may_hold(self.key(self.newest));
        self.newest
    }

    fn key(&self, number: u32) -> SecretKey {
        let password = Password::from_file_bytes(b"correct horse\n".to_vec()).expect("a password");
        let sealed = fs::read(self.bundle(number)).expect("the bundle");
        bundle::open(&sealed, &password).expect("it opens").active().secret.clone()
    }

    /// Plans a rotation that holds at this phase, and starts it.
    pub(crate) fn start(&mut self, hold_at: &str) -> Started {
        self.plan(hold_at);
        self.start_planned()
    }

    /// Plans a rotation that holds at this phase.
    pub(crate) fn plan(&self, hold_at: &str) {
        self.until("the rotation is planned", |farm| farm.operate(&["rotation", "plan", "--hold-at", hold_at]));
    }

    /// Begins to plan one, and answers the process that follows it.
    pub(crate) fn begin_plan(&self, hold_at: &str) -> Child {
        let mut command = self.command(OPERATOR);
        command.args(["rotation", "plan", "--hold-at", hold_at, "--config", &self.path("operator.toml")]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nsenter runs")
    }

    /// Starts the one that is planned, and waits until it holds.
    pub(crate) fn start_planned(&mut self) -> Started {
        let bundle = self.new_bundle();
        let (new, current, password) = (self.bundle(bundle), self.bundle(self.current), self.path("password"));
        let mut command = self.command(OPERATOR);
        command.args([
            "rotation",
            "start",
            "--bundle",
            &new,
            "--current-bundle",
            &current,
            "--password-file",
            &password,
        ]);
        command.args(["--yes", "--config", &self.path("operator.toml")]);
        let log = fs::File::create(self.path(&format!("start-{bundle}.log"))).expect("a log");
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("nsenter runs");
        self.until("the rotation is held", |farm| farm.status().filter(|status| status["paused"] == true));
        Started { child, bundle }
    }

    /// The rotation as the leader has it; `None` while nobody tells.
    pub(crate) fn status(&self) -> Option<Value> {
        self.json(&["rotation", "status"])
    }

    /// Has a held rotation go on.
    pub(crate) fn resume(&self) {
        self.until("the rotation goes on", |farm| {
            let gone_on = |farm: &Self| farm.status().is_some_and(|status| status["paused"] == false);
            (farm.operate(&["rotation", "resume"]).is_some() || gone_on(farm)).then_some(())
        });
    }

    /// What `node list` says of a node.
    pub(crate) fn node(&self, number: usize) -> Option<Value> {
        self.json(&["node", "list"])?.as_array()?.iter().find(|node| node["id"] == NODES[number]).cloned()
    }

    /// Waits for the rotation's end, then until every node serves, and looks at everything. Answers how it ended.
    #[track_caller]
    pub(crate) fn finish(&mut self, started: Started) -> String {
        let Started { mut child, bundle } = started;
        let ended = self.until("the rotation ends", |farm| {
            let status = farm.status()?;
            (status["outcome"] != "running").then_some(status)
        });
        // It follows what is over; whether it heard of it is not what is tested here.
        let _ = child.kill();
        child.wait().expect("it ends");
        let outcome = ended["outcome"].as_str().expect("an outcome").to_owned();
        assert!(["completed", "rolled_back"].contains(&outcome.as_str()), "{ended:#}");
        if outcome == "completed" {
            self.current = bundle;
        }
        let key = self.key(self.current);
        let id = key.id().to_string();
        for number in 0..NODES.len() {
            self.until("every node is free and holds the key", |farm| {
                farm.node(number).filter(|node| node["held_by_rotation"].is_null() && node["key"] == id.as_str())
            });
            let seen = self.watch.times_seen(number);
            self.until("every node serves", |farm| (farm.watch.times_seen(number) > seen + 1).then_some(()));
        }
        let mut connection = self.server.connect();
        let rows = block_on(rows::count(&mut connection, &key, false)).expect("the rows are read");
        assert!(rows.not_under == 0 && rows.under > 300, "{rows:?} after {ended:#}");
        self.watch.assert_nothing_broken();
        outcome
    }

    /// How often a node was seen serving so far.
    pub(crate) fn times_seen(&self, number: usize) -> u64 {
        self.watch.times_seen(number)
    }

    /// Takes the port that a node's instance needs, for as long as what is answered exists.
    pub(crate) fn take_instance_port(&self, number: usize) -> TcpListener {
        let door = self.network.door(NODES[number]);
        let take = move || {
            door.enter();
            TcpListener::bind((Ipv4Addr::LOCALHOST, INSTANCE_PORT)).expect("it is free")
        };
        std::thread::spawn(take).join().expect("no panic")
    }

    /// A node's instance stands still, or goes on.
    pub(crate) fn signal_instance(&self, number: usize, signal: Signal) {
        let process = fs::read(self.path(&format!("{}/instance/vault.pid", NODES[number]))).expect("it runs");
        let process: Value = serde_json::from_slice(&process).expect("JSON");
        let pid = process["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a number");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
    }

    /// Until this is taken back nobody is blamed for rows that are not under the key of who serves.
    pub(crate) fn database_lost(&self, lost: bool) {
        self.watch.database_lost(lost);
    }

    /// Another server is the database from now on.
    pub(crate) fn database_is(&mut self, server: Server) -> Server {
        self.watch.look_at(server.socket_url("vault"));
        std::mem::replace(&mut self.server, server)
    }

    /// Steps the clock of a machine that has one of its own.
    pub(crate) fn set_clock(&self, machine: &str, offset: &str) {
        self.write(&format!("{machine}-clock"), offset);
    }
}

impl Drop for RealFarm {
    fn drop(&mut self) {
        // An agent may start its instance again, so the agents go first.
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in NODES {
            let folder = self.path(&format!("{node}/instance"));
            let _ = self.command(node).args(["sample-vault", "offline", "--dir", &folder]).output();
        }
        if std::thread::panicking() {
            for machine in COORDINATORS.into_iter().chain(NODES) {
                let log = fs::read_to_string(self.path(&format!("{machine}/log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(25)..].join("\n");
                let _ = writeln!(std::io::stderr(), "--- the end of {machine}'s log:\n{end}");
            }
        }
    }
}

/// Runs one thing to its end on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
