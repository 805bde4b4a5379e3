//! `keyturn db`: looking into a database, on SQLite files and a temporary PostgreSQL server.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use keys::value::{Cipher, CipherVersion, Encoding};
use keys::{KeyEntry, KeySet, KeyState, SecretKey};
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _};
use tempfile::TempDir;

use crate::support::{Ran, keyturn, mode, run, text};

const TARGETS: &str =
    "version = 1\n[[table]]\nname = \"secrets\"\nkey = [\"id\"]\n[[table.column]]\nname = \"value\"\n";

/// A node with a database in a file and a key store; the old key only opens, the new one is active.
struct Node {
    folder: TempDir,
    old: SecretKey,
    new: SecretKey,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            folder: tempfile::tempdir().expect("a folder"),
            old: SecretKey::generate(),
            new: SecretKey::generate(),
        };
        node.write("machine-id", "0123456789abcdef0123456789abcdef\n");
        node.write("targets.toml", TARGETS);
        node.write("vault.db", "");
        std::fs::create_dir(node.path("store")).expect("a folder");
        node.write(
            "agent.toml",
            r#"
            node = "node-1"
            farm = "demo"
            listen = "127.0.0.1:0"
            state_dir = "state"
            [tls]
            ca = "ca.pem"
            certificate = "agent-node-1.pem"
            key = "agent-node-1.key"
            [store]
            directory = "store"
            hostkey = "hostkey"
            machine_id = "machine-id"
            [database]
            url_file = "url"
            targets = "targets.toml"
            [instance]
            drain = { command = ["true"], deadline_s = 1 }
            offline = { command = ["true"], deadline_s = 1 }
            start = { command = ["true"], deadline_s = 1 }
            observe = { command = ["true"], deadline_s = 1 }
            canary = { command = ["true"], deadline_s = 1 }
            admit = { command = ["true"], deadline_s = 1 }
            "#,
        );
        node.write("url", &node.url());
        let entry = KeyEntry { state: KeyState::Active, created_at_ms: 1, secret: node.new.clone() };
        let set = KeySet::new("demo", node.old.clone(), 0).promote(entry, 1);
        let config = agent::Config::load(&node.path("agent.toml")).expect("valid");
        agent::open_store(&config).create(&set).expect("a store");
        node.sql("CREATE TABLE secrets (id INTEGER PRIMARY KEY, value BLOB, name TEXT)");
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.path("vault.db").display())
    }

    fn sql(&self, sql: &str) {
        sqlite(&self.path("vault.db"), sql);
    }

    /// A row with a value under this key.
    fn insert(&self, id: u32, key: &SecretKey) {
        let value = Cipher::new(key).encrypt(b"plain", Encoding::Raw, &[], CipherVersion::V2).expect("encrypted");
        self.sql(&format!("INSERT INTO secrets VALUES ({id}, x'{}', 'name {id}')", hex::encode(value)));
    }

    fn db(&self, arguments: &[&str]) -> Ran {
        let config = self.path("agent.toml");
        let (verb, rest) = arguments.split_first().expect("a verb");
        run([&["db", verb, "--config", text(&config)], rest].concat())
    }
}

pub(crate) fn sqlite(path: &Path, sql: &str) {
    let options = SqliteConnectOptions::new().filename(path);
    let run = async {
        let mut connection = SqliteConnection::connect_with(&options).await.expect("a file");
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect("good SQL");
        connection.close().await.expect("closed");
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run);
}

#[test]
fn a_scan_finds_what_is_not_registered_and_writes_a_file_that_registers_it() {
    let node = Node::new();
    node.insert(1, &node.new);
    let value = Cipher::new(&node.new).encrypt(b"x", Encoding::Base64, &[], CipherVersion::V2).expect("encrypted");
    let value = String::from_utf8(value).expect("base64");
    node.sql(&format!(
        "CREATE TABLE forgotten (id INTEGER PRIMARY KEY, token TEXT); INSERT INTO forgotten VALUES (1, '{value}');
         CREATE TABLE keyless (token TEXT); INSERT INTO keyless VALUES ('{value}')"
    ));
    let report = node.db(&["scan", "-o", "json"]).json();
    let states: Vec<(&str, &str)> = report["found"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|found| (found["table"].as_str().expect("text"), found["state"].as_str().expect("text")))
        .collect();
    assert_eq!(states, [("forgotten", "unregistered"), ("keyless", "unregistered"), ("secrets", "registered")]);
    assert_eq!(report["found"][0]["values"][0]["kind"], "symmetric-ciphertext");

    let shown = node.db(&["scan"]).done();
    assert!(
        shown.contains("keyless.token is not registered, and cannot be: table keyless has no primary key"),
        "{shown}"
    );

    let out = node.path("new.toml");
    let ran = node.db(&["scan", "--targets", text(&out)]);
    assert!(ran.stderr.contains("is written; read it before it is used"), "{}", ran.stderr);
    ran.done();
    assert_eq!(mode(&out), 0o644);
    let written = reencrypt::Targets::load(&out).expect("it can be used");
    let tables: Vec<String> = written.tables().iter().map(reencrypt::TableTarget::label).collect();
    assert_eq!(tables, ["forgotten", "secrets"]);

    node.db(&["scan", "--targets", text(&out)]).failed(1, &["error[write-file]", "exists already", "--overwrite"]);
    node.write("new.toml", "something else");
    node.db(&["scan", "--targets", text(&out), "--overwrite"]).done();
    assert!(reencrypt::Targets::load(&out).is_ok());

    let printed = run(["db", "scan", "--database", &node.url(), "--targets", "-"]).done();
    assert!(reencrypt::Targets::parse(&printed).expect("it can be used").table("secrets").is_some(), "{printed}");
}

#[test]
fn wrong_usage_of_a_scan_is_told() {
    let node = Node::new();
    run(["db", "scan"]).failed(2, &["it is not said which database"]);
    run(["db", "scan", "--database", "vault.db"]).failed(2, &["the URL of a running database"]);
    run(["db", "scan", "--database", &node.url(), "--overwrite"]).failed(2, &["--targets"]);
    run(["db", "scan", "--database", &node.url(), "--targets", "-", "-o", "json"]).failed(2, &["cannot take both"]);
}

#[test]
fn every_verb_takes_a_temporary_database_and_leaves_nothing_of_it() {
    let node = Node::new();
    let temporary = tempfile::tempdir().expect("a folder");
    // The servers do not run as root.
    std::fs::set_permissions(temporary.path(), Permissions::from_mode(0o711)).expect("its owner may");
    let config = node.path("agent.toml");
    for kind in ["sqlite", "postgres", "mariadb"] {
        let db = |verb: &[&str]| -> Ran {
            let command = [&["db"], verb, &["--database", kind, "-o", "json"]].concat();
            keyturn().args(command).env("TMPDIR", temporary.path()).output().expect("the binary runs").into()
        };
        let scanned = db(&["scan"]).json();
        assert_eq!(scanned["found"], serde_json::json!([]), "{scanned}");
        let looked = db(&["doctor", "--config", text(&config)]).json();
        assert_eq!((&looked["well"], &looked["database"]), (&true.into(), &kind.into()), "{looked}");
        assert_eq!(std::fs::read_dir(temporary.path()).expect("it is there").count(), 0, "{kind} left something");
    }
}

#[test]
fn a_database_that_is_not_there_is_told_without_its_password() {
    let node = Node::new();
    let absent = format!("sqlite://{}", node.path("absent.db").display());
    run(["db", "scan", "--database", &absent]).failed(1, &["error[database]", "absent.db", "next:"]);
    let closed = run(["db", "scan", "--database", "postgres://me:hunter2@127.0.0.1:1/vault"]);
    assert!(!closed.stderr.contains("hunter2"), "{}", closed.stderr);
    closed.failed(5, &["error[database]", "connecting to PostgreSQL"]);
    run(["db", "scan", "--database", "oracle://db/vault"]).failed(1, &["\"oracle\"", "postgres://"]);
}

#[test]
fn a_doctor_says_whether_all_is_well_and_repairs_stragglers() {
    let node = Node::new();
    node.insert(1, &node.new);
    assert_eq!(node.db(&["doctor", "-o", "json"]).json()["well"], true);

    node.insert(2, &node.old);
    let sick = node.db(&["doctor", "-o", "json"]);
    assert_eq!(sick.code, 6, "{}", sick.stderr);
    assert!(sick.stderr.contains("--repair turns them"), "{}", sick.stderr);
    let report: Value = serde_json::from_str(&sick.stdout).expect("JSON all the same");
    assert_eq!(report["columns"][0]["keys"][node.old.id().to_string()], 1);

    let repaired = node.db(&["doctor", "--repair", "-o", "json"]).json();
    assert_eq!((&repaired["well"], &repaired["repaired"]), (&true.into(), &1.into()));

    node.insert(3, &SecretKey::generate());
    let sick = node.db(&["doctor", "--repair"]);
    assert_eq!(sick.code, 6, "{}", sick.stderr);
    assert!(sick.stdout.contains("secrets.value of row [\"i:3\"]"), "{}", sick.stdout);
    assert!(
        sick.stderr.contains("open under no key of this node") && sick.stderr.contains("--accept"),
        "{}",
        sick.stderr
    );

    // What a doctor printed is what it takes; a value that differs is another.
    let accepted = node.path("accepted.json");
    std::fs::write(&accepted, node.db(&["doctor", "-o", "json"]).stdout).expect("written");
    let well = node.db(&["doctor", "--accept", text(&accepted), "-o", "json"]).json();
    assert_eq!(
        (&well["well"], &well["accepted_total"], &well["undecryptable"]),
        (&true.into(), &1.into(), &serde_json::json!([]))
    );
    assert!(node.db(&["doctor", "--accept", text(&accepted)]).done().contains("accepted"));
    node.sql("DELETE FROM secrets WHERE id = 3");
    node.insert(3, &SecretKey::generate());
    assert_eq!(node.db(&["doctor", "--accept", text(&accepted)]).code, 6);
    node.write("accepted.json", "nothing");
    node.db(&["doctor", "--accept", text(&accepted)]).failed(1, &["error[accepted-values]", "db doctor -o json"]);
}

#[test]
fn a_doctor_without_keys_or_tables_says_what_is_missing() {
    let node = Node::new();
    run(["db", "doctor", "--database", &node.url()]).failed(2, &["whose keys", "--config"]);
    node.write("targets.toml", &TARGETS.replace("secrets", "unknown"));
    node.db(&["doctor"]).failed(1, &["error[targets]", "table unknown does not exist", "next:"]);
    node.write("targets.toml", "version = 1\n");
    node.db(&["doctor"]).failed(1, &["error[targets]", "registers nothing", "keyturn db scan"]);
    node.write("targets.toml", TARGETS);
    std::fs::remove_file(node.path("store/encryption.config")).expect("removed");
    node.db(&["doctor"]).failed(1, &["error[key-store]", "next:"]);
}

fn bench(database: &str) -> Value {
    let ran = run(["db", "bench", "--database", database, "--rows", "300", "--repeat", "1", "-o", "json"]);
    assert!(ran.stderr.contains("round 1 of 1: update floor"), "{}", ran.stderr);
    let report = ran.json();
    for field in [
        "update_floor_ms",
        "copy_floor_ms",
        "in_place_ms",
        "verify_ms",
        "naive_ms",
        "in_place_over_update",
        "rewrap_over_library",
    ] {
        assert!(report[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
    assert_eq!((&report["rows"], &report["row_bytes"]), (&300.into(), &512.into()));
    assert_eq!(report["naive_sample_rows"], 300);
    report
}

#[test]
fn a_bench_measures_on_a_temporary_database() {
    assert_eq!(bench("sqlite")["database"], "sqlite");
    let report = bench("postgres");
    assert_eq!(report["database"], "postgres");
    for field in ["shadow_ms", "shadow_over_update", "shadow_over_copy", "naive_over_shadow"] {
        assert!(report[field].as_f64().is_some_and(|figure| figure > 0.0), "{field}: {report}");
    }
}

#[test]
fn a_bench_leaves_a_running_database_as_it_was_even_when_it_is_interrupted() {
    let node = Node::new();
    node.insert(1, &node.new);
    bench(&node.url());
    let own = |node: &Node| node.db(&["scan", "-o", "json"]).json()["own_tables"].clone();
    assert_eq!(own(&node), serde_json::json!([]), "neither scratch tables nor a ledger");

    let mut child = keyturn()
        .args(["db", "bench", "--database", &node.url(), "--rows", "200000", "--repeat", "9"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = std::io::BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).expect("it says what it does");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    assert_eq!(own(&node), serde_json::json!([]));
}

#[test]
fn a_bench_touches_no_table_that_has_a_name_of_its_own() {
    let node = Node::new();
    node.sql("CREATE TABLE keyturn_bench_work (id INTEGER PRIMARY KEY); INSERT INTO keyturn_bench_work VALUES (7)");
    node.db(&["bench", "--rows", "10"]).failed(1, &["error[database]", "keyturn_bench_work exists already", "next:"]);
    let report = node.db(&["scan", "-o", "json"]).json();
    assert!(report["own_tables"].as_array().expect("a list").contains(&"keyturn_bench_work".into()));
    run(["db", "bench", "--database", "sqlite", "--row-bytes", "10"]).failed(2, &["10 is not in 49.."]);
}
