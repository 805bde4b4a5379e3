//! Activate: shadows take the place of their originals, if there are any; only then the pending key becomes the current
//! one on every node.

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Fault, FaultCode, KeyId, NodeId, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    if !is_swapped(stand) {
        return stand.lead_until(false, Work::SwapTables);
    }
    let Some(at) = stand.rotation.activated_at else { return Vec::new() };
    stand.each_until(|progress| progress.activated, &Work::ActivateKey { at })
}

pub(super) fn is_complete(stand: Stand<'_>) -> bool {
    is_swapped(stand) && stand.all(|progress| progress.activated)
}

/// Whether no shadow waits for its place any more.
fn is_swapped(stand: Stand<'_>) -> bool {
    stand.rotation.lead_done || !stand.rotation.has_shadows()
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    if let (Work::SwapTables, Answer::TablesSwapped) = (work, answer) {
        run.rotation.lead_done = true;
        return Ok(());
    }
    let Answer::KeyActivated { key } = answer else { return Err(unexpected(node, work, answer)) };
    check_store(node, run.rotation.new_key(), *key)?;
    if let Some(progress) = run.progress(node) {
        progress.activated = true;
    }
    if let Some(known) = run.nodes.get_mut(node) {
        known.key = Some(*key);
    }
    Ok(())
}

/// Whether the key that a node says stands in its `encryption.config` is the one that must.
pub(super) fn check_store(node: &NodeId, expected: Option<KeyId>, found: KeyId) -> Result<(), Fault> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(Fault::new(
            FaultCode::KeyStore,
            format!("encryption.config of {node} holds key {found}, and must hold {expected}"),
            "look who else writes encryption.config on this node",
        )
        .on(node)),
        None => Err(Fault::new(
            FaultCode::KeyStore,
            format!("encryption.config of {node} holds key {found}, and the rotation knows no key to compare with"),
            "report this; a rotation that changes keys always knows them",
        )
        .on(node)),
    }
}
