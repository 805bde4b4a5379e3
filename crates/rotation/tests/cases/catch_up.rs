//! Held nodes: after the end they follow, step by step, and are admitted only when they hold the live key.

use rotation::{Answer, FaultCode, Outcome, Phase, RejectionCode, RotationOptions};

use crate::support::{Farm, NEW, OLD, node, rotation_id};

/// Completed, with node 2 held since Activate.
fn completed_without_node_2() -> Farm {
    let mut farm = Farm::at(2, Phase::Activate);
    farm.miss("node-2 activate-key");
    farm.go_to("ended:completed");
    farm
}

/// Rolled back, with node 2 held since its key file could not be restored.
fn rolled_back_without_node_2() -> Farm {
    let mut farm = Farm::undoing(2, Phase::Activate, "restore-keys");
    farm.miss("node-2 restore-key");
    farm.go_to("ended:rolled-back");
    farm
}

#[track_caller]
fn check_sequence(farm: &mut Farm, sequence: &[&str]) {
    for work in sequence {
        assert!(farm.held(2), "before {work}");
        assert_eq!(farm.pending(), [*work]);
        farm.answer(work);
    }
    assert!(!farm.held(2));
    assert_eq!(farm.pending(), [""; 0]);
}

#[test]
fn after_completion_it_takes_the_new_key() {
    let mut farm = completed_without_node_2();
    assert_eq!(farm.state.nodes[&node(2)].key, Some(OLD));
    check_sequence(
        &mut farm,
        &["node-2 take-offline", "node-2 activate-key", "node-2 start-instance", "node-2 admit-instance"],
    );
    assert_eq!(farm.state.nodes[&node(2)].key, Some(NEW));
    assert!(farm.rotation().nodes[&node(2)].started);
    assert!(farm.rotation().nodes[&node(2)].admitted_at.is_some());
}

#[test]
fn after_a_rollback_it_takes_the_old_key_back() {
    let mut farm = rolled_back_without_node_2();
    check_sequence(
        &mut farm,
        &[
            "node-2 take-offline",
            "node-2 restore-key",
            "node-2 start-instance",
            "node-2 admit-instance",
            "node-2 discard-key",
        ],
    );
    assert_eq!(farm.state.nodes[&node(2)].key, Some(OLD));
}

#[test]
fn after_a_rollback_from_distribute_it_stays_online_and_discards() {
    let mut farm = Farm::undoing(2, Phase::Distribute, "discard-keys");
    farm.miss("node-2 discard-key");
    farm.go_to("ended:rolled-back");
    check_sequence(&mut farm, &["node-2 discard-key"]);
}

#[test]
fn a_node_that_serves_again_already_is_not_taken_offline() {
    let mut farm = Farm::undoing(2, Phase::Quiesce, "discard-keys");
    farm.miss("node-2 discard-key");
    farm.go_to("ended:rolled-back");
    check_sequence(&mut farm, &["node-2 discard-key"]);
}

#[test]
fn a_node_held_while_being_started_begins_from_offline() {
    let mut farm = Farm::at(2, Phase::Admit);
    farm.answer("node-1 admit-instance");
    farm.miss("node-2 admit-instance");
    farm.go_to("ended:completed");
    check_sequence(
        &mut farm,
        &["node-2 take-offline", "node-2 activate-key", "node-2 start-instance", "node-2 admit-instance"],
    );
}

#[test]
fn a_failure_is_recorded_and_it_begins_again() {
    let mut farm = completed_without_node_2();
    farm.answer("node-2 take-offline");
    farm.answer("node-2 activate-key");
    for _ in 0..3 {
        farm.fail("node-2 start-instance", FaultCode::Instance);
        assert_eq!(farm.pending(), ["node-2 take-offline"]);
        farm.answer("node-2 take-offline");
        farm.miss("node-2 activate-key");
        assert_eq!(farm.pending(), ["node-2 take-offline"]);
        farm.answer("node-2 take-offline");
        farm.answer("node-2 activate-key");
    }
    let instance = farm.fault_codes().iter().filter(|code| **code == FaultCode::Instance).count();
    assert_eq!(instance, 1, "a fault that repeats is remembered once");
    farm.go_on();
    assert!(!farm.held(2));
}

#[test]
fn the_wrong_key_does_not_let_it_in() {
    let mut farm = completed_without_node_2();
    farm.answer("node-2 take-offline");
    farm.answer_with("node-2 activate-key", Answer::KeyActivated { key: OLD });
    assert_eq!(farm.pending(), ["node-2 take-offline"]);
    farm.answer("node-2 take-offline");
    farm.answer("node-2 activate-key");
    farm.answer_with("node-2 start-instance", Answer::InstanceStarted { key: OLD });
    assert!(farm.held(2));
    assert_eq!(farm.pending(), ["node-2 take-offline"]);
}

#[test]
fn no_rotation_begins_while_a_node_is_held() {
    let mut farm = completed_without_node_2();
    let event = rotation::Event::RotationRequested {
        rotation: rotation_id(2),
        by: "alice".to_owned(),
        options: RotationOptions::default(),
    };
    let rejection = farm.refused(event.clone());
    assert_eq!(rejection.code, RejectionCode::NodeHeld);
    assert!(rejection.message.contains("node-2"));
    farm.go_on();
    assert_eq!(farm.say(event), Outcome::RotationRequested(rotation_id(2)));
}

#[test]
fn a_removed_node_need_not_follow() {
    let mut farm = completed_without_node_2();
    let late = farm.done_event("node-2 take-offline");
    farm.say(rotation::Event::NodeRemoved { node: node(2) });
    assert_eq!(farm.pending(), [""; 0]);
    assert_eq!(farm.say(late), Outcome::Unchanged);
}

#[test]
fn a_held_node_is_left_alone_while_the_rotation_goes_on() {
    let mut farm = Farm::at(3, Phase::Activate);
    farm.miss("node-3 activate-key");
    while farm.course() != "ended:completed" {
        assert!(!farm.pending().iter().any(|work| work.starts_with("node-3")), "{:?}", farm.pending());
        farm.turn();
    }
}

#[test]
fn an_answer_to_something_else_is_not_believed() {
    let mut farm = completed_without_node_2();
    farm.answer("node-2 take-offline");
    farm.answer("node-2 activate-key");
    farm.answer_with("node-2 start-instance", Answer::WentOffline);
    assert_eq!(farm.pending(), ["node-2 take-offline"]);
    assert!(!farm.rotation().nodes[&node(2)].started);
}
