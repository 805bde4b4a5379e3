//! The old key exists while any row needs it, and so does the new one: on every node, in a file that the node's own
//! machine opens. A node that has not been given the new key yet has nothing to do with rows under it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Mutex;

use rotation::{KeyId, NodeId};

use crate::world::{KeyName, World, lock};

const NAME: &str = "the old key exists while any row needs it";

/// Name, inode, time and size of every file of a folder: it is read again only when one of them is another.
type Stamp = Vec<(String, u64, i64, u64)>;

/// What was last found on each node.
#[derive(Default)]
pub(crate) struct Folders(Mutex<BTreeMap<NodeId, (Stamp, BTreeSet<KeyId>)>>);

pub(crate) fn check(world: &World) {
    let [old, new] = world.keys_of_rows();
    let needed = [(old, KeyName::Old), (new, KeyName::New)].into_iter().filter(|(needed, _)| *needed);
    let needed: Vec<KeyName> = needed.map(|(_, name)| name).collect();
    let mut folders = lock(&world.folders.0);
    for (node, machine) in &world.nodes {
        let stamp = stamp(&machine.store_folder());
        let known = folders.get(node).filter(|(known, _)| *known == stamp);
        let held = match known {
            Some((_, held)) => held.clone(),
            None => {
                let files = machine.store().files().unwrap_or_default();
                let sets = files.into_iter().filter_map(|file| file.keys.ok());
                let held: BTreeSet<KeyId> =
                    sets.flat_map(|set| set.entries().map(|entry| entry.secret.id()).collect::<Vec<_>>()).collect();
                folders.insert(node.clone(), (stamp, held.clone()));
                held
            }
        };
        for name in &needed {
            let id = match name {
                KeyName::Old => world.old.id(),
                KeyName::New => world.new.id(),
            };
            if !held.contains(&id) {
                return world
                    .violated(NAME, format_args!("rows are under the {name:?} key, and {node} has no file with it"));
            }
        }
    }
}

fn stamp(folder: &Path) -> Stamp {
    let mut stamp: Stamp = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((name, metadata.ino(), metadata.mtime_nsec(), metadata.len()))
        })
        .collect();
    stamp.sort();
    stamp
}
