//! What the leader reports of work: done, failed, never answered, silent. Whatever does not speak of work that the state
//! still calls for changes nothing.

use crate::course::Signal;
use crate::limits::UNDOS_MAX;
use crate::run::{Run, Stand};
use crate::{
    Answer, Assignment, AssignmentId, Course, Fault, FaultCode, Millis, NodeId, Outcome, Phase, State, UndoStep, Work,
    lease, phases, retire,
};

pub(crate) fn done(state: &mut State, now: Millis, id: &AssignmentId, answer: &Answer) -> Outcome {
    let Some((work, mut run)) = outstanding(state, now, id) else { return Outcome::Unchanged };
    let taken = if answer.kind() == id.kind {
        phases::take(&mut run, &id.node, &work, answer)
    } else {
        Err(phases::unexpected(&id.node, &work, answer))
    };
    match taken {
        Ok(()) => run.advance(),
        Err(fault) => fail(&mut run, &id.node, &work, fault),
    }
    Outcome::Changed
}

pub(crate) fn failed(state: &mut State, now: Millis, id: &AssignmentId, fault: &Fault) -> Outcome {
    let Some((work, mut run)) = outstanding(state, now, id) else { return Outcome::Unchanged };
    let fault = placed(fault, &id.node);
    if fault.code != FaultCode::Recovered || !phases::recovered::hear(&mut run, &id.node, &fault) {
        fail(&mut run, &id.node, &work, fault);
    }
    Outcome::Changed
}

pub(crate) fn missed(state: &mut State, now: Millis, id: &AssignmentId, fault: &Fault) -> Outcome {
    let Some((work, mut run)) = outstanding(state, now, id) else { return Outcome::Unchanged };
    miss(&mut run, &id.node, &work, placed(fault, &id.node));
    Outcome::Changed
}

pub(crate) fn lease_expired(state: &mut State, now: Millis, id: &AssignmentId) -> Outcome {
    match outstanding(state, now, id) {
        Some((Work::ReencryptShard { .. } | Work::VerifyShard { .. }, mut run)) => {
            lease::expire(&mut run, &id.node);
            run.advance();
            Outcome::Changed
        }
        Some(_) | None => Outcome::Unchanged,
    }
}

/// The work that this id names, if the state still calls for it: same epoch, same node, same lease, not done.
fn outstanding<'a>(state: &'a mut State, now: Millis, id: &AssignmentId) -> Option<(Work, Run<'a>)> {
    let rotation = state.rotations.get(&id.rotation).filter(|rotation| rotation.epoch == id.epoch)?;
    let stand = Stand { nodes: &state.nodes, rotation };
    let work = phases::work(stand).into_iter().find_map(|(node, work)| {
        let assignment = Assignment { rotation: id.rotation, epoch: id.epoch, node, work };
        (assignment.id() == *id).then_some(assignment.work)
    })?;
    Some((work, Run::of(state, id.rotation, now)?))
}

/// Work was answered with a fault, or its answer was wrong.
fn fail(run: &mut Run<'_>, node: &NodeId, work: &Work, fault: Fault) {
    match run.rotation.course {
        Course::Forward { phase: Phase::Preflight } if *work == Work::Inspect => {
            if phases::preflight::take_fault(run, node, fault) {
                run.follow(Signal::Failed, None);
            }
        }
        Course::Forward { phase: Phase::Admit } => {
            let another = run.stand().present().any(|(id, progress)| id != node && progress.admitted_at.is_some());
            if another {
                run.hold(node, fault);
            } else {
                run.record(fault);
            }
            run.advance();
        }
        Course::Forward { phase: Phase::Completed } => {
            run.record(fault);
            run.shun(node);
            if !run.change_lead() {
                run.forgive();
                run.change_lead();
            }
        }
        Course::Ended(_) if *work == Work::RetireTables => retire::fail(run, node, fault, false),
        Course::Ended(_) => {
            run.record(fault);
            phases::catch_up::start_over(run, node);
        }
        Course::Undo { .. }
            if phases::undo::can_begin_again(run.stand(), &fault)
                && phases::undo::times_begun(run.rotation) < UNDOS_MAX =>
        {
            run.follow(Signal::HistoryLost, Some(fault));
            run.advance();
        }
        Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } => {
            run.follow(Signal::Failed, Some(fault));
            run.advance();
        }
    }
}

/// Work was not answered by its deadline.
fn miss(run: &mut Run<'_>, node: &NodeId, work: &Work, fault: Fault) {
    match run.rotation.course {
        Course::Ended(_) if *work == Work::RetireTables => retire::fail(run, node, fault, true),
        Course::Forward { phase: Phase::Preflight | Phase::Admit | Phase::Completed } | Course::Ended(_) => {
            fail(run, node, work, fault);
        }
        Course::Forward { .. } | Course::Undo { .. } | Course::Stuck { .. } => match work {
            Work::ReencryptShard { .. } | Work::VerifyShard { .. } => {
                run.record(fault);
                lease::expire(run, node);
                run.advance();
            }
            Work::SurveyDatabase { .. }
            | Work::FenceDatabase
            | Work::RecordPosition
            | Work::LiftFence { .. }
            | Work::TurnBack
            | Work::CloseLedger { .. }
            | Work::FinishShadows
            | Work::SwapTables
            | Work::SwapTablesBack
            | Work::RetireTables => {
                run.shun(node);
                if run.change_lead() {
                    run.record(fault);
                } else {
                    fail(run, node, work, fault);
                }
            }
            Work::Inspect
            | Work::BackUp { .. }
            | Work::StoreKey
            | Work::TakeOffline
            | Work::ActivateKey { .. }
            | Work::StartInstance { .. }
            | Work::AdmitInstance
            | Work::RestoreKey
            | Work::DiscardKey => {
                if can_be_held(run.stand(), node) {
                    run.hold(node, fault);
                    run.advance();
                } else {
                    fail(run, node, work, fault);
                }
            }
        },
    }
}

/// Whether the rotation may go on without this node. Forward, only when its instance is known to be offline. In the
/// undo any node may follow later, but for one whose instance may still run with the new key while rows go back.
fn can_be_held(stand: Stand<'_>, node: &NodeId) -> bool {
    let safe = match stand.rotation.course {
        Course::Forward { .. } => stand.rotation.nodes.get(node).is_some_and(|progress| progress.offline_at.is_some()),
        Course::Undo { step, .. } => step != UndoStep::StopInstances,
        Course::Stuck { .. } | Course::Ended(_) => false,
    };
    safe && stand.can_do_without(node)
}

/// A fault that says on which node it happened.
fn placed(fault: &Fault, node: &NodeId) -> Fault {
    Fault { node: fault.node.clone().or_else(|| Some(node.clone())), ..fault.clone() }
}
