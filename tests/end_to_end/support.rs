//! Runs the demo as a user would and gives its JSON object, its exit code and what it kept.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// What a run of the demo left.
pub(crate) struct Demo {
    /// Its exit code.
    pub(crate) exit_code: i32,
    /// The object it printed.
    pub(crate) json: Value,
    /// What it wrote for people, to show when a check fails.
    pub(crate) stderr: String,
    directory: TempDir,
}

impl Demo {
    /// Runs `keyturn demo -o json --keep DIR` with more arguments.
    pub(crate) fn run(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("kt").tempdir().expect("a temporary folder can be made");
        let output = Command::new(env!("CARGO_BIN_EXE_keyturn"))
            .args(["demo", "-o", "json", "--keep"])
            .arg(directory.path().join("farm"))
            .args(arguments)
            .output()
            .expect("the binary runs");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = serde_json::from_str(&stdout)
            .unwrap_or_else(|error| panic!("stdout is not one JSON object: {error}\n{stdout}\n{stderr}"));
        Self { exit_code: output.status.code().unwrap_or(-1), json, stderr, directory }
    }

    /// Where everything was kept.
    pub(crate) fn kept(&self) -> PathBuf {
        self.directory.path().join("farm")
    }

    /// A file that `farm.json` names.
    pub(crate) fn farm(&self) -> Value {
        let text = std::fs::read_to_string(self.kept().join("farm.json")).expect("farm.json is kept");
        serde_json::from_str(&text).expect("farm.json is JSON")
    }

    /// The integer in a field of the object.
    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("{field} is not a count: {}\n{}", self.json, self.stderr))
    }

    /// What must hold whatever happened: one outcome of two, nothing wrong answered, every row accounted for.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        let shown = format!("{}\n{}", self.json, self.stderr);
        let outcome = self.json["outcome"].as_str().expect("an outcome");
        assert!(
            (outcome == "completed" && self.exit_code == 0) || (outcome == "rolled_back" && self.exit_code == 3),
            "exit code {} for {outcome}: {shown}",
            self.exit_code
        );
        assert_eq!(self.number("requests_wrong"), 0, "{shown}");
        assert!(self.number("requests_ok") > 0, "the load ran: {shown}");
        assert_eq!(self.json["key_ids_agree"], true, "{shown}");
        let nodes = self.json["nodes"].as_array().expect("a list of nodes");
        assert_eq!(nodes.len(), 3, "{shown}");
        for node in nodes {
            assert_eq!(node["canary_ok"], true, "{shown}");
            let turned = node["key_id_before"] != node["key_id_after"];
            assert_eq!(turned, outcome == "completed", "{shown}");
        }
    }
}

/// The Python that has the public package `devolutions-crypto`; `tests/run` makes it.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("KEYTURN_TEST_PYTHON").map_or_else(|| repository().join("target/python/bin/python"), PathBuf::from)
}

/// The top of the tree.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the tree exists")
}

/// Runs a command to its end; panics with what it printed when it fails.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{text}");
    text
}
