//! A shard has one lease at a time with a number that only rises; a node holds two at most; nobody who is held or
//! shunned holds any; and no more nodes write than the plan allows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rotation::{Course, NodeId, Phase, SHARDS_PER_AGENT_MAX, ShardId, UndoStep};

use crate::world::{World, config, scripts};

proptest! {
    #![proptest_config(config())]

    #[test]
    fn leases_are_bounded(script in scripts()) {
        let mut given = BTreeSet::new();
        World::play(&script, |world, applied| {
            let Some(rotation) = world.rotation() else { return };
            let mut held: BTreeMap<&NodeId, Vec<ShardId>> = BTreeMap::new();
            for (id, shard) in &rotation.shards {
                if let Some(lease) = &shard.lease {
                    assert_eq!(lease.number, shard.leases);
                    held.entry(&lease.node).or_default().push(*id);
                    given.insert((rotation.id, *id, lease.number, lease.node.clone()));
                }
            }
            for (node, shards) in &held {
                assert!(shards.len() <= SHARDS_PER_AGENT_MAX, "{node} holds {shards:?}");
                assert!(world.state.nodes[*node].quarantine.is_none(), "{node} is held");
                assert!(!rotation.nodes[*node].shunned, "{node} is shunned");
            }
            let writers = rotation.plan.as_ref().map_or(usize::MAX, |plan| plan.writers_max as usize);
            let writing = matches!(
                rotation.course,
                Course::Forward { phase: Phase::Reencrypt } | Course::Undo { step: UndoStep::RestoreRows, .. }
            );
            if writing {
                assert!(held.len() <= writers);
            }
            for entry in applied {
                let Some(before) = entry.before.rotations.get(&rotation.id) else { continue };
                for (id, shard) in &before.shards {
                    assert!(rotation.shards[id].leases >= shard.leases);
                }
            }
        });
        // No number was given to two nodes.
        let numbers: BTreeSet<_> = given.iter().map(|(rotation, shard, number, _)| (rotation, shard, number)).collect();
        assert_eq!(numbers.len(), given.len());
    }
}
