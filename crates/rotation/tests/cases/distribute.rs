//! Distribute: every node proves the new key before anything goes offline.

use rotation::{Answer, FaultCode, Phase};

use crate::support::{Farm, check, hash, node, possession};

#[test]
fn quiesce_waits_for_every_proof() {
    let mut farm = Farm::at(3, Phase::Distribute);
    farm.answer("node-3 store-key");
    farm.answer("node-1 store-key");
    check(&farm, "forward:distribute", &["node-2 store-key"]);
    farm.answer("node-2 store-key");
    check(&farm, "forward:quiesce", &["node-1 take-offline", "node-2 take-offline", "node-3 take-offline"]);
}

#[test]
fn a_wrong_proof_undoes_it_and_names_the_node() {
    let mut farm = Farm::at(2, Phase::Distribute);
    farm.answer_with("node-2 store-key", Answer::KeyStored { possession: hash("a guess") });
    check(&farm, "undo:discard-keys", &["node-1 discard-key", "node-2 discard-key"]);
    assert_eq!(farm.fault_codes(), [FaultCode::Bundle]);
    assert_eq!(farm.rotation().faults[0].node, Some(node(2)));
}

#[test]
fn the_proof_of_another_node_is_wrong() {
    let mut farm = Farm::at(2, Phase::Distribute);
    let stolen = possession(farm.id, &node(1), crate::support::NEW);
    farm.answer_with("node-2 store-key", Answer::KeyStored { possession: stolen });
    assert_eq!(farm.course(), "undo:discard-keys");
}

#[test]
fn the_hash_of_the_proof_is_not_the_proof() {
    // The hash stands in the statement that every coordinator can read.
    let mut farm = Farm::at(1, Phase::Distribute);
    let public = farm.rotation().statement().expect("started").nodes[&node(1)].possession_digest;
    farm.answer_with("node-1 store-key", Answer::KeyStored { possession: public });
    assert_eq!(farm.course(), "undo:discard-keys");
}

#[test]
fn the_fault_of_a_wrong_proof_tells_nothing_of_the_right_one() {
    let mut farm = Farm::at(2, Phase::Distribute);
    let right = possession(farm.id, &node(2), crate::support::NEW).to_string();
    let expected = farm.rotation().statement().expect("started").nodes[&node(2)].possession_digest.to_string();
    let guess = hash("a guess");
    farm.answer_with("node-2 store-key", Answer::KeyStored { possession: guess });
    let told = format!("{:?}", farm.rotation().faults);
    for secret in [right.clone(), expected, guess.to_string()] {
        assert!(!told.contains(&secret), "{told}");
    }
    let kept = serde_json::to_string(&farm.state).expect("a state has a JSON form");
    assert!(!kept.contains(&right), "coordinators hold its hash only");
}

#[test]
fn a_node_that_cannot_open_its_bundle_costs_no_downtime() {
    let mut farm = Farm::at(2, Phase::Distribute);
    farm.fail("node-1 store-key", FaultCode::Bundle);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(farm.rotation().nodes.values().all(|progress| progress.offline_at.is_none()));
}

#[test]
fn a_node_that_cannot_be_reached_undoes_it() {
    let mut farm = Farm::at(2, Phase::Distribute);
    farm.miss("node-1 store-key");
    check(&farm, "undo:discard-keys", &["node-1 discard-key", "node-2 discard-key"]);
    assert!(!farm.held(1));
}
