//! There is work to do unless the rotation has ended, or waits for an operator, or for a decision that is due. And what
//! is waited for is always said.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rotation::{Assignment, Course, Phase, Work, decisions, pending, waiting};

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pending_is_empty_only_when_waiting(script in scripts()) {
        World::play(&script, |world, _| {
            let work = pending(&world.state);
            let unique: BTreeSet<_> = work.iter().map(Assignment::id).collect();
            assert_eq!(unique.len(), work.len(), "two assignments share an id");
            let Some(rotation) = world.rotation() else {
                let follows = |one: &Assignment| world.state.nodes[&one.node].quarantine.is_some();
                assert!(work.iter().all(|one| follows(one) || one.work == Work::RetireTables));
                return;
            };
            assert!(!waiting(&world.state, rotation).is_empty(), "{}", world.describe());
            let waits = rotation.paused
                || matches!(rotation.course, Course::Forward { phase: Phase::Approval } | Course::Stuck { .. });
            let due = !decisions(&world.state).is_empty();
            assert_eq!(work.is_empty(), waits || due, "{} with {work:?}", world.describe());
        });
    }
}
