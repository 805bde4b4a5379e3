//! A farm around the sample vault: a coordinator, and nodes with an agent and an instance each, on one SQLite database.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::Value;
use sqlx::Connection as _;

use crate::farm::{Farm, Running, free_port};
use crate::mariadb;
use crate::sample_vault::{TARGETS, commands, settings};
use crate::support::{Ran, keyturn, run};

/// Entries in the database; the fewest that the vault seeds.
pub(crate) const ROWS: u64 = 100;

/// Everything runs, every node is enrolled, and the bundles `old` (the farm's key), `new` and `third` lie ready.
pub(crate) struct VaultFarm {
    // Dropped in this order: the processes end before their folder goes.
    nodes: Vec<Node>,
    coordinator: Option<Running>,
    pub(crate) farm: Farm,
    pub(crate) urls: Urls,
    _server: Option<Server>,
}

/// How agents and instances reach the database.
pub(crate) struct Urls {
    pub(crate) agent: String,
    application: String,
    role: &'static str,
}

/// One node: `node-1` and so on, which is also the name of its folder.
struct Node {
    name: String,
    port: u16,
    agent: Option<Running>,
}

impl VaultFarm {
    pub(crate) fn new(nodes: usize) -> Self {
        let farm = Farm::new();
        let urls = Urls::sqlite(&farm, "vault.db");
        Self::on(nodes, farm, urls, None)
    }

    /// The same on a temporary PostgreSQL server, with a role of the application's own.
    pub(crate) fn on_postgres(nodes: usize) -> Self {
        Self::on_server(nodes, Server::postgres())
    }

    /// The same on a temporary MariaDB server.
    pub(crate) fn on_mariadb(nodes: usize) -> Self {
        Self::on_server(nodes, Server::mariadb())
    }

    /// The same on a temporary MySQL server.
    pub(crate) fn on_mysql(nodes: usize) -> Self {
        Self::on_server(nodes, Server::mysql())
    }

    fn on_server(nodes: usize, server: Server) -> Self {
        let urls = server.urls();
        Self::on(nodes, Farm::new(), urls, Some(server))
    }

    fn on(nodes: usize, farm: Farm, urls: Urls, server: Option<Server>) -> Self {
        farm.write("password", "correct horse\n");
        for name in ["old", "new", "third"] {
            key(&farm, &["generate", "--farm", "demo", "--out", &farm.path(name)]).done();
        }
        let coordinator = farm.coordinator();
        let nodes = (1..=nodes).map(|number| Node::prepare(&farm, format!("node-{number}"), &urls)).collect();
        let mut vault = Self { nodes, coordinator: Some(coordinator), farm, urls, _server: server };
        run(["sample-vault", "seed", "--rows", &ROWS.to_string(), "--dir", &vault.instance(0)]).done();
        for number in 0..vault.nodes.len() {
            run(["sample-vault", "start", "--dir", &vault.instance(number)]).done();
            run(["sample-vault", "admit", "--dir", &vault.instance(number)]).done();
            vault.start_agent(number);
            let Node { name, port, .. } = &vault.nodes[number];
            let address = format!("https://127.0.0.1:{port}");
            vault.farm.as_operator(&["node", "enroll", name, "--address", &address]).done();
        }
        vault
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// The folder of a node's instance.
    pub(crate) fn instance(&self, number: usize) -> String {
        self.farm.path(&format!("{}/instance", self.nodes[number].name))
    }

    /// Starts a node's agent and waits until it serves.
    pub(crate) fn start_agent(&mut self, number: usize) {
        self.start_agent_with(number, &[]);
    }

    /// The same with these variables in its environment.
    pub(crate) fn start_agent_with(&mut self, number: usize, environment: &[(&str, &str)]) {
        let config = self.farm.path(&format!("{}.toml", self.nodes[number].name));
        let mut agent = keyturn();
        agent
            .args(["agent", "--config", &config])
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut agent = Running(agent.spawn().expect("the binary runs"));
        wait_until_serving(&mut agent);
        self.nodes[number].agent = Some(agent);
    }

    /// A node's configuration.
    pub(crate) fn config(&self, number: usize) -> String {
        self.farm.path(&format!("{}.toml", self.nodes[number].name))
    }

    /// `kill -9` for the coordinator and every agent; the instances stay as they are.
    pub(crate) fn kill_keyturn(&mut self) {
        self.coordinator = None;
        self.nodes.iter_mut().for_each(|node| node.agent = None);
    }

    /// Both come back.
    pub(crate) fn revive_keyturn(&mut self) {
        self.coordinator = Some(self.farm.coordinator());
        for number in 0..self.nodes.len() {
            self.start_agent(number);
        }
    }

    /// `kill -9` for one agent.
    pub(crate) fn kill_agent(&mut self, number: usize) {
        self.nodes[number].agent = None;
    }

    pub(crate) fn stop_agent(&mut self, number: usize) {
        let mut agent = self.nodes[number].agent.take().expect("it runs");
        assert_eq!(agent.stop(), Some(0));
    }

    /// Adds to a node's configuration and restarts its agent.
    pub(crate) fn configure(&mut self, number: usize, more: &str) {
        self.stop_agent(number);
        let config = self.config(number);
        let text = std::fs::read_to_string(&config).expect("a configuration");
        std::fs::write(config, text + more).expect("written");
        self.start_agent(number);
    }

    /// Every agent reaches its database by this URL from here on; tests keep the administrator's.
    pub(crate) fn agents_come_as(&mut self, url: &str) {
        for number in 0..self.nodes.len() {
            self.stop_agent(number);
            let config = self.config(number);
            let text = std::fs::read_to_string(&config).expect("a configuration");
            std::fs::write(config, text.replace(&self.urls.agent, url)).expect("written");
            self.start_agent(number);
        }
    }

    /// Gives a node other tables, or its own again, and restarts its agent.
    pub(crate) fn set_targets(&mut self, number: usize, targets: &str) {
        self.stop_agent(number);
        self.farm.write(&format!("{}/targets.toml", self.nodes[number].name), targets);
        self.start_agent(number);
    }

    /// Gives a node another database and restarts its agent.
    pub(crate) fn set_database(&mut self, number: usize, database: &str) {
        self.stop_agent(number);
        let Node { name, port, .. } = &self.nodes[number];
        self.farm
            .write(&format!("{name}.toml"), &agent_toml(&self.farm, name, *port, &Urls::sqlite(&self.farm, database)));
        self.start_agent(number);
    }

    pub(crate) fn rotation(&self, arguments: &[&str]) -> Ran {
        self.farm.as_operator(&[&["rotation"], arguments].concat())
    }

    /// The command line of `start`, to be run or spawned.
    pub(crate) fn start(&self, new: &str, current: &str, more: &[&str]) -> Command {
        let mut command = keyturn();
        command.args(["rotation", "start", "-o", "json", "--config", &self.farm.path("operator-alice.toml")]);
        command.args(["--bundle", &self.farm.path(new), "--current-bundle", &self.farm.path(current)]);
        command.args(["--password-file", &self.farm.path("password")]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `start`, typing `typed` when it asks.
    pub(crate) fn start_typing(&self, new: &str, current: &str, typed: &str) -> Ran {
        let mut child = self.start(new, current, &[]).spawn().expect("it runs");
        // What it does not read, because it was refused before it asked, is no failure.
        let _ = child.stdin.take().expect("a pipe").write_all(typed.as_bytes());
        child.wait_with_output().expect("it ends").into()
    }

    /// Runs `start` without being asked anything.
    pub(crate) fn start_at_once(&self, new: &str, current: &str) -> Ran {
        self.start(new, current, &["--yes"]).output().expect("it runs").into()
    }

    /// Runs a verb of `key` with the password of the bundles.
    pub(crate) fn key(&self, arguments: &[&str]) -> Ran {
        key(&self.farm, arguments)
    }

    /// Turns the keys from `old` to `new`, by the plan that waits for approval or one that it makes, and sees that all
    /// nodes did.
    #[track_caller]
    pub(crate) fn turn(&self) -> Value {
        let standing = self.rotation(&["status", "-o", "json"]);
        if standing.code != 0 || standing.json()["outcome"] != "running" {
            self.rotation(&["plan"]).done();
        }
        let done = self.start_at_once("new", "old").json();
        assert_eq!(done["outcome"], "completed", "{done}");
        for node in done["nodes"].as_array().expect("a list") {
            assert_eq!((&node["key_after"], &node["canary_ok"]), (&done["new_key"], &true.into()), "{done}");
        }
        done
    }
}

impl Urls {
    fn sqlite(farm: &Farm, file: &str) -> Self {
        let url = format!("sqlite://{}", farm.path(file));
        Self { agent: url.clone(), application: url, role: "" }
    }
}

/// What ends with a temporary server.
enum Held {
    Spare(local_farm::SpareDatabase),
    /// There is no other use for MySQL's server than tests.
    Mysql {
        _server: mariadb::Server,
    },
}

/// A temporary server.
struct Server {
    runtime: tokio::runtime::Runtime,
    held: Option<Held>,
    url: String,
    /// As whom the agents come, who may do everything.
    administrator: &'static str,
}

impl Server {
    fn postgres() -> Self {
        let server = Self::start("postgres", "postgres");
        let grant = async {
            let mut connection = sqlx::PgConnection::connect(&server.url).await?;
            sqlx::raw_sql("GRANT CREATE, USAGE ON SCHEMA public TO vault_app").execute(&mut connection).await?;
            connection.close().await
        };
        server.runtime.block_on(grant).expect("granted");
        server
    }

    fn mariadb() -> Self {
        let server = Self::start("mariadb", "root");
        let grant = async {
            let mut connection = sqlx::MySqlConnection::connect(&server.url).await?;
            sqlx::raw_sql("GRANT ALL PRIVILEGES ON vault.* TO vault_app@'%'").execute(&mut connection).await?;
            connection.close().await
        };
        server.runtime.block_on(grant).expect("granted");
        server
    }

    fn start(kind: &str, administrator: &'static str) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let database = runtime.block_on(local_farm::SpareDatabase::prepare(kind)).expect("a server");
        let url = database.url().to_owned();
        Self { runtime, held: Some(Held::Spare(database)), url, administrator }
    }

    fn mysql() -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let server = mariadb::Server::start_of(mariadb::Make::MySql, "");
        let make = async {
            let sql = "CREATE DATABASE vault CHARACTER SET utf8mb4 COLLATE utf8mb4_bin; CREATE USER vault_app@'%';
                       GRANT ALL PRIVILEGES ON vault.* TO vault_app@'%'";
            sqlx::raw_sql(sql).execute(&mut server.superuser("mysql").await).await
        };
        runtime.block_on(make).expect("made");
        let url = server.url("root", "vault");
        Self { runtime, held: Some(Held::Mysql { _server: server }), url, administrator: "root" }
    }

    fn urls(&self) -> Urls {
        let agent = self.url.clone();
        let application = agent.replace(&format!("//{}@", self.administrator), "//vault_app@");
        assert_ne!(agent, application);
        Urls { agent, application, role: "application_role = \"vault_app\"\n" }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(Held::Spare(database)) = self.held.take() {
            let _ = self.runtime.block_on(database.end());
        }
    }
}

impl Node {
    /// Its folder, certificate, configurations and key.
    fn prepare(farm: &Farm, name: String, urls: &Urls) -> Self {
        let port = free_port();
        run(["pki", "issue", "agent", &name, "--host", "127.0.0.1", "--dir", &farm.path("")]).done();
        for folder in ["store", "instance"] {
            std::fs::create_dir_all(farm.path(&format!("{name}/{folder}"))).expect("a folder");
        }
        farm.write(&format!("{name}/targets.toml"), TARGETS);
        farm.write(&format!("{name}.toml"), &agent_toml(farm, &name, port, urls));
        farm.write(
            &format!("{name}/instance/instance.toml"),
            &settings(
                free_port(),
                &urls.application,
                &farm.path(&format!("{name}/store")),
                &farm.path(&format!("{name}/hostkey")),
            ),
        );
        let config = farm.path(&format!("{name}.toml"));
        key(farm, &["import", "--config", &config, "--bundle", &farm.path("old")]).done();
        Self { name, port, agent: None }
    }
}

impl Drop for VaultFarm {
    fn drop(&mut self) {
        // An agent may start its instance again, so the agents go first.
        self.nodes.iter_mut().for_each(|node| drop(node.agent.take()));
        for number in 0..self.nodes.len() {
            // The application outlives whoever started it, as it should on a node.
            let _ = run(["sample-vault", "offline", "--dir", &self.instance(number)]);
        }
    }
}

fn key(farm: &Farm, arguments: &[&str]) -> Ran {
    run([&["key"], arguments, &["--password-file", &farm.path("password")]].concat())
}

fn agent_toml(farm: &Farm, name: &str, port: u16, urls: &Urls) -> String {
    let instance = commands(&farm.path(&format!("{name}/instance")));
    format!(
        "node = \"{name}\"\nfarm = \"demo\"\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"{name}/state\"\n\
         [tls]\nca = \"ca.pem\"\ncertificate = \"agent-{name}.pem\"\nkey = \"agent-{name}.key\"\n\
         [store]\ndirectory = \"{name}/store\"\nhostkey = \"{name}/hostkey\"\n\
         [database]\nurl = \"{}\"\n{}targets = \"{name}/targets.toml\"\n\
         [instance]\n{instance}",
        urls.agent, urls.role
    )
}

/// Reads the agent's log until it serves, and on to its end, so that it never blocks on a full pipe.
fn wait_until_serving(agent: &mut Running) {
    let mut said = Vec::new();
    let mut lines = BufReader::new(agent.0.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    let serves = |line: &String| line.contains("the agent serves");
    assert!(lines.by_ref().inspect(|line| said.push(line.clone())).any(|line| serves(&line)), "it ended: {said:?}");
    std::thread::spawn(move || lines.for_each(drop));
}
