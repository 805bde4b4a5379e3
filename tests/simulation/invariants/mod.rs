//! What must hold, one file each. `check` looks after every event, `committed` at every transaction of an agent,
//! `accepted` at every assignment that an agent takes, and `at_the_end` when the run is over.

mod a_stale_fence_changes_nothing;
mod admitted_instances_open_the_data;
mod completion_is_whole;
mod every_row_opens_under_one_key;
mod every_run_ends;
mod needed_keys_exist;
mod undo_restores;

use reencrypt::simulation::Commit;
use rotation::{Ending, Fence, NodeId, RotationId};

use crate::world::World;

pub(crate) use a_stale_fence_changes_nothing::Seen;
pub(crate) use admitted_instances_open_the_data::Betrayed;
pub(crate) use every_run_ends::has_ended;
pub(crate) use needed_keys_exist::Folders;

pub(crate) fn check(world: &World) {
    // Rows that are as they were when they were last looked at need no second look.
    if world.rows_are_new() {
        every_row_opens_under_one_key::check(world);
    }
    admitted_instances_open_the_data::check(world);
    needed_keys_exist::check(world);
}

pub(crate) fn committed(world: &World, commit: &Commit, epoch_before: Option<u64>) {
    a_stale_fence_changes_nothing::committed(world, commit, epoch_before);
}

pub(crate) fn accepted(world: &World, node: &NodeId, fence: Fence) {
    a_stale_fence_changes_nothing::accepted(world, node, fence);
}

/// After everything has healed and come to rest.
pub(crate) fn at_the_end(world: &World, rotation: RotationId) -> Option<Ending> {
    check(world);
    let ending = every_run_ends::check(world, rotation);
    match ending {
        Some(Ending::Completed) => completion_is_whole::check(world, rotation),
        Some(Ending::RolledBack | Ending::Refused | Ending::Withdrawn) => undo_restores::check(world, rotation),
        None => {}
    }
    ending
}
