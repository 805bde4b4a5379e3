//! The undo, step by step: every node and every row goes back under the old key.

use crate::phases::activate::check_store;
use crate::phases::rows::{self, Pass};
use crate::phases::start::check_canary;
use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Direction, Fault, FaultCode, NodeId, Rotation, RotationId, UndoStep, Work};

pub(super) fn work(stand: Stand<'_>, step: UndoStep) -> Vec<(NodeId, Work)> {
    let done = stand.rotation.lead_done;
    match step {
        UndoStep::TurnBack => stand.lead_until(done, Work::TurnBack),
        UndoStep::StopInstances => stand
            .rotation
            .nodes
            .iter()
            .filter(|(_, progress)| progress.may_run)
            .map(|(id, _)| (id.clone(), Work::TakeOffline))
            .collect(),
        UndoStep::RestoreKeys => stand.each_until(|progress| progress.undo.restored, &Work::RestoreKey),
        UndoStep::SwapTablesBack => stand.lead_until(done || !stand.rotation.has_shadows(), Work::SwapTablesBack),
        UndoStep::RestoreRows => rows::work(stand, Pass::RestoreRows),
        UndoStep::VerifyRows => rows::work(stand, Pass::VerifyRows),
        UndoStep::LiftFence => stand.lead_until(done, Work::LiftFence { direction: Direction::Back, position: None }),
        UndoStep::StartInstances => {
            let Some(key) = stand.rotation.old_key() else { return Vec::new() };
            stand.each_until(|progress| progress.undo.started, &Work::StartInstance { key })
        }
        UndoStep::AdmitInstances => stand.each_until(|progress| progress.undo.admitted, &Work::AdmitInstance),
        UndoStep::DiscardKeys => stand.each_until(|progress| progress.undo.discarded, &Work::DiscardKey),
        UndoStep::CloseLedger => stand.lead_until(done, Work::CloseLedger { direction: Direction::Back }),
    }
}

pub(super) fn is_complete(stand: Stand<'_>, step: UndoStep) -> bool {
    match step {
        UndoStep::TurnBack | UndoStep::LiftFence | UndoStep::CloseLedger => stand.rotation.lead_done,
        // Held nodes too: rows must not go back while an instance may run.
        UndoStep::StopInstances => stand.rotation.nodes.values().all(|progress| !progress.may_run),
        UndoStep::RestoreKeys => stand.all(|progress| progress.undo.restored),
        UndoStep::SwapTablesBack => stand.rotation.lead_done || !stand.rotation.has_shadows(),
        UndoStep::RestoreRows => rows::is_complete(stand, Pass::RestoreRows),
        UndoStep::VerifyRows => rows::is_complete(stand, Pass::VerifyRows),
        UndoStep::StartInstances => stand.all(|progress| progress.undo.started),
        UndoStep::AdmitInstances => stand.all(|progress| progress.undo.admitted),
        UndoStep::DiscardKeys => stand.all(|progress| progress.undo.discarded),
    }
}

pub(super) fn take(
    run: &mut Run<'_>,
    node: &NodeId,
    work: &Work,
    answer: &Answer,
    step: UndoStep,
) -> Result<(), Fault> {
    let now = run.now;
    match (step, answer) {
        (UndoStep::TurnBack, Answer::TurnedBack) | (UndoStep::SwapTablesBack, Answer::TablesSwappedBack) => {
            run.rotation.lead_done = true;
        }
        (UndoStep::CloseLedger, Answer::LedgerClosed) => {
            run.rotation.lead_done = true;
            // The rows stay as they are: whoever runs now runs with their key.
            run.rotation.nodes.values_mut().for_each(|progress| progress.may_run = false);
        }
        (UndoStep::LiftFence, Answer::FenceLifted) => {
            run.rotation.lead_done = true;
            run.let_in();
        }
        (UndoStep::StopInstances, Answer::WentOffline) => {
            if let Some(progress) = run.progress(node) {
                progress.undo.offline = true;
                progress.started = false;
                progress.may_run = false;
                // Of an undo that begins again because the database lost it.
                progress.undo.started = false;
                progress.undo.admitted = false;
                progress.admitted_at = None;
            }
        }
        (UndoStep::RestoreKeys, Answer::KeyRestored { key }) => {
            check_store(node, run.rotation.old_key(), *key)?;
            if let Some(progress) = run.progress(node) {
                progress.undo.restored = true;
                progress.activated = false;
            }
            if let Some(known) = run.nodes.get_mut(node) {
                known.key = Some(*key);
            }
        }
        (UndoStep::RestoreRows, _) => rows::take(run, node, work, answer, Pass::RestoreRows)?,
        (UndoStep::VerifyRows, _) => rows::take(run, node, work, answer, Pass::VerifyRows)?,
        (UndoStep::StartInstances, Answer::InstanceStarted { key }) => {
            check_canary(node, run.rotation.old_key(), *key)?;
            if let Some(progress) = run.progress(node) {
                progress.undo.started = true;
            }
        }
        (UndoStep::AdmitInstances, Answer::InstanceAdmitted) => {
            if let Some(progress) = run.progress(node) {
                progress.undo.admitted = true;
                progress.admitted_at = Some(now);
            }
        }
        (UndoStep::DiscardKeys, Answer::KeyDiscarded) => {
            if let Some(progress) = run.progress(node) {
                progress.undo.discarded = true;
                progress.key_stored = false;
            }
        }
        _ => return Err(unexpected(node, work, answer)),
    }
    Ok(())
}

/// Whether what went wrong is that the database lost what the undo did, and it can be done again: by a node that still
/// holds the new key.
pub(crate) fn can_begin_again(stand: Stand<'_>, fault: &Fault) -> bool {
    fault.code == FaultCode::DatabasePosition && stand.present().any(|(_, progress)| !progress.undo.discarded)
}

/// How often the undo began, as far as is remembered.
pub(crate) fn times_begun(rotation: &Rotation) -> usize {
    let first = format!("undo:{}", UndoStep::TurnBack.as_str());
    rotation.times.iter().filter(|time| time.name == first).count()
}

/// What an operator is told to do when the undo is stuck, in order.
pub(crate) fn next_steps(rotation: RotationId, step: UndoStep, reason: &Fault) -> Vec<String> {
    let held = match step {
        UndoStep::TurnBack | UndoStep::StopInstances | UndoStep::RestoreKeys | UndoStep::SwapTablesBack => {
            "leave the instances offline: tables, rows or keys are still to be put back"
        }
        UndoStep::RestoreRows | UndoStep::VerifyRows => {
            "leave the instances offline: some rows may still be under the new key, whose bundle must be kept"
        }
        UndoStep::LiftFence | UndoStep::StartInstances | UndoStep::AdmitInstances => {
            "rows and keys are back as they were; only the instances are not all back"
        }
        UndoStep::DiscardKeys | UndoStep::CloseLedger => "the farm serves under the old key; only tidying up is left",
    };
    vec![held.to_owned(), reason.next_step.clone(), format!("then run `keyturn rotation retry {rotation}`")]
}

/// The reason of being stuck when none was given.
pub(crate) fn unexplained(step: UndoStep) -> Fault {
    Fault::new(
        FaultCode::Internal,
        format!("the undo failed at {}", step.as_str()),
        "look at the agents' logs for the cause",
    )
}
