//! An instance that clients reach runs with the key that every row is under; so no two of them run with different ones.
//! Nobody can help it where a standby took rows back to another key under an instance that ran: that one is to be taken
//! offline, and is looked at again from then on.

use std::collections::BTreeSet;
use std::sync::Mutex;

use rotation::NodeId;

use crate::instance::Condition;
use crate::world::{KeyName, World, lock};

const NAME: &str = "no admitted instance holds a key that does not open the data";

/// The nodes whose instances ran when the database took rows back to another key.
#[derive(Default)]
pub(crate) struct Betrayed(Mutex<BTreeSet<NodeId>>);

impl Betrayed {
    /// The database has failed over.
    pub(crate) fn look(&self, world: &World) {
        let [old, new] = world.keys_of_rows();
        for (node, machine) in &world.nodes {
            let key = lock(&machine.instance).key.as_ref().map(keys::SecretKey::id);
            let differs = key == Some(world.old.id()) && new || key == Some(world.new.id()) && old;
            if differs {
                world.say(format_args!("{node}: rows went back to another key than its instance runs with"));
                lock(&self.0).insert(node.clone());
            }
        }
    }

    /// An instance was taken offline.
    pub(crate) fn forget(&self, node: &NodeId) {
        lock(&self.0).remove(node);
    }
}

pub(crate) fn check(world: &World) {
    let under = world.keys_of_rows();
    for (node, machine) in &world.nodes {
        let (condition, key) = {
            let instance = lock(&machine.instance);
            (instance.condition, instance.key.as_ref().map(keys::SecretKey::id))
        };
        if condition != Condition::Online || lock(&world.betrayed.0).contains(node) {
            continue;
        }
        let held = [(KeyName::Old, world.old.id()), (KeyName::New, world.new.id())]
            .into_iter()
            .find(|(_, id)| Some(*id) == key)
            .map(|(name, _)| name);
        match held {
            Some(KeyName::Old) if !under[KeyName::New as usize] => {}
            Some(KeyName::New) if !under[KeyName::Old as usize] => {}
            held => {
                let [old, new] = under;
                return world.violated(
                    NAME,
                    format_args!("{node} serves with {held:?}; rows under the old key: {old}, under the new: {new}"),
                );
            }
        }
    }
}
