//! Request, pause, resume, retry: what is allowed when, and what is said when not.

use rotation::{Event, FaultCode, Outcome, Phase, RejectionCode, RotationOptions, UndoStep};

use crate::support::{Farm, check, leader, rotation_id};

fn request(number: u64, options: RotationOptions) -> Event {
    Event::RotationRequested { rotation: rotation_id(number), by: "bob".to_owned(), options }
}

fn hold_at(phase: Phase) -> RotationOptions {
    RotationOptions { hold_at: Some(phase), ..RotationOptions::default() }
}

#[test]
fn a_second_rotation_is_refused_in_every_phase() {
    for phase in Phase::ALL {
        let mut farm = Farm::at(1, phase);
        let rejection = farm.refused(request(2, RotationOptions::default()));
        assert_eq!(rejection.code, RejectionCode::RotationUnderWay);
        assert!(rejection.message.contains(&farm.id.to_string()));
    }
}

#[test]
fn a_second_rotation_is_refused_while_one_is_undone_or_stuck() {
    let mut farm = Farm::undoing(1, Phase::Quiesce, "turn-back");
    assert_eq!(farm.refused(request(2, RotationOptions::default())).code, RejectionCode::RotationUnderWay);
    farm.fail("node-1 turn-back", FaultCode::Database);
    assert_eq!(farm.refused(request(2, RotationOptions::default())).code, RejectionCode::RotationUnderWay);
}

#[test]
fn the_same_request_again_changes_nothing() {
    let mut farm = Farm::requested(1);
    assert_eq!(farm.say(request(1, RotationOptions::default())), Outcome::Unchanged);
    farm.abort();
    assert_eq!(farm.say(request(1, RotationOptions::default())), Outcome::Unchanged);
    check(&farm, "ended:withdrawn", &[]);
}

#[test]
fn a_farm_without_nodes_is_refused() {
    assert_eq!(Farm::new(0).refused(request(1, RotationOptions::default())).code, RejectionCode::NoNodes);
}

#[test]
fn it_holds_at_the_phase_that_was_named() {
    for phase in [
        Phase::Distribute,
        Phase::Quiesce,
        Phase::Reencrypt,
        Phase::Verify,
        Phase::Activate,
        Phase::Start,
        Phase::Admit,
    ] {
        let mut farm = Farm::new(2);
        farm.request(hold_at(phase));
        farm.go_on();
        check(&farm, &format!("forward:{}", phase.as_str()), &[]);
        assert!(farm.rotation().paused);
        farm.resume();
        assert!(!farm.pending().is_empty());
        farm.go_on();
        check(&farm, "ended:completed", &[]);
    }
}

#[test]
fn it_cannot_hold_where_holding_means_nothing() {
    for phase in [Phase::Preflight, Phase::Approval, Phase::Completed] {
        assert_eq!(Farm::new(1).refused(request(1, hold_at(phase))).code, RejectionCode::HoldAt);
    }
}

#[test]
fn a_paused_rotation_gives_out_nothing_and_does_not_move_on() {
    let mut farm = Farm::at(2, Phase::Distribute);
    let running = [farm.done_event("node-1 store-key"), farm.done_event("node-2 store-key")];
    farm.say(farm.pause_event());
    check(&farm, "forward:distribute", &[]);
    assert_eq!(farm.say(farm.pause_event()), Outcome::Unchanged);
    for answer in running {
        assert_eq!(farm.say(answer), Outcome::Changed);
    }
    check(&farm, "forward:distribute", &[]);
    farm.resume();
    check(&farm, "forward:quiesce", &["node-1 take-offline", "node-2 take-offline"]);
    assert_eq!(farm.resume(), Outcome::Unchanged);
}

#[test]
fn a_failure_while_paused_is_undone_all_the_same() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    let assignment = farm.find("node-1 take-offline").id();
    farm.say(farm.pause_event());
    farm.say(Event::WorkFailed { assignment, fault: crate::support::fault(FaultCode::Instance) });
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
}

#[test]
fn an_undo_can_be_paused() {
    let mut farm = Farm::undoing(1, Phase::Quiesce, "turn-back");
    farm.say(farm.pause_event());
    check(&farm, "undo:turn-back", &[]);
    farm.resume();
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn pausing_is_refused_where_it_means_nothing_or_too_much() {
    for (phase, code) in [
        (Phase::Approval, RejectionCode::WrongPhase),
        (Phase::Admit, RejectionCode::PointOfNoReturn),
        (Phase::Completed, RejectionCode::PointOfNoReturn),
    ] {
        let mut farm = Farm::at(1, phase);
        assert_eq!(farm.refused(farm.pause_event()).code, code);
    }
    let mut farm = Farm::requested(1);
    farm.abort();
    assert_eq!(farm.refused(farm.pause_event()).code, RejectionCode::WrongPhase);
    let resume = Event::ResumeRequested { rotation: farm.id, by: "alice".to_owned() };
    assert_eq!(farm.refused(resume).code, RejectionCode::WrongPhase);
}

#[test]
fn only_what_is_stuck_is_retried() {
    for phase in Phase::ALL {
        let mut farm = Farm::at(1, phase);
        let retry = Event::RetryRequested { rotation: farm.id, by: "alice".to_owned() };
        assert_eq!(farm.refused(retry).code, RejectionCode::NotStuck);
    }
}

#[test]
fn commands_for_a_rotation_that_is_not_known_are_refused() {
    let mut farm = Farm::new(1);
    let (rotation, by) = (rotation_id(9), "alice".to_owned());
    let events = [
        Event::AbortRequested { rotation, by: by.clone() },
        Event::PauseRequested { rotation, by: by.clone() },
        Event::ResumeRequested { rotation, by: by.clone() },
        Event::RetryRequested { rotation, by },
    ];
    for event in events {
        assert_eq!(farm.refused(event).code, RejectionCode::UnknownRotation);
    }
}

#[test]
fn a_change_of_leader_is_counted_and_changes_no_work() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    let before = farm.pending();
    assert_eq!(farm.say(leader(3)), Outcome::Changed);
    assert_eq!(farm.say(leader(3)), Outcome::Unchanged);
    assert_eq!(farm.say(leader(2)), Outcome::Unchanged);
    assert_eq!(farm.rotation().leader_changes, 1);
    assert_eq!(farm.pending(), before);
}

#[test]
fn a_change_of_leader_in_every_phase_and_step_leaves_work_and_epoch_and_comes_to_the_same_end() {
    let check_same_end = |mut farm: Farm, end: &str| {
        let before = (farm.course(), farm.pending(), farm.rotation().epoch);
        assert_eq!(farm.say(leader(3)), Outcome::Changed);
        assert_eq!((farm.course(), farm.pending(), farm.rotation().epoch), before);
        farm.go_on();
        check(&farm, end, &[]);
    };
    for phase in Phase::ALL {
        check_same_end(Farm::at(2, phase), "ended:completed");
    }
    for step in UndoStep::ALL {
        check_same_end(Farm::undoing(2, Phase::Start, step.as_str()), "ended:rolled-back");
    }
}
