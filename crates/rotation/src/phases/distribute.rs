//! Distribute: every node stores the new key pending and proves that it holds it. Nothing is live yet.

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Digest, Fault, FaultCode, NodeId, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    stand.each_until(|progress| progress.key_stored, &Work::StoreKey)
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::KeyStored { possession } = answer else { return Err(unexpected(node, work, answer)) };
    check_possession(run.stand(), node, possession)?;
    if let Some(progress) = run.progress(node) {
        progress.key_stored = true;
    }
    Ok(())
}

/// Whether the node's proof is the one whose hash the operator signed.
pub(super) fn check_possession(stand: Stand<'_>, node: &NodeId, possession: &Digest) -> Result<(), Fault> {
    let granted = stand.rotation.statement().and_then(|statement| Some(statement.nodes.get(node)?.possession_digest));
    if granted == Some(Digest::new(*blake3::hash(possession.as_bytes()).as_bytes())) {
        Ok(())
    } else {
        Err(Fault::new(
            FaultCode::Bundle,
            format!("{node} could not prove that it holds the new key"),
            "plan again; if it repeats, this node's agent or its bundle is not what it claims to be",
        )
        .on(node))
    }
}
