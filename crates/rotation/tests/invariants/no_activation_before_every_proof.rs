//! No node makes the new key its current one before every node that takes part has proved that it holds it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rotation::{KeyId, NodeId};

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_activation_before_every_proof(script in scripts()) {
        let mut keys: BTreeMap<NodeId, KeyId> = BTreeMap::new();
        World::play(&script, |world, _| {
            for (id, machine) in &world.machines {
                let before = keys.insert(id.clone(), machine.current);
                if before.is_none_or(|before| before == machine.current) {
                    continue;
                }
                // The key changed just now: to a new one, whose rotation all must have proved, or back to an old one.
                let activated =
                    world.state.rotations.values().find(|rotation| rotation.new_key() == Some(machine.current));
                let Some(rotation) = activated else { continue };
                for node in rotation.nodes.keys() {
                    assert!(
                        world.proved.contains(&(rotation.id, node.clone())),
                        "{id} activated before {node} proved: {}",
                        world.describe()
                    );
                }
            }
        });
    }
}
