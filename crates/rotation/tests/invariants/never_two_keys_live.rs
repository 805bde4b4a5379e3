//! Never two keys live. No instance is admitted while rows are under another key or under two, and none runs with the
//! new key, admitted or not, while another is admitted with the old one.

use proptest::prelude::*;
use rotation::KeyId;

use crate::world::{Instance, World, config, scripts};

fn check(world: &World) {
    // A removed node is no longer the farm's; its operator answers for it.
    let farm: Vec<Instance> =
        world.machines.iter().filter(|(id, _)| world.state.nodes.contains_key(id)).map(|(_, m)| m.instance).collect();
    let admitted: Vec<KeyId> = farm
        .iter()
        .filter_map(|instance| match instance {
            Instance::Online(key) => Some(*key),
            Instance::Started(_) | Instance::Offline => None,
        })
        .collect();
    let Some(live) = admitted.first() else { return };
    assert_eq!(world.database.keys(), [*live], "rows are not under the key of who is admitted: {}", world.describe());
    for instance in farm {
        match instance {
            Instance::Online(key) | Instance::Started(key) => {
                assert_eq!(key, *live, "two keys run: {}", world.describe());
            }
            Instance::Offline => {}
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn never_two_keys_live(script in scripts()) {
        let mut world = World::play(&script, |world, _| check(world));
        world.calm_down();
        check(&world);
    }
}
