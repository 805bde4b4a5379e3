//! Runs the binary and holds what it printed against what it should.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// The binary, cut off from everything that would make its answer depend on who runs the test.
pub(crate) fn keyturn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyturn"));
    command.stdin(Stdio::null()).env("COLUMNS", "100").env_remove("RUST_LOG").env("NO_COLOR", "1");
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME");
    command
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("the process was not killed"),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }
}

/// Runs it with these arguments.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    keyturn().args(arguments).output().expect("the binary runs").into()
}

impl Ran {
    /// It was done; the answer is what it printed.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// It was done; the answer is the JSON that it printed.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("standard output is one JSON document")
    }

    /// It ended with this code, printed no data, and said all of this.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, said: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stdout, "", "a failure prints no data");
        for words in said {
            assert!(self.stderr.contains(words), "{words:?} is not in: {}", self.stderr);
        }
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// The rights of a file, for example `0o600`.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().expect("the file exists").permissions().mode() & 0o777
}
