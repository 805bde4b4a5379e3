//! The estimates behind the downtime budget, over random plans, at random moments: what time, throttles and decisions may do
//! to them.

use proptest::prelude::*;
use rotation::{
    Answer, BudgetStanding, DowntimeBudget, Millis, OnBudget, Outcome, RotationOptions, budget_decision,
    budget_standing,
};

use crate::support::{ENTRY_MS, Farm, shadow_survey, survey};

/// A rotation somewhere between the first instance offline and the last one back.
#[derive(Debug, Clone)]
struct Moment {
    nodes: usize,
    shadows: bool,
    forecasts_ms: [u64; 3],
    instances_ms: u64,
    spare_ms: u64,
    on_budget: OnBudget,
    /// How much work was done, each after such a time.
    turns: Vec<u64>,
    silence_ms: u64,
}

fn moments() -> impl Strategy<Value = Moment> {
    let day = 24 * 3_600 * 1_000_u64;
    let forecast = prop_oneof![0..10_u64, 0..60_000_u64, 0..day];
    let plan = (1..=4_usize, any::<bool>(), [forecast.clone(), forecast.clone(), forecast], 0..120_000_u64);
    let budget = (prop_oneof![0..1_000_u64, 0..600_000_u64], any::<bool>());
    let time = prop_oneof![0..1_000_u64, 0..100_000_u64, 0..day];
    (plan, budget, prop::collection::vec(time.clone(), 0..40), time).prop_map(
        |((nodes, shadows, forecasts_ms, instances_ms), (spare_ms, goes_on), turns, silence_ms)| {
            let on_budget = if goes_on { OnBudget::Continue } else { OnBudget::Undo };
            Moment { nodes, shadows, forecasts_ms, instances_ms, spare_ms, on_budget, turns, silence_ms }
        },
    )
}

impl Moment {
    /// The farm at that moment; nobody has looked at its budget so far.
    fn farm(&self) -> Farm {
        let mut found = if self.shadows { shadow_survey() } else { survey() };
        for ((_, table), forecast_ms) in found.tables.iter_mut().zip(self.forecasts_ms) {
            table.forecast_ms = forecast_ms;
        }
        found.downtime_forecast_ms = self.forecasts_ms.iter().sum::<u64>() + self.instances_ms;
        let max_downtime_ms = (found.downtime_forecast_ms + self.spare_ms).max(1_000);
        let budget = Some(DowntimeBudget { max_downtime_ms, on_budget: self.on_budget });
        let mut farm = Farm::new(self.nodes);
        farm.request(RotationOptions { budget, ..RotationOptions::default() });
        for node in 1..=self.nodes {
            farm.answer(&format!("node-{node} inspect"));
        }
        farm.answer_with("node-1 survey-database", Answer::DatabaseSurveyed(Box::new(found)));
        farm.go_to("forward:quiesce");
        for wait_ms in &self.turns {
            farm.wait(*wait_ms);
            farm.turn();
        }
        farm.wait(self.silence_ms);
        farm
    }
}

fn standing(farm: &Farm) -> BudgetStanding {
    budget_standing(farm.rotation(), farm.now()).expect("it has a budget")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn while_nothing_is_heard_the_way_back_only_grows_longer(moment in moments(), more_ms in 1..10_000_000_u64) {
        let mut farm = moment.farm();
        let before = standing(&farm);
        farm.wait(more_ms);
        let after = standing(&farm);
        prop_assert!(after.back_ms >= before.back_ms, "{before:?} {after:?}");
        prop_assert!(after.used_ms >= before.used_ms);
        // When it turns back was foreseen, or it is due now.
        if let (Some(then), Some(now)) = (before.turns_back_at, after.turns_back_at) {
            prop_assert_eq!(now, then.max(farm.now()), "{:?} {:?}", before, after);
        }
    }

    #[test]
    fn a_throttle_makes_neither_way_shorter(moment in moments(), limit in 1..1_000_u32) {
        let mut farm = moment.farm();
        if farm.rotation().has_ended() {
            return Ok(());
        }
        let free = standing(&farm);
        let now = farm.now();
        farm.say(farm.throttle_event(Some(limit)));
        let throttled = budget_standing(farm.rotation(), now).expect("it has a budget");
        prop_assert!(throttled.back_ms >= free.back_ms && throttled.forward_ms >= free.forward_ms, "{free:?} {throttled:?}");
    }

    #[test]
    fn a_decision_is_taken_when_it_is_due_and_only_then(moment in moments()) {
        let mut farm = moment.farm();
        // The time of the next entry, so that what is logged is judged at the very moment at which it was decided.
        let at = Millis::new(farm.now().get() + ENTRY_MS);
        let now = budget_standing(farm.rotation(), at).expect("it has a budget");
        let (Some(forward), Some(back)) = (now.forward_ms, now.back_ms) else {
            prop_assert_eq!(budget_decision(&farm.state, at), None);
            return Ok(());
        };
        let max = now.budget.max_downtime_ms;
        match budget_decision(&farm.state, at) {
            None => {
                let in_time = now.used_ms < max;
                let has_a_way = now.used_ms + forward <= max || now.used_ms + back < max || forward <= back;
                prop_assert!(in_time && has_a_way, "{now:?}");
            }
            Some(decision) => {
                let over = now.used_ms >= max;
                prop_assert!(over || now.used_ms + forward > max, "{now:?}");
                prop_assert_eq!(farm.say(decision), Outcome::Changed);
                let turned_back = farm.course().starts_with("undo:");
                prop_assert_eq!(turned_back, moment.on_budget == OnBudget::Undo && forward > back, "{:?}", now);
                prop_assert_eq!(budget_decision(&farm.state, farm.now()), None, "once");
            }
        }
        farm.go_on();
        prop_assert!(["ended:completed", "ended:rolled-back"].contains(&farm.course().as_str()));
    }
}
