//! Another implementation, the public Python package, opens our bundle and our rows, and finds no key lying about.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::{Demo, python, repository, succeed};

fn path(farm: &Value, demo: &Demo, field: &str) -> PathBuf {
    let text = farm[field].as_str().unwrap_or_else(|| panic!("farm.json names {field}: {farm}"));
    demo.kept().join(text)
}

/// Checks what a completed run on SQLite kept.
#[track_caller]
pub(crate) fn check(demo: &Demo) {
    let farm = demo.farm();
    let bundle = path(&farm, demo, "new_bundle");
    let password = path(&farm, demo, "new_bundle_password_file");
    let script = repository().join("tests/compatibility");
    let said = succeed(
        Command::new(python())
            .arg(script.join("python_oracle.py"))
            .arg("--bundle")
            .arg(&bundle)
            .arg("--password-file")
            .arg(&password)
            .arg("--database")
            .arg(path(&farm, demo, "database_file"))
            .arg("--targets")
            .arg(path(&farm, demo, "targets")),
    );
    assert!(said.contains("opened"), "{said}");
    let said = succeed(
        Command::new(python())
            .arg(script.join("find_secrets.py"))
            .arg("--bundle")
            .arg(&bundle)
            .arg("--password-file")
            .arg(&password)
            .arg("--bundle")
            .arg(path(&farm, demo, "old_bundle"))
            .arg("--password-file")
            .arg(path(&farm, demo, "old_bundle_password_file"))
            .arg(demo.kept()),
    );
    assert!(said.contains("0 secrets found"), "{said}");
}
