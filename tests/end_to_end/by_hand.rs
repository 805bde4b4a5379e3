//! The README's second page works as written: its commands are taken from the page and run, on both databases.

use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::support::{repository, succeed};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The shell blocks of the page, in order: those for every database (`sh`) and those for this one (`sh sqlite`).
pub(crate) fn commands(database: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/by-hand.md")).expect("the page exists");
    let wanted = ["```sh".to_owned(), format!("```sh {database}")];
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        if line.starts_with("```") {
            inside = !inside && wanted.iter().any(|opening| opening == line.trim_end());
        } else if inside {
            script.push_str(line);
            script.push('\n');
        }
    }
    assert!(script.lines().count() > 20, "the page holds the commands of a whole farm");
    script
}

#[track_caller]
fn follow(database: &str) {
    let said = run(&commands(database));
    assert!(said.contains("completed"), "{said}");
}

/// Runs a script in an empty folder, with the binary on the path, and answers what it said; stops what it leaves running.
#[track_caller]
pub(crate) fn run(script: &str) -> String {
    // The page names its ports. A test that failed while it held the lock has stopped its farm all the same.
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::Builder::new().prefix("kt").tempdir().expect("a temporary folder can be made");
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_keyturn")).parent().expect("it lies in a folder");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a PATH"));
    // What the page leaves running is stopped at the end, whichever way that comes.
    let end = "for node in node-*; do keyturn sample-vault offline --dir \"$node/instance\" || true; done; \
               kill $(jobs -p) || true; wait";
    let script = format!("trap '{{ {end}; }} 2>/dev/null' EXIT\nset -x\n{script}");
    succeed(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", path)
            .env("HOME", directory.path())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(directory.path()),
    )
}

#[test]
fn the_page_works_as_written_on_sqlite() {
    follow("sqlite");
}

#[test]
fn the_page_works_as_written_on_postgresql() {
    follow("postgres");
}
