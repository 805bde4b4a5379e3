//! Epochs never fall, rise with every change of course, and belong to one phase or step of one rotation only.

use proptest::prelude::*;

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn epochs_only_rise(script in scripts()) {
        let mut last = rotation::Epoch::new(0);
        let mut now = rotation::Millis::new(0);
        World::play(&script, |world, applied| {
            assert!(world.state.epoch >= last);
            assert!(world.state.now >= now);
            (last, now) = (world.state.epoch, world.state.now);
            for rotation in world.state.rotations.values() {
                assert!(rotation.epoch <= world.state.epoch);
            }
            for entry in applied {
                for (id, before) in &entry.before.rotations {
                    let Some(after) = world.state.rotations.get(id) else { continue };
                    assert!(after.epoch >= before.epoch);
                    // A retirement that is asked for gets an epoch of its own.
                    let retires = after.retiring.is_some() && after.retiring != before.retiring;
                    assert!(!retires || after.has_ended());
                    if retires {
                        continue;
                    }
                    assert_eq!(
                        after.course != before.course,
                        after.epoch > before.epoch,
                        "{:?} to {:?}",
                        before.course,
                        after.course
                    );
                    if after.epoch > before.epoch {
                        assert!(after.epoch > entry.before.epoch, "an epoch was used twice");
                    }
                }
            }
        });
    }
}
