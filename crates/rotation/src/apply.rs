//! The door of the domain: `apply` takes one entry of the log and sends it to the file that knows about it.

use crate::course::Signal;
use crate::limits::ENDED_MAX;
use crate::run::Run;
use crate::{
    Entry, Event, Millis, Outcome, Rejection, RotationId, State, budget, commands, farm, phases, report, retire,
    throttle,
};

/// Applies one entry of the log. The same entries in the same order give the same state on every replica.
///
/// A request that the state does not allow is refused with a [`Rejection`], and then the state is exactly as it was, its
/// time included. Reports of work that the state no longer calls for are no requests: they are `Unchanged`.
pub fn apply(state: &mut State, entry: &Entry) -> Result<Outcome, Rejection> {
    let now = state.now.max(entry.at);
    let outcome = match &entry.event {
        Event::FarmFounded { cluster, farm } => farm::found(state, *cluster, farm)?,
        Event::LeaderElected { term, replica: _ } => farm::elect_leader(state, *term),
        Event::NodeEnrolled { node, address } => farm::enroll(state, now, node, address)?,
        Event::NodeRemoved { node } => farm::remove(state, node)?,
        Event::RotationRequested { rotation, by, options } => commands::request(state, now, *rotation, by, options)?,
        Event::StartRequested { rotation, by: _, authorization } => {
            commands::start(state, now, *rotation, authorization)?
        }
        Event::AbortRequested { rotation, by } => commands::abort(state, now, *rotation, by)?,
        Event::PauseRequested { rotation, by: _ } => commands::pause(state, now, *rotation)?,
        Event::ResumeRequested { rotation, by: _ } => commands::resume(state, now, *rotation)?,
        Event::RetryRequested { rotation, by: _ } => commands::retry(state, now, *rotation)?,
        Event::WorkDone { assignment, answer } => report::done(state, now, assignment, answer),
        Event::WorkFailed { assignment, fault } => report::failed(state, now, assignment, fault),
        Event::DeadlineMissed { assignment, fault } => report::missed(state, now, assignment, fault),
        Event::LeaseExpired { assignment } => report::lease_expired(state, now, assignment),
        Event::AdmitDecided { rotation, epoch: _ } => admit(state, now, *rotation, &entry.event),
        Event::ThrottleRequested { rotation, by: _, rows_per_second } => {
            throttle::request(state, now, *rotation, *rows_per_second)?
        }
        Event::BudgetSpent { rotation, epoch, used_ms } => budget::spent(state, now, *rotation, *epoch, *used_ms),
        Event::RetireRequested { rotation, by, word } => retire::request(state, now, *rotation, by, word)?,
    };
    state.now = now;
    forget_oldest(state);
    Ok(outcome)
}

/// The point of no return: taken only while the very same decision is still due.
fn admit(state: &mut State, now: Millis, id: RotationId, decision: &Event) -> Outcome {
    let Some(mut run) = Run::of(state, id, now) else { return Outcome::Unchanged };
    if phases::admission(run.stand()).as_ref() != Some(decision) {
        return Outcome::Unchanged;
    }
    run.follow(Signal::AdmitDecided, None);
    run.advance();
    Outcome::Changed
}

/// Of ended rotations only the newest are kept, those that a held node must still follow, and those whose tables are
/// still to be retired.
fn forget_oldest(state: &mut State) {
    let ended = state.rotations.values().filter(|rotation| rotation.has_ended()).count();
    for _ in ENDED_MAX..ended {
        let needed = |id: &RotationId| {
            state.nodes.values().filter_map(|node| node.quarantine.as_ref()).any(|held| held.rotation == *id)
        };
        let oldest = state
            .rotations
            .values()
            .find(|rotation| rotation.has_ended() && !needed(&rotation.id) && rotation.kept_tables().is_empty())
            .map(|found| found.id);
        let Some(oldest) = oldest else { return };
        state.rotations.remove(&oldest);
    }
}
