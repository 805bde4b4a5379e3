//! Quiesce: every instance offline, then the fence, then counts that must not have shrunk.

use rotation::{FaultCode, Phase};

use crate::support::{Farm, check, counts};

/// Both nodes offline, the fence answered with these counts.
fn fenced(rows: &[(&str, u64)]) -> Farm {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    farm.answer("node-2 take-offline");
    farm.answer_with("node-1 fence-database", counts(rows));
    farm
}

#[test]
fn the_fence_waits_for_every_instance() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    check(&farm, "forward:quiesce", &["node-2 take-offline"]);
    farm.answer("node-2 take-offline");
    check(&farm, "forward:quiesce", &["node-1 fence-database"]);
}

#[test]
fn the_counts_are_fixed() {
    let farm = fenced(&[("connections", 6), ("entries", 4), ("notes", 0)]);
    assert_eq!(farm.course(), "forward:reencrypt");
    assert_eq!(farm.rotation().rows_fixed["connections"], 6);
}

#[test]
fn rows_may_have_come_and_some_may_have_gone() {
    let farm = fenced(&[("connections", 3), ("entries", 400), ("notes", 1)]);
    assert_eq!(farm.course(), "forward:reencrypt");
}

#[test]
fn a_shrunken_or_emptied_table_stops_the_rotation() {
    for connections in [0, 2] {
        let farm = fenced(&[("connections", connections), ("entries", 4), ("notes", 0)]);
        check(&farm, "undo:turn-back", &["node-1 turn-back"]);
        assert_eq!(farm.fault_codes(), [FaultCode::RowsChanged]);
        assert!(farm.rotation().faults[0].message.contains("connections"));
    }
}

#[test]
fn a_missing_or_unknown_table_stops_the_rotation() {
    assert_eq!(fenced(&[("connections", 6), ("entries", 4)]).course(), "undo:turn-back");
    let farm = fenced(&[("connections", 6), ("entries", 4), ("notes", 0), ("extra", 1)]);
    assert_eq!(farm.course(), "undo:turn-back");
}

#[test]
fn a_node_that_never_confirmed_offline_fails_it() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    farm.miss("node-2 take-offline");
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    assert!(!farm.held(2));
}

#[test]
fn an_instance_that_cannot_be_stopped_fails_it() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.fail("node-2 take-offline", FaultCode::Instance);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn sessions_that_remain_fail_it() {
    let mut farm = Farm::at(1, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    farm.fail("node-1 fence-database", FaultCode::SessionsRemain);
    assert_eq!(farm.course(), "undo:turn-back");
}

#[test]
fn the_fence_moves_to_another_node_and_to_none_twice() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    farm.answer("node-2 take-offline");
    let late = farm.done_event("node-1 fence-database");
    farm.miss("node-1 fence-database");
    check(&farm, "forward:quiesce", &["node-2 fence-database"]);
    assert!(!farm.held(1), "it confirmed offline; nothing else is asked of it in this phase");
    assert_eq!(farm.say(late), rotation::Outcome::Unchanged, "it is no longer the lead");
    farm.miss("node-2 fence-database");
    check(&farm, "undo:turn-back", &["node-2 turn-back"]);
}

#[test]
fn the_next_phase_gives_a_silent_lead_another_chance() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    farm.answer("node-1 take-offline");
    farm.answer("node-2 take-offline");
    farm.miss("node-1 fence-database");
    farm.answer("node-2 fence-database");
    assert!(farm.rotation().nodes.values().all(|progress| !progress.shunned));
}
