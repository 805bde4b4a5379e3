//! Wrong usage ends with 2, prints no data and says what is right.

use crate::support::{keyturn, run};

#[track_caller]
fn wrong(arguments: &[&str], said: &str) {
    run(arguments).failed(2, &[said]);
}

#[test]
fn unknown_commands_and_missing_arguments() {
    wrong(&[], "Usage: keyturn");
    wrong(&["rotate"], "unrecognized subcommand");
    wrong(&["rotation"], "Usage: keyturn rotation");
    wrong(&["coordinator"], "--config <FILE>");
    wrong(&["node", "enroll", "node-1"], "--address <ADDRESS>");
    wrong(&["key", "generate", "--farm", "demo"], "--out <FILE>");
    wrong(&["rotation", "start"], "--bundle <FILE>");
    wrong(&["key", "import", "--config", "agent.toml"], "<--bundle <FILE>|--raw-key-file <FILE>>");
    let both = ["key", "import", "--config", "agent.toml", "--bundle", "b", "--raw-key-file", "r"];
    wrong(&both, "cannot be used with");
    let agent = ["pki", "issue", "agent", "node-1", "--dir", "."];
    wrong(&agent, "error[usage]: the certificate of an agent must name the hosts");
}

#[test]
fn values_that_cannot_be() {
    wrong(&["rotation", "status", "latest"], "is not a valid rotation id");
    wrong(&["rotation", "status", "-o", "yaml"], "possible values: table, json");
    wrong(&["rotation", "plan", "--hold-at", "approval"], "possible values: distribute");
    wrong(&["node", "remove", "Node_1"], "is not a valid node id");
    wrong(&["demo", "--coordinators", "2"], "use 1, 3 or 5");
    wrong(&["demo", "--nodes", "0"], "0 is not in");
    wrong(&["demo", "--database", "oracle"], "use sqlite, postgres, mariadb");
    wrong(&["demo", "--database", "oracle://db/vault"], "error[usage]: --database takes sqlite, postgres, mariadb");
    wrong(&["key", "generate", "--farm", "a b", "--out", "f"], "\"a b\" is no valid farm: use 1 to 63 of a-z");
    wrong(&["demo", "--fail", "agent"], "KIND@PHASE");
    wrong(&["demo", "--fail", "sun@verify"], "nothing that can be broken");
    wrong(&["demo", "--fail", "agent@lunch"], "nothing can be broken at");
    wrong(&["demo", "--fail", "database@verify"], "SQLite has none");
    wrong(&["pki", "issue", "king", "arthur", "--dir", "."], "possible values: coordinator, agent, operator, viewer");
}

#[test]
fn options_that_exclude_each_other() {
    wrong(&["key", "inspect", "f", "--password-file", "p", "--password-fd", "3"], "cannot be used with");
    let start = ["rotation", "start", "--bundle", "n", "--current-bundle", "c"];
    wrong(&[&start[..], &["--wait", "--detach"]].concat(), "cannot be used with");
    let twice = ["--password-file", "-", "--current-password-file", "-"];
    wrong(&[&start[..], &twice].concat(), "both passwords cannot come from standard input");
}

#[test]
fn where_the_coordinators_are_must_be_said() {
    wrong(&["node", "list"], "it is not said where the coordinators are");
}

#[test]
fn a_password_is_taken_neither_from_argv_nor_from_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("new.bundle");
    let arguments = ["key", "generate", "--farm", "demo", "--out", out.to_str().expect("UTF-8")];
    wrong(&[&arguments[..], &["--password", "hunter2"]].concat(), "unexpected argument '--password'");
    let ran = keyturn()
        .args(arguments)
        .env("KEYTURN_PASSWORD", "hunter2")
        .env("PASSWORD", "hunter2")
        .output()
        .expect("the binary runs");
    crate::support::Ran::from(ran).failed(2, &["there is no terminal to ask for a password", "--password-file"]);
    assert!(!out.exists());
}

#[test]
fn version_and_help_are_data() {
    assert_eq!(run(["--version"]).done(), format!("keyturn {}\n", env!("CARGO_PKG_VERSION")));
    assert!(run(["--help"]).done().contains("Exit codes: 0 done;"));
}
