//! Tables that are copied and swapped: finished before they are verified, swapped before any key, and back in the undo.

use rotation::{Answer, FaultCode, Phase};

use crate::support::{Farm, check, node};

/// Everything went well until all shards were through Reencrypt.
fn all_copied(nodes: usize) -> Farm {
    let mut farm = Farm::at_with_shadows(nodes, Phase::Reencrypt);
    while !farm.pending().iter().any(|work| work.ends_with("finish-shadows")) {
        assert!(farm.turn());
    }
    farm
}

#[test]
fn copies_are_finished_when_every_shard_is_through_and_before_any_is_verified() {
    let mut farm = all_copied(2);
    check(&farm, "forward:reencrypt", &["node-1 finish-shadows"]);
    farm.answer("node-1 finish-shadows");
    assert_eq!(farm.course(), "forward:verify");
    assert!(farm.pending().iter().all(|work| work.contains("verify-shard")));
}

#[test]
fn tables_are_swapped_before_any_key_is_activated() {
    let mut farm = Farm::at_with_shadows(2, Phase::Activate);
    check(&farm, "forward:activate", &["node-1 swap-tables"]);
    farm.answer("node-1 swap-tables");
    check(&farm, "forward:activate", &["node-1 activate-key", "node-2 activate-key"]);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
    assert_eq!(farm.rotation().kept_tables(), ["connections", "entries"]);
}

#[test]
fn a_rotation_without_copies_finishes_and_swaps_nothing() {
    let mut farm = Farm::requested(1);
    while farm.turn() {
        let swaps = |work: &String| work.contains("shadows") || work.contains("swap");
        assert!(!farm.pending().iter().any(swaps), "{:?}", farm.pending());
    }
    assert!(farm.rotation().kept_tables().is_empty());
    let mut farm = Farm::at(1, Phase::Activate);
    farm.abort();
    farm.answer("node-1 turn-back");
    farm.answer("node-1 restore-key");
    assert_eq!(farm.course(), "undo:restore-rows", "there is nothing to swap back");
}

#[test]
fn what_fails_is_undone() {
    let mut farm = all_copied(1);
    farm.fail("node-1 finish-shadows", FaultCode::Database);
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    let mut farm = Farm::at_with_shadows(1, Phase::Activate);
    farm.fail("node-1 swap-tables", FaultCode::RowsChanged);
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    farm.go_to("undo:swap-tables-back");
    check(&farm, "undo:swap-tables-back", &["node-1 swap-tables-back"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(farm.rotation().kept_tables().is_empty(), "an undo keeps nothing");
}

#[test]
fn a_lead_that_does_not_answer_hands_over_and_the_last_undoes_it() {
    for kind in ["finish-shadows", "swap-tables"] {
        let mut farm = if kind == "finish-shadows" { all_copied(2) } else { Farm::at_with_shadows(2, Phase::Activate) };
        let course = farm.course();
        farm.miss(&format!("node-1 {kind}"));
        check(&farm, &course, &[&format!("node-2 {kind}")]);
        assert!(!farm.held(1), "it may well work on; its instance is offline all the same");
        farm.miss(&format!("node-2 {kind}"));
        assert_eq!(farm.course(), "undo:turn-back");
    }
}

#[test]
fn an_answer_of_another_kind_is_a_fault() {
    let mut farm = Farm::at_with_shadows(1, Phase::Activate);
    farm.answer_with("node-1 swap-tables", Answer::ShadowsFinished);
    assert_eq!(farm.fault_codes(), [FaultCode::Internal]);
    assert_eq!(farm.course(), "undo:turn-back");
}

#[test]
fn an_undo_from_before_activate_swaps_nothing_back() {
    for from in [Phase::Reencrypt, Phase::Verify] {
        let mut farm = Farm::at_with_shadows(1, from);
        farm.abort();
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        assert!(!farm.rotation().times.iter().any(|time| time.name == "undo:swap-tables-back"));
    }
}

#[test]
fn tables_go_back_after_the_key_files_and_before_the_rows() {
    let mut farm = Farm::undoing(2, Phase::Start, "swap-tables-back");
    check(&farm, "undo:swap-tables-back", &["node-1 swap-tables-back"]);
    assert!(farm.rotation().nodes.values().all(|progress| progress.undo.restored));
    farm.miss("node-1 swap-tables-back");
    farm.answer("node-2 swap-tables-back");
    assert_eq!(farm.course(), "undo:restore-rows");
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(!farm.held(1) && farm.state.nodes.contains_key(&node(1)));
}

#[test]
fn a_pause_lets_the_single_work_finish() {
    let mut farm = all_copied(1);
    let running = farm.done_event("node-1 finish-shadows");
    farm.say(farm.pause_event());
    check(&farm, "forward:reencrypt", &[]);
    assert_eq!(farm.say(running), rotation::Outcome::Changed);
    farm.resume();
    assert_eq!(farm.course(), "forward:verify");
}
