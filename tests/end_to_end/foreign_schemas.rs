//! A database that Keyturn has never seen, with odd names, keys, types, triggers and policies, made and judged by another
//! implementation; on every database.

use std::process::Command;

use crate::support::{python, repository, succeed};

#[track_caller]
fn check(database: &str) {
    let script = repository().join("tests/compatibility/foreign_schemas.py");
    let said = succeed(Command::new(python()).arg(script).arg(env!("CARGO_BIN_EXE_keyturn")).arg(database));
    // What it reached; that nothing failed is its exit code.
    let refused = if database == "mariadb-copies" { "" } else { "refused: " };
    for held in [refused, "undone from verify", "undone from activate", "undone from start", "completed"] {
        assert!(said.contains(&format!("held   {held}")), "{held:?} was not checked: {said}");
    }
    assert!(!said.contains("FAILED"), "{said}");
}

#[test]
fn any_schema_is_turned_and_turned_back_on_sqlite() {
    check("sqlite");
}

#[test]
fn any_schema_is_turned_and_turned_back_on_postgresql() {
    check("postgres");
}

#[test]
fn any_schema_is_turned_and_turned_back_on_mariadb() {
    check("mariadb");
}

#[test]
fn any_schema_is_turned_and_turned_back_by_copies_on_mariadb() {
    check("mariadb-copies");
}
