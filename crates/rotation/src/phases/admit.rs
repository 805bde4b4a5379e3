//! Admit and Completed, past the point of no return: instances are admitted, then the ledger is closed. Nothing here
//! leads back; what fails is recorded and tried again.

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Direction, Fault, NodeId, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    stand.each_until(|progress| progress.admitted_at.is_some(), &Work::AdmitInstance)
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::InstanceAdmitted = answer else { return Err(unexpected(node, work, answer)) };
    let now = run.now;
    if let Some(progress) = run.progress(node) {
        progress.admitted_at = Some(now);
    }
    Ok(())
}

pub(super) fn closing_work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    stand.lead_until(stand.rotation.lead_done, Work::CloseLedger { direction: Direction::Forward })
}

pub(super) fn take_closing(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    let Answer::LedgerClosed = answer else { return Err(unexpected(node, work, answer)) };
    run.rotation.lead_done = true;
    Ok(())
}
