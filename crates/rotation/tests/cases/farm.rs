//! The farm: founding, enrolling and removing, the clamped clock, the rotations that are remembered.

use rotation::{ClusterId, Entry, Event, FaultCode, Millis, Outcome, Phase, RejectionCode, State, UndoStep, apply};

use crate::support::{Farm, cluster, node, rotation_id};

fn enroll(number: usize, address: &str) -> Event {
    Event::NodeEnrolled { node: node(number), address: address.to_owned() }
}

#[test]
fn a_farm_is_founded_once() {
    let mut farm = Farm::new(0);
    let again = Event::FarmFounded { cluster: cluster(), farm: "demo".to_owned() };
    assert_eq!(farm.say(again), Outcome::Unchanged);
    let other = Event::FarmFounded { cluster: cluster(), farm: "other".to_owned() };
    assert_eq!(farm.refused(other).code, RejectionCode::AlreadyFounded);
    let id: ClusterId = "11111111-9dc0-41d1-b245-5ffdce74fad2".parse().unwrap();
    let other = Event::FarmFounded { cluster: id, farm: "demo".to_owned() };
    assert_eq!(farm.refused(other).code, RejectionCode::AlreadyFounded);
}

#[test]
fn nothing_is_enrolled_or_rotated_before_the_founding() {
    let mut state = State::default();
    let entry = Entry { at: Millis::new(5), event: enroll(1, "https://a:1") };
    assert_eq!(apply(&mut state, &entry).unwrap_err().code, RejectionCode::NotFounded);
    assert_eq!(state, State::default());
    let event = Event::RotationRequested { rotation: rotation_id(1), by: "a".to_owned(), options: Default::default() };
    let rejection = apply(&mut state, &Entry { at: Millis::new(5), event }).unwrap_err();
    assert_eq!(rejection.code, RejectionCode::NotFounded);
}

#[test]
fn a_node_can_move_and_enrolling_twice_changes_nothing() {
    let mut farm = Farm::new(1);
    assert_eq!(farm.say(enroll(1, "https://127.0.0.1:7101")), Outcome::Unchanged);
    assert_eq!(farm.say(enroll(1, "https://elsewhere:7101")), Outcome::Changed);
    assert_eq!(farm.state.nodes[&node(1)].address, "https://elsewhere:7101");
    assert_eq!(farm.say(enroll(2, "https://[::1]:7101")), Outcome::Changed);
}

#[test]
fn an_address_that_is_none_is_refused() {
    let addresses =
        ["", "http://a:1", "https://a", "https://:1", "https://a:0", "https://a:99999", "https://a:x", "https://a/b:1"];
    for address in addresses {
        assert_eq!(Farm::new(0).refused(enroll(1, address)).code, RejectionCode::Address, "{address}");
    }
}

#[test]
fn a_farm_has_a_bounded_number_of_nodes() {
    let mut farm = Farm::new(256);
    assert_eq!(farm.refused(enroll(257, "https://a:1")).code, RejectionCode::TooManyNodes);
    assert_eq!(farm.say(enroll(256, "https://a:1")), Outcome::Changed);
}

#[test]
fn joining_and_leaving_are_refused_in_every_phase() {
    for phase in Phase::ALL {
        let mut farm = Farm::at(1, phase);
        assert_eq!(farm.refused(enroll(2, "https://a:1")).code, RejectionCode::RotationUnderWay);
        let remove = Event::NodeRemoved { node: node(1) };
        assert_eq!(farm.refused(remove).code, RejectionCode::RotationUnderWay);
    }
}

#[test]
fn joining_and_leaving_are_refused_while_a_rotation_is_undone_or_stuck() {
    let check_refused = |farm: &mut Farm| {
        for event in [enroll(3, "https://a:1"), Event::NodeRemoved { node: node(2) }] {
            assert_eq!(farm.refused(event).code, RejectionCode::RotationUnderWay, "{}", farm.course());
        }
    };
    for step in UndoStep::ALL {
        let mut farm = Farm::undoing(2, Phase::Start, step.as_str());
        check_refused(&mut farm);
        let work = farm.pending().remove(0);
        farm.fail(&work, FaultCode::Internal);
        assert_eq!(farm.course(), format!("stuck:{}", step.as_str()));
        check_refused(&mut farm);
        farm.retry();
        farm.go_on();
        assert_eq!(farm.say(enroll(3, "https://a:1")), Outcome::Changed, "after the end it may join");
    }
}

#[test]
fn removing_what_is_not_there_is_refused() {
    assert_eq!(Farm::new(1).refused(Event::NodeRemoved { node: node(2) }).code, RejectionCode::UnknownNode);
}

#[test]
fn time_never_runs_backwards() {
    let mut farm = Farm::at(1, Phase::Distribute);
    let before = farm.state.now;
    let late = Entry { at: Millis::new(1), event: farm.done_event("node-1 store-key") };
    apply(&mut farm.state, &late).unwrap();
    assert_eq!(farm.state.now, before);
    assert_eq!(farm.rotation().times.last().unwrap().started, before);
}

#[test]
fn the_newest_hundred_ended_rotations_are_remembered() {
    let mut farm = Farm::new(1);
    for number in 1..=105 {
        farm.id = rotation_id(number);
        farm.request(Default::default());
        farm.abort();
    }
    assert_eq!(farm.state.rotations.len(), 100);
    assert!(!farm.state.rotations.contains_key(&rotation_id(5)));
    assert!(farm.state.rotations.contains_key(&rotation_id(6)));
}

#[test]
fn the_newest_hundred_faults_are_remembered() {
    let mut farm = Farm::at(1, Phase::Completed);
    for number in 0..105 {
        let assignment = farm.find("node-1 close-ledger").id();
        let mut fault = crate::support::fault(FaultCode::Database);
        fault.message = number.to_string();
        farm.say(Event::WorkFailed { assignment, fault });
    }
    assert_eq!(farm.rotation().faults.len(), 100);
    assert_eq!(farm.rotation().faults[99].message, "104");
}
