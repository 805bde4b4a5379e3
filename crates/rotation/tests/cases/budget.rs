//! The downtime budget: refused plans, when a rotation turns back, when it goes on, and what the throttle does to both.

use rotation::{
    Answer, Course, DowntimeBudget, Ending, Event, FaultCode, OnBudget, Outcome, Phase, RejectionCode, RotationOptions,
    Survey, budget_counts, budget_decision, budget_standing,
};

use crate::support::{Farm, check, shadow_survey, survey};

/// A survey whose rows take 100 s in place: 75 to turn and 25 to read; instances take 10 s.
fn slow(mut survey: Survey) -> Survey {
    for (_, table) in &mut survey.tables {
        table.forecast_ms = if table.rows == 0 { 0 } else { 50_000 };
    }
    survey.downtime_forecast_ms = 110_000;
    survey
}

fn options(seconds: u64, on_budget: OnBudget) -> RotationOptions {
    let budget = Some(DowntimeBudget { max_downtime_ms: seconds * 1_000, on_budget });
    RotationOptions { budget, ..RotationOptions::default() }
}

/// A farm of two nodes whose rotation has this budget, after its survey.
fn surveyed(seconds: u64, on_budget: OnBudget, found: Survey) -> Farm {
    let mut farm = Farm::new(2);
    farm.request(options(seconds, on_budget));
    farm.answer("node-1 inspect");
    farm.answer("node-2 inspect");
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
    farm
}

/// The same, in this phase. Everything so far was done in no time.
fn at(phase: Phase, seconds: u64, on_budget: OnBudget, found: Survey) -> Farm {
    let mut farm = surveyed(seconds, on_budget, found);
    farm.go_to(&format!("forward:{}", phase.as_str()));
    farm
}

/// Every row takes as long as was forecast, and nothing else any time, until this course is reached. Nobody decides
/// anything of the budget meanwhile.
fn go_as_forecast(farm: &mut Farm, course: &str) {
    while farm.course() != course {
        let step_ms = match farm.course().as_str() {
            "forward:reencrypt" => 75_000 / 5,
            "forward:verify" => 25_000 / 5,
            _ => 0,
        };
        // Of the six shards one is empty.
        if farm.pending().first().is_some_and(|work| work.contains("-shard ") && !work.contains("-shard 5.")) {
            farm.wait(step_ms);
        }
        assert_eq!(look(farm), None, "{:?}", budget_standing(farm.rotation(), farm.now()));
        assert!(farm.turn(), "{course} was never reached");
    }
}

/// Says what the leader must, if it must say something of the budget now.
fn look(farm: &mut Farm) -> Option<Outcome> {
    let decision = budget_decision(&farm.state, farm.now())?;
    Some(farm.say(decision))
}

/// Waits until the leader decides; after how many seconds in offline that was.
fn seconds_until_decided(farm: &mut Farm) -> u64 {
    for _ in 0..10_000 {
        let used = budget_standing(farm.rotation(), farm.now()).expect("it has a budget").used_ms;
        if look(farm) == Some(Outcome::Changed) {
            return used / 1_000;
        }
        farm.wait(100);
    }
    panic!("it was never decided: {:?}", budget_standing(farm.rotation(), farm.now()));
}

/// Its only fault says that the budget is overrun and that it goes on, and why.
fn check_goes_on(farm: &Farm, why: &str) {
    assert_eq!(farm.fault_codes(), [FaultCode::DowntimeBudget]);
    let next_step = &farm.rotation().faults[0].next_step;
    assert!(next_step.contains("goes on") && next_step.contains(why) && next_step.contains("abort"), "{next_step}");
}

#[test]
fn a_plan_whose_forecast_exceeds_the_budget_is_refused_and_names_both() {
    let farm = surveyed(60, OnBudget::Undo, slow(survey()));
    check(&farm, "ended:refused", &[]);
    let fault = farm.rotation().faults.last().expect("why");
    assert_eq!(fault.code, FaultCode::DowntimeBudget);
    assert!(fault.message.contains("1 min 50 s") && fault.message.contains("60 s"), "{}", fault.message);
    assert!(fault.next_step.contains("--max-downtime"), "{}", fault.next_step);
    // Also for who would rather overrun: it is known beforehand.
    check(&surveyed(60, OnBudget::Continue, slow(survey())), "ended:refused", &[]);
    check(&surveyed(110, OnBudget::Undo, slow(survey())), "forward:approval", &[]);
}

#[test]
fn a_throttle_counts_in_the_forecast_of_the_plan_and_again_at_the_start() {
    let mut farm = Farm::new(1);
    farm.request(options(120, OnBudget::Undo));
    // Ten rows turned and ten read back, one in 20 seconds at most.
    farm.say(farm.throttle_event(Some(1)));
    farm.answer("node-1 inspect");
    let mut found = slow(survey());
    for (_, table) in &mut found.tables {
        table.rows *= 10;
    }
    farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
    check(&farm, "ended:refused", &[]);
    assert!(farm.rotation().faults[0].message.contains("at 1 rows a second"), "{}", farm.rotation().faults[0].message);

    let mut farm = surveyed(120, OnBudget::Undo, slow(survey()));
    let plan = farm.plan().clone();
    assert_eq!(plan.downtime_forecast_at(None), 110_000);
    assert_eq!(plan.downtime_forecast_at(Some(1)), 110_000, "ten rows are slower by themselves");
    for table in farm.state.rotations.get_mut(&farm.id).expect("it").plan.as_mut().expect("made").tables.values_mut() {
        table.rows *= 100;
    }
    farm.say(farm.throttle_event(Some(1)));
    let statement = crate::support::statement(farm.plan(), crate::support::NEW);
    let mut signed = statement;
    signed.plan_digest = farm.rotation().plan_digest.expect("made");
    let start = farm.start_event(crate::support::authorization(&signed));
    let refused = farm.refused(start.clone());
    assert_eq!(refused.code, RejectionCode::DowntimeBudget);
    assert!(refused.message.contains("at 1 rows a second") && refused.message.contains("2 min"), "{}", refused.message);
    farm.say(farm.throttle_event(None));
    assert_eq!(farm.say(start), Outcome::Changed);
}

#[test]
fn a_budget_of_nothing_is_refused() {
    for ms in [0, 999, 8 * 24 * 3_600 * 1_000] {
        let mut farm = Farm::new(1);
        let budget = Some(DowntimeBudget { max_downtime_ms: ms, on_budget: OnBudget::Undo });
        let event = Event::RotationRequested {
            rotation: farm.id,
            by: "alice".to_owned(),
            options: RotationOptions { budget, ..RotationOptions::default() },
        };
        assert_eq!(farm.refused(event).code, RejectionCode::DowntimeBudget);
    }
}

#[test]
fn nothing_counts_before_instances_go_offline_and_after_the_admission() {
    for phase in [Phase::Approval, Phase::Distribute, Phase::Admit, Phase::Completed] {
        let mut farm = at(phase, 110, OnBudget::Undo, slow(survey()));
        farm.wait(24 * 3_600 * 1_000);
        assert!(!budget_counts(&farm.state), "{phase:?}");
        assert_eq!(look(&mut farm), None, "{phase:?}");
        let (rotation, epoch) = (farm.id, farm.rotation().epoch);
        let said = farm.say(Event::BudgetSpent { rotation, epoch, used_ms: u64::MAX });
        assert_eq!(said, Outcome::Unchanged, "{phase:?}");
        farm.go_on();
        check(&farm, "ended:completed", &[]);
    }
}

#[test]
fn in_every_phase_that_hangs_it_turns_back_in_time_and_is_back_within_the_budget() {
    // One node writes, so that two of five shards are under way.
    let in_place = || Survey { writers_max: 1, ..slow(survey()) };
    // How long the way back takes in each, by the plan: instances, rows to turn and to read.
    for (phase, found, back) in [
        (Phase::Quiesce, in_place(), 10),
        (Phase::Reencrypt, in_place(), 10 + 30 + 25),
        (Phase::Reencrypt, slow(shadow_survey()), 10 + 25),
        (Phase::Verify, slow(shadow_survey()), 10 + 25),
    ] {
        let mut farm = at(phase, 600, OnBudget::Undo, found);
        assert!(budget_counts(&farm.state));
        let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
        let foreseen = standing.turns_back_at.expect("it counts");
        let decided = seconds_until_decided(&mut farm);
        assert!(matches!(farm.rotation().course, Course::Undo { from, .. } if from == phase), "{phase:?}");
        // What hangs is thought to be slow, so the way back is thought to be as well: earlier rather than later.
        assert!(decided + back <= 601, "{phase:?}: after {decided} s with {back} s to go back");
        assert!(decided >= 90, "{phase:?}: not before it must, but after {decided} s");
        let off = farm.now().since(foreseen).max(foreseen.since(farm.now()));
        assert!(off < 1_000, "{phase:?}: foreseen {off} ms from when it came");
        let fault = farm.rotation().faults.last().expect("why");
        assert_eq!(fault.code, FaultCode::DowntimeBudget);
        assert!(fault.message.contains("10 min"), "{}", fault.message);
        assert!(!budget_counts(&farm.state));
        farm.go_on();
        check(&farm, "ended:rolled-back", &[]);
        let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
        assert!(standing.used_ms <= 600_000 && standing.spent_at.is_some(), "{standing:?}");
    }
}

#[test]
fn who_has_nearly_arrived_goes_on_rather_than_back() {
    // All rows are through; only instances are to start, and the way back would be 135 s.
    for phase in [Phase::Activate, Phase::Start] {
        let mut farm = at(Phase::Reencrypt, 150, OnBudget::Undo, slow(survey()));
        go_as_forecast(&mut farm, &format!("forward:{}", phase.as_str()));
        let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
        assert!(standing.used_ms + standing.back_ms.expect("offline") > 150_000, "{standing:?}");
        assert!(standing.forward_ms < standing.back_ms, "{standing:?}");
        assert_eq!(look(&mut farm), None, "{phase:?}");
        farm.go_on();
        check(&farm, "ended:completed", &[]);
    }
}

#[test]
fn rows_that_are_only_to_be_read_back_are_not_turned_back_first() {
    let mut farm = at(Phase::Verify, 600, OnBudget::Undo, slow(survey()));
    farm.wait(590_000);
    let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(standing.forward_ms < standing.back_ms, "{standing:?}");
    assert_eq!(look(&mut farm), None, "that would take longer still");
    farm.wait(20_000);
    assert_eq!(look(&mut farm), Some(Outcome::Changed));
    check_goes_on(&farm, "since an undo would take longer");
    assert_eq!(look(&mut farm), None, "it was said");
    farm.go_on();
    check(&farm, "ended:completed", &[]);
}

#[test]
fn a_rotation_on_its_way_is_not_undone_however_tight_the_budget() {
    // As fast as forecast, and a budget of hardly more: never is it undone.
    let mut farm = at(Phase::Reencrypt, 112, OnBudget::Undo, slow(survey()));
    go_as_forecast(&mut farm, "ended:completed");
    check(&farm, "ended:completed", &[]);
    let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(standing.used_ms <= 112_000 && standing.spent_at.is_none(), "{standing:?}");
}

#[test]
fn one_that_is_to_go_on_says_so_once_and_completes() {
    let mut farm = at(Phase::Reencrypt, 200, OnBudget::Continue, slow(survey()));
    seconds_until_decided(&mut farm);
    assert_eq!(farm.course(), "forward:reencrypt");
    check_goes_on(&farm, "as was asked for");
    farm.wait(1_000_000);
    assert_eq!(look(&mut farm), None, "it was said");
    farm.go_on();
    check(&farm, "ended:completed", &[]);
    let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(standing.used_ms > 1_000_000 && standing.spent_at.is_some() && standing.turns_back_at.is_none());
    assert_eq!(farm.fault_codes(), [FaultCode::DowntimeBudget]);
}

#[test]
fn a_paused_rotation_uses_up_its_budget_and_a_pause_is_no_slowness() {
    let mut farm = at(Phase::Reencrypt, 400, OnBudget::Undo, slow(survey()));
    farm.say(farm.pause_event());
    farm.wait(100_000);
    let paused = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    farm.resume();
    let resumed = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(resumed.forward_ms.expect("forward").abs_diff(paused.forward_ms.expect("forward")) < 100, "{resumed:?}");
    assert!(resumed.used_ms >= 100_000);
    farm.say(farm.pause_event());
    seconds_until_decided(&mut farm);
    assert!(matches!(farm.rotation().course, Course::Undo { .. }), "paused or not");
    assert!(!farm.rotation().paused);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn a_throttle_under_way_slows_both_ways_and_leads_back() {
    let mut farm = at(Phase::Reencrypt, 300, OnBudget::Undo, slow(shadow_survey()));
    let before = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    farm.say(farm.throttle_event(Some(1)));
    let after = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert_eq!(before.back_ms, after.back_ms, "ten rows are slower by themselves");
    // A thousand times as many rows.
    let rotation = farm.state.rotations.get_mut(&farm.id).expect("it");
    for shard in &mut rotation.plan.as_mut().expect("made").shards {
        shard.rows_estimated *= 20;
    }
    for table in rotation.plan.as_mut().expect("made").tables.values_mut() {
        table.rows *= 20;
    }
    let throttled = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    // 200 rows at one a second, each way; the way back reads them only, and no shadow needs turning back.
    assert!(throttled.back_ms.expect("offline") >= 200_000, "{throttled:?}");
    assert!(throttled.forward_ms.expect("offline") >= 400_000, "{throttled:?}");
    // What is under way has come no further than the throttle allows, however fast the database could be.
    farm.wait(30_000);
    let later = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(later.forward_ms.expect("offline") + 30_000 >= throttled.forward_ms.expect("offline"), "{later:?}");
    assert!(seconds_until_decided(&mut farm) <= 60);
    farm.go_on();
    check(&farm, "ended:rolled-back", &[]);
}

#[test]
fn the_last_shard_goes_at_the_share_with_which_it_was_leased_however_few_are_left() {
    let mut farm = at(Phase::Reencrypt, 3_600, OnBudget::Undo, slow(survey()));
    farm.say(farm.throttle_event(Some(1_000)));
    let rotation = farm.state.rotations.get_mut(&farm.id).expect("it");
    for table in rotation.plan.as_mut().expect("made").tables.values_mut() {
        table.rows *= 1_000;
    }
    for shard in &mut rotation.plan.as_mut().expect("made").shards {
        shard.rows_estimated *= 1_000;
    }
    let rows =
        rotation.plan.as_ref().expect("made").shards.iter().map(|shard| shard.rows_estimated).max().expect("any");
    for progress in rotation.shards.values_mut() {
        if let Some(lease) = &mut progress.lease {
            lease.rows_per_second = Some(1);
        }
    }
    let standing = budget_standing(farm.rotation(), farm.now()).expect("it has a budget");
    assert!(standing.forward_ms.expect("offline") >= rows * 1_000, "{rows}: {standing:?}");
}

#[test]
fn a_leaders_word_of_an_earlier_epoch_or_beyond_what_holds_changes_nothing() {
    let mut farm = at(Phase::Reencrypt, 600, OnBudget::Undo, slow(shadow_survey()));
    let rotation = farm.id;
    let epoch = farm.rotation().epoch;
    let early = Event::BudgetSpent { rotation, epoch, used_ms: 10_000 };
    assert_eq!(farm.say(early), Outcome::Unchanged, "there is time");
    farm.go_to("forward:verify");
    let late = Event::BudgetSpent { rotation, epoch, used_ms: 599_000 };
    assert_eq!(farm.say(late), Outcome::Unchanged);
    assert_eq!(farm.course(), "forward:verify");
    // A clock that was put back since does not matter: the leader's own measure does.
    let epoch = farm.rotation().epoch;
    assert_eq!(farm.say(Event::BudgetSpent { rotation, epoch, used_ms: 599_000 }), Outcome::Changed);
    assert!(matches!(farm.rotation().course, Course::Undo { from: Phase::Verify, .. }));
}

#[test]
fn without_a_budget_nothing_counts() {
    let mut farm = Farm::at(2, Phase::Reencrypt);
    farm.wait(1_000_000_000);
    assert!(!budget_counts(&farm.state));
    assert_eq!((look(&mut farm), budget_standing(farm.rotation(), farm.now())), (None, None));
    farm.go_on();
    assert_eq!(farm.rotation().course, Course::Ended(Ending::Completed));
}
