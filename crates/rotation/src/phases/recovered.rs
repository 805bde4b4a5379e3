//! What an administrator did by hand with `keyturn recover`, heard of when the coordinators are back: the rotation ends
//! rolled back, and every node follows as a held one does, unless it was recovered itself.

use crate::course::Signal;
use crate::run::Run;
use crate::{Course, Ending, Fault, NodeCatchUp, NodeId, Phase, Quarantine};

/// An agent answered that its node, or the database, was recovered. Whether that says anything here.
pub(crate) fn hear(run: &mut Run<'_>, node: &NodeId, fault: &Fault) -> bool {
    if run.rotation.course == Course::Ended(Ending::RolledBack) {
        is_back(run, node);
        return true;
    }
    // The database lets no node in with the new key once it was turned back by hand, so one that is in contradicts it.
    let admitted = |(_, progress): (_, &crate::NodeProgress)| progress.admitted_at.is_some();
    if run.rotation.reached >= Phase::Admit && run.rotation.nodes.iter().any(admitted) {
        return false;
    }
    if !run.follow(Signal::Recovered, Some(fault.clone())) {
        return false;
    }
    hold_all(run, fault);
    true
}

/// The node serves under the old key by the administrator's hand, and nothing is left to do on it.
fn is_back(run: &mut Run<'_>, node: &NodeId) {
    let now = run.now;
    let old = run.rotation.old_key();
    if let Some(progress) = run.progress(node) {
        progress.started = false;
        progress.activated = false;
        progress.key_stored = false;
        progress.may_run = false;
        progress.undo.offline = true;
        progress.undo.restored = true;
        progress.undo.started = true;
        progress.undo.admitted = true;
        progress.undo.discarded = true;
        progress.admitted_at = Some(now);
    }
    if let Some(known) = run.nodes.get_mut(node) {
        known.key = old.or(known.key);
        known.quarantine = None;
    }
}

/// Which nodes were recovered is asked of each: it answers so, or follows step by step.
fn hold_all(run: &mut Run<'_>, reason: &Fault) {
    let ids: Vec<NodeId> = run
        .rotation
        .nodes
        .iter()
        .filter(|(_, progress)| !(progress.undo.admitted && progress.undo.discarded))
        .map(|(id, _)| id.clone())
        .collect();
    for id in ids {
        if let Some(progress) = run.progress(&id) {
            progress.catch_up = NodeCatchUp::default();
        }
        let (rotation, since) = (run.rotation.id, run.now);
        if let Some(known) = run.nodes.get_mut(&id) {
            known.quarantine = Some(Quarantine { rotation, since, reason: reason.clone() });
        }
    }
}
