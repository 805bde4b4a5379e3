//! Imports go downward only, and some libraries have exactly one user.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each crate may import of its siblings, as in the map of docs/ARCHITECTURE.md.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("fail-points", &[]),
    ("rotation", &[]),
    ("keys", &["fail-points", "rotation"]),
    ("reencrypt", &["fail-points", "rotation", "keys"]),
    ("wire", &["rotation"]),
    ("coordinator", &["rotation", "wire"]),
    ("agent", &["fail-points", "rotation", "keys", "reencrypt", "wire"]),
    ("local-farm", &["rotation", "keys", "wire"]),
    ("keyturn", &["rotation", "keys", "reencrypt", "wire", "coordinator", "agent", "local-farm"]),
    // A test alone: what it imports, it imports for testing.
    ("simulation", &[]),
];

/// Libraries that stay out of the domain: it has no clock, no random source and no I/O.
const NOT_IN_THE_DOMAIN: [&str; 10] =
    ["tokio", "tonic", "sqlx", "openraft", "rand", "getrandom", "jiff", "chrono", "redb", "rustls"];

/// Every package of the workspace with its ordinary dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let names = package["dependencies"].as_array().expect("a list of dependencies").iter();
            let ordinary = names.filter(|dependency| dependency["kind"].is_null());
            let text = |value: &Value| value["name"].as_str().expect("a name").to_owned();
            (text(package), ordinary.map(text).collect())
        })
        .collect()
}

#[test]
fn imports_between_crates_go_downward_only() {
    let dependencies = dependencies();
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, list)| (*name, list.iter().copied().collect())).collect();
    assert_eq!(
        dependencies.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>(),
        "a crate was added or renamed: put it into the map"
    );
    for (name, imports) in &dependencies {
        for import in imports.iter().filter(|import| allowed.contains_key(import.as_str())) {
            assert!(allowed[name.as_str()].contains(import.as_str()), "{name} must not import {import}");
        }
    }
}

#[test]
fn the_domain_is_pure() {
    let dependencies = dependencies();
    for library in NOT_IN_THE_DOMAIN {
        assert!(!dependencies["rotation"].contains(library), "rotation must not import {library}");
    }
}

#[test]
fn one_crate_alone_does_cryptography_with_the_payload_library() {
    for (name, imports) in dependencies() {
        assert!(name == "keys" || !imports.contains("devolutions-crypto"), "{name} must go through keys");
    }
}

#[test]
fn coordinators_cannot_open_a_database() {
    assert!(!dependencies()["coordinator"].contains("sqlx"));
}
