//! The random runs come everywhere: every phase, every step of the undo, stuck, every ending, held nodes that follow.

use std::collections::BTreeSet;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rotation::{Course, Phase, UndoStep};

use crate::support::course_text;
use crate::world::{World, scripts};

/// Drawn with a fixed seed, so that this test says the same every time.
const RUNS: usize = 2_000;

#[test]
fn random_runs_come_everywhere() {
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let mut seen = BTreeSet::new();
    for _ in 0..RUNS {
        let script = scripts().new_tree(&mut runner).expect("the strategy rejects nothing").current();
        World::play(&script, |world, applied| {
            for rotation in world.state.rotations.values() {
                seen.insert(course_text(&rotation.course));
                if rotation.paused {
                    seen.insert("paused".to_owned());
                }
                if rotation.nodes.values().any(|progress| progress.catch_up.started) {
                    seen.insert("followed".to_owned());
                }
                if rotation.throttle.is_some() && rotation.shards.values().any(|shard| shard.lease.is_some()) {
                    seen.insert("throttled".to_owned());
                }
                if rotation.retiring.as_ref().is_some_and(|retiring| retiring.done.is_some()) {
                    seen.insert("retired".to_owned());
                }
                if world.database.is_swapped(rotation.id) && matches!(rotation.course, Course::Undo { .. }) {
                    seen.insert("swapped in the undo".to_owned());
                }
                if rotation.budget_spent_at.is_some() {
                    let went_on = matches!(rotation.course, Course::Forward { .. });
                    seen.insert(if went_on { "over budget" } else { "undone for its budget" }.to_owned());
                }
                let begun = rotation.times.iter().filter(|time| time.name == "undo:turn-back").count();
                let again = matches!(rotation.course, Course::Undo { step: UndoStep::StopInstances, .. });
                if begun > 1 && again {
                    seen.insert("undone again".to_owned());
                }
                if rotation.lease_rounds > 0 {
                    seen.insert("all silent".to_owned());
                }
            }
            if applied.iter().any(|entry| entry.result.is_err()) {
                seen.insert("refused".to_owned());
            }
        });
    }
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    wanted.extend(Phase::ALL.map(|phase| format!("forward:{}", phase.as_str())));
    wanted.extend(UndoStep::ALL.map(|step| format!("undo:{}", step.as_str())));
    wanted.extend(UndoStep::ALL.map(|step| format!("stuck:{}", step.as_str())));
    wanted.extend(["ended:completed", "ended:rolled-back", "ended:refused", "ended:withdrawn"].map(str::to_owned));
    wanted.extend(["paused", "followed", "all silent", "refused"].map(str::to_owned));
    wanted.extend(["throttled", "retired", "swapped in the undo"].map(str::to_owned));
    wanted.extend(["over budget", "undone for its budget", "undone again"].map(str::to_owned));
    let missed: Vec<&String> = wanted.difference(&seen).collect();
    assert!(missed.is_empty(), "never seen: {missed:?}");
}
