//! The throttle: shares, new leases at once, and when it is refused.

use rotation::{Course, Outcome, Phase, RejectionCode, UndoStep, Work, pending};

use crate::support::{Farm, check};

/// The share of every shard under way.
fn shares(farm: &Farm) -> Vec<Option<u32>> {
    pending(&farm.state)
        .into_iter()
        .filter_map(|assignment| match assignment.work {
            Work::ReencryptShard { rows_per_second, .. } | Work::VerifyShard { rows_per_second, .. } => {
                Some(rows_per_second)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn shards_under_way_are_leased_anew_to_who_has_them_with_their_share() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    let late = farm.done_event("node-1 reencrypt-shard 0.1");
    assert_eq!(farm.say(farm.throttle_event(Some(1_000))), Outcome::Changed);
    check(
        &farm,
        "forward:reencrypt",
        &[
            "node-1 reencrypt-shard 0.2",
            "node-2 reencrypt-shard 1.2",
            "node-1 reencrypt-shard 2.2",
            "node-2 reencrypt-shard 3.2",
        ],
    );
    assert_eq!(shares(&farm), [Some(250); 4]);
    assert_eq!(farm.say(late), Outcome::Unchanged, "the new lease goes on from the ledger and says it again");
    assert_eq!(farm.say(farm.throttle_event(Some(1_000))), Outcome::Unchanged);
    farm.find("node-1 reencrypt-shard 0.2");

    farm.say(farm.throttle_event(None));
    assert_eq!(shares(&farm), [None; 4]);
    farm.go_on();
    check(&farm, "ended:completed", &[]);
}

#[test]
fn it_lasts_from_pass_to_pass_and_the_last_shards_share_all_of_it() {
    let mut farm = Farm::requested(2);
    farm.say(farm.throttle_event(Some(100)));
    farm.go_to("forward:reencrypt");
    assert_eq!(shares(&farm), [Some(25); 4]);
    farm.go_to("forward:verify");
    assert_eq!(shares(&farm), [Some(25); 4]);
    for _ in 0..4 {
        farm.turn();
    }
    // Leased when three and two were left.
    assert!(shares(&farm).iter().all(|share| share.is_some_and(|share| share >= 25)), "{:?}", shares(&farm));
    farm.say(farm.throttle_event(Some(90)));
    assert_eq!(shares(&farm), [Some(45); 2]);
}

#[test]
fn a_share_is_at_least_one_row() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    farm.say(farm.throttle_event(Some(1)));
    assert_eq!(shares(&farm), [Some(1); 4]);
    assert_eq!(farm.refused(farm.throttle_event(Some(0))).code, RejectionCode::Throttle);
    assert_eq!(farm.rotation().throttle, Some(1));
}

#[test]
fn it_is_taken_in_every_phase_before_the_end_and_refused_after_it() {
    for phase in Phase::ALL {
        let mut farm = Farm::at(1, phase);
        assert_eq!(farm.say(farm.throttle_event(Some(7))), Outcome::Changed);
        farm.go_on();
        check(&farm, "ended:completed", &[]);
        assert_eq!(farm.refused(farm.throttle_event(None)).code, RejectionCode::WrongPhase);
    }
    for step in UndoStep::ALL {
        let mut farm = Farm::undoing(1, Phase::Start, step.as_str());
        assert_eq!(farm.say(farm.throttle_event(Some(7))), Outcome::Changed);
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        assert_eq!(farm.refused(farm.throttle_event(None)).code, RejectionCode::WrongPhase);
    }
}

#[test]
fn a_paused_or_stuck_rotation_takes_it_and_works_by_it_when_it_goes_on() {
    let mut farm = Farm::at(1, Phase::Reencrypt);
    farm.say(farm.pause_event());
    farm.say(farm.throttle_event(Some(10)));
    check(&farm, "forward:reencrypt", &[]);
    farm.resume();
    assert_eq!(shares(&farm), [Some(5); 2]);

    let mut farm = Farm::undoing(1, Phase::Verify, "restore-rows");
    let first = farm.pending().remove(0);
    farm.fail(&first, rotation::FaultCode::Database);
    assert!(matches!(farm.rotation().course, Course::Stuck { .. }));
    farm.say(farm.throttle_event(Some(10)));
    farm.retry();
    farm.go_to("undo:restore-rows");
    assert_eq!(shares(&farm), [Some(5); 2]);
}
