//! Activate: the key becomes current everywhere; a node that is known to be offline may be held instead.

use rotation::{Answer, FaultCode, Phase, Work};

use crate::support::{Farm, NEW, OLD, check, node};

#[test]
fn the_time_in_the_dated_name_is_fixed_when_the_phase_begins() {
    let farm = Farm::at(2, Phase::Activate);
    let at = farm.rotation().activated_at.expect("the phase began");
    for assignment in rotation::pending(&farm.state) {
        assert_eq!(assignment.work, Work::ActivateKey { at });
    }
}

#[test]
fn start_waits_for_every_node() {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.answer("node-2 activate-key");
    check(&farm, "forward:activate", &["node-1 activate-key"]);
    assert_eq!(farm.state.nodes[&node(2)].key, Some(NEW));
    farm.answer("node-1 activate-key");
    check(&farm, "forward:start", &["node-1 lift-fence"]);
}

#[test]
fn another_key_than_the_new_one_undoes_it() {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.answer_with("node-1 activate-key", Answer::KeyActivated { key: OLD });
    assert_eq!(farm.course(), "undo:turn-back");
    assert_eq!(farm.fault_codes(), [FaultCode::KeyStore]);
}

#[test]
fn a_node_that_cannot_write_its_store_undoes_it() {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.answer("node-1 activate-key");
    farm.fail("node-2 activate-key", FaultCode::KeyStore);
    farm.go_to("undo:restore-keys");
    check(&farm, "undo:restore-keys", &["node-1 restore-key", "node-2 restore-key"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(farm.state.nodes.values().all(|node| node.key == Some(OLD)));
}

#[test]
fn a_node_that_cannot_be_reached_is_held_and_the_barrier_skips_it() {
    let mut farm = Farm::at(3, Phase::Activate);
    farm.answer("node-1 activate-key");
    farm.answer("node-3 activate-key");
    farm.miss("node-2 activate-key");
    assert!(farm.held(2));
    check(&farm, "forward:start", &["node-1 lift-fence"]);
    farm.answer("node-1 lift-fence");
    check(&farm, "forward:start", &["node-1 start-instance", "node-3 start-instance"]);
}

#[test]
fn a_held_lead_hands_over() {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.answer("node-2 activate-key");
    farm.miss("node-1 activate-key");
    check(&farm, "forward:start", &["node-2 lift-fence"]);
}

#[test]
fn the_last_node_is_not_held() {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.miss("node-1 activate-key");
    farm.miss("node-2 activate-key");
    check(&farm, "undo:turn-back", &["node-2 turn-back"]);
    assert!(farm.held(1) && !farm.held(2));
}

#[test]
fn the_only_node_is_not_held() {
    let mut farm = Farm::at(1, Phase::Activate);
    farm.miss("node-1 activate-key");
    assert_eq!(farm.course(), "undo:turn-back");
    assert!(!farm.held(1));
}

#[test]
fn a_late_answer_of_a_held_node_changes_nothing() {
    let mut farm = Farm::at(2, Phase::Activate);
    let late = farm.done_event("node-2 activate-key");
    farm.miss("node-2 activate-key");
    assert_eq!(farm.say(late), rotation::Outcome::Unchanged);
    assert!(farm.held(2));
}
