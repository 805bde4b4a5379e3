//! No node makes the new key its current one before every table that is swapped was, and none is while a table goes back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rotation::{KeyId, NodeId};

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_key_before_the_swap(script in scripts().prop_map(|script| crate::world::Script { shadows: true, ..script })) {
        let mut keys: BTreeMap<NodeId, KeyId> = BTreeMap::new();
        World::play(&script, |world, _| {
            for (id, machine) in &world.machines {
                let before = keys.insert(id.clone(), machine.current);
                if before.is_none_or(|before| before == machine.current) {
                    continue;
                }
                let activated =
                    world.state.rotations.values().find(|rotation| rotation.new_key() == Some(machine.current));
                if let Some(rotation) = activated.filter(|rotation| !rotation.has_ended()) {
                    assert!(world.database.is_swapped(rotation.id), "{id} before the swap: {}", world.describe());
                }
            }
        });
    }
}
