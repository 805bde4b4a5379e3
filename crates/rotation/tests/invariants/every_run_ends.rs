//! Whatever happened, when faults stop the rotation ends, held nodes follow, and the farm is on one key, wholly.

use proptest::prelude::*;
use rotation::{Course, Ending, pending};

use crate::world::{Instance, World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_run_ends(script in scripts()) {
        let mut world = World::play(&script, |_, _| {});
        world.calm_down();
        assert_eq!(world.state.active, None);
        assert!(pending(&world.state).is_empty());
        assert!(world.state.nodes.values().all(|node| node.quarantine.is_none()));
        let [live] = world.database.keys()[..] else { panic!("rows under several keys: {}", world.describe()) };
        assert!(world.database.open, "the application may log in again");

        let last = world.state.rotations.values().max_by_key(|rotation| rotation.epoch).expect("one was requested");
        let live_by_log = match last.course {
            Course::Ended(Ending::Completed) => last.new_key(),
            Course::Ended(Ending::RolledBack) => last.old_key(),
            Course::Ended(Ending::Refused | Ending::Withdrawn) => Some(live),
            Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } => panic!("{:?}", last.course),
        };
        assert_eq!(live_by_log, Some(live));
        for id in last.nodes.keys().filter(|id| world.state.nodes.contains_key(id)) {
            let machine = &world.machines[id];
            let ended_well = matches!(last.course, Course::Ended(Ending::Completed | Ending::RolledBack));
            if ended_well {
                assert_eq!(machine.instance, Instance::Online(live), "{id}: {}", world.describe());
                assert_eq!(machine.current, live, "{id}");
            }
        }
    }
}
