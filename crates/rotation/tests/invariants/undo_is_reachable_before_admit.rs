//! In every moment before Admit an operator can end the rotation, and then every node and row is under the old key.

use proptest::prelude::*;
use rotation::{Course, Ending, Entry, Event, Outcome, Phase, apply};

use crate::world::{Instance, World, config, scripts};

fn can_abort(world: &World) -> bool {
    matches!(world.course(), Some(Course::Forward { phase }) if *phase < Phase::Admit)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn undo_is_reachable_before_admit(script in scripts()) {
        let mut world = World::play(&script, |world, _| {
            if !can_abort(world) {
                return;
            }
            let mut state = world.state.clone();
            let event = Event::AbortRequested { rotation: world.id(), by: "alice".to_owned() };
            assert_eq!(apply(&mut state, &Entry { at: world.state.now, event }), Ok(Outcome::Changed));
            let course = &state.rotations[&world.id()].course;
            let going_back = matches!(course, Course::Undo { .. } | Course::Ended(Ending::Withdrawn));
            assert!(going_back, "{course:?} after an abort of {:?}", world.course());
        });
        if can_abort(&world) {
            let id = world.id();
            let old = world.rotation().and_then(rotation::Rotation::old_key);
            world.abort();
            world.calm_down();
            let course = &world.state.rotations[&id].course;
            assert!(matches!(course, Course::Ended(Ending::RolledBack | Ending::Withdrawn)), "{course:?}");
            if let Some(old) = old {
                assert_eq!(world.database.keys(), [old]);
                for (id, machine) in world.machines.iter().filter(|(id, _)| world.state.nodes.contains_key(id)) {
                    assert_eq!(machine.current, old, "{id}");
                    // A node that was removed and enrolled again is nobody's to bring back.
                    assert!(machine.instance == Instance::Online(old) || machine.pending.is_none(), "{id}");
                }
            }
        }
    }
}
