//! The verbs about the cluster of coordinators, with real processes: what they print, what they refuse, and the form that
//! runs a coordinator beside them.

use std::time::{Duration, Instant};

use crate::farm::{Farm, Running, free_port};
use crate::support::run;

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

/// Starts a second coordinator that waits to be added; answers it with its address.
fn second(farm: &Farm) -> (Running, String) {
    let port = free_port();
    run(["pki", "issue", "coordinator", "2", "--host", "127.0.0.1", "--dir", &farm.path("")]).done();
    farm.write(
        "coordinator-2.toml",
        &format!(
            "id = 2\njoin = true\nfarm = \"demo\"\nlisten = \"127.0.0.1:{port}\"\ndata_dir = \"data-2\"\n\
             [tls]\nca = \"ca.pem\"\ncertificate = \"coordinator-2.pem\"\nkey = \"coordinator-2.key\"\n"
        ),
    );
    let running = farm.coordinator_of("coordinator-2.toml", "log-2");
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < BOUND, "it listens in time");
        std::thread::sleep(Duration::from_millis(20));
    }
    (running, format!("https://127.0.0.1:{port}"))
}

#[test]
fn coordinators_come_and_go_by_verbs() {
    let farm = Farm::new();
    let mut first = farm.coordinator();
    let one = farm.as_viewer(&["coordinator", "list", "-o", "json"]).json();
    assert_eq!(one[0]["id"], 1);
    assert_eq!((&one[0]["role"], &one[0]["reachable"]), (&"leader".into(), &true.into()));

    let as_operator = |arguments: &[&str]| farm.as_operator(&[&["coordinator"], arguments].concat());
    as_operator(&["add", "2=https://127.0.0.1:9"]).failed(1, &["error[replica-unreachable]", "join = true"]);
    as_operator(&["remove", "1"]).failed(1, &["error[replica-count]", "no coordinator would be left"]);
    as_operator(&["replace", "7", "8=https://127.0.0.1:9"]).failed(1, &["error[unknown-replica]", "coordinator list"]);
    farm.as_viewer(&["coordinator", "remove", "1"]).failed(1, &["error[role-denied]"]);

    let (_second, address) = second(&farm);
    let added = as_operator(&["add", &format!("2={address}"), "-o", "json"]);
    assert!(added.stderr.contains("operator.toml"), "{}", added.stderr);
    assert_eq!(added.json().as_array().map(Vec::len), Some(2));
    assert!(as_operator(&["list"]).done().contains("voter"));

    // The first one goes, also from the operator's own list of addresses: the others are known by then.
    as_operator(&["remove", "1"]).done();
    let left = run([
        &["coordinator", "list", "-o", "json", "--coordinators", &address][..],
        &["--config", &farm.path("operator-alice.toml")],
    ]
    .concat())
    .json();
    assert_eq!((left.as_array().map(Vec::len), &left[0]["id"]), (Some(1), &2.into()));
    let begun = Instant::now();
    let log = || std::fs::read_to_string(farm.path("log")).expect("the log is there");
    while !log().contains("was removed from the cluster") {
        assert!(begun.elapsed() < BOUND, "{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn the_form_that_runs_a_coordinator_stands_beside_the_verbs() {
    run(["coordinator"]).failed(2, &["--config <FILE>"]);
    run(["coordinator", "add"]).failed(2, &["<NUMBER=ADDRESS>"]);
    run(["coordinator", "add", "2=127.0.0.1:7002"]).failed(2, &["4=https://host:port"]);
    run(["coordinator", "replace", "1"]).failed(2, &["<NUMBER=ADDRESS>"]);
    run(["coordinator", "--config", "coordinator.toml", "list"]).failed(2, &["cannot be used with"]);
    run(["coordinator", "list"]).failed(2, &["it is not said where the coordinators are"]);
}
