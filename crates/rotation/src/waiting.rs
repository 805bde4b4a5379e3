//! Who is waited for, since when, and what ends the waiting; so that nobody must guess between waiting and failed.

use crate::limits::{deadline_ms, deadline_restarts};
use crate::{Assignment, AssignmentId, Course, Millis, NodeId, Phase, Rotation, State, Work, pending};

/// One thing that a rotation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The node; `None` for an operator or the leader.
    pub node: Option<NodeId>,
    /// The work that the node does; what the leader has heard of it since is a hint outside the state.
    pub assignment: Option<AssignmentId>,
    /// What it is doing (`take-offline`, `reencrypt-shard 7 of entries`), or in words what is waited for.
    pub what: String,
    /// Since when.
    pub since: Millis,
    /// When it is given up on; `None` when never, or when every word heard of it moves that time.
    pub until: Option<Millis>,
}

/// Everything that this rotation waits for now. Empty only when it has ended and no node must still follow it.
pub fn waiting(state: &State, rotation: &Rotation) -> Vec<Waiting> {
    let began = rotation.times.last().map_or(rotation.requested_at, |time| time.ended.unwrap_or(time.started));
    let person = |what: String| vec![Waiting { node: None, assignment: None, what, since: began, until: None }];
    let id = rotation.id;
    match &rotation.course {
        Course::Forward { phase: Phase::Approval } => person(format!("an operator's `keyturn rotation start {id}`")),
        Course::Stuck { .. } => person(format!("stuck: an operator's `keyturn rotation retry {id}`")),
        Course::Forward { .. } | Course::Undo { .. } if rotation.paused => {
            person(format!("paused: an operator's `keyturn rotation resume {id}`"))
        }
        Course::Forward { .. } | Course::Undo { .. } | Course::Ended(_) => {
            let work = pending::of(state, rotation);
            if work.is_empty() && !rotation.has_ended() {
                return person("the leader's decision to admit all nodes".to_owned());
            }
            work.iter().map(|assignment| for_work(state, rotation, assignment, began)).collect()
        }
    }
}

fn for_work(state: &State, rotation: &Rotation, assignment: &Assignment, began: Millis) -> Waiting {
    let kind = assignment.work.kind();
    let (what, since) = match &assignment.work {
        Work::ReencryptShard { shard, .. } | Work::VerifyShard { shard, .. } => {
            let lease = rotation.shards.get(&shard.id).and_then(|progress| progress.lease.as_ref());
            (format!("{kind} {} of {}", shard.id, shard.table), lease.map_or(began, |lease| lease.since))
        }
        Work::RetireTables => (kind.to_string(), rotation.retiring.as_ref().map_or(began, |retiring| retiring.since)),
        _ => (kind.to_string(), began),
    };
    let held = state.nodes.get(&assignment.node).and_then(|node| node.quarantine.as_ref());
    let retires = assignment.work == Work::RetireTables;
    let follows = rotation.has_ended() && !retires;
    let since = if follows { held.map_or(since, |held| held.since) } else { since };
    let given_up = !follows && !deadline_restarts(kind);
    let until = given_up.then(|| Millis::new(since.get().saturating_add(deadline_ms(kind, &rotation.course))));
    Waiting { node: Some(assignment.node.clone()), assignment: Some(assignment.id()), what, since, until }
}
