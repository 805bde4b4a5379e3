//! Leases: who works on which shard, how silence moves them, and when all are silent.

use rotation::{Answer, DatabaseKind, Event, Outcome, Phase};

use crate::support::{Farm, check, node, survey};

#[test]
fn shards_are_spread_over_all_nodes_two_each() {
    let farm = Farm::at(2, Phase::Reencrypt);
    check(
        &farm,
        "forward:reencrypt",
        &[
            "node-1 reencrypt-shard 0.1",
            "node-2 reencrypt-shard 1.1",
            "node-1 reencrypt-shard 2.1",
            "node-2 reencrypt-shard 3.1",
        ],
    );
}

#[test]
fn a_finished_shard_makes_room_for_the_next() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    farm.answer("node-2 reencrypt-shard 3.1");
    check(
        &farm,
        "forward:reencrypt",
        &[
            "node-1 reencrypt-shard 0.1",
            "node-2 reencrypt-shard 1.1",
            "node-1 reencrypt-shard 2.1",
            "node-2 reencrypt-shard 4.1",
        ],
    );
}

/// A farm of three on SQLite, where one agent writes at a time.
fn sqlite(phase: Phase) -> Farm {
    let mut farm = Farm::requested(3);
    for number in 1..=3 {
        let mut found = crate::support::inspection(&node(number), crate::support::OLD);
        found.database.kind = DatabaseKind::Sqlite;
        farm.answer_with(&format!("node-{number} inspect"), Answer::Inspected(Box::new(found)));
    }
    let mut found = survey();
    found.kind = DatabaseKind::Sqlite;
    found.writers_max = 1;
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
    let wanted = format!("forward:{}", phase.as_str());
    while farm.course() != wanted {
        // The position carries the kind too.
        if farm.pending() == ["node-1 record-position"] {
            let mut position = crate::support::position();
            position.identity.kind = DatabaseKind::Sqlite;
            farm.answer_with("node-1 record-position", Answer::PositionRecorded(position));
        } else {
            assert!(farm.turn());
        }
    }
    farm
}

#[test]
fn on_sqlite_one_node_works_at_a_time() {
    let farm = sqlite(Phase::Reencrypt);
    check(&farm, "forward:reencrypt", &["node-1 reencrypt-shard 0.1", "node-1 reencrypt-shard 1.1"]);
    let farm = sqlite(Phase::Verify);
    check(&farm, "forward:verify", &["node-1 verify-shard 0.2", "node-1 verify-shard 1.2"]);
}

#[test]
fn on_sqlite_another_node_takes_over() {
    let mut farm = sqlite(Phase::Reencrypt);
    farm.expire("node-1 reencrypt-shard 0.1");
    check(&farm, "forward:reencrypt", &["node-2 reencrypt-shard 0.2", "node-2 reencrypt-shard 1.2"]);
}

#[test]
fn readers_are_not_limited_to_the_number_of_writers() {
    let mut farm = Farm::requested(3);
    for number in 1..=3 {
        farm.answer(&format!("node-{number} inspect"));
    }
    let mut found = survey();
    found.writers_max = 1;
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
    farm.go_to("forward:reencrypt");
    assert!(farm.pending().iter().all(|work| work.starts_with("node-1 ")));
    farm.go_to("forward:verify");
    assert_eq!(farm.pending().len(), 6);
}

#[test]
fn a_silent_node_loses_all_its_shards_and_gets_no_others() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    farm.expire("node-1 reencrypt-shard 2.1");
    check(&farm, "forward:reencrypt", &["node-2 reencrypt-shard 1.1", "node-2 reencrypt-shard 3.1"]);
    farm.answer("node-2 reencrypt-shard 1.1");
    check(&farm, "forward:reencrypt", &["node-2 reencrypt-shard 0.2", "node-2 reencrypt-shard 3.1"]);
}

#[test]
fn an_answer_under_an_earlier_lease_changes_nothing() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    let late = farm.done_event("node-1 reencrypt-shard 0.1");
    farm.expire("node-1 reencrypt-shard 0.1");
    assert_eq!(farm.say(late.clone()), Outcome::Unchanged);
    farm.answer("node-2 reencrypt-shard 1.1");
    farm.find("node-2 reencrypt-shard 0.2");
    assert_eq!(farm.say(late), Outcome::Unchanged);
    farm.find("node-2 reencrypt-shard 0.2");
}

#[test]
fn silence_reported_twice_counts_once() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    let assignment = farm.find("node-1 reencrypt-shard 0.1").id();
    assert_eq!(farm.say(Event::LeaseExpired { assignment: assignment.clone() }), Outcome::Changed);
    assert_eq!(farm.say(Event::LeaseExpired { assignment }), Outcome::Unchanged);
}

#[test]
fn only_shards_have_leases_that_expire() {
    let mut farm = Farm::at(2, Phase::Activate);
    let assignment = farm.find("node-1 activate-key").id();
    assert_eq!(farm.say(Event::LeaseExpired { assignment }), Outcome::Unchanged);
}

#[test]
fn the_last_node_gets_another_chance_when_all_are_silent() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    farm.expire("node-1 reencrypt-shard 0.1");
    check(&farm, "forward:reencrypt", &["node-1 reencrypt-shard 0.2", "node-1 reencrypt-shard 1.2"]);
}

#[test]
fn silence_without_end_is_undone() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    let mut expirations = 0;
    while farm.course() == "forward:reencrypt" {
        let first = farm.pending().remove(0);
        farm.expire(&first);
        expirations += 1;
        assert!(expirations < 100, "silence must end somewhere");
    }
    assert_eq!(farm.course(), "undo:turn-back");
    assert_eq!(farm.fault_codes(), [rotation::FaultCode::NodeUnreachable]);
    assert!(expirations >= 2 * 6, "each node had its chances");
}

#[test]
fn silence_without_end_in_the_undo_is_stuck_and_goes_on_after_retry() {
    let mut farm = Farm::undoing(1, Phase::Reencrypt, "restore-rows");
    while farm.course() == "undo:restore-rows" {
        let first = farm.pending().remove(0);
        farm.expire(&first);
    }
    check(&farm, "stuck:restore-rows", &[]);
    farm.retry();
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_deadline_missed_on_a_shard_moves_it_like_silence() {
    let mut farm = Farm::at(2, Phase::Verify);
    farm.miss("node-1 verify-shard 0.2");
    assert!(farm.pending().iter().all(|work| work.starts_with("node-2 ")));
    assert!(!farm.held(1));
}

#[test]
fn a_pause_takes_leases_back_and_resuming_leases_anew() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    farm.answer("node-1 reencrypt-shard 0.1");
    let running = farm.done_event("node-1 reencrypt-shard 1.1");
    farm.say(farm.pause_event());
    check(&farm, "forward:reencrypt", &[]);
    assert!(farm.rotation().shards.values().all(|shard| shard.lease.is_none()));
    assert_eq!(farm.say(running), Outcome::Unchanged, "the ledger has it, and it will be said again");
    assert_eq!(farm.say(farm.pause_event()), Outcome::Unchanged);
    farm.resume();
    check(&farm, "forward:reencrypt", &["node-1 reencrypt-shard 1.2", "node-1 reencrypt-shard 2.2"]);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
}
