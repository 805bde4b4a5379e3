//! Start: the database's fence is lifted, every instance is started and proves the new key, and the leader decides.

use crate::phases::unexpected;
use crate::run::{Run, Stand};
use crate::{Answer, Course, Direction, Event, Fault, FaultCode, KeyId, NodeId, Phase, Work};

pub(super) fn work(stand: Stand<'_>) -> Vec<(NodeId, Work)> {
    let rotation = stand.rotation;
    if !rotation.lead_done {
        let work = Work::LiftFence { direction: Direction::Forward, position: rotation.position.clone() };
        return stand.lead_until(false, work);
    }
    let Some(key) = rotation.new_key() else { return Vec::new() };
    stand.each_until(|progress| progress.started, &Work::StartInstance { key })
}

pub(super) fn take(run: &mut Run<'_>, node: &NodeId, work: &Work, answer: &Answer) -> Result<(), Fault> {
    match (work, answer) {
        (Work::LiftFence { .. }, Answer::FenceLifted) => {
            run.rotation.lead_done = true;
            // From here on any of them may be asked to start, and may do so without our hearing of it.
            let present: Vec<NodeId> = run.stand().present().map(|(id, _)| id.clone()).collect();
            for id in &present {
                if let Some(progress) = run.progress(id) {
                    progress.may_run_new_key = true;
                }
            }
            Ok(())
        }
        (Work::StartInstance { .. }, Answer::InstanceStarted { key }) => {
            check_canary(node, run.rotation.new_key(), *key)?;
            if let Some(progress) = run.progress(node) {
                progress.started = true;
            }
            Ok(())
        }
        _ => Err(unexpected(node, work, answer)),
    }
}

/// The decision that the leader is to log, when every node that is not held has passed its canary.
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
