//! Reencrypt and Verify: counts and digests are compared, never believed; then the position is recorded.

use rotation::{Answer, ContentDigest, DatabaseIdentity, DatabaseKind, FaultCode, Phase, ShardTally};

use crate::support::{Farm, check, position, tally};

/// Answers one shard with a tally as `change` has it, and the others well, until the phase ends.
fn with_tally(phase: Phase, change: impl Fn(&mut ShardTally)) -> Farm {
    let mut farm = Farm::at(1, phase);
    let assignment = rotation::pending(&farm.state).remove(0);
    let (shard, lease) = assignment.id().shard.expect("a shard");
    let mut tally = tally(shard);
    change(&mut tally);
    let answer = match phase {
        Phase::Reencrypt => Answer::ShardReencrypted { shard, lease, tally },
        _ => Answer::ShardVerified { shard, lease, tally },
    };
    farm.say(rotation::Event::WorkDone { assignment: assignment.id(), answer });
    let name = format!("forward:{}", phase.as_str());
    while farm.course() == name && farm.turn() {}
    farm
}

#[test]
fn verify_begins_when_every_shard_is_through() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    for (first, second) in [(0, 1), (2, 3), (4, 5)] {
        farm.answer(&format!("node-1 reencrypt-shard {first}.1"));
        assert_eq!(farm.course(), "forward:reencrypt");
        farm.answer(&format!("node-1 reencrypt-shard {second}.1"));
    }
    check(&farm, "forward:verify", &["node-1 verify-shard 0.2", "node-1 verify-shard 1.2"]);
}

#[test]
fn a_row_too_few_or_too_many_is_never_complete() {
    for rows in [1, 3] {
        let farm = with_tally(Phase::Reencrypt, |tally| tally.rows = rows);
        assert_eq!(farm.course(), "undo:turn-back");
        assert_eq!(farm.fault_codes(), [FaultCode::RowsChanged]);
        assert!(farm.rotation().faults[0].message.contains("connections"));
    }
}

#[test]
fn a_verified_shard_with_another_digest_undoes_it_at_once() {
    let farm = with_tally(Phase::Verify, |tally| tally.digest = ContentDigest::new(7));
    assert_eq!(farm.course(), "undo:turn-back");
    assert_eq!(farm.fault_codes(), [FaultCode::DigestDiffers]);
}

#[test]
fn a_verified_shard_with_other_rows_values_or_undecryptable_ones_undoes_it() {
    let farm = with_tally(Phase::Verify, |tally| tally.rows += 1);
    assert_eq!(farm.fault_codes(), [FaultCode::RowsChanged]);
    let farm = with_tally(Phase::Verify, |tally| tally.values -= 1);
    assert_eq!(farm.fault_codes(), [FaultCode::DigestDiffers]);
    let farm = with_tally(Phase::Verify, |tally| tally.undecryptable += 1);
    assert_eq!(farm.fault_codes(), [FaultCode::DigestDiffers]);
}

#[test]
fn a_verified_shard_with_other_columns_undoes_it_and_says_what_differs() {
    let what = |change: fn(&mut ShardTally)| {
        let farm = with_tally(Phase::Verify, change);
        assert_eq!(farm.course(), "undo:turn-back");
        let fault = farm.rotation().faults[0].clone();
        (fault.code, fault.message.split(" of shard").next().map(str::to_owned).expect("words"))
    };
    let other = |words: &str| (FaultCode::DigestDiffers, words.to_owned());
    assert_eq!(what(|tally| tally.rest = ContentDigest::new(7)), other("the keys or the other columns"));
    assert_eq!(what(|tally| tally.digest = ContentDigest::new(7)), other("the plaintexts"));
    let both = |tally: &mut ShardTally| (tally.rest, tally.digest) = (ContentDigest::new(7), ContentDigest::new(7));
    assert_eq!(what(both), other("the plaintexts and the other columns"));
    assert_eq!(what(|tally| tally.rows = 7), (FaultCode::RowsChanged, "the rows".to_owned()));
}

#[test]
fn a_failed_verification_leads_only_to_undo() {
    let mut farm = Farm::at(1, Phase::Verify);
    farm.fail("node-1 verify-shard 0.2", FaultCode::Undecryptable);
    assert_eq!(farm.course(), "undo:turn-back");
    farm.resume();
    assert_eq!(farm.course(), "undo:turn-back");
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn absurd_tallies_do_not_overflow() {
    let farm = with_tally(Phase::Reencrypt, |tally| tally.rows = u64::MAX);
    assert_eq!(farm.course(), "undo:turn-back");
}

#[test]
fn a_tally_of_another_shard_is_a_fault() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    let Answer::ShardReencrypted { lease, tally, .. } = rotation_answer(&farm, "node-1 reencrypt-shard 0.1") else {
        panic!("a shard's answer")
    };
    let wrong = Answer::ShardReencrypted { shard: rotation::ShardId::new(1), lease, tally };
    farm.answer_with("node-1 reencrypt-shard 0.1", wrong);
    assert_eq!(farm.fault_codes(), [FaultCode::Internal]);
    assert_eq!(farm.course(), "undo:turn-back");
}

fn rotation_answer(farm: &Farm, label: &str) -> Answer {
    crate::support::good_answer(farm.rotation(), &farm.find(label))
}

/// All shards verified.
fn verified(nodes: usize) -> Farm {
    let mut farm = Farm::at(nodes, Phase::Verify);
    while !farm.pending().iter().any(|work| work.ends_with("record-position")) {
        assert!(farm.turn());
    }
    farm
}

#[test]
fn the_position_is_recorded_before_anything_is_activated() {
    let mut farm = verified(2);
    check(&farm, "forward:verify", &["node-1 record-position"]);
    farm.answer("node-1 record-position");
    check(&farm, "forward:activate", &["node-1 activate-key", "node-2 activate-key"]);
    assert_eq!(farm.rotation().position, Some(position()));
}

#[test]
fn another_database_at_verify_undoes_it() {
    let mut farm = verified(2);
    let mut moved = position();
    moved.identity = DatabaseIdentity { kind: DatabaseKind::Postgres, identity: "a copy".to_owned() };
    farm.answer_with("node-1 record-position", Answer::PositionRecorded(moved));
    assert_eq!(farm.course(), "undo:turn-back");
    assert_eq!(farm.fault_codes(), [FaultCode::DatabasePosition]);
}

#[test]
fn the_position_can_be_recorded_by_another_node() {
    let mut farm = verified(2);
    farm.miss("node-1 record-position");
    check(&farm, "forward:verify", &["node-2 record-position"]);
}

#[test]
fn a_database_that_refuses_undoes_it() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    farm.fail("node-1 reencrypt-shard 1.1", FaultCode::Database);
    assert_eq!(farm.course(), "undo:turn-back");
}
