//! Completed means: every row is under the new key, every instance serves with it, every node's file holds it, nothing is
//! pending, the application may log in, and the ledger is closed.

use rotation::RotationId;

use super::undo_restores::everywhere;
use crate::world::{KeyName, World};

pub(crate) fn check(world: &World, rotation: RotationId) {
    everywhere(world, "completion is whole", KeyName::New, rotation);
}
