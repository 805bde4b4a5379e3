//! `keyturn pki`: files, rights, and what `show` says of them.

use std::path::Path;

use crate::support::{Ran, mode, run, text};

fn init(folder: &Path) -> Ran {
    run(["pki", "init", "--farm", "demo", "--out", text(folder), "-o", "json"])
}

fn issue(folder: &Path, arguments: &[&str]) -> Ran {
    run([&["pki", "issue"], arguments, &["--dir", text(folder), "-o", "json"]].concat())
}

#[test]
fn an_authority_issues_certificates_that_show_their_holder() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("pki");
    let made = init(&folder).json();
    assert_eq!(made["farm"], "demo");
    assert_eq!(mode(&folder.join("ca.key")), 0o600);

    let made = issue(&folder, &["agent", "node-1", "--host", "127.0.0.1", "--host", "node-1.example"]).json();
    assert_eq!(made["certificate"], text(&folder.join("agent-node-1.pem")));
    assert_eq!(mode(&folder.join("agent-node-1.key")), 0o600);

    let shown = run(["pki", "show", text(&folder.join("agent-node-1.pem")), "-o", "json"]).json();
    let certificate = &shown[0];
    assert_eq!((&certificate["farm"], &certificate["role"]), (&"demo".into(), &"agent".into()));
    assert_eq!(certificate["name"], "node-1");
    assert_eq!(certificate["authority"], false);
    assert_eq!(certificate["expired"], false);
    let hosts: Vec<&str> =
        certificate["hosts"].as_array().expect("a list").iter().filter_map(|host| host.as_str()).collect();
    assert!(hosts.contains(&"127.0.0.1") && hosts.contains(&"node-1.example"), "{hosts:?}");

    let authority = run(["pki", "show", text(&folder.join("ca.pem")), "-o", "json"]).json();
    assert_eq!(authority[0]["authority"], true);
    let table = run(["pki", "show", text(&folder.join("agent-node-1.pem"))]).done();
    assert!(table.contains("Role:        agent"), "{table}");
}

#[test]
fn nothing_is_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).json();
    let before = std::fs::read(folder.path().join("ca.pem")).expect("a file");
    init(folder.path()).failed(1, &["error[write-file]", "exists already", "next:"]);
    assert_eq!(std::fs::read(folder.path().join("ca.pem")).expect("a file"), before);
    issue(folder.path(), &["operator", "alice"]).json();
    issue(folder.path(), &["operator", "alice"]).failed(1, &["operator-alice.pem exists already"]);
}

#[test]
fn what_listens_must_name_its_hosts() {
    let folder = tempfile::tempdir().expect("a folder");
    init(folder.path()).json();
    issue(folder.path(), &["coordinator", "1"]).failed(2, &["--host"]);
}

#[test]
fn names_that_cannot_stand_in_a_certificate_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    run(["pki", "init", "--farm", "De/mo", "--out", text(folder.path())]).failed(1, &["error[pki]", "De/mo"]);
    init(folder.path()).json();
    issue(folder.path(), &["viewer", "../eve"]).failed(1, &["../eve"]);
    for name in ["first", "01", "coordinator-1"] {
        issue(folder.path(), &["coordinator", name, "--host", "127.0.0.1"]).failed(2, &["is its number", name]);
    }
}

#[test]
fn a_missing_authority_and_a_file_that_is_no_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    issue(folder.path(), &["operator", "alice"]).failed(1, &["error[read-file]", "ca.pem"]);
    let path = folder.path().join("note.txt");
    std::fs::write(&path, "hello").expect("written");
    run(["pki", "show", text(&path)]).failed(1, &["error[certificate]", "next:"]);
}
