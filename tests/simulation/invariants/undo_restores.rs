//! Rolled back means: every row is under the old key and says what it said, every instance serves with it, every node's
//! file holds it, nothing is pending, the application may log in, and no copy is left beside the table.

use rotation::{NodeId, RotationId};

use crate::instance::Condition;
use crate::world::{KeyName, TABLE, World, lock};

const NAME: &str = "undo restores";

pub(crate) fn check(world: &World, rotation: RotationId) {
    everywhere(world, NAME, KeyName::Old, rotation);
    let tables = world.database.tables();
    if tables != [TABLE] {
        world.violated(NAME, format_args!("tables {tables:?} are left"));
    }
}

/// The whole farm is under this key and nothing of the rotation is left open.
pub(super) fn everywhere(world: &World, invariant: &str, name: KeyName, rotation: RotationId) {
    let key = match name {
        KeyName::Old => world.old.id(),
        KeyName::New => world.new.id(),
    };
    let violated = |how: String| world.violated(invariant, format_args!("{how}"));
    {
        let mut truth = world.truth();
        for (id, values, _) in world.database.rows(TABLE) {
            for (column, stored) in values.iter().enumerate() {
                let opened = world.open(&mut truth, stored, column);
                if opened.len() != 1 || opened[0].0 != name {
                    return violated(format!("row {id}, column {column} is not under the {name:?} key"));
                }
            }
        }
    }
    let of_node = |node: &NodeId| -> Result<(), String> {
        let machine = &world.nodes[node];
        let store = machine.store();
        let current = store.current().map_err(|error| format!("its encryption.config cannot be read: {error}"))?;
        if current.active().secret.id() != key {
            return Err(format!("its encryption.config does not hold the {name:?} key"));
        }
        if store.pending().map_err(|error| format!("its pending keys cannot be read: {error}"))?.is_some() {
            return Err("it has a pending key".to_owned());
        }
        let instance = lock(&machine.instance);
        if instance.condition != Condition::Online {
            return Err(format!("its instance is {:?}", instance.condition));
        }
        if instance.key.as_ref().map(keys::SecretKey::id) != Some(key) {
            return Err(format!("its instance does not run with the {name:?} key"));
        }
        Ok(())
    };
    for node in world.nodes.keys() {
        if let Err(how) = of_node(node) {
            return violated(format!("{node}: {how}"));
        }
    }
    if world.database.is_fenced() {
        return violated("the application may not log in".to_owned());
    }
    let open = world.database.ledger().into_iter().find(|found| found.rotation == rotation && !found.closed);
    if open.is_some() {
        violated("the ledger is open".to_owned());
    }
}
