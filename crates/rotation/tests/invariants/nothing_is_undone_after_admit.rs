//! Once the decision to admit is logged, a rotation ends as completed and as nothing else; its rows never go back.

use proptest::prelude::*;
use rotation::{Course, Ending, Phase, RejectionCode};

use crate::world::{World, config, scripts};

fn is_past_return(course: &Course) -> bool {
    matches!(course, Course::Forward { phase: Phase::Admit | Phase::Completed } | Course::Ended(Ending::Completed))
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_undone_after_admit(script in scripts()) {
        World::play(&script, |world, applied| {
            for entry in applied {
                for (id, before) in &entry.before.rotations {
                    let Some(after) = world.state.rotations.get(id) else { continue };
                    if is_past_return(&before.course) {
                        assert!(is_past_return(&after.course), "{:?} led to {:?}", before.course, after.course);
                    }
                }
                if let rotation::Event::AbortRequested { rotation, .. } = &entry.entry.event
                    && entry.before.rotations.get(rotation).is_some_and(|before| is_past_return(&before.course))
                {
                    let rejection = entry.result.as_ref().expect_err("too late to abort");
                    assert_eq!(rejection.code, RejectionCode::PointOfNoReturn);
                }
            }
            let admitting = world.rotation().filter(|rotation| is_past_return(&rotation.course));
            if let Some(rotation) = admitting {
                assert_eq!(world.database.keys(), [rotation.new_key().expect("started")], "{}", world.describe());
            }
        });
    }
}
