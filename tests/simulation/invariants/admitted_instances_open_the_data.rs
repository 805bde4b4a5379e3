//! An instance that clients reach runs with the key that every row is under; so no two of them run with different ones.

use crate::instance::Condition;
use crate::world::{KeyName, World, lock};

const NAME: &str = "no admitted instance holds a key that does not open the data";

pub(crate) fn check(world: &World) {
    let under = world.keys_of_rows();
    for (node, machine) in &world.nodes {
        let (condition, key) = {
            let instance = lock(&machine.instance);
            (instance.condition, instance.key.as_ref().map(keys::SecretKey::id))
        };
        if condition != Condition::Online {
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
