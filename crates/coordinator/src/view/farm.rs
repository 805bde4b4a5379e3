//! The farm and its nodes as operators see them.

use std::collections::BTreeMap;

use rotation::{Node, NodeId, State};
use wire::v1;

/// The farm, from the replica `answering` while `leader` leads.
pub(crate) fn farm(
    state: &State,
    configured_name: &str,
    replicas: &BTreeMap<u64, String>,
    answering: u64,
    leader: Option<u64>,
    heartbeat_ms: u32,
) -> v1::Farm {
    v1::Farm {
        name: if state.farm.is_empty() { configured_name.to_owned() } else { state.farm.clone() },
        cluster: state.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
        replicas: replicas
            .iter()
            .map(|(id, address)| v1::Replica {
                id: *id,
                address: address.clone(),
                leader: leader == Some(*id),
                answering: answering == *id,
            })
            .collect(),
        nodes: state.nodes.iter().map(|(id, found)| node(id, found)).collect(),
        active_rotation: state.active.map(|id| id.to_string()).unwrap_or_default(),
        heartbeat_ms,
    }
}

/// One node.
pub(crate) fn node(id: &NodeId, node: &Node) -> v1::Node {
    v1::Node {
        id: id.to_string(),
        address: node.address.clone(),
        enrolled_at_ms: node.enrolled_at.get(),
        key: node.key.map(|key| key.to_string()).unwrap_or_default(),
        held_because: node.quarantine.as_ref().map(|held| (&held.reason).into()),
        held_by_rotation: node.quarantine.as_ref().map(|held| held.rotation.to_string()).unwrap_or_default(),
    }
}
