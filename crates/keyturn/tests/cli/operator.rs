//! The verbs that call the coordinators, against a real one: what it answers, and what an operator sees when it refuses,
//! is not there, or is not allowed to be asked.

use crate::farm::{Farm, free_port};
use crate::support::run;

#[test]
fn a_coordinator_answers_and_refuses_and_ends_when_told() {
    let farm = Farm::new();
    let mut coordinator = farm.coordinator();
    // The first call waits for the election.
    assert_eq!(farm.as_operator(&["node", "list", "-o", "json"]).json(), serde_json::json!([]));
    assert_eq!(farm.as_viewer(&["rotation", "list", "-o", "json"]).json(), serde_json::json!([]));
    assert_eq!(
        farm.as_operator(&["rotation", "list"]).done().trim_end(),
        "ID   OUTCOME   PHASE   REQUESTED   BY   DOWNTIME   NEW-KEY"
    );

    farm.as_operator(&["rotation", "plan"]).failed(1, &["error[no-nodes]", "next:"]);
    farm.as_operator(&["rotation", "status"]).failed(1, &["error[", "next:"]);
    farm.as_operator(&["rotation", "abort", "01890a5d-ac96-774b-bcce-b302099a8057"])
        .failed(1, &["error[unknown-rotation]"]);
    farm.as_operator(&["node", "remove", "node-9"]).failed(1, &["error[unknown-node]", "node-9"]);
    farm.as_viewer(&["rotation", "plan"]).failed(1, &["error[role-denied]", "viewer", "next:"]);

    let nobody = format!("https://127.0.0.1:{}", free_port());
    farm.as_operator(&["node", "enroll", "node-1", "--address", &nobody])
        .failed(5, &["error[no-connection]", "node-1"]);
    farm.as_operator(&["node", "enroll", "node-1", "--address", "node-1:7101"]).failed(2, &["https://host:port"]);

    // The flags stand in for the file.
    let (ca, certificate, key) =
        (farm.path("ca.pem"), farm.path("operator-alice.pem"), farm.path("operator-alice.key"));
    let address = format!("https://127.0.0.1:{}", farm.port);
    let flags = ["--coordinators", &address, "--ca", &ca, "--certificate", &certificate, "--key", &key];
    run([&["node", "list", "-o", "json"], &flags[..]].concat()).json();

    assert_eq!(coordinator.stop(), Some(0), "{}", std::fs::read_to_string(farm.path("log")).unwrap_or_default());
    let log = std::fs::read_to_string(farm.path("log")).expect("a log");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a line of the log is JSON");
    }
    assert!(log.contains("told to stop"), "{log}");
}

#[test]
fn without_a_connection_it_ends_after_a_bounded_wait() {
    let farm = Farm::new();
    farm.as_operator(&["node", "list"]).failed(5, &["error[no-connection]", "for 15 s", "127.0.0.1", "next:"]);
}

#[test]
fn configurations_that_cannot_be_used_name_the_file() {
    let farm = Farm::new();
    farm.write("operator-alice.toml", "coordinators = []\npassword = \"x\"\n");
    farm.as_operator(&["node", "list"]).failed(1, &["error[configuration]", "operator-alice.toml", "deploy/examples"]);
    let missing = farm.path("missing.toml");
    run(["node", "list", "--config", &missing]).failed(1, &["error[configuration]", "missing.toml"]);
    run(["coordinator", "--config", &missing]).failed(1, &["error[configuration]", "missing.toml"]);
    run(["agent", "--config", &missing]).failed(1, &["error[configuration]", "missing.toml"]);
}
