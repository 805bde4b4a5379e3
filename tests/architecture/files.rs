//! Every source file says what it is for, the top level stays short, and every fault code is documented.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What may stand at the top of the tree, hidden files aside.
const TOP_LEVEL: [&str; 8] = ["Cargo.lock", "Cargo.toml", "README.md", "crates", "deploy", "docs", "proto", "tests"];

/// A file longer than this holds more than one idea.
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files that belong to the project: known to git, or not ignored by it.
fn project_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list = String::from_utf8(output.stdout).expect("names are UTF-8");
    let files: Vec<PathBuf> = list.lines().map(PathBuf::from).filter(|path| root().join(path).exists()).collect();
    assert!(files.len() > 50, "git lists the project's files, {} are too few", files.len());
    files
}

#[test]
fn every_source_file_opens_by_saying_its_job() {
    for path in project_files().iter().filter(|path| path.extension().is_some_and(|end| end == "rs")) {
        let text = fs::read_to_string(root().join(path)).expect("a source file is UTF-8");
        assert!(text.starts_with("//! "), "{} does not open with //!", path.display());
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines: several ideas in one file", path.display());
    }
}

#[test]
fn the_top_level_stays_short() {
    for path in project_files() {
        let first = path.components().next().expect("a path has a part").as_os_str().to_string_lossy().into_owned();
        assert!(
            first.starts_with('.') || TOP_LEVEL.contains(&first.as_str()),
            "{first} does not belong at the top level: scripts live with what they serve"
        );
    }
}

#[test]
fn sql_stands_in_the_dialects_alone() {
    let statement = |line: &str| {
        ["\"SELECT ", "\"UPDATE ", "\"INSERT INTO ", "\"DELETE FROM ", "\"ALTER TABLE "]
            .iter()
            .any(|opening| line.contains(opening))
    };
    let elsewhere = [
        "crates/rotation/src",
        "crates/coordinator/src",
        "crates/agent/src",
        "crates/wire/src",
        "crates/keys/src",
        "crates/keyturn/src",
        "crates/reencrypt/src",
    ];
    for path in project_files() {
        let dialect = path.starts_with("crates/reencrypt/src/dialect");
        if dialect || !elsewhere.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            assert!(!statement(line), "{}:{}: SQL belongs to a dialect file", path.display(), number + 1);
        }
    }
}

#[test]
fn every_code_that_scripts_may_match_on_is_documented() {
    let page = fs::read_to_string(root().join("docs/errors/README.md")).expect("the page exists");
    let faults = rotation::FaultCode::ALL.map(rotation::FaultCode::as_str);
    let rejections = rotation::RejectionCode::ALL.map(rotation::RejectionCode::as_str);
    for code in faults.iter().chain(&rejections) {
        assert!(page.contains(&format!("| `{code}` |")), "docs/errors/README.md lacks `{code}`");
    }
}

#[test]
fn every_decision_is_listed() {
    let folder = root().join("docs/decisions");
    let list = fs::read_to_string(folder.join("README.md")).expect("the list exists");
    for entry in fs::read_dir(folder).expect("the folder exists") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(name == "README.md" || list.contains(&format!("({name})")), "{name} is not in the list");
    }
}
