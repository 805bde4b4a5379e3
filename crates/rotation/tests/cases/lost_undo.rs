//! A database that loses what an undo did to it: the undo begins again with the ledger, as long as a node holds the new
//! key; and no instance runs while rows may go back.

use rotation::{Answer, ContentDigest, Course, Event, FaultCode, Phase, ShardTally, Work, pending};

use crate::support::{Farm, OLD, check, tally};

/// Steps of an undo that begins again, in the order in which they were entered.
fn steps(farm: &Farm) -> Vec<&str> {
    farm.rotation().times.iter().filter_map(|time| time.name.strip_prefix("undo:")).collect()
}

#[test]
fn before_the_application_is_let_in_the_undo_begins_again_with_the_ledger() {
    let cases = [
        (Phase::Activate, "restore-keys", "node-1 restore-key"),
        (Phase::Activate, "swap-tables-back", "node-1 swap-tables-back"),
        (Phase::Reencrypt, "restore-rows", "node-1 reencrypt-shard 0.2"),
        (Phase::Reencrypt, "verify-rows", "node-1 verify-shard 0.3"),
        (Phase::Verify, "lift-fence", "node-1 lift-fence"),
        (Phase::Quiesce, "lift-fence", "node-1 lift-fence"),
    ];
    for (from, step, work) in cases {
        let mut farm = Farm::undoing(2, from, step);
        let epoch = farm.rotation().epoch;
        farm.fail(work, FaultCode::DatabasePosition);
        check(&farm, "undo:turn-back", &["node-1 turn-back"]);
        assert!(farm.rotation().epoch > epoch);
        assert_eq!(farm.fault_codes().last(), Some(&FaultCode::DatabasePosition));
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        let again = steps(&farm);
        let again = &again[again.iter().rposition(|step| *step == "turn-back").expect("it was entered")..];
        assert!(!again.contains(&"stop-instances"), "nobody had been asked to start: {again:?}");
        if from >= Phase::Reencrypt {
            assert!(again.contains(&"restore-rows") && again.contains(&"verify-rows"), "{again:?}");
        }
    }
}

#[test]
fn afterwards_every_instance_is_stopped_before_rows_go_back_and_all_is_done_again() {
    let cases = [
        ("start-instances", "node-1 start-instance"),
        ("admit-instances", "node-1 admit-instance"),
        ("discard-keys", "node-1 discard-key"),
    ];
    for from in [Phase::Quiesce, Phase::Verify, Phase::Activate, Phase::Start] {
        for (step, work) in cases {
            let mut farm = Farm::undoing(2, from, step);
            farm.fail(work, FaultCode::DatabasePosition);
            farm.answer("node-1 turn-back");
            check(&farm, "undo:stop-instances", &["node-1 take-offline", "node-2 take-offline"]);
            farm.answer("node-1 take-offline");
            assert_eq!(farm.course(), "undo:stop-instances");
            farm.answer("node-2 take-offline");
            farm.go_to("undo:restore-rows");
            farm.go_to("undo:verify-rows");
            farm.go_to("undo:start-instances");
            check(&farm, "undo:start-instances", &["node-1 start-instance", "node-2 start-instance"]);
            farm.go_to("undo:admit-instances");
            check(&farm, "undo:admit-instances", &["node-1 admit-instance", "node-2 admit-instance"]);
            farm.go_on();
            check(&farm, "ended:rolled-back", &[]);
            assert!(farm.state.nodes.values().all(|node| node.key == Some(OLD) && node.quarantine.is_none()));
            assert!(farm.rotation().nodes.values().all(|progress| progress.admitted_at.is_some()));
        }
    }
}

#[test]
fn a_held_node_that_may_run_with_the_old_key_must_confirm_offline_too() {
    let mut farm = Farm::undoing(2, Phase::Verify, "start-instances");
    farm.miss("node-2 start-instance");
    assert!(farm.held(2));
    farm.answer("node-1 start-instance");
    farm.fail("node-1 admit-instance", FaultCode::DatabasePosition);
    farm.answer("node-1 turn-back");
    farm.answer("node-1 take-offline");
    check(&farm, "undo:stop-instances", &["node-2 take-offline"]);
    farm.miss("node-2 take-offline");
    check(&farm, "stuck:stop-instances", &[]);
    farm.retry();
    farm.answer("node-2 take-offline");
    assert_eq!(farm.course(), "undo:restore-keys");
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(!farm.held(2), "it followed");
}

#[test]
fn rows_go_back_on_a_node_that_still_holds_the_new_key() {
    let mut farm = Farm::undoing(2, Phase::Verify, "discard-keys");
    farm.answer("node-1 discard-key");
    farm.fail("node-2 discard-key", FaultCode::DatabasePosition);
    farm.go_to("undo:restore-rows");
    let pending = farm.pending();
    assert!(!pending.is_empty() && pending.iter().all(|work| work.starts_with("node-2 ")), "{pending:?}");
    farm.go_to("undo:discard-keys");
    check(&farm, "undo:discard-keys", &["node-2 discard-key"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn when_the_node_that_holds_the_new_key_falls_silent_it_is_stuck_until_that_is_back() {
    let mut farm = Farm::undoing(2, Phase::Verify, "discard-keys");
    farm.answer("node-1 discard-key");
    farm.fail("node-2 discard-key", FaultCode::DatabasePosition);
    farm.go_to("undo:restore-rows");
    // Its leases run out again and again, and nobody else can have them.
    while farm.course() == "undo:restore-rows" {
        let first = farm.pending().first().cloned().expect("somebody is waited for");
        assert!(first.starts_with("node-2 "), "{first}");
        farm.expire(&first);
    }
    check(&farm, "stuck:restore-rows", &[]);
    farm.retry();
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn where_no_node_holds_the_new_key_any_more_the_farm_serves_on_and_it_is_stuck() {
    let mut farm = Farm::undoing(2, Phase::Verify, "close-ledger");
    for _ in 0..2 {
        farm.fail("node-1 close-ledger", FaultCode::DatabasePosition);
        check(&farm, "stuck:close-ledger", &[]);
        assert!(farm.rotation().nodes.values().all(|progress| progress.undo.admitted));
        farm.retry();
        check(&farm, "undo:close-ledger", &["node-1 close-ledger"]);
    }
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_database_that_loses_it_again_and_again_needs_a_person() {
    let mut farm = Farm::undoing(1, Phase::Verify, "admit-instances");
    for _ in 0..3 {
        farm.fail("node-1 admit-instance", FaultCode::DatabasePosition);
        assert_eq!(farm.course(), "undo:turn-back");
        farm.go_to("undo:admit-instances");
    }
    farm.fail("node-1 admit-instance", FaultCode::DatabasePosition);
    let Course::Stuck { reason, .. } = &farm.rotation().course else { panic!("{}", farm.course()) };
    assert_eq!(reason.code, FaultCode::DatabasePosition);
    // Who says so gets all of it again, from the ledger on.
    farm.retry();
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_rotation_that_never_touched_the_database_has_nothing_to_begin_again() {
    let mut farm = Farm::undoing(1, Phase::Distribute, "discard-keys");
    farm.fail("node-1 discard-key", FaultCode::DatabasePosition);
    check(&farm, "stuck:discard-keys", &[]);
    farm.retry();
    check(&farm, "undo:discard-keys", &["node-1 discard-key"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

/// Answers every shard of the present step with a tally as `change` has it.
fn answer_rows(farm: &mut Farm, change: impl Fn(&mut ShardTally)) {
    let step = farm.course();
    while farm.course() == step {
        let first = pending(&farm.state).remove(0);
        let (shard, lease) = first.id().shard.expect("a shard");
        let mut tally = tally(shard);
        change(&mut tally);
        let answer = match first.work {
            Work::ReencryptShard { .. } => Answer::ShardReencrypted { shard, lease, tally },
            _ => Answer::ShardVerified { shard, lease, tally },
        };
        farm.say(Event::WorkDone { assignment: first.id(), answer });
    }
}

#[test]
fn what_was_counted_in_a_lost_history_counts_no_more() {
    let older = |tally: &mut ShardTally| {
        tally.rows += 1;
        tally.digest = ContentDigest::new(7);
    };
    // The ledger said so to somebody.
    let mut farm = Farm::at(1, Phase::Verify);
    farm.fail("node-1 verify-shard 0.2", FaultCode::DatabasePosition);
    farm.go_to("undo:restore-rows");
    answer_rows(&mut farm, older);
    answer_rows(&mut farm, older);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);

    // Nobody was told, and the ledger that comes back with the rows knows of no way forward.
    let mut farm = Farm::undoing(1, Phase::Verify, "restore-rows");
    answer_rows(&mut farm, |tally| {
        older(tally);
        (tally.values, tally.digest, tally.rest) = (0, ContentDigest::default(), ContentDigest::default());
    });
    assert_eq!(farm.course(), "undo:verify-rows");
    answer_rows(&mut farm, older);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}
