//! What is late changes nothing: no agent takes an assignment of a lower term or epoch than one that it took before, also
//! after it died; and no transaction commits under an epoch that the ledger has gone past.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reencrypt::simulation::Commit;
use rotation::{Direction, Epoch, Fence, NodeId, RotationId, Term};

use crate::world::{World, lock};

const NAME: &str = "a stale fence changes nothing";

/// The highest that was seen.
#[derive(Default)]
pub(crate) struct Seen {
    taken: Mutex<BTreeMap<NodeId, (Term, Epoch)>>,
    committed: Mutex<BTreeMap<RotationId, u64>>,
}

impl Seen {
    /// The database's history was set back, and the ledger with it.
    pub(crate) fn history_was_lost(&self) {
        lock(&self.committed).clear();
    }
}

pub(crate) fn accepted(world: &World, node: &NodeId, fence: Fence) {
    let mut taken = lock(&world.seen.taken);
    let (term, epoch) = taken.get(node).copied().unwrap_or((Term::new(0), Epoch::new(0)));
    if fence.term < term || fence.epoch < epoch {
        let (their_term, their_epoch) = (fence.term, fence.epoch);
        world.violated(
            NAME,
            format_args!("{node} took work of term {their_term}, epoch {their_epoch} after term {term}, epoch {epoch}"),
        );
    }
    taken.insert(node.clone(), (term.max(fence.term), epoch.max(fence.epoch)));
}

pub(crate) fn committed(world: &World, commit: &Commit, epoch_before: Option<u64>) {
    let Some(mark) = commit.mark else { return };
    let epoch = mark.epoch.get();
    let mut seen = lock(&world.seen.committed);
    let highest = seen.get(&mark.rotation).copied().max(epoch_before).unwrap_or(0);
    if epoch < highest {
        return world.violated(
            NAME,
            format_args!("{} committed {} in epoch {epoch}, after epoch {highest}", commit.worker, commit.doing),
        );
    }
    seen.insert(mark.rotation, highest.max(epoch));
    drop(seen);
    if commit.rows == 0 {
        return;
    }
    let ledger = world.database.ledger();
    let now = ledger.iter().find(|found| found.rotation == mark.rotation);
    let admits = now.is_some_and(|now| !now.closed && now.direction == mark.direction && now.epoch.get() <= epoch);
    if !admits {
        let way = if mark.direction == Direction::Forward { "forward" } else { "back" };
        world.violated(
            NAME,
            format_args!(
                "{} turned {} rows {way} in epoch {epoch}, and the ledger is {now:?}",
                commit.worker, commit.rows
            ),
        );
    }
}
