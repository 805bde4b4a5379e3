//! Start, the decision to admit, Admit and Completed: everything up to and past the point of no return.

use rotation::{
    Answer, DatabaseIdentity, DatabasePosition, Direction, Epoch, Event, FaultCode, Outcome, Phase, Work, decisions,
};

use crate::support::{Farm, NEW, OLD, check, node, position};

/// The fence is lifted.
fn lifted(nodes: usize) -> Farm {
    let mut farm = Farm::at(nodes, Phase::Start);
    farm.answer("node-1 lift-fence");
    farm
}

#[test]
fn the_fence_is_lifted_at_the_recorded_position_before_anything_starts() {
    let farm = Farm::at(2, Phase::Start);
    check(&farm, "forward:start", &["node-1 lift-fence"]);
    let expected = Work::LiftFence { direction: Direction::Forward, position: Some(position()) };
    assert_eq!(farm.find("node-1 lift-fence").work, expected);
}

#[test]
fn a_database_that_lost_history_undoes_it() {
    let mut farm = Farm::at(2, Phase::Start);
    farm.fail("node-1 lift-fence", FaultCode::DatabasePosition);
    assert_eq!(farm.course(), "undo:turn-back");
}

#[test]
fn a_database_that_lost_history_while_instances_came_up_undoes_it_and_nobody_is_admitted() {
    let losses = [
        DatabasePosition { timeline: 2, ..position() },
        DatabasePosition { position: position().position - 1, ..position() },
        DatabasePosition {
            identity: DatabaseIdentity { identity: "another".to_owned(), ..position().identity },
            ..position()
        },
    ];
    for now in losses {
        let mut farm = lifted(1);
        farm.answer("node-1 start-instance");
        check(&farm, "forward:start", &["node-1 record-position"]);
        assert_eq!(decisions(&farm.state), []);
        farm.answer_with("node-1 record-position", Answer::PositionRecorded(now));
        assert_eq!(farm.course(), "undo:turn-back");
        assert_eq!(farm.fault_codes(), [FaultCode::DatabasePosition]);
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
    }
    let mut farm = lifted(1);
    farm.answer("node-1 start-instance");
    let later = DatabasePosition { position: position().position + 1, ..position() };
    farm.answer_with("node-1 record-position", Answer::PositionRecorded(later));
    assert_eq!(decisions(&farm.state).len(), 1, "history goes on");
}

#[test]
fn every_instance_is_started_with_the_new_key_and_none_is_admitted() {
    let mut farm = lifted(2);
    check(&farm, "forward:start", &["node-1 start-instance", "node-2 start-instance"]);
    assert_eq!(farm.find("node-2 start-instance").work, Work::StartInstance { key: NEW });
    farm.answer("node-1 start-instance");
    assert_eq!(decisions(&farm.state), []);
    farm.answer("node-2 start-instance");
    check(&farm, "forward:start", &["node-1 record-position"]);
    assert_eq!(decisions(&farm.state), []);
    farm.answer("node-1 record-position");
    check(&farm, "forward:start", &[]);
    let epoch = farm.rotation().epoch;
    assert_eq!(decisions(&farm.state), [Event::AdmitDecided { rotation: farm.id, epoch }]);
}

#[test]
fn an_instance_that_opens_the_canary_with_another_key_undoes_it() {
    let mut farm = lifted(2);
    farm.answer_with("node-2 start-instance", Answer::InstanceStarted { key: OLD });
    assert_eq!(farm.course(), "undo:turn-back");
    assert_eq!(farm.fault_codes(), [FaultCode::Canary]);
    assert_eq!(farm.rotation().faults[0].node, Some(node(2)));
}

#[test]
fn an_instance_that_cannot_start_undoes_it() {
    let mut farm = lifted(2);
    farm.fail("node-1 start-instance", FaultCode::Instance);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_node_that_falls_silent_while_starting_is_held() {
    let mut farm = lifted(2);
    farm.answer("node-1 start-instance");
    farm.miss("node-2 start-instance");
    assert!(farm.held(2));
    farm.answer("node-1 record-position");
    assert_eq!(decisions(&farm.state).len(), 1);
    farm.go_to("ended:completed");
    assert!(farm.held(2), "it must follow before it is admitted");
}

#[test]
fn a_decision_before_its_time_or_of_another_epoch_changes_nothing() {
    let mut farm = lifted(1);
    let decided = |epoch| Event::AdmitDecided { rotation: crate::support::rotation_id(1), epoch };
    let epoch = farm.rotation().epoch;
    assert_eq!(farm.say(decided(epoch)), Outcome::Unchanged);
    farm.answer("node-1 start-instance");
    assert_eq!(farm.say(decided(epoch)), Outcome::Unchanged);
    farm.answer("node-1 record-position");
    assert_eq!(farm.say(decided(epoch.next())), Outcome::Unchanged);
    assert_eq!(farm.say(decided(Epoch::new(0))), Outcome::Unchanged);
    assert_eq!(farm.say(decided(epoch)), Outcome::Changed);
    assert_eq!(farm.say(decided(epoch)), Outcome::Unchanged);
    check(&farm, "forward:admit", &["node-1 admit-instance"]);
}

#[test]
fn a_pause_holds_the_decision_back() {
    let mut farm = lifted(1);
    farm.answer("node-1 start-instance");
    farm.answer("node-1 record-position");
    let due = decisions(&farm.state).remove(0);
    farm.say(farm.pause_event());
    assert_eq!(decisions(&farm.state), []);
    assert_eq!(farm.say(due), Outcome::Unchanged);
    farm.resume();
    assert_eq!(decisions(&farm.state).len(), 1);
}

#[test]
fn a_failure_in_admit_is_recorded_and_tried_again() {
    let mut farm = Farm::at(2, Phase::Admit);
    farm.fail("node-1 admit-instance", FaultCode::Instance);
    check(&farm, "forward:admit", &["node-1 admit-instance", "node-2 admit-instance"]);
    assert_eq!(farm.fault_codes(), [FaultCode::Instance]);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
}

#[test]
fn a_node_that_misses_admit_is_held_once_another_is_admitted() {
    let mut farm = Farm::at(2, Phase::Admit);
    farm.miss("node-1 admit-instance");
    assert!(!farm.held(1));
    farm.answer("node-2 admit-instance");
    farm.miss("node-1 admit-instance");
    assert!(farm.held(1));
    check(&farm, "forward:completed", &["node-2 close-ledger"]);
}

#[test]
fn closing_the_ledger_is_tried_by_one_after_the_other_for_ever() {
    let mut farm = Farm::at(2, Phase::Completed);
    for _ in 0..5 {
        farm.miss("node-1 close-ledger");
        check(&farm, "forward:completed", &["node-2 close-ledger"]);
        farm.fail("node-2 close-ledger", FaultCode::Database);
        check(&farm, "forward:completed", &["node-1 close-ledger"]);
    }
    farm.answer("node-1 close-ledger");
    check(&farm, "ended:completed", &[]);
}

#[test]
fn a_completed_rotation_leaves_every_node_on_the_new_key_and_frees_the_way() {
    let mut farm = Farm::requested(3);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
    assert!(farm.state.nodes.values().all(|node| node.key == Some(NEW)));
    assert!(farm.rotation().nodes.values().all(|progress| progress.admitted_at.is_some()));
    assert_eq!(farm.state.active, None);
    assert!(farm.rotation().ended_at.is_some());
    let names: Vec<&str> = farm.rotation().times.iter().map(|time| time.name.as_str()).collect();
    assert_eq!(names, Phase::ALL.map(Phase::as_str));
    assert!(farm.rotation().times.iter().all(|time| time.ended.is_some()));
    assert!(farm.rotation().faults.is_empty());
}
