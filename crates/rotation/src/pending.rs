//! Work still to do and decisions still to log, as functions of the state. Nothing else remembers them.

use crate::run::Stand;
use crate::{Assignment, Event, Rotation, State, phases};

/// All work that the state calls for now: of the rotation under way unless it is paused, and of held nodes that follow
/// one which has ended. In a fixed order: by rotation, then by node or shard.
pub fn pending(state: &State) -> Vec<Assignment> {
    state.rotations.values().filter(|rotation| !rotation.paused).flat_map(|rotation| of(state, rotation)).collect()
}

/// What the leader should log because the state calls for it: that all are to be admitted, once every node that is not
/// held has passed its canary.
pub fn decisions(state: &State) -> Vec<Event> {
    state
        .active
        .and_then(|id| state.rotations.get(&id))
        .and_then(|rotation| phases::admission(Stand { nodes: &state.nodes, rotation }))
        .into_iter()
        .collect()
}

/// One rotation's work.
pub(crate) fn of(state: &State, rotation: &Rotation) -> Vec<Assignment> {
    phases::work(Stand { nodes: &state.nodes, rotation })
        .into_iter()
        .map(|(node, work)| Assignment { rotation: rotation.id, epoch: rotation.epoch, node, work })
        .collect()
}
