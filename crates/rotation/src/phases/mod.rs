//! One file per group of phases. Each says which work its phase needs, takes the answers, and says when it is complete;
//! this file sends each question to the phase that the rotation is in.

mod activate;
mod admit;
pub(crate) mod approval;
mod backup;
pub(crate) mod catch_up;
mod distribute;
pub(crate) mod preflight;
mod quiesce;
pub(crate) mod recovered;
pub(crate) mod rows;
mod start;
mod survey;
pub(crate) mod undo;

use crate::run::{Run, Stand};
use crate::{Answer, Course, Fault, FaultCode, NodeId, Phase, Work, retire};

pub(crate) use start::admission;

/// The work that the rotation still needs in its present phase or step, whether or not it is paused.
pub(crate) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    match &stand.rotation.course {
        Course::Forward { phase } => match phase {
            Phase::Preflight => preflight::work(stand),
            Phase::Approval => Vec::new(),
            Phase::Distribute => distribute::work(stand),
            Phase::Quiesce => quiesce::work(stand),
            Phase::Reencrypt => rows::reencrypt_work(stand),
            Phase::Verify => rows::verify_work(stand),
            Phase::Activate => activate::work(stand),
            Phase::Start => start::work(stand),
            Phase::Admit => admit::work(stand),
            Phase::Completed => admit::closing_work(stand),
        },
        Course::Undo { step, .. } => undo::work(stand, *step),
        Course::Stuck { .. } => Vec::new(),
        Course::Ended(ending) => {
            let mut work = catch_up::work(stand, *ending);
            work.extend(retire::work(stand.rotation));
            work
        }
    }
}

/// Takes the answer to work that the phase needs. A fault means that the answer, or what all answers add up to, is wrong.
pub(crate) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    match run.rotation.course.clone() {
        Course::Forward { phase } => match phase {
            Phase::Preflight => preflight::take(run, node, work, answer),
            Phase::Approval => Ok(()),
            Phase::Distribute => distribute::take(run, node, work, answer),
            Phase::Quiesce => quiesce::take(run, node, work, answer),
            Phase::Reencrypt => rows::take_reencrypt(run, node, work, answer),
            Phase::Verify => rows::take_verify(run, node, work, answer),
            Phase::Activate => activate::take(run, node, work, answer),
            Phase::Start => start::take(run, node, work, answer),
            Phase::Admit => admit::take(run, node, work, answer),
            Phase::Completed => admit::take_closing(run, node, work, answer),
        },
        Course::Undo { step, .. } => undo::take(run, node, work, answer, step),
        Course::Stuck { .. } => Ok(()),
        Course::Ended(_) if *work == Work::RetireTables => retire::take(run, node, work, answer),
        Course::Ended(ending) => catch_up::take(run, node, work, answer, ending),
    }
}

/// Whether all work of the present phase or step is done, so that the next may begin.
pub(crate) fn is_complete(stand: Stand<'_>) -> bool {
    match &stand.rotation.course {
        Course::Forward { phase } => match phase {
            Phase::Preflight => stand.rotation.plan.is_some(),
            // The operator's signature ends this phase.
            Phase::Approval => false,
            Phase::Distribute => stand.all(|progress| progress.key_stored),
            Phase::Quiesce | Phase::Completed => stand.rotation.lead_done,
            Phase::Reencrypt => rows::is_reencrypted(stand),
            Phase::Verify => stand.rotation.lead_done,
            Phase::Activate => activate::is_complete(stand),
            // The leader's logged decision ends this phase.
            Phase::Start => false,
            Phase::Admit => stand.all(|progress| progress.admitted_at.is_some()),
        },
        Course::Undo { step, .. } => undo::is_complete(stand, *step),
        Course::Stuck { .. } | Course::Ended(_) => false,
    }
}

/// The fault of an agent whose answer is not one to what it was asked.
pub(crate) fn unexpected(node: &NodeId, work: &Work, answer: &Answer) -> Fault {
    Fault::new(
        FaultCode::Internal,
        format!("{node} was asked to {} and answered as if asked to {}", work.kind(), answer.kind()),
        "run the same release of keyturn on every node",
    )
    .on(node)
}
