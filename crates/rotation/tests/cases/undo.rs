//! The undo: each phase is undone by exactly its steps, each step is done by all, and what fails is stuck until a retry.

use rotation::{Answer, ContentDigest, Course, Direction, FaultCode, Outcome, Phase, UndoStep, Work};

use crate::support::{Farm, NEW, OLD, check, node, tally};

/// The steps that an undo from this phase goes through.
fn steps(from: Phase) -> Vec<String> {
    let mut farm = Farm::at(2, from);
    farm.abort();
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    farm.rotation().times.iter().filter_map(|time| time.name.strip_prefix("undo:").map(str::to_owned)).collect()
}

#[test]
fn from_distribute_only_keys_are_discarded() {
    assert_eq!(steps(Phase::Distribute), ["discard-keys"]);
}

#[test]
fn from_quiesce_instances_come_back() {
    let expected = ["turn-back", "lift-fence", "start-instances", "admit-instances", "discard-keys", "close-ledger"];
    assert_eq!(steps(Phase::Quiesce), expected);
}

#[test]
fn from_reencrypt_and_verify_rows_come_back_first() {
    let expected = [
        "turn-back",
        "restore-rows",
        "verify-rows",
        "lift-fence",
        "start-instances",
        "admit-instances",
        "discard-keys",
        "close-ledger",
    ];
    assert_eq!(steps(Phase::Reencrypt), expected);
    assert_eq!(steps(Phase::Verify), expected);
}

#[test]
fn from_activate_key_files_come_back_before_rows() {
    let steps = steps(Phase::Activate);
    assert_eq!(steps[..4], ["turn-back", "restore-keys", "swap-tables-back", "restore-rows"]);
    assert_eq!(steps.len(), 10);
}

#[test]
fn from_start_every_step_is_needed() {
    assert_eq!(steps(Phase::Start), UndoStep::ALL.map(UndoStep::as_str));
}

#[test]
fn started_instances_are_stopped_before_rows_go_back() {
    let farm = Farm::undoing(2, Phase::Start, "stop-instances");
    check(&farm, "undo:stop-instances", &["node-1 take-offline", "node-2 take-offline"]);
}

#[test]
fn instances_that_could_not_have_started_need_no_stopping() {
    let mut farm = Farm::at(2, Phase::Start);
    farm.abort();
    farm.answer("node-1 turn-back");
    check(&farm, "undo:restore-keys", &["node-1 restore-key", "node-2 restore-key"]);
}

#[test]
fn a_node_held_while_starting_must_confirm_offline_before_rows_go_back() {
    let mut farm = Farm::at(2, Phase::Start);
    farm.answer("node-1 lift-fence");
    farm.miss("node-2 start-instance");
    assert!(farm.held(2));
    farm.fail("node-1 start-instance", FaultCode::Canary);
    farm.answer("node-1 turn-back");
    check(&farm, "undo:stop-instances", &["node-1 take-offline", "node-2 take-offline"]);
    farm.answer("node-1 take-offline");
    farm.miss("node-2 take-offline");
    check(&farm, "stuck:stop-instances", &[]);
    farm.retry();
    check(&farm, "undo:stop-instances", &["node-2 take-offline"]);
    farm.answer("node-2 take-offline");
    check(&farm, "undo:restore-keys", &["node-1 restore-key"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(!farm.held(2), "it followed");
}

#[test]
fn every_row_goes_back_and_is_read_back() {
    let mut farm = Farm::undoing(1, Phase::Verify, "restore-rows");
    check(&farm, "undo:restore-rows", &["node-1 reencrypt-shard 0.3", "node-1 reencrypt-shard 1.3"]);
    let Work::ReencryptShard { direction, .. } = farm.find("node-1 reencrypt-shard 0.3").work else { panic!("work") };
    assert_eq!(direction, Direction::Back);
    farm.go_to("undo:verify-rows");
    check(&farm, "undo:verify-rows", &["node-1 verify-shard 0.4", "node-1 verify-shard 1.4"]);
}

#[test]
fn rows_that_are_missing_after_the_undo_are_stuck() {
    let mut farm = Farm::undoing(1, Phase::Reencrypt, "restore-rows");
    let first = rotation::pending(&farm.state).remove(0);
    let (shard, lease) = first.id().shard.expect("a shard");
    let mut short = tally(shard);
    short.rows -= 1;
    let answer = Answer::ShardReencrypted { shard, lease, tally: short };
    farm.say(rotation::Event::WorkDone { assignment: first.id(), answer });
    while farm.course() == "undo:restore-rows" {
        assert!(farm.turn());
    }
    check(&farm, "stuck:restore-rows", &[]);
    // A retry does all of it again, beginning with the ledger.
    farm.retry();
    check(&farm, "undo:turn-back", &["node-1 turn-back"]);
    farm.answer("node-1 turn-back");
    check(&farm, "undo:restore-rows", &["node-1 reencrypt-shard 0.3", "node-1 reencrypt-shard 1.3"]);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_restored_shard_with_another_content_is_stuck() {
    let mut farm = Farm::undoing(1, Phase::Verify, "verify-rows");
    let first = rotation::pending(&farm.state).remove(0);
    let (shard, lease) = first.id().shard.expect("a shard");
    let mut other = tally(shard);
    other.digest = ContentDigest::new(7);
    let answer = Answer::ShardVerified { shard, lease, tally: other };
    farm.say(rotation::Event::WorkDone { assignment: first.id(), answer });
    check(&farm, "stuck:verify-rows", &[]);
    assert_eq!(farm.fault_codes().last(), Some(&FaultCode::DigestDiffers));
    // A retry reads this very shard again: what did not hold must not count as done.
    farm.retry();
    farm.go_to("undo:verify-rows");
    assert!(rotation::pending(&farm.state).iter().any(|again| again.id().shard.is_some_and(|(id, _)| id == shard)));
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
    assert!(farm.rotation().shards.values().all(|shard| shard.restored_verified == shard.reencrypted));
}

#[test]
fn a_shard_that_was_not_re_encrypted_wholly_has_no_digest_to_compare() {
    let mut farm = Farm::undoing(1, Phase::Reencrypt, "verify-rows");
    let first = rotation::pending(&farm.state).remove(0);
    let (shard, lease) = first.id().shard.expect("a shard");
    let mut other = tally(shard);
    other.digest = ContentDigest::new(7);
    let answer = Answer::ShardVerified { shard, lease, tally: other };
    farm.say(rotation::Event::WorkDone { assignment: first.id(), answer });
    assert_eq!(farm.course(), "undo:verify-rows");
}

/// Answers every shard of the present step with a tally as `change` has it.
fn answer_rows(farm: &mut Farm, change: impl Fn(&mut rotation::ShardTally)) {
    let step = farm.course();
    while farm.course() == step {
        let first = rotation::pending(&farm.state).remove(0);
        let (shard, lease) = first.id().shard.expect("a shard");
        let mut tally = tally(shard);
        change(&mut tally);
        let answer = match first.work {
            Work::ReencryptShard { .. } => Answer::ShardReencrypted { shard, lease, tally },
            _ => Answer::ShardVerified { shard, lease, tally },
        };
        farm.say(rotation::Event::WorkDone { assignment: first.id(), answer });
    }
}

#[test]
fn what_the_application_wrote_since_start_is_turned_back_and_not_counted() {
    let mut farm = Farm::undoing(1, Phase::Start, "restore-rows");
    answer_rows(&mut farm, |tally| tally.rows += 1);
    assert_eq!(farm.course(), "undo:verify-rows");
    answer_rows(&mut farm, |tally| {
        tally.rows += 1;
        tally.rest = ContentDigest::new(7);
    });
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);

    // A value that opens under no key is no less of a fault.
    let mut farm = Farm::undoing(1, Phase::Start, "verify-rows");
    let first = farm.pending().remove(0);
    farm.fail(&first, FaultCode::Undecryptable);
    check(&farm, "stuck:verify-rows", &[]);
}

#[test]
fn before_start_nobody_wrote_and_every_row_counts() {
    for from in [Phase::Verify, Phase::Activate] {
        let mut farm = Farm::undoing(1, from, "restore-rows");
        answer_rows(&mut farm, |tally| tally.rows += 1);
        check(&farm, "stuck:restore-rows", &[]);
    }
}

#[test]
fn work_that_fails_in_the_undo_is_stuck_with_next_steps() {
    let cases = [
        (Phase::Quiesce, "turn-back", "node-1 turn-back"),
        (Phase::Start, "stop-instances", "node-1 take-offline"),
        (Phase::Activate, "restore-keys", "node-1 restore-key"),
        (Phase::Activate, "swap-tables-back", "node-1 swap-tables-back"),
        (Phase::Reencrypt, "restore-rows", "node-1 reencrypt-shard 0.2"),
        (Phase::Reencrypt, "verify-rows", "node-1 verify-shard 0.3"),
        (Phase::Quiesce, "lift-fence", "node-1 lift-fence"),
        (Phase::Quiesce, "start-instances", "node-1 start-instance"),
        (Phase::Quiesce, "admit-instances", "node-1 admit-instance"),
        (Phase::Distribute, "discard-keys", "node-1 discard-key"),
        (Phase::Quiesce, "close-ledger", "node-1 close-ledger"),
    ];
    for (from, step, work) in cases {
        let mut farm = Farm::undoing(2, from, step);
        farm.fail(work, FaultCode::Internal);
        check(&farm, &format!("stuck:{step}"), &[]);
        let Course::Stuck { reason, next_steps, .. } = &farm.rotation().course else { panic!("stuck") };
        assert_eq!(reason.code, FaultCode::Internal);
        assert_eq!(reason.node, Some(node(1)));
        assert!(next_steps.last().expect("some").contains("rotation retry"), "{next_steps:?}");
        let epoch = farm.rotation().epoch;
        farm.retry();
        assert!(farm.rotation().epoch > epoch);
        // What the database may have lost begins with the ledger.
        let ledger = ["swap-tables-back", "restore-rows", "verify-rows", "lift-fence"].contains(&step);
        assert_eq!(farm.course(), if ledger { "undo:turn-back".to_owned() } else { format!("undo:{step}") });
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        assert!(farm.state.nodes.values().all(|node| node.key == Some(OLD)));
    }
}

#[test]
fn the_wrong_key_after_restoring_is_stuck() {
    let mut farm = Farm::undoing(2, Phase::Activate, "restore-keys");
    farm.answer_with("node-1 restore-key", Answer::KeyRestored { key: NEW });
    check(&farm, "stuck:restore-keys", &[]);
    let mut farm = Farm::undoing(2, Phase::Quiesce, "start-instances");
    farm.answer_with("node-1 start-instance", Answer::InstanceStarted { key: NEW });
    check(&farm, "stuck:start-instances", &[]);
}

#[test]
fn a_lead_that_falls_silent_in_the_undo_hands_over_and_the_last_is_stuck() {
    let cases = [
        (Phase::Quiesce, "turn-back"),
        (Phase::Activate, "swap-tables-back"),
        (Phase::Quiesce, "lift-fence"),
        (Phase::Quiesce, "close-ledger"),
    ];
    for (from, step) in cases {
        let mut farm = Farm::undoing(2, from, step);
        farm.miss(&format!("node-1 {step}"));
        check(&farm, &format!("undo:{step}"), &[&format!("node-2 {step}")]);
        farm.miss(&format!("node-2 {step}"));
        check(&farm, &format!("stuck:{step}"), &[]);
        farm.retry();
        assert_eq!(farm.pending().len(), 1);
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
    }
}

#[test]
fn a_node_that_falls_silent_in_the_undo_is_held_and_the_last_is_stuck() {
    let cases = [
        (Phase::Activate, "restore-keys", "restore-key"),
        (Phase::Quiesce, "start-instances", "start-instance"),
        (Phase::Quiesce, "admit-instances", "admit-instance"),
        (Phase::Distribute, "discard-keys", "discard-key"),
    ];
    for (from, step, kind) in cases {
        let mut farm = Farm::undoing(2, from, step);
        farm.miss(&format!("node-1 {kind}"));
        assert!(farm.held(1), "{step}");
        check(&farm, &format!("undo:{step}"), &[&format!("node-2 {kind}")]);
        farm.miss(&format!("node-2 {kind}"));
        check(&farm, &format!("stuck:{step}"), &[]);
        assert!(!farm.held(2));
        farm.retry();
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        assert!(!farm.held(1), "it followed after the end");
    }
}

#[test]
fn the_first_failure_decides_and_later_ones_of_that_phase_change_nothing() {
    let mut farm = Farm::at(2, Phase::Quiesce);
    let second = rotation::Event::WorkFailed {
        assignment: farm.find("node-2 take-offline").id(),
        fault: crate::support::fault(FaultCode::Instance),
    };
    farm.fail("node-1 take-offline", FaultCode::Instance);
    let epoch = farm.rotation().epoch;
    assert_eq!(farm.say(second), Outcome::Unchanged);
    assert_eq!(farm.rotation().epoch, epoch);
}

#[test]
fn an_undone_farm_can_be_rotated_anew() {
    let mut farm = Farm::at(2, Phase::Start);
    farm.abort();
    farm.go_on();
    farm.id = crate::support::rotation_id(2);
    farm.request(rotation::RotationOptions::default());
    farm.go_on();
    check(&farm, "ended:completed", &[]);
}
