//! What operators see: the state, and on the leader its hints, as messages of the protocol. Pure functions.

mod farm;
mod progress;
mod waiting;

use std::time::Instant;

use rotation::{Course, Ending, Fault, KeyId, Millis, NodeId, NodeProgress, PhaseTime, Plan, Rotation, State};
use wire::v1;

use crate::driver::Hints;

pub(crate) use farm::{farm, node};

/// From where and when one looks.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    /// The state.
    pub(crate) state: &'a State,
    /// What the leader knows beyond it; empty elsewhere.
    pub(crate) hints: &'a Hints,
    /// The time of the clock.
    pub(crate) now: Millis,
    /// The time for speeds.
    pub(crate) instant: Instant,
}

impl View<'_> {
    /// A rotation with everything.
    pub(crate) fn rotation(&self, rotation: &Rotation) -> v1::Rotation {
        v1::Rotation {
            plan: rotation.plan.as_ref().map(Plan::to_bytes).unwrap_or_default(),
            nodes: rotation.nodes.iter().map(|(id, node)| self.rotation_node(rotation, id, node)).collect(),
            waiting: self.waiting(rotation),
            progress: Some(self.progress(rotation)),
            undecryptable: rotation.survey.iter().flat_map(|survey| &survey.undecryptable).map(Into::into).collect(),
            ..self.summary(rotation)
        }
    }

    /// A rotation without its long parts, for lists.
    pub(crate) fn summary(&self, rotation: &Rotation) -> v1::Rotation {
        let (undo_step, next_steps) = match &rotation.course {
            Course::Undo { step, .. } => (step.as_str().to_owned(), Vec::new()),
            Course::Stuck { step, next_steps, .. } => (step.as_str().to_owned(), next_steps.clone()),
            Course::Forward { .. } | Course::Ended(_) => Default::default(),
        };
        let database = rotation.survey.as_ref().map_or(v1::DatabaseKind::Unspecified, |survey| survey.kind.into());
        v1::Rotation {
            id: rotation.id.to_string(),
            requested_by: rotation.requested_by.clone(),
            requested_at_ms: rotation.requested_at.get(),
            ended_at_ms: millis(rotation.ended_at),
            outcome: outcome(&rotation.course).into(),
            phase: v1::Phase::from(rotation.reached).into(),
            undo_step,
            epoch: rotation.epoch.get(),
            paused: rotation.paused,
            plan_digest: rotation.plan_digest.map(|digest| digest.to_string()).unwrap_or_default(),
            old_key: key(rotation.old_key()),
            new_key: key(rotation.new_key()),
            phases: rotation.times.iter().map(phase_time).collect(),
            faults: faults(rotation).map(Into::into).collect(),
            next_steps,
            leader_changes: rotation.leader_changes,
            downtime_ms: self.downtime_ms(rotation),
            database: database.into(),
            now_ms: self.now.get(),
            throttle: rotation.throttle,
            kept_tables: rotation.kept_tables().into_iter().map(str::to_owned).collect(),
            retired_by: rotation.retiring.as_ref().map(|retiring| retiring.by.clone()).unwrap_or_default(),
            retired_at_ms: millis(rotation.retiring.as_ref().and_then(|retiring| retiring.done)),
            budget: rotation::budget_standing(rotation, self.now.max(self.state.now)).as_ref().map(Into::into),
            downtime_forecast_ms: rotation
                .plan
                .as_ref()
                .map(|plan| plan.downtime_forecast_at(rotation.throttle))
                .unwrap_or_default(),
            plan: Vec::new(),
            nodes: Vec::new(),
            waiting: Vec::new(),
            progress: None,
            undecryptable: Vec::new(),
        }
    }

    fn rotation_node(&self, rotation: &Rotation, id: &NodeId, node: &NodeProgress) -> v1::RotationNode {
        let inspection = node.inspection.as_ref();
        let key_before = inspection.map(|inspection| inspection.current_key.to_string()).unwrap_or_default();
        let rolled_back = matches!(rotation.course, Course::Ended(Ending::RolledBack));
        let key_after = if node.undo.restored || (rolled_back && !node.activated) {
            key_before.clone()
        } else if node.activated {
            key(rotation.new_key())
        } else {
            String::new()
        };
        let undoing = !matches!(rotation.course, Course::Forward { .. } | Course::Ended(Ending::Completed));
        v1::RotationNode {
            id: id.to_string(),
            key_before,
            key_after,
            key_stored: node.key_stored,
            offline_at_ms: millis(node.offline_at),
            admitted_at_ms: millis(node.admitted_at),
            canary_ok: if undoing { node.undo.started } else { node.started },
            held: self.is_held(rotation, id),
            protector: inspection.map(|inspection| inspection.protector.clone()).unwrap_or_default(),
        }
    }

    fn is_held(&self, rotation: &Rotation, node: &NodeId) -> bool {
        let held = self.state.nodes.get(node).and_then(|node| node.quarantine.as_ref());
        held.is_some_and(|held| held.rotation == rotation.id)
    }

    /// From the first instance offline to the last one admitted. A held node is down by itself, and not counted, nor
    /// when it comes back after the end.
    fn downtime_ms(&self, rotation: &Rotation) -> u64 {
        let Some(first) = rotation.nodes.values().filter_map(|node| node.offline_at).min() else { return 0 };
        let mut last = first;
        for (id, node) in &rotation.nodes {
            match (node.offline_at, node.admitted_at) {
                (None, _) => {}
                (Some(_), Some(admitted)) if rotation.ended_at.is_some_and(|ended| admitted > ended) => {}
                (Some(_), Some(admitted)) => last = last.max(admitted),
                (Some(_), None) if self.is_held(rotation, id) => {}
                (Some(_), None) => last = last.max(rotation.ended_at.unwrap_or(self.now)),
            }
        }
        last.since(first)
    }
}

fn outcome(course: &Course) -> v1::Outcome {
    match course {
        Course::Forward { .. } | Course::Undo { .. } => v1::Outcome::Running,
        Course::Stuck { .. } => v1::Outcome::Stuck,
        Course::Ended(Ending::Completed) => v1::Outcome::Completed,
        Course::Ended(Ending::RolledBack) => v1::Outcome::RolledBack,
        Course::Ended(Ending::Refused) => v1::Outcome::Refused,
        Course::Ended(Ending::Withdrawn) => v1::Outcome::Withdrawn,
    }
}

/// Newest last, with what a stuck rotation is stuck on at the end.
fn faults(rotation: &Rotation) -> impl Iterator<Item = &Fault> {
    let stuck = match &rotation.course {
        Course::Stuck { reason, .. } if rotation.faults.last() != Some(reason) => Some(reason),
        Course::Stuck { .. } | Course::Forward { .. } | Course::Undo { .. } | Course::Ended(_) => None,
    };
    rotation.faults.iter().chain(stuck)
}

fn key(key: Option<KeyId>) -> String {
    key.map(|key| key.to_string()).unwrap_or_default()
}

fn phase_time(time: &PhaseTime) -> v1::PhaseTime {
    v1::PhaseTime { name: time.name.clone(), started_ms: time.started.get(), ended_ms: millis(time.ended) }
}

fn millis(time: Option<Millis>) -> u64 {
    time.map(Millis::get).unwrap_or_default()
}

#[cfg(test)]
mod tests;
