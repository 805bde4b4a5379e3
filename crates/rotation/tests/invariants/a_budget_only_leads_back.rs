//! A spent budget leads to the undo and to nothing else, only while the farm is offline and can still turn back, and only
//! where the signed plan says so.

use proptest::prelude::*;
use rotation::{Course, Event, FaultCode, OnBudget, Phase, Rotation, State};

use crate::world::{World, config, scripts};

/// The state without what a spent budget leaves when the rotation goes on.
fn without_note(state: &State) -> State {
    let mut state = state.clone();
    state.now = rotation::Millis::new(0);
    for rotation in state.rotations.values_mut() {
        rotation.budget_spent_at = None;
        rotation.faults.retain(|fault| fault.code != FaultCode::DowntimeBudget);
    }
    state
}

fn is_offline(rotation: &Rotation) -> bool {
    matches!(rotation.course, Course::Forward { phase } if (Phase::Quiesce..=Phase::Start).contains(&phase))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_budget_only_leads_back(script in scripts()) {
        World::play(&script, |world, applied| {
            for entry in applied {
                let Event::BudgetSpent { rotation: id, .. } = entry.entry.event else { continue };
                let (Some(before), Some(after)) = (entry.before.rotations.get(&id), world.state.rotations.get(&id)) else {
                    continue;
                };
                if without_note(&entry.before) == without_note(&world.state) {
                    continue;
                }
                let budget = before.plan.as_ref().and_then(|plan| plan.budget).expect("only a budget can be spent");
                assert!(is_offline(before), "{:?}", before.course);
                assert_eq!(budget.on_budget, OnBudget::Undo);
                assert!(matches!(after.course, Course::Undo { from, .. } if from == before.reached), "{:?}", after.course);
                assert!(after.faults.iter().any(|fault| fault.code == FaultCode::DowntimeBudget));
            }
            for rotation in world.state.rotations.values() {
                if rotation.plan.as_ref().is_some_and(|plan| plan.budget.is_none()) {
                    assert_eq!(rotation.budget_spent_at, None);
                }
            }
        });
    }
}
