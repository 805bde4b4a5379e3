//! Once everything has healed, the rotation ends, nothing is pending any more, and no node is held.

use rotation::{Course, Ending, RotationId};

use crate::world::World;

const NAME: &str = "every run ends";

/// Whether there is nothing left to do.
pub(crate) fn has_ended(world: &World, rotation: RotationId) -> bool {
    let state = world.cluster.committed();
    let ended = state.rotations.get(&rotation).is_none_or(|rotation| matches!(rotation.course, Course::Ended(_)));
    ended && rotation::pending(&state).is_empty() && state.nodes.values().all(|node| node.quarantine.is_none())
}

pub(crate) fn check(world: &World, id: RotationId) -> Option<Ending> {
    let state = world.cluster.committed();
    let Some(found) = state.rotations.get(&id) else {
        world.violated(NAME, format_args!("the rotation is not known"));
        return None;
    };
    if !has_ended(world, id) {
        let course = match &found.course {
            Course::Stuck { step, reason, .. } => {
                format!("stuck in {} by {}: {}", step.as_str(), reason.code, reason.message)
            }
            other => format!("{other:?}"),
        };
        let pending: Vec<String> =
            rotation::pending(&state).iter().map(|work| format!("{} on {}", work.work.kind(), work.node)).collect();
        let held: Vec<String> = state
            .nodes
            .iter()
            .filter_map(|(node, found)| Some(format!("{node} since {:?}", found.quarantine.as_ref()?.reason.code)))
            .collect();
        world.violated(NAME, format_args!("it is {course}; pending {pending:?}; held {held:?}"));
    }
    match &found.course {
        Course::Ended(ending) => Some(*ending),
        Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } => None,
    }
}
