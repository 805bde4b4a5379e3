//! `keyturn key`: bundles and a node's store, with real files.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;

use crate::support::{Ran, keyturn, mode, run, text};

/// A folder with a password file and an agent's configuration.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Self { folder };
        node.write("password", "correct horse\n");
        node.write("machine-id", "0123456789abcdef0123456789abcdef\n");
        node.write("targets.toml", "version = 1\n");
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
            url = "sqlite:///nowhere"
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
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    /// Runs a verb of `key`, with the password from the file.
    fn key(&self, arguments: &[&str]) -> Ran {
        let password = self.path("password");
        run([&["key"], arguments, &["--password-file", text(&password), "-o", "json"]].concat())
    }

    fn generate(&self, name: &str) -> String {
        let out = self.path(name);
        let made = self.key(&["generate", "--farm", "demo", "--out", text(&out)]).json();
        assert_eq!(mode(&out), 0o600);
        active(&made)
    }

    fn import(&self, name: &str) -> Ran {
        let (config, bundle) = (self.path("agent.toml"), self.path(name));
        self.key(&["import", "--config", text(&config), "--bundle", text(&bundle)])
    }

    fn export(&self, name: &str) -> Ran {
        let (config, out) = (self.path("agent.toml"), self.path(name));
        self.key(&["export", "--config", text(&config), "--out", text(&out)])
    }
}

fn active(view: &serde_json::Value) -> String {
    let id = view["active_key"].as_str().expect("a key id").to_owned();
    assert_eq!(id.len(), 32, "a key id has 32 hexadecimal digits");
    id
}

fn inspect(bundle: &Path, password: &Path) -> Ran {
    run(["key", "inspect", text(bundle), "--password-file", text(password), "-o", "json"])
}

#[test]
fn a_key_goes_from_bundle_to_store_and_back() {
    let node = Node::new();
    let id = node.generate("new.bundle");
    assert_eq!(active(&inspect(&node.path("new.bundle"), &node.path("password")).json()), id);

    assert_eq!(active(&node.import("new.bundle").json()), id);
    assert_eq!(mode(&node.path("store/encryption.config")), 0o600);
    assert_eq!(mode(&node.path("hostkey")), 0o600);

    assert_eq!(active(&node.export("out.bundle").json()), id);
    let shown = inspect(&node.path("out.bundle"), &node.path("password")).json();
    assert_eq!((&shown["farm"], &shown["keys"][0]["state"]), (&"demo".into(), &"active".into()));
    let table =
        run(["key", "inspect", text(&node.path("out.bundle")), "--password-file", text(&node.path("password"))]);
    assert!(table.done().contains(&id));
}

#[test]
fn a_wrong_password_is_said_and_nothing_else() {
    let node = Node::new();
    node.generate("new.bundle");
    node.write("wrong", "battery staple\n");
    let ran = inspect(&node.path("new.bundle"), &node.path("wrong"));
    assert!(!ran.stderr.contains("battery"), "{}", ran.stderr);
    ran.failed(1, &["error[bundle]", "new.bundle does not open", "password", "next:"]);
    node.write("password", "battery staple");
    node.import("new.bundle").failed(1, &["error[bundle]"]);
    assert!(!node.path("store/encryption.config").exists());
}

#[test]
fn nothing_is_overwritten() {
    let node = Node::new();
    let id = node.generate("new.bundle");
    let again = node.key(&["generate", "--farm", "demo", "--out", text(&node.path("new.bundle"))]);
    again.failed(1, &["error[write-file]", "exists already"]);
    assert_eq!(active(&inspect(&node.path("new.bundle"), &node.path("password")).json()), id);

    node.import("new.bundle").json();
    node.generate("other.bundle");
    node.import("other.bundle").failed(1, &["error[key-store]", "next:"]);
    assert_eq!(active(&node.export("out.bundle").json()), id, "the first key stays");
    node.export("out.bundle").failed(1, &["exists already"]);
}

#[test]
fn files_that_are_no_bundles_are_refused_before_a_password_is_read() {
    let node = Node::new();
    node.generate("new.bundle");
    let whole = std::fs::read(node.path("new.bundle")).expect("a bundle");
    std::fs::write(node.path("cut.bundle"), &whole[..whole.len() / 3]).expect("written");
    node.write("foreign.bundle", "-----BEGIN CERTIFICATE-----\n");
    for name in ["cut.bundle", "foreign.bundle"] {
        inspect(&node.path(name), &node.path("no-such-password")).failed(1, &["error[bundle]", name, "next:"]);
    }
    inspect(&node.path("absent.bundle"), &node.path("password")).failed(1, &["error[read-file]", "absent.bundle"]);
}

#[test]
fn the_cost_of_a_bundle_shows_without_its_password() {
    let node = Node::new();
    node.generate("new.bundle");
    let header = run(["key", "inspect", text(&node.path("new.bundle")), "--header", "-o", "json"]).json();
    assert_eq!((&header["memory_kib"], &header["iterations"]), (&65536.into(), &3.into()));
}

#[test]
fn a_bundle_of_another_farm_is_refused() {
    let node = Node::new();
    let out = node.path("other.bundle");
    node.key(&["generate", "--farm", "elsewhere", "--out", text(&out)]).json();
    node.import("other.bundle").failed(1, &["error[other-farm]", "elsewhere", "demo"]);
}

#[test]
fn an_existing_key_is_adopted_from_its_bytes() {
    let node = Node::new();
    node.write("short.key", "sixteen bytes...");
    let import = |name: &str| {
        let (config, raw) = (node.path("agent.toml"), node.path(name));
        run(["key", "import", "--config", text(&config), "--raw-key-file", text(&raw), "-o", "json"])
    };
    node.write("empty.key", "");
    import("empty.key").failed(1, &["error[raw-key]", "empty.key"]);
    let ran = import("short.key");
    assert!(ran.stderr.contains("warning: the key has fewer than 32 bytes"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("sixteen") && !ran.stdout.contains("sixteen"));
    assert_eq!(ran.json()["keys"][0]["weak"], true);
}

#[test]
fn a_key_that_was_written_as_text_is_adopted_as_it_is_with_a_hint() {
    let cases = [
        ("x".repeat(32), None),
        ("not a key's own bytes, and none that are known".to_owned(), Some("warning: the key has more than 32 bytes")),
        ("n".repeat(32) + "\n", Some("seems to hold the key with a newline; Keyturn takes the bytes as they are")),
        ("b".repeat(43) + "=\n", Some("seems to hold the key as base64 text")),
        ("0f".repeat(32), Some("seems to hold the key as hexadecimal text")),
    ];
    for (key, said) in cases {
        let node = Node::new();
        node.write("raw.key", &key);
        let (config, raw) = (node.path("agent.toml"), node.path("raw.key"));
        let ran = run(["key", "import", "--config", text(&config), "--raw-key-file", text(&raw), "-o", "json"]);
        assert_eq!(ran.stderr.contains("warning: "), said.is_some(), "{key:?}: {}", ran.stderr);
        assert!(said.is_none_or(|said| ran.stderr.contains(said)), "{key:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains(key.trim_end()), "the key itself is not shown");
        ran.done();
    }
}

#[test]
fn a_password_comes_from_standard_input_or_a_descriptor() {
    let node = Node::new();
    let id = node.generate("new.bundle");
    let bundle = node.path("new.bundle");
    let mut child = keyturn()
        .args(["key", "inspect", text(&bundle), "--password-file", "-", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("a pipe").write_all(b"correct horse\n").expect("written");
    let ran = Ran::from(child.wait_with_output().expect("it ends"));
    assert_eq!(active(&ran.json()), id);

    // Descriptor 0 stands for any: opening another before the start of a process takes unsafe code.
    let ran: Ran = keyturn()
        .args(["key", "inspect", text(&bundle), "--password-fd", "0", "-o", "json"])
        .stdin(std::fs::File::open(node.path("password")).expect("the file exists"))
        .output()
        .expect("the binary runs")
        .into();
    assert_eq!(active(&ran.json()), id);
    node.write("empty", "\n");
    inspect(&bundle, &node.path("empty")).failed(1, &["error[password]", "empty"]);
}
