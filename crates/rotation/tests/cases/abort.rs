//! Abort in every phase: withdrawn, undone, or refused from Admit on.

use rotation::{FaultCode, Outcome, Phase, RejectionCode};

use crate::support::{Farm, OLD, check};

#[test]
fn before_the_start_it_is_withdrawn() {
    for phase in [Phase::Preflight, Phase::Approval] {
        let mut farm = Farm::at(2, phase);
        farm.abort();
        check(&farm, "ended:withdrawn", &[]);
        assert_eq!(farm.state.active, None);
        assert_eq!(farm.fault_codes(), [FaultCode::Aborted]);
    }
}

#[test]
fn after_the_start_it_is_undone_from_wherever_it_is() {
    for phase in [Phase::Distribute, Phase::Quiesce, Phase::Reencrypt, Phase::Verify, Phase::Activate, Phase::Start] {
        // After each number of answers within the phase.
        for answers in 0.. {
            let mut farm = Farm::at(2, phase);
            let name = farm.course();
            let mut given = 0;
            while given < answers && farm.course() == name && !farm.pending().is_empty() {
                farm.turn();
                given += 1;
            }
            if given < answers || farm.course() != name {
                break;
            }
            assert_eq!(farm.abort(), Outcome::Changed);
            assert!(farm.course().starts_with("undo:"), "{name} after {answers}");
            assert_eq!(farm.rotation().faults[0].code, FaultCode::Aborted);
            assert!(farm.rotation().faults[0].message.contains("alice"));
            farm.go_on();
            check(&farm, "ended:rolled-back", &[]);
            assert!(farm.state.nodes.values().all(|node| node.key == Some(OLD)));
            assert!(farm.rotation().nodes.values().all(|progress| !progress.activated && !progress.may_run));
        }
    }
}

#[test]
fn from_admit_on_it_is_refused() {
    for phase in [Phase::Admit, Phase::Completed] {
        let mut farm = Farm::at(2, phase);
        assert_eq!(farm.refused(farm.abort_event()).code, RejectionCode::PointOfNoReturn);
    }
    let mut farm = Farm::requested(2);
    farm.go_on();
    assert_eq!(farm.refused(farm.abort_event()).code, RejectionCode::PointOfNoReturn);
}

#[test]
fn twice_is_as_good_as_once() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    farm.abort();
    let course = farm.rotation().course.clone();
    assert_eq!(farm.abort(), Outcome::Unchanged);
    assert_eq!(farm.rotation().course, course);
    farm.go_on();
    assert_eq!(farm.abort(), Outcome::Unchanged);
}

#[test]
fn a_stuck_rotation_says_retry_instead() {
    let mut farm = Farm::undoing(1, Phase::Quiesce, "turn-back");
    farm.fail("node-1 turn-back", FaultCode::Database);
    let rejection = farm.refused(farm.abort_event());
    assert!(rejection.next_step.contains("retry"));
}

#[test]
fn a_paused_rotation_can_be_aborted_and_its_undo_is_not_paused() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.say(farm.pause_event());
    farm.abort();
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    assert!(!farm.rotation().paused);
}
