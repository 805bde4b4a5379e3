//! What was recovered by hand: the rotation ends rolled back, and each node either was recovered itself or follows.

use rotation::{FaultCode, Phase};

use crate::support::{Farm, NEW, OLD, check, node};

#[test]
fn a_recovered_node_ends_the_rotation_rolled_back_from_every_phase() {
    for phase in [Phase::Distribute, Phase::Quiesce, Phase::Reencrypt, Phase::Verify, Phase::Activate, Phase::Start] {
        let mut farm = Farm::at(1, phase);
        let work = farm.pending().remove(0);
        farm.fail(&work, FaultCode::Recovered);
        assert_eq!(farm.course(), "ended:rolled-back", "from {phase:?}");
        assert!(farm.held(1), "it is asked whether it was the one, from {phase:?}");
        let work = farm.pending().remove(0);
        farm.fail(&work, FaultCode::Recovered);
        assert!(!farm.held(1), "from {phase:?}");
        assert_eq!(farm.pending(), [""; 0], "from {phase:?}");
        assert_eq!(farm.state.nodes[&node(1)].key, Some(OLD));
    }
}

#[test]
fn a_node_that_was_not_recovered_itself_follows() {
    let mut farm = Farm::at(2, Phase::Start);
    farm.answer("node-1 lift-fence");
    farm.fail("node-1 start-instance", FaultCode::Recovered);
    check(&farm, "ended:rolled-back", &["node-1 take-offline", "node-2 take-offline"]);
    farm.fail("node-1 take-offline", FaultCode::Recovered);
    check(&farm, "ended:rolled-back", &["node-2 take-offline"]);
    assert_eq!(farm.state.nodes[&node(2)].key, Some(NEW), "as it was activated");
    for work in ["take-offline", "restore-key", "start-instance", "admit-instance", "discard-key"] {
        assert!(farm.held(2), "before {work}");
        farm.answer(&format!("node-2 {work}"));
    }
    assert!(!farm.held(2));
    assert_eq!(farm.state.nodes[&node(2)].key, Some(OLD));
}

#[test]
fn an_undo_under_way_ends_when_a_node_was_recovered_meanwhile() {
    let mut farm = Farm::undoing(2, Phase::Verify, "restore-rows");
    let work = farm.pending().remove(0);
    farm.fail(&work, FaultCode::Recovered);
    assert_eq!(farm.course(), "ended:rolled-back");
}

#[test]
fn a_stuck_undo_hears_of_it_after_a_retry() {
    let mut farm = Farm::undoing(2, Phase::Quiesce, "lift-fence");
    farm.fail("node-1 lift-fence", FaultCode::Database);
    check(&farm, "stuck:lift-fence", &[]);
    farm.retry();
    farm.fail("node-1 turn-back", FaultCode::Recovered);
    assert_eq!(farm.course(), "ended:rolled-back");
}

#[test]
fn a_farm_that_was_put_back_before_anybody_was_admitted_ends_rolled_back() {
    let mut farm = Farm::at(2, Phase::Admit);
    farm.fail("node-1 admit-instance", FaultCode::Recovered);
    check(&farm, "ended:rolled-back", &["node-1 take-offline", "node-2 take-offline"]);
}

#[test]
fn once_a_node_was_admitted_it_is_a_fault_like_any_other() {
    let mut farm = Farm::at(2, Phase::Admit);
    farm.answer("node-1 admit-instance");
    farm.fail("node-2 admit-instance", FaultCode::Recovered);
    assert_eq!(farm.course(), "forward:completed");
    assert!(farm.held(2));
}
