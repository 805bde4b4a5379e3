//! Start: the database's fence is lifted, every instance is started and proves the new key, the database's history is
//! looked at once more, and the leader decides.

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Course, Direction, Event, Fault, FaultCode, KeyId, NodeId, Phase, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    let rotation = stand.rotation;
    if !is_let_in(stand) {
        let work = Work::LiftFence { direction: Direction::Forward, position: rotation.position.clone() };
        return stand.lead_until(false, work);
    }
    if stand.all(|progress| progress.started) {
        // A standby may have taken the server's place while the instances came up, without all that was verified.
        return stand.lead_until(rotation.lead_done, Work::RecordPosition);
    }
    let Some(key) = rotation.new_key() else { return Vec::new() };
    stand.each_until(|progress| progress.started, &Work::StartInstance { key })
}

/// Whether the fence was lifted: only since then may any of them run with the new key.
fn is_let_in(stand: Stand<'_>) -> bool {
    stand.present().any(|(_, progress)| progress.may_run)
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    match (work, answer) {
        (Work::LiftFence { .. }, Answer::FenceLifted) => {
            run.let_in();
            Ok(())
        }
        (Work::StartInstance { .. }, Answer::InstanceStarted { key }) => {
            check_canary(node, run.rotation.new_key(), *key)?;
            if let Some(progress) = run.progress(node) {
                progress.started = true;
            }
            Ok(())
        }
        (Work::RecordPosition, Answer::PositionRecorded(now)) => {
            if let Some(loss) = run.rotation.position.as_ref().and_then(|verified| now.loss_since(verified)) {
                return Err(Fault::new(
                    FaultCode::DatabasePosition,
                    format!("the database is not the one that was verified: {loss}"),
                    "the rotation is undone; find out which server the agents reach, then plan again",
                )
                .on(node));
            }
            run.rotation.lead_done = true;
            Ok(())
        }
        _ => Err(unexpected(node, work, answer)),
    }
}

/// The decision that the leader is to log, when every node that is not held has passed its canary, and the database's
/// history is still the one that was verified.
pub(crate) fn admission(stand: Stand<'_>) -> Option<Event> {
    let rotation = stand.rotation;
    let due = matches!(rotation.course, Course::Forward { phase: Phase::Start })
        && !rotation.paused
        && rotation.lead_done
        && stand.all(|progress| progress.started);
    due.then_some(Event::AdmitDecided { rotation: rotation.id, epoch: rotation.epoch })
}

/// Whether the key with which a running instance opened the canary is the one that it must hold.
pub(super) fn check_canary(node: &NodeId, expected: Option<KeyId>, found: KeyId) -> Result<(), Fault> {
    if expected == Some(found) {
        return Ok(());
    }
    let must = expected.map_or_else(|| "another".to_owned(), |key| key.to_string());
    Err(Fault::new(
        FaultCode::Canary,
        format!("the instance on {node} opened the canary with key {found}, and must hold {must}"),
        "look which encryption.config the instance reads, and at the application's log",
    )
    .on(node))
}
