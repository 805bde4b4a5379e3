//! Originals that a rotation kept are dropped only after it completed, and only when an operator signed for it; what the log
//! says is kept is there.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rotation::{Course, Ending, RotationId};

use crate::world::{Script, World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn retired_only_on_a_signed_word(script in scripts().prop_map(|script| Script { shadows: true, ..script })) {
        let mut kept: BTreeSet<RotationId> = BTreeSet::new();
        let mut asked: BTreeSet<RotationId> = BTreeSet::new();
        World::play(&script, |world, _| {
            let now: BTreeSet<RotationId> = world.database.kept().into_iter().collect();
            for (id, rotation) in &world.state.rotations {
                if let Some(retiring) = &rotation.retiring {
                    assert_eq!(rotation.course, Course::Ended(Ending::Completed));
                    assert_eq!(retiring.word.read().map(|word| word.rotation).ok(), Some(*id));
                    asked.insert(*id);
                }
                if !rotation.kept_tables().is_empty() && !asked.contains(id) {
                    assert!(now.contains(id), "what is kept is there: {}", world.describe());
                }
                // What the undo gives up is no original.
                let forward = matches!(rotation.course, Course::Forward { .. } | Course::Ended(Ending::Completed));
                let gone = kept.contains(id) && !now.contains(id);
                assert!(!gone || !forward || asked.contains(id), "dropped without a word: {}", world.describe());
            }
            kept = now;
        });
    }
}
