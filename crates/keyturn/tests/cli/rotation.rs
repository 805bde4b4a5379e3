//! A whole rotation from the operator's side, with a real coordinator, agent, application and database: what the verbs ask,
//! refuse, print and exit with.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::farm::{Farm, Running, free_port};
use crate::support::{Ran, keyturn, run};

/// One node with its application, enrolled; three rows without a secret, since what is tested is how the operator is
/// served, not the engine.
struct Node {
    // Dropped in this order: the processes end before their folder goes.
    _agent: Running,
    _coordinator: Running,
    farm: Farm,
}

impl Node {
    fn new() -> Self {
        let farm = Farm::new();
        run(["pki", "issue", "agent", "node-1", "--host", "127.0.0.1", "--dir", &farm.path("")]).done();
        farm.write("password", "correct horse\n");
        let (agent_port, vault_port) = (free_port(), free_port());
        tokio::runtime::Runtime::new().expect("a runtime").block_on(seed(&farm.path("vault.db"))).expect("a database");
        farm.write(
            "targets.toml",
            "version = 1\n[[table]]\nname = \"connections\"\nkey = [\"id\"]\n\
             [[table.column]]\nname = \"password\"\nencoding = \"base64\"\n",
        );
        for folder in ["store", "instance"] {
            std::fs::create_dir(farm.path(folder)).expect("a folder");
        }
        farm.write("agent.toml", &agent_toml(&farm, agent_port));
        farm.write(
            "instance/instance.toml",
            &format!(
                "listen = \"127.0.0.1:{vault_port}\"\ndatabase_url = \"sqlite://{}\"\nstore = \"{}\"\nhostkey = \"{}\"\n",
                farm.path("vault.db"),
                farm.path("store"),
                farm.path("hostkey")
            ),
        );
        for name in ["old", "new", "third"] {
            key(&farm, &["generate", "--farm", "demo", "--out", &farm.path(name)]).done();
        }
        key(&farm, &["import", "--config", &farm.path("agent.toml"), "--bundle", &farm.path("old")]).done();
        for verb in ["start", "admit"] {
            run(["sample-vault", verb, "--dir", &farm.path("instance")]).done();
        }
        let coordinator = farm.coordinator();
        let mut agent = keyturn();
        let log = std::fs::File::create(farm.path("agent.log")).expect("a file");
        let mut agent = Running(
            agent
                .args(["agent", "--config", &farm.path("agent.toml")])
                .stderr(Stdio::piped())
                .spawn()
                .expect("it runs"),
        );
        wait_until_serving(&mut agent, log);
        let address = format!("https://127.0.0.1:{agent_port}");
        farm.as_operator(&["node", "enroll", "node-1", "--address", &address]).done();
        Self { _agent: agent, _coordinator: coordinator, farm }
    }

    fn rotation(&self, arguments: &[&str]) -> Ran {
        self.farm.as_operator(&[&["rotation"], arguments].concat())
    }

    /// The command line of `start`, to be run or spawned.
    fn start(&self, new: &str, current: &str, more: &[&str]) -> std::process::Command {
        let mut command = keyturn();
        command.args(["rotation", "start", "-o", "json", "--config", &self.farm.path("operator-alice.toml")]);
        command.args(["--bundle", &self.farm.path(new), "--current-bundle", &self.farm.path(current)]);
        command.args(["--password-file", &self.farm.path("password")]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `start`, typing `typed` when it asks.
    fn start_typing(&self, new: &str, current: &str, typed: &str) -> Ran {
        let mut child = self.start(new, current, &[]).spawn().expect("it runs");
        // What it does not read, because it was refused before it asked, is no failure.
        let _ = child.stdin.take().expect("a pipe").write_all(typed.as_bytes());
        child.wait_with_output().expect("it ends").into()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The application outlives whoever started it, as it should on a node.
        let _ = run(["sample-vault", "offline", "--dir", &self.farm.path("instance")]);
    }
}

/// Reads the agent's log until it serves, and on into a file, so that it never blocks on a full pipe.
fn wait_until_serving(agent: &mut Running, mut log: std::fs::File) {
    let mut lines = BufReader::new(agent.0.stderr.take().expect("a pipe")).lines();
    let serving = lines.by_ref().map_while(Result::ok).any(|line| line.contains("the agent serves"));
    assert!(serving, "the agent ended");
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = writeln!(log, "{line}");
        }
    });
}

async fn seed(path: &str) -> sqlx::Result<()> {
    let mut connection: SqliteConnection =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await?;
    connection.execute("CREATE TABLE connections (id INTEGER PRIMARY KEY, password TEXT)").await?;
    connection.execute("INSERT INTO connections VALUES (1, NULL), (2, ''), (3, NULL)").await?;
    connection.close().await
}

fn key(farm: &Farm, arguments: &[&str]) -> Ran {
    run([&["key"], arguments, &["--password-file", &farm.path("password")]].concat())
}

fn agent_toml(farm: &Farm, port: u16) -> String {
    let instance: String = [("drain", 15), ("offline", 30), ("start", 30), ("observe", 5), ("canary", 5), ("admit", 5)]
        .map(|(verb, deadline)| {
            let command = [env!("CARGO_BIN_EXE_keyturn"), "sample-vault", verb, "--dir", &farm.path("instance")]
                .map(|word| format!("\"{word}\""))
                .join(", ");
            format!("{verb} = {{ command = [{command}], deadline_s = {deadline} }}\n")
        })
        .concat();
    format!(
        "node = \"node-1\"\nfarm = \"demo\"\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"state\"\n\
         [tls]\nca = \"ca.pem\"\ncertificate = \"agent-node-1.pem\"\nkey = \"agent-node-1.key\"\n\
         [store]\ndirectory = \"store\"\nhostkey = \"hostkey\"\n\
         [database]\nurl = \"sqlite://{}\"\ntargets = \"targets.toml\"\n\
         [instance]\n{instance}",
        farm.path("vault.db")
    )
}

#[test]
fn an_operator_plans_is_held_to_what_is_right_and_turns_the_keys() {
    let node = Node::new();
    node.rotation(&["start", "--bundle", "/nowhere", "--current-bundle", "/nowhere"]).failed(1, &["error[read-file]"]);
    node.start_typing("new", "old", "demo\n").failed(1, &["error[", "next:"]);

    let planned = node.rotation(&["plan", "-o", "json"]).json();
    assert_eq!((&planned["outcome"], &planned["phase"]), (&"running".into(), &"approval".into()));
    assert_eq!(planned["plan"]["tables"]["connections"]["rows"], 3);
    assert_eq!(planned["undecryptable"], Value::Array(Vec::new()));
    node.rotation(&["plan"]).failed(1, &["error[rotation-under-way]"]);

    node.start_typing("new", "old", "another farm\n").failed(1, &["error[not-confirmed]", "nothing was started"]);
    node.start_typing("new", "old", "").failed(1, &["error[not-confirmed]"]);
    node.start_typing("old", "new", "demo\n").failed(1, &["error[wrong-current-bundle]", "node-1"]);
    node.start_typing("old", "old", "demo\n").failed(1, &["error[same-key]"]);
    assert_eq!(node.rotation(&["status", "-o", "json"]).json()["phase"], "approval", "nothing was started");

    let ran = node.start_typing("new", "old", "demo\n");
    assert!(ran.stderr.contains("Warning:") && ran.stderr.contains("quiesce"), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'), "no colour and no cursor movements off a terminal");
    let done = ran.json();
    assert_eq!((&done["outcome"], &done["id"]), (&"completed".into(), &planned["id"]));
    assert_eq!(done["nodes"][0]["key_after"], done["new_key"]);

    let report = node.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["adds_up"], &report["rows_verified"]), (&true.into(), &3.into()));
    assert_eq!(report["remains"][0]["opened_by"], done["old_key"]);
    assert!(node.rotation(&["report"]).done().contains("in encryption.2"));
    assert_eq!(node.rotation(&["list", "-o", "json"]).json()[0]["outcome"], "completed");
    assert_eq!(node.farm.as_operator(&["node", "list", "-o", "json"]).json()[0]["key"], done["new_key"]);
    assert_eq!(node.rotation(&["watch", "-o", "json"]).json()["outcome"], "completed");
}

#[test]
fn an_abort_is_seen_as_one_by_whoever_waits() {
    let node = Node::new();
    let planned = node.rotation(&["plan", "--hold-at", "verify", "-o", "json"]).json();
    let mut starting = node.start("new", "old", &["--yes"]).spawn().expect("it runs");
    let mut progress = BufReader::new(starting.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("verify, paused")), "it holds where it was told to");

    node.rotation(&["retry"]).failed(1, &["error[not-stuck]"]);
    node.start_typing("third", "old", "demo\n").failed(1, &["error[already-started]"]);
    let aborted = node.rotation(&["abort", "--wait", "-o", "json"]);
    assert_eq!(aborted.code, 3, "{}", aborted.stderr);
    assert!(progress.any(|line| line.contains("undo:restore-rows")), "the undo is shown");
    // To the end, or the process would write into a closed pipe.
    progress.for_each(drop);
    let started: Ran = starting.wait_with_output().expect("it ends").into();
    assert_eq!(started.code, 3);
    let end: Value = serde_json::from_str(&started.stdout).expect("JSON");
    assert_eq!((&end["outcome"], &end["id"]), (&"rolled_back".into(), &planned["id"]));
    assert_eq!(end["faults"][0]["code"], "aborted");

    node.rotation(&["abort"]).failed(1, &["error[no-rotation]"]);
    let report = node.rotation(&["report", "-o", "json"]).json();
    assert_eq!((&report["outcome"], &report["adds_up"]), (&"rolled_back".into(), &false.into()));
    assert_eq!(report["remains"][0]["opened_by"], end["new_key"]);
}
