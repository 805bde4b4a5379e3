//! Held nodes after the end: what they must still do to hold the live key before they are admitted again.

use crate::phases::activate::check_store;
use crate::phases::distribute::check_possession;
use crate::phases::start::check_canary;
use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Ending, Fault, KeyId, NodeCatchUp, NodeId, NodeProgress, Phase, Rotation, Work};

/// The next work of every node that is held because of this rotation.
pub(super) fn work(stand: Stand<'_>, ending: Ending) -> Vec<(NodeId, Work)> {
    stand
        .rotation
        .nodes
        .iter()
        .filter(|(id, _)| is_held_by(stand, id))
        .filter_map(|(id, progress)| Some((id.clone(), next(stand.rotation, progress, ending)?)))
        .collect()
}

pub(super) fn take(
    run: &mut Run<'_>,
    node: &NodeId,
    work: &Work,
    answer: &Answer,
    ending: Ending,
) -> Result<(), Fault> {
    let now = run.now;
    let key = live_key(run.rotation, ending);
    match answer {
        Answer::KeyStored { possession } => check_possession(run.stand(), node, possession)?,
        Answer::KeyActivated { key: found } | Answer::KeyRestored { key: found } => {
            check_store(node, key, *found)?;
            if let Some(known) = run.nodes.get_mut(node) {
                known.key = Some(*found);
            }
        }
        Answer::InstanceStarted { key: found } => check_canary(node, key, *found)?,
        Answer::WentOffline | Answer::InstanceAdmitted | Answer::KeyDiscarded => {}
        Answer::Inspected(_)
        | Answer::DatabaseSurveyed(_)
        | Answer::DatabaseFenced { .. }
        | Answer::ShardReencrypted { .. }
        | Answer::ShardVerified { .. }
        | Answer::PositionRecorded(_)
        | Answer::FenceLifted
        | Answer::LedgerClosed
        | Answer::TurnedBack
        | Answer::ShadowsFinished
        | Answer::TablesSwapped
        | Answer::TablesSwappedBack
        | Answer::TablesRetired
        | Answer::BackedUp(_) => return Err(unexpected(node, work, answer)),
    }
    let Some(progress) = run.progress(node) else { return Ok(()) };
    let completed = ending == Ending::Completed;
    match work {
        Work::StoreKey => progress.key_stored = true,
        Work::TakeOffline => {
            progress.catch_up.offline = true;
            progress.started = false;
            progress.may_run = false;
            progress.offline_at.get_or_insert(now);
        }
        Work::ActivateKey { .. } | Work::RestoreKey => {
            progress.catch_up.keyed = true;
            progress.activated = completed;
            progress.undo.restored = !completed;
        }
        Work::StartInstance { .. } => {
            progress.catch_up.started = true;
            progress.started = completed;
            progress.undo.started = !completed;
        }
        Work::AdmitInstance => {
            progress.catch_up.admitted = true;
            progress.undo.admitted = !completed;
            progress.admitted_at = Some(now);
        }
        Work::DiscardKey => {
            progress.undo.discarded = true;
            progress.key_stored = false;
        }
        _ => return Err(unexpected(node, work, answer)),
    }
    let rest = run.rotation.nodes.get(node).and_then(|progress| next(run.rotation, progress, ending));
    if rest.is_none()
        && let Some(known) = run.nodes.get_mut(node)
    {
        known.quarantine = None;
    }
    Ok(())
}

/// A step failed: it begins again from what can be seen, not from what was answered once.
pub(crate) fn start_over(run: &mut Run<'_>, node: &NodeId) {
    if let Some(progress) = run.progress(node) {
        progress.catch_up = NodeCatchUp::default();
    }
}

/// The key under which the farm is since the end.
fn live_key(rotation: &Rotation, ending: Ending) -> Option<KeyId> {
    match ending {
        Ending::Completed => rotation.new_key(),
        Ending::RolledBack | Ending::Refused | Ending::Withdrawn => rotation.old_key(),
    }
}

fn next(rotation: &Rotation, progress: &NodeProgress, ending: Ending) -> Option<Work> {
    let done = progress.catch_up;
    let key = live_key(rotation, ending)?;
    match ending {
        Ending::Completed if !progress.key_stored => Some(Work::StoreKey),
        Ending::Completed if !done.offline => Some(Work::TakeOffline),
        Ending::Completed if !done.keyed => rotation.activated_at.map(|at| Work::ActivateKey { at }),
        Ending::Completed if !done.started => Some(Work::StartInstance { key }),
        Ending::Completed if !done.admitted => Some(Work::AdmitInstance),
        Ending::Completed => None,
        // It serves under the old key already, or was never asked to go offline: only a pending key may be left.
        Ending::RolledBack if progress.undo.admitted || rotation.reached < Phase::Quiesce => {
            (!progress.undo.discarded).then_some(Work::DiscardKey)
        }
        Ending::RolledBack if !done.offline => Some(Work::TakeOffline),
        Ending::RolledBack if !done.keyed => Some(Work::RestoreKey),
        Ending::RolledBack if !done.started => Some(Work::StartInstance { key }),
        Ending::RolledBack if !done.admitted => Some(Work::AdmitInstance),
        Ending::RolledBack => (!progress.undo.discarded).then_some(Work::DiscardKey),
        Ending::Refused | Ending::Withdrawn => None,
    }
}

fn is_held_by(stand: Stand<'_>, node: &NodeId) -> bool {
    stand
        .nodes
        .get(node)
        .and_then(|node| node.quarantine.as_ref())
        .is_some_and(|quarantine| quarantine.rotation == stand.rotation.id)
}
