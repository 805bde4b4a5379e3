//! Our formats against another implementation: the public Python package `devolutions-crypto` opens what this crate
//! writes, and this crate opens what it wrote. `tests/run` installs the package.

#![expect(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keys::sealed::{SealContext, seal};
use keys::value::{Encoding, Rewrapper, ValueError};
use keys::{KeyEntry, KeySet, KeyState, Password, SecretKey, bundle};
use rotation::Digest;
use serde_json::{Value, json};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];
const PASSWORD: &[u8] = "pässword with spaces".as_bytes();

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The interpreter that has the package.
fn python() -> PathBuf {
    let named = std::env::var_os("KEYTURN_TEST_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| repository().join("target/python/bin/python"));
    assert!(python.exists(), "{} does not exist; run the tests with tests/run, which installs it", python.display());
    python
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(repository().join("tests/compatibility").join(name));
    command
}

/// Asks python_values.py.
fn ask(request: &str, arguments: &Value) -> Value {
    let mut child = script("python_values.py")
        .arg(request)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(arguments.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn key(bytes: [u8; 32]) -> SecretKey {
    SecretKey::from_bytes(bytes.to_vec()).unwrap()
}

fn password() -> Password {
    Password::from_bytes(PASSWORD.to_vec()).unwrap()
}

fn old_set() -> KeySet {
    KeySet::new("demo", key(OLD), 1_700_000_000_000)
}

fn new_set() -> KeySet {
    let entry = KeyEntry { state: KeyState::Active, created_at_ms: 1_700_000_000_001, secret: key(NEW) };
    old_set().promote(entry, 1_700_000_000_002)
}

fn payload(set: &KeySet) -> Value {
    let keys = set.entries().map(|entry| {
        let state = match entry.state {
            KeyState::Active => "active",
            KeyState::DecryptOnly => "decrypt-only",
        };
        let secret = if entry.secret == key(OLD) { OLD } else { NEW };
        let secret = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, secret);
        let id = entry.secret.id().to_string();
        json!({ "id": id, "state": state, "created_at_ms": entry.created_at_ms, "secret": secret })
    });
    json!({
        "format": "keyturn-bundle",
        "version": 1,
        "farm": set.farm(),
        "created_at_ms": set.created_at_ms(),
        "keys": keys.collect::<Vec<_>>(),
    })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("{field} in {value}"))
}

fn bytes(value: &Value, field: &str) -> Vec<u8> {
    hex::decode(text(value, field)).unwrap()
}

#[test]
fn python_opens_our_bundle() {
    let bundle = bundle::seal(&new_set(), &password()).unwrap();
    let answer = ask("open-bundle", &json!({ "bundle": hex::encode(bundle), "password": hex::encode(PASSWORD) }));
    let opened: Value = serde_json::from_str(text(&answer, "payload")).unwrap();
    assert_eq!(opened, payload(&new_set()));
}

#[test]
fn we_open_pythons_bundle() {
    let payload = serde_json::to_string_pretty(&payload(&new_set())).unwrap();
    let answer = ask("make-bundle", &json!({ "payload": payload, "password": hex::encode(PASSWORD) }));
    let made = bytes(&answer, "bundle");
    assert_eq!(bundle::open(&made, &password()).unwrap(), new_set());
    // The package has its own cost, far below ours; what counts is that the file says which.
    assert_ne!(bundle::inspect_header(&made).unwrap().argon2.memory_kib, 64 * 1024);
}

#[test]
fn python_opens_a_sealed_bundle_with_the_documented_context() {
    let pair = ask("make-recipient", &json!({}));
    let context = SealContext {
        farm: "demo".to_owned(),
        rotation: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
        node: "node-1".parse().unwrap(),
        plan_digest: Digest::new([3; 32]),
        old_key: key(OLD).id(),
        new_key: key(NEW).id(),
    };
    let sealed = seal(text(&pair, "public"), &new_set(), &key(OLD), &context).unwrap();
    let authenticated = context.to_bytes(&key(OLD));
    let answer = ask(
        "open-sealed",
        &json!({
            "sealed": hex::encode(sealed),
            "private": text(&pair, "private"),
            "context": {
                "farm": context.farm,
                "rotation": context.rotation.to_string(),
                "node": context.node.to_string(),
                "plan_digest": context.plan_digest.to_string(),
                "old_key": context.old_key.to_string(),
                "new_key": context.new_key.to_string(),
                // BLAKE3 is in no standard library of Python's.
                "mac": hex::encode(&authenticated[authenticated.len() - 32..]),
            },
        }),
    );
    let opened: Value = serde_json::from_str(text(&answer, "payload")).unwrap();
    let mut expected = payload(&new_set());
    expected["keys"].as_array_mut().unwrap().truncate(1);
    assert_eq!(opened, expected, "the active key alone");
}

#[test]
fn values_of_every_version_and_encoding_go_there_and_back() {
    let plaintexts: Vec<String> = [0_usize, 1, 2, 3, 15, 16, 17, 100, 5000]
        .iter()
        .map(|&length| hex::encode((0..length).map(|at| (at * 7 % 251) as u8).collect::<Vec<_>>()))
        .collect();
    let aads = ["", &hex::encode("connections.password")];
    let made = ask("make-values", &json!({ "key": hex::encode(OLD), "plaintexts": plaintexts, "aads": aads }));
    let values = made["values"].as_array().unwrap();
    assert_eq!(values.len(), plaintexts.len() * 2 * 2 * 5);

    let rewrapper = Rewrapper::new(&key(OLD), &key(NEW));
    let mut turned = Vec::new();
    for value in values {
        let encoding = if text(value, "encoding") == "raw" { Encoding::Raw } else { Encoding::Base64 };
        let (stored, aad) = (bytes(value, "stored"), bytes(value, "aad"));
        let rewrapped = rewrapper.rewrap(&stored, encoding, &aad).unwrap();
        assert_eq!(&rewrapped.plaintext[..], bytes(value, "plaintext"));
        assert_eq!(rewrapped.stored.len(), stored.len(), "a value keeps its version and its form: {value}");
        let again = rewrapper.rewrap(&rewrapped.stored, encoding, &aad).unwrap_err();
        assert_eq!(again, ValueError::UnderOtherKey);
        let mut value = value.clone();
        value["stored"] = hex::encode(rewrapped.stored).into();
        turned.push(value);
    }

    let opened = ask("open-values", &json!({ "key": hex::encode(NEW), "values": turned }));
    for (value, plaintext) in turned.iter().zip(opened["plaintexts"].as_array().unwrap()) {
        assert_eq!(&value["plaintext"], plaintext);
    }
}

struct Kept {
    directory: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let kept = Self { directory: tempfile::tempdir().unwrap() };
        std::fs::write(kept.at("old.bundle"), bundle::seal(&old_set(), &password()).unwrap()).unwrap();
        std::fs::write(kept.at("new.bundle"), bundle::seal(&new_set(), &password()).unwrap()).unwrap();
        std::fs::write(kept.at("password"), [PASSWORD, b"\n"].concat()).unwrap();
        std::fs::write(
            kept.at("targets.toml"),
            r#"
                version = 1
                [[table]]
                name = 'en"tries'
                key = ["id"]
                [[table.column]]
                name = "secret"
                encoding = "base64"
                [[table.column]]
                name = "note"
                aad = "notes"
            "#,
        )
        .unwrap();
        ask("make-database", &json!({ "path": kept.at("farm.db"), "key": hex::encode(OLD), "rows": 20 }));
        kept
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn oracle(&self, bundle: &str, more: &[&str]) -> Output {
        script("python_oracle.py")
            .arg("--bundle")
            .arg(self.at(bundle))
            .arg("--password-file")
            .arg(self.at("password"))
            .arg("--database")
            .arg(self.at("farm.db"))
            .arg("--targets")
            .arg(self.at("targets.toml"))
            .args(more)
            .output()
            .unwrap()
    }
}

#[test]
fn the_oracle_says_yes_when_every_value_opens() {
    let kept = Kept::new();
    let expected = json!({ "tables": 1, "rows": 20, "null": 1, "empty": 1, "opened": 38, "failed": 0 });
    for (bundle, more) in [("old.bundle", &[][..]), ("new.bundle", &["--any-key"])] {
        let output = kept.oracle(bundle, more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), expected);
    }
}

#[test]
fn the_oracle_says_no_when_it_must() {
    let refused = |kept: &Kept, bundle: &str, saying: &str| {
        let output = kept.oracle(bundle, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(saying), "{said}");
    };
    let kept = Kept::new();
    refused(&kept, "new.bundle", "opens under none of the keys");

    std::fs::write(kept.at("password"), "another").unwrap();
    refused(&kept, "old.bundle", "the password does not open it");

    let kept = Kept::new();
    let targets = std::fs::read_to_string(kept.at("targets.toml")).unwrap();
    std::fs::write(kept.at("targets.toml"), targets.replace("\"notes\"", "\"other\"")).unwrap();
    refused(&kept, "old.bundle", "note [0]: opens under none of the keys");
    std::fs::write(kept.at("targets.toml"), targets.replace("\"note\"", "\"nothing\"")).unwrap();
    refused(&kept, "old.bundle", "no such column");
    std::fs::write(kept.at("targets.toml"), "version = 1\n").unwrap();
    refused(&kept, "old.bundle", "registers no table");

    std::fs::write(kept.at("targets.toml"), targets).unwrap();
    std::fs::remove_file(kept.at("farm.db")).unwrap();
    refused(&kept, "old.bundle", "unable to open database file");
}

#[test]
fn the_example_in_the_documentation_runs() {
    let page = std::fs::read_to_string(repository().join("docs/formats.md")).unwrap();
    let (_, example) = page.split_once("```python\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let kept = Kept::new();
    let output = Command::new(python())
        .arg("-c")
        .arg(example)
        .args(["old.bundle", "password", "farm.db"].map(|name| kept.at(name)))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("farm demo key {}\nthe password of connection 1\n", key(OLD).id()));
}
