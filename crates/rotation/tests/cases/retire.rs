//! Retirement: the originals that a completed rotation kept are dropped on a signed word, once, by one node.

use rotation::{Event, FaultCode, Outcome, Phase, RejectionCode, RotationOptions, Work};

use crate::support::{Farm, check, hash, node, retirement, rotation_id};

/// A completed rotation that kept two tables.
fn completed(nodes: usize) -> Farm {
    let mut farm = Farm::at_with_shadows(nodes, Phase::Completed);
    farm.go_to("ended:completed");
    farm
}

#[test]
fn one_node_drops_what_was_kept_and_then_nothing_is() {
    let mut farm = completed(2);
    assert_eq!(farm.rotation().kept_tables(), ["connections", "entries"]);
    let epoch = farm.state.epoch;
    farm.say(farm.retire_event());
    assert!(farm.state.epoch > epoch && farm.rotation().epoch == farm.state.epoch, "agents obey no epoch of before");
    check(&farm, "ended:completed", &["node-1 retire-tables"]);
    assert_eq!(farm.rotation().kept_tables(), ["connections", "entries"], "until they are gone");
    farm.answer("node-1 retire-tables");
    check(&farm, "ended:completed", &[]);
    assert!(farm.rotation().kept_tables().is_empty());
    assert!(farm.rotation().retiring.as_ref().is_some_and(|retiring| retiring.done.is_some()));
    assert_eq!(farm.say(farm.retire_event()), Outcome::Unchanged);
}

#[test]
fn the_same_word_again_changes_nothing_and_another_replaces_it() {
    let mut farm = completed(1);
    farm.say(farm.retire_event());
    assert_eq!(farm.say(farm.retire_event()), Outcome::Unchanged);
    let Event::RetireRequested { rotation, by, mut word } = farm.retire_event() else { panic!("a retirement") };
    word.signature = vec![9];
    assert_eq!(farm.say(Event::RetireRequested { rotation, by, word }), Outcome::Changed);
    check(&farm, "ended:completed", &["node-1 retire-tables"]);
}

#[test]
fn it_is_refused_before_the_end_and_after_an_undo() {
    for phase in Phase::ALL {
        let farm = &mut Farm::at_with_shadows(1, phase);
        assert_eq!(farm.refused(farm.retire_event()).code, RejectionCode::WrongPhase);
    }
    let mut farm = Farm::at_with_shadows(1, Phase::Start);
    farm.abort();
    farm.go_on();
    assert_eq!(farm.refused(farm.retire_event()).code, RejectionCode::WrongPhase);
}

#[test]
fn it_is_refused_when_nothing_is_kept() {
    let mut farm = Farm::at(1, Phase::Completed);
    farm.go_to("ended:completed");
    assert_eq!(farm.refused(farm.retire_event()).code, RejectionCode::NothingKept);
}

#[test]
fn a_word_for_something_else_is_refused() {
    let mut farm = completed(1);
    let digest = farm.rotation().plan_digest.expect("there is a plan");
    let mut unreadable = retirement(farm.id, digest);
    unreadable.retirement.pop();
    let mut other_farm = retirement(farm.id, digest);
    other_farm.retirement = String::from_utf8(other_farm.retirement).unwrap().replace("demo", "prod").into_bytes();
    let mut other_format = retirement(farm.id, digest);
    other_format.retirement =
        String::from_utf8(other_format.retirement).unwrap().replace("\"format\":1", "\"format\":9").into_bytes();
    let words = [
        unreadable,
        other_farm,
        other_format,
        retirement(rotation_id(9), digest),
        retirement(farm.id, hash("another plan")),
    ];
    for word in words {
        let event = Event::RetireRequested { rotation: farm.id, by: "alice".to_owned(), word };
        assert_eq!(farm.refused(event).code, RejectionCode::Retirement);
    }
}

#[test]
fn no_rotation_begins_and_no_node_leaves_while_tables_are_being_dropped_and_the_other_way_round() {
    let mut farm = completed(2);
    let retire = farm.retire_event();
    farm.say(retire.clone());
    let request = Event::RotationRequested {
        rotation: rotation_id(2),
        by: "bob".to_owned(),
        options: RotationOptions::default(),
    };
    assert_eq!(farm.refused(request.clone()).code, RejectionCode::Retiring);
    assert_eq!(farm.refused(Event::NodeRemoved { node: node(2) }).code, RejectionCode::Retiring);
    farm.answer("node-1 retire-tables");
    farm.say(request.clone());

    let mut farm = completed(2);
    farm.say(request);
    assert_eq!(farm.refused(retire).code, RejectionCode::RotationUnderWay);
}

#[test]
fn an_earlier_rotation_can_be_retired_after_later_ones() {
    let mut farm = completed(2);
    let first = farm.id;
    farm.id = rotation_id(2);
    farm.request(RotationOptions::default());
    farm.go_on();
    farm.id = first;
    farm.say(farm.retire_event());
    check(&farm, "ended:completed", &["node-1 retire-tables"]);
    farm.answer("node-1 retire-tables");
    assert!(farm.rotation().kept_tables().is_empty());
}

#[test]
fn a_node_that_is_silent_hands_over_and_with_the_last_it_must_be_asked_for_again() {
    let mut farm = completed(2);
    farm.say(farm.retire_event());
    farm.miss("node-1 retire-tables");
    check(&farm, "ended:completed", &["node-2 retire-tables"]);
    farm.miss("node-2 retire-tables");
    check(&farm, "ended:completed", &[]);
    assert_eq!(farm.rotation().retiring, None);
    assert_eq!(farm.rotation().kept_tables().len(), 2);
    farm.say(farm.retire_event());
    farm.answer("node-1 retire-tables");
    assert!(farm.rotation().kept_tables().is_empty());
}

#[test]
fn a_database_that_refuses_ends_it_with_its_reason() {
    let mut farm = completed(2);
    farm.say(farm.retire_event());
    farm.fail("node-1 retire-tables", FaultCode::Database);
    check(&farm, "ended:completed", &[]);
    assert_eq!(farm.rotation().retiring, None);
    assert_eq!(farm.fault_codes(), [FaultCode::Database]);
}

#[test]
fn a_held_node_is_not_asked_and_follows_all_the_same() {
    let mut farm = Farm::at_with_shadows(2, Phase::Activate);
    farm.answer("node-1 swap-tables");
    farm.miss("node-1 activate-key");
    farm.go_to("ended:completed");
    assert!(farm.held(1));
    farm.say(farm.retire_event());
    assert_eq!(farm.pending(), ["node-1 take-offline", "node-2 retire-tables"]);
    farm.go_on();
    assert!(!farm.held(1) && farm.rotation().kept_tables().is_empty());
}

#[test]
fn without_a_node_of_the_rotation_nobody_is_asked() {
    let mut farm = completed(1);
    let retire = farm.retire_event();
    farm.say(Event::NodeRemoved { node: node(1) });
    farm.say(Event::NodeEnrolled { node: node(2), address: "https://127.0.0.1:7102".to_owned() });
    assert_eq!(farm.refused(retire).code, RejectionCode::NoNodes);
}

#[test]
fn what_is_waited_for_is_said() {
    let mut farm = completed(1);
    farm.say(farm.retire_event());
    let waiting = rotation::waiting(&farm.state, farm.rotation());
    assert_eq!((waiting.len(), waiting[0].what.as_str()), (1, "retire-tables"));
    assert!(waiting[0].until.is_some(), "it is given up on, and then the operator is told");
    assert_eq!(rotation::pending(&farm.state)[0].work, Work::RetireTables);
}
