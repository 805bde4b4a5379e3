//! No table is swapped before every shard of the plan was verified, by the log as by the ledger, and the copies have all that
//! their originals have. The world's database asserts the ledger's half of it.

use proptest::prelude::*;
use rotation::{Work, pending};

use crate::world::{Script, World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_swap_before_every_verification(script in scripts().prop_map(|script| Script { shadows: true, ..script })) {
        let check = |world: &World| {
            for assignment in pending(&world.state) {
                let rotation = &world.state.rotations[&assignment.rotation];
                let verified = rotation.shards.values().all(|shard| shard.verified.is_some());
                match assignment.work {
                    Work::SwapTables => assert!(verified, "{}", world.describe()),
                    Work::ActivateKey { .. } => {
                        assert!(rotation.has_ended() || rotation.lead_done, "a key before the swap is logged");
                    }
                    _ => {}
                }
            }
        };
        let mut world = World::play(&script, |world, _| check(world));
        world.calm_down();
        check(&world);
    }
}
